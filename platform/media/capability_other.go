//go:build !linux

package media

import (
	"github.com/warderd/warder/platform"
	"github.com/warderd/warder/platform/bpf"
)

// Capability reports that this system's external disks are not refused by this package.
func Capability(platform.Host) platform.Capability {
	return platform.Capability{Name: name, Claims: claims()}
}

// FileSize reports that this system's files are not limited by this package.
func FileSize(platform.Host) platform.Capability {
	return platform.Capability{Name: sizeName, Claims: sizeClaims()}
}

// Loaders are none: nothing is loaded on this system.
func Loaders() map[string]bpf.Loader { return map[string]bpf.Loader{} }
