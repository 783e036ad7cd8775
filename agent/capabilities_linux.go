package agent

import (
	"github.com/warderd/warder/platform"
	"github.com/warderd/warder/platform/browser"
	"github.com/warderd/warder/platform/clipboard"
	"github.com/warderd/warder/platform/desktop"
	"github.com/warderd/warder/platform/encryption"
	"github.com/warderd/warder/platform/firewall"
	"github.com/warderd/warder/platform/input"
	"github.com/warderd/warder/platform/media"
	"github.com/warderd/warder/platform/outgoing"
	"github.com/warderd/warder/platform/printing"
	"github.com/warderd/warder/platform/programs"
	"github.com/warderd/warder/platform/quarantine"
	"github.com/warderd/warder/platform/resolver"
	"github.com/warderd/warder/platform/scan"
	"github.com/warderd/warder/platform/tunnel"
	"github.com/warderd/warder/platform/usb"
	"github.com/warderd/warder/platform/volume"
)

// capabilities lists what this system has, in the order in which it is observed, given its rules, and enforced: what looks for sensitive
// data before whoever has something looked into, or that is looked into by the rules before.
var capabilities = []func(platform.Host) platform.Capability{volume.Capability, usb.Capability, input.Capability, encryption.Capability, media.Capability, media.FileSize, quarantine.Capability, programs.Clients, programs.Tools,
	firewall.Capability, firewall.SwitchCapability, firewall.PortsCapability, resolver.Capability, tunnel.Capability, scan.Capability, printing.Capability, clipboard.Capability, browser.Capability, desktop.Capability, outgoing.Capability}
