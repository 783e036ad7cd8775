// Package media refuses external disks: sticks that USB lets in, cards, disks behind Thunderbolt and the like. The refusal is
// done by programs in the kernel (platform/bpf, docs/decisions/0036), for every way of opening a disk, and stays when the agent
// ends. The guard says which disks may be opened nevertheless; a disk that may be open since before is emptied
// (platform/volume), and its driver is taken off it and put back. Where the kernel takes no such programs, the driver is taken off
// external disks and not put back (off_linux.go, docs/decisions/0040). Other programs keep files on external disks from growing past a
// size (filesize_linux.go, docs/decisions/0037). The package owns no policy.
package media

import (
	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/platform"
)

const (
	name                    = "media"
	setting enforce.Setting = "storage.external_storage_allowed"

	sizeName                    = "filesize"
	sizeSetting enforce.Setting = "storage.max_file_size_mb"

	pathsSetting enforce.Setting = "storage.event_paths"
)

const (
	onlyLinux = "external disks are only refused on Linux in this version"
	onlySize  = "the size of files is only limited on Linux in this version"
	limit     = "network shares and image files on own disks are not external; root can send a disk commands of its own (SCSI generic, NVMe); " +
		"FireWire and eSATA: not exercised on real hardware"
	offLimit = "external disks lose their driver a moment after they came, while the agent runs; until then they can be opened"
	// twoLimit: the program that notes which disks are external is attached to a function (docs/decisions/0037).
	twoLimit   = "of two disks that come in the same moment one can be opened until the agent has noticed it"
	takenLimit = "what is in a file that is too large is taken into the quarantine once it was written and closed, while the agent runs, and stays if that has no room; " +
		"one is not seen that is on a file system inside another file, or that is mounted in another mount namespace alone"
	sizeLimit = "sendfile is refused by what it is asked to copy, not by what there is; a disk cannot be formatted or written to past its files; " +
		"phones (MTP) and network shares are not disks"
)

// claims are what this package supports, on every system.
func claims() []platform.Claim {
	out := []platform.Claim{{Setting: setting, OS: "linux", Level: fact.Enforced, Limit: limit, Exercised: true}}
	for _, os := range []string{"windows", "darwin"} {
		out = append(out, platform.Claim{Setting: setting, OS: os, Level: fact.Unsupported, Limit: onlyLinux})
	}
	return out
}

// sizeClaims are what this package supports of the size of files, on every system.
func sizeClaims() []platform.Claim {
	out := []platform.Claim{{Setting: sizeSetting, OS: "linux", Level: fact.Enforced, Limit: sizeLimit, Exercised: true},
		{Setting: pathsSetting, OS: "linux", Level: fact.Enforced, Exercised: true}}
	for _, os := range []string{"windows", "darwin"} {
		out = append(out, platform.Claim{Setting: sizeSetting, OS: os, Level: fact.Unsupported, Limit: onlySize},
			platform.Claim{Setting: pathsSetting, OS: os, Level: fact.Unsupported, Limit: onlySize})
	}
	return out
}
