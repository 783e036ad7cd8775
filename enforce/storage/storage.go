// Package storage decides the section "storage": whether the disks of a machine are encrypted, which disks are external and may be
// opened (with the USB guard, which refuses sticks before they are disks), how large files on them may be, and whether programs that
// synchronise files with a cloud may run. It is pure.
package storage

import (
	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/enforce/section"
)

// Section is storage control.
var Section = section.Section{
	Name: "storage", Settings: policy.Section("storage"), Decide: decide,
	Compile: func(d *policy.Document, m *fact.Machine) section.Rules { return compile(d, m) },
	Except:  &section.Except{Parse: parseSubject, Names: subjectNames, Refused: refusedNow},
	Single:  func(s enforce.Setting) bool { return s == settingCloud || s == settingExternal }, // each client that starts, each disk
}

// rulesOf are the rules of this section in a case.
func rulesOf(c *section.Case) *Rules { return c.Rules("storage").(*Rules) }

// decide answers for every managed setting of "storage".
func decide(c *section.Case) section.Outcome {
	var out section.Outcome
	for _, s := range c.Document.Managed("storage") {
		switch s {
		case settingEncryption:
			out.Findings = append(out.Findings, encryption(c))
		case settingExternal:
			external(c, &out)
		case settingSize:
			fileSize(c, &out)
		case settingCloud:
			cloudSync(c, &out)
		case settingPaths:
			out.Findings = append(out.Findings, eventPaths(c))
		default:
			out.Findings = append(out.Findings, section.NotYet(c, s))
		}
	}
	return out
}
