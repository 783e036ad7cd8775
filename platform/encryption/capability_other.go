//go:build !linux

package encryption

import "github.com/warderd/warder/platform"

// Capability reports that this system's disks are not examined.
func Capability(platform.Host) platform.Capability {
	return platform.Capability{Name: "encryption", Claims: claims()}
}
