// Package cloudsync keeps programs that synchronise files with a cloud from being started. Programs in the kernel refuse them
// (platform/bpf, docs/decisions/0038), and stay when the agent ends; the guard stops those that run already. Where the kernel takes no
// programs, the doorman refuses installed ones. Which programs are meant is a table of facts (enforce/fact/clients.go). The package owns no policy.
package cloudsync

import (
	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/platform"
)

const (
	name                    = "cloudsync"
	setting enforce.Setting = "storage.cloud_sync_allowed"

	onlyLinux = "sync clients are only refused on Linux in this version"
	limit     = "known clients are refused by the names of their programs, and copies of installed ones by their contents; a browser's uploads, a program that was changed and renamed, " +
		"what a loader of its own or an emulator runs from memory, and clients that are not in the table are not seen"
)

// cannotLimit is what is so where the kernel takes no programs.
const cannotLimit = "clients that a package has installed below /usr or /opt cannot start while the agent runs; others, copies, and what a loader runs can, and are stopped within a minute if they have a client's name"

// claims are what this package supports, on every system.
func claims() []platform.Claim {
	out := []platform.Claim{{Setting: setting, OS: "linux", Level: fact.Enforced, Limit: limit, Exercised: true}}
	for _, os := range []string{"windows", "darwin"} {
		out = append(out, platform.Claim{Setting: setting, OS: os, Level: fact.Unsupported, Limit: onlyLinux})
	}
	return out
}
