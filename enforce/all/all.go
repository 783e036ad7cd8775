// Package all lists the policy sections, and nothing else. Agent and server decide, explain and ask what-if through
// this list, so that neither can forget a section.
package all

import (
	"github.com/warderd/warder/enforce/dlp"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/enforce/network"
	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/enforce/section"
	"github.com/warderd/warder/enforce/storage"
	"github.com/warderd/warder/enforce/usb"
)

// Sections lists all sections, in the order in which their findings are shown.
var Sections = []section.Section{usb.Section, storage.Section, network.Section, dlp.Section}

// Open compiles a policy for a machine. Everything asked about the two uses the result.
func Open(d *policy.Document, m *fact.Machine) *section.Case {
	return section.Open(Sections, d, m)
}

// Decide asks every section.
func Decide(c *section.Case) section.Outcome { return section.Decide(Sections, c) }

// Find returns a section by name.
func Find(name string) (section.Section, bool) { return section.Find(Sections, name) }
