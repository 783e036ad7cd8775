//go:build !linux

package desktop

import "github.com/warderd/warder/platform"

// Capability has nothing to do on this system.
func Capability(platform.Host) platform.Capability { return platform.Capability{Name: name} }
