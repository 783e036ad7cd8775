// Package encryption finds out whether what is written on this machine's own disks is encrypted: for each
// mounted file system and swap it follows every path down to the disks. It reads; it changes nothing.
package encryption

import (
	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/platform"
)

const setting enforce.Setting = "storage.encryption_required"

const (
	onlyLinux = "whether disks are encrypted is only read on Linux in this version"
	limit     = "what is mounted in other namespaces is not looked at; directories (fscrypt), ZFS, bcachefs and drives that encrypt by themselves (OPAL) are unknown"
)

func claims() []platform.Claim {
	out := []platform.Claim{{Setting: setting, OS: "linux", Level: fact.DetectOnly, Limit: limit, Exercised: true}}
	for _, os := range []string{"windows", "darwin"} {
		out = append(out, platform.Claim{Setting: setting, OS: os, Level: fact.Unsupported, Limit: onlyLinux})
	}
	return out
}
