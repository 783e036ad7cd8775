// Package all is the list of policy sections. It owns the list alone; the agent and the server decide,
// explain and ask "what if" through it, so that neither can forget one.
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

// Sections are all sections, in the order in which their findings are shown.
var Sections = []section.Section{usb.Section, storage.Section, network.Section, dlp.Section}

// Open compiles a policy for a machine, once for all that is asked of the two.
func Open(d *policy.Document, m *fact.Machine) *section.Case {
	return section.Open(Sections, d, m)
}

// Decide asks every section.
func Decide(c *section.Case) section.Outcome { return section.Decide(Sections, c) }

// Find gives a section by name.
func Find(name string) (section.Section, bool) { return section.Find(Sections, name) }
