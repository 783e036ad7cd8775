// Package encryption finds out whether the data on this machine's own disks is encrypted. For each mounted file system
// and swap it follows every path down to the disks. It only reads.
package encryption

import (
	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/platform"
)

const setting enforce.Setting = "storage.encryption_required"

const (
	onlyLinux = "disk encryption is only read on Linux in this version"
	limit     = "mounts in other namespaces are not read; fscrypt directories, ZFS, bcachefs and self-encrypting drives (OPAL) are unknown"
)

// claims are what this package supports, on every system.
func claims() []platform.Claim {
	out := []platform.Claim{{Setting: setting, OS: "linux", Level: fact.DetectOnly, Limit: limit, Exercised: true}}
	for _, os := range []string{"windows", "darwin"} {
		out = append(out, platform.Claim{Setting: setting, OS: os, Level: fact.Unsupported, Limit: onlyLinux})
	}
	return out
}
