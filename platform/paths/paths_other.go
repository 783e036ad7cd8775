//go:build !linux && !darwin && !windows

package paths

var system = Paths{State: "/var/lib/warder", Run: "/var/run/warder", Config: "/etc/warder"}
