// Package storage decides the section "storage": whether the disks of a machine are encrypted, and what the USB guard
// does for external_storage_allowed. The other settings have no back end in this version and are reported so. It is
// pure.
package storage

import (
	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/enforce/section"
	"github.com/warderd/warder/enforce/usb"
)

// Section is storage control.
var Section = section.Section{Name: "storage", Settings: policy.Section("storage"), Decide: decide}

// decide answers for every managed setting of "storage".
func decide(c *section.Case) section.Outcome {
	var out section.Outcome
	for _, s := range c.Document.Managed("storage") {
		f := section.NotYet(c, s)
		switch s {
		case settingEncryption:
			f = encryption(c)
		case "storage.external_storage_allowed":
			f = usb.Storage(c)
		}
		out.Findings = append(out.Findings, f)
	}
	return out
}
