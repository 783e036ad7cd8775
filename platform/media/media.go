// Package media refuses external disks: sticks that USB lets in, cards, disks behind Thunderbolt and the like. The refusal is
// done by programs in the kernel (platform/bpf, docs/decisions/0036), for every way of opening a disk, and stays when the agent
// ends. The guard says which disks may be opened nevertheless; a disk that may be open since before is emptied
// (platform/volume), and its driver is taken off it and put back. The package owns no policy.
package media

import (
	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/platform"
)

const (
	name                    = "media"
	setting enforce.Setting = "storage.external_storage_allowed"
)

const (
	onlyLinux = "external disks are only refused on Linux in this version"
	limit     = "network shares and image files on own disks are not external; root can send a disk commands of its own (SCSI generic, NVMe); " +
		"FireWire and eSATA: not exercised on real hardware"
)

// claims are what this package supports, on every system.
func claims() []platform.Claim {
	out := []platform.Claim{{Setting: setting, OS: "linux", Level: fact.Enforced, Limit: limit, Exercised: true}}
	for _, os := range []string{"windows", "darwin"} {
		out = append(out, platform.Claim{Setting: setting, OS: os, Level: fact.Unsupported, Limit: onlyLinux})
	}
	return out
}
