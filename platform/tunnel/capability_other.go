//go:build !linux

package tunnel

import "github.com/warderd/warder/platform"

// Capability only claims: nothing is observed on this system.
func Capability(platform.Host) platform.Capability {
	return platform.Capability{Name: "tunnel", Claims: claims()}
}
