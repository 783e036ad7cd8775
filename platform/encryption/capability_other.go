//go:build !linux

package encryption

import "github.com/warderd/warder/platform"

// Capability says that nothing is read here.
func Capability(platform.Host) platform.Capability {
	return platform.Capability{Name: "encryption", Claims: claims()}
}
