// Package section is the one door that every policy section has: a name, its settings and a pure
// decision. It owns no list of sections (enforce/all does) and never does anything to a machine.
package section

import (
	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/enforce/policy"
)

// Outcome is the standing state a section wants and what it finds of each managed setting.
type Outcome struct {
	Wants    []enforce.Want
	Findings []enforce.Finding
}

// Section decides on the whole document and the whole snapshot, because settings reach across.
type Section struct {
	Name   string
	Decide func(*policy.Document, *fact.Machine) Outcome
}

// NotYet is the finding for every managed setting of a section that no back end carries.
func NotYet(d *policy.Document, name, reason string) Outcome {
	var out Outcome
	for _, s := range d.Managed(name) {
		out.Findings = append(out.Findings, enforce.Finding{
			Setting: s, Mode: d.Mode(s), Compliance: enforce.Uncertain,
			Enforcement: enforce.Unsupported, Reason: reason,
		})
	}
	return out
}
