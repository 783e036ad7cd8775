//go:build !linux

package programs

import (
	"github.com/warderd/warder/platform"
	"github.com/warderd/warder/platform/bpf"
)

// Clients reports that this system's sync clients are not refused by this package.
func Clients(platform.Host) platform.Capability {
	return platform.Capability{Name: clients.name, Claims: clients.claims()}
}

// Tools reports that this system's programs that take pictures of the screen are not refused by this package.
func Tools(platform.Host) platform.Capability {
	return platform.Capability{Name: tools.name, Claims: tools.claims()}
}

// Loaders are none: nothing is loaded on this system.
func Loaders() map[string]bpf.Loader { return map[string]bpf.Loader{} }
