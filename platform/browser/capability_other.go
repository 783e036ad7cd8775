//go:build !linux

package browser

import "github.com/warderd/warder/platform"

// Capability reports that the browsers of this system are not governed by this package.
func Capability(platform.Host) platform.Capability { return platform.Capability{Name: name} }
