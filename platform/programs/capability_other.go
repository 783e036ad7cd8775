//go:build !linux

package cloudsync

import (
	"github.com/warderd/warder/platform"
	"github.com/warderd/warder/platform/bpf"
)

// Capability reports that this system's sync clients are not refused by this package.
func Capability(platform.Host) platform.Capability {
	return platform.Capability{Name: name, Claims: claims()}
}

// Loaders are none: nothing is loaded on this system.
func Loaders() map[string]bpf.Loader { return map[string]bpf.Loader{} }
