//go:build !linux

package clipboard

import "github.com/warderd/warder/platform"

// Capability reports that this system's clipboard is not kept by this package.
func Capability(platform.Host) platform.Capability {
	return platform.Capability{Name: Name, Claims: claims()}
}
