package usb

import (
	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/platform"
)

const (
	onlyLinux = "USB control is only carried on Linux in this version"
	// elsewhere is a change that no signal reports.
	elsewhere = "a kernel default that root changes through the sysfs of another network namespace is found within five " +
		"minutes, not at once"
	partialDisk = "USB only: PCI card readers, Thunderbolt and USB4 disks and network shares are not blocked"
)

// claims are what this package supports, on every system.
func claims() []platform.Claim {
	var out []platform.Claim
	for _, s := range []enforce.Setting{"usb.allowed", "usb.whitelist", "usb.allowed_classes", "usb.audit_only",
		"storage.external_storage_allowed"} {
		c := platform.Claim{Setting: s, OS: "linux", Level: fact.Enforced, Limit: elsewhere, Exercised: true}
		if s.Section() == "storage" {
			c.Level, c.Limit = fact.Partial, partialDisk
		}
		out = append(out, c)
		for _, os := range []string{"windows", "darwin"} {
			out = append(out, platform.Claim{Setting: s, OS: os, Level: fact.Unsupported, Limit: onlyLinux})
		}
	}
	return out
}

// atMost lowers every claim for this system, for a probe.
func atMost(level, limit, os string) []platform.Claim {
	var out []platform.Claim
	for _, c := range claims() {
		if c.OS == os {
			c.Level, c.Limit = level, limit
			out = append(out, c)
		}
	}
	return out
}
