//go:build !linux

package printing

import "github.com/warderd/warder/platform"

// Capability reports that this system's printing is not refused by this package.
func Capability(platform.Host) platform.Capability {
	return platform.Capability{Name: name, Claims: claims()}
}
