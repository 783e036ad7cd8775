//go:build !linux

package scan

import "github.com/warderd/warder/platform"

// Capability reports that nothing looks for sensitive data on this system.
func Capability(platform.Host) platform.Capability {
	return platform.Capability{Name: Name, Claims: claims()}
}
