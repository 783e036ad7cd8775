package agent

import (
	"github.com/warderd/warder/platform"
	"github.com/warderd/warder/platform/clipboard"
	"github.com/warderd/warder/platform/encryption"
	"github.com/warderd/warder/platform/firewall"
	"github.com/warderd/warder/platform/media"
	"github.com/warderd/warder/platform/printing"
	"github.com/warderd/warder/platform/programs"
	"github.com/warderd/warder/platform/scan"
	"github.com/warderd/warder/platform/usb"
)

// capabilities lists what this system has, in the order in which it is observed and enforced.
var capabilities = []func(platform.Host) platform.Capability{usb.Capability, encryption.Capability, media.Capability, media.FileSize, programs.Clients, programs.Tools, printing.Capability, clipboard.Capability, firewall.Capability,
	firewall.SwitchCapability, scan.Capability}
