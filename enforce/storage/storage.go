// Package storage decides the section "storage". In this version the USB guard carries
// external_storage_allowed; the other settings have no back end and say so. It is pure.
package storage

import (
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/enforce/section"
	"github.com/warderd/warder/enforce/usb"
)

// Section is storage control.
var Section = section.Section{Name: "storage", Decide: decide}

func decide(d *policy.Document, m *fact.Machine) section.Outcome {
	out := section.NotYet(d, "storage", m.Capable["storage"].Limit)
	for i, f := range out.Findings {
		if f.Setting == "storage.external_storage_allowed" {
			out.Findings[i] = usb.Storage(d, m)
		}
	}
	return out
}
