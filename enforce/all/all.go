// Package all is the list of policy sections. It owns the list alone; the agent and the server's
// what-if both decide through it, so that neither can forget one.
package all

import (
	"github.com/warderd/warder/enforce"
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

// Decide asks every section, and answers for the settings that this version does not know.
func Decide(d *policy.Document, m *fact.Machine) section.Outcome {
	var out section.Outcome
	for _, s := range Sections {
		o := s.Decide(d, m)
		out.Wants = append(out.Wants, o.Wants...)
		out.Findings = append(out.Findings, o.Findings...)
	}
	for _, u := range d.Unknown {
		out.Findings = append(out.Findings, enforce.Finding{
			Setting: u.Setting, Mode: u.Mode, Compliance: enforce.Uncertain,
			Enforcement: enforce.Unsupported, Reason: "this version does not know the setting",
		})
	}
	return out
}
