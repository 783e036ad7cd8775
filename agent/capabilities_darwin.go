package agent

import (
	"github.com/warderd/warder/platform"
	"github.com/warderd/warder/platform/encryption"
	"github.com/warderd/warder/platform/usb"
)

// capabilities are what this system has, in the order in which they observe and are held.
var capabilities = []func(platform.Host) platform.Capability{usb.Capability, encryption.Capability}
