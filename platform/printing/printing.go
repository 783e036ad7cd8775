// Package printing keeps a machine from printing: each queue of its spooler (CUPS) takes no more jobs and stops, and what waits in it
// stays there. It speaks IPP over the spooler's own socket, which knows who asks by the connection.
package printing

import (
	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/platform"
)

const (
	name = "printing"
	kind = "printing.queue"

	setting enforce.Setting = "dlp.print_allowed"

	onlyLinux = "printing is only refused on Linux in this version"
	limit     = "a new queue takes jobs for a moment; not closed are printers at other ports than 515, 631 and 9100, spoolers in snaps and containers, and, for root and the groups lp and lpadmin, " +
		"printers at USB and the spooler itself (docs/dlp.md)"
)

// claims are what this package supports, on every system.
func claims() []platform.Claim {
	out := []platform.Claim{{Setting: setting, OS: "linux", Level: fact.Partial, Limit: limit, Exercised: true}}
	for _, os := range []string{"windows", "darwin"} {
		out = append(out, platform.Claim{Setting: setting, OS: os, Level: fact.Unsupported, Limit: onlyLinux})
	}
	return out
}
