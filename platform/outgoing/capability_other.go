//go:build !linux

package outgoing

import "github.com/warderd/warder/platform"

// Capability does nothing on this system.
func Capability(platform.Host) platform.Capability { return platform.Capability{Name: Name} }
