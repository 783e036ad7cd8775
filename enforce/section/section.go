// Package section is the one door that every policy section has: its settings, what it needs to know of
// the machine, and pure decisions. It owns no list of sections (enforce/all does) and never does
// anything to a machine. The agent and the server drive every section through it and import none.
package section

import (
	"encoding/json"
	"errors"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/enforce/policy"
)

// Section is one section of the policy document as a value.
type Section struct {
	Name     string
	Settings []policy.Setting
	// Needs are the parts of a snapshot without which nothing can be decided: where one cannot be read,
	// this section is unknown, and only this one.
	Needs []fact.Part
	// Concerned reports whether a document asks anything of this section; nil: where it manages one of its
	// settings.
	Concerned func(*policy.Document) bool
	// Compile prepares the rules that answer single events; nil: nothing is judged per event.
	Compile func(*policy.Document, *fact.Machine) Rules
	// Decide gives the standing state and a finding for each managed setting. It sees the whole document,
	// the whole snapshot and every section's rules, because settings reach across sections.
	Decide func(*Case) Outcome
	// Count says in figures what there is, for people; nil: nothing.
	Count func(*Case) []Count
	// Except is what an exception of this section names; nil: the section knows none.
	Except *Except
	// Redact takes out of an event what must not be kept, before it is stored; nil: there is nothing.
	Redact func(*enforce.Event)
}

// Rules are one section's part of a policy, compiled once for a document and a snapshot. Guard, explain,
// status and what-if share them. They are read-only.
type Rules interface {
	// Explain answers a question about one subject; its form is the section's. ErrPresent: the subject
	// is whatever is at some place now, and a snapshot of now is needed.
	Explain(subject json.RawMessage, now *fact.Machine) (Answer, error)
	// Replay answers for what an event was about; false where those are not facts of this section.
	Replay(enforce.Facts) (Answer, bool)
	// Present answers for all that the snapshot holds, in its order.
	Present() []Answer
	// Public is the same without what monitor mode would do, which is not for everybody.
	Public() Rules
	// CanDeny reports whether anything at all can be refused.
	CanDeny() bool
}

// ErrPresent: the question is about what is there now.
var ErrPresent = errors.New("a snapshot of the machine is needed")

// ErrAbsent: there is nothing at the place that was asked about.
var ErrAbsent = errors.New("nothing is there")

// The answers to "may it?".
const (
	Allow     = "allow"
	Deny      = "deny"
	WouldDeny = "would deny"
	Depends   = "depends" // on what the question did not say
)

// Answer says of one subject what the rules say of it.
type Answer struct {
	Answer  string `json:"answer"` // Allow, Deny, WouldDeny, Depends
	Subject string `json:"subject"`
	Reason  string `json:"reason"`
	Nearest string `json:"nearest,omitempty"` // the nearest change to the policy that would turn it
	Now     string `json:"now,omitempty"`     // what the machine holds of it
	// Group is what the subject is counted under in a fleet: a model, not one device.
	Group string `json:"-"`
}

// Outcome is the standing state a section wants and what it finds of each managed setting.
type Outcome struct {
	Wants    []enforce.Want
	Findings []enforce.Finding
	// Ask says that the answer turned on a fact that only the thing itself can tell, and has not been asked for.
	Ask bool
	// Blind are the sections that could not be decided, and why. What they hold is left as it is.
	Blind map[string]string
}

// Count is one figure of a status: {"refused", 1}.
type Count struct {
	Name string `json:"name"`
	N    int    `json:"n"`
	Bad  bool   `json:"bad,omitempty"` // worth a second look where it is not 0
}

// Except is how exceptions of a section are named.
type Except struct {
	// Parse gives the canonical name of a subject, or says what is wrong with it.
	Parse func(subject string) (string, error)
	// Names are the names under which an exception may have been given for a subject, the closest first.
	Names func(subject string) []string
	// Refused are the subjects that are there and refused.
	Refused func(*Case) []string
}

// Case is one policy on one snapshot of a machine, with the rules of every section compiled for it.
type Case struct {
	// Document is what is decided by: the policy as Written, but for settings that this machine can only
	// see, which are in monitor mode at most.
	Document, Written *policy.Document
	Machine           *fact.Machine
	rules             map[string]Rules
}

// Open compiles every section's rules, once for all that is asked of the two.
func Open(sections []Section, d *policy.Document, m *fact.Machine) *Case {
	c := &Case{Written: d, Machine: m, rules: map[string]Rules{}}
	c.Document = d.Capped(func(s enforce.Setting) enforce.Mode {
		if m.Can(string(s)).Level == fact.DetectOnly {
			return enforce.Monitor
		}
		return enforce.Enforce
	})
	for _, s := range sections {
		if s.Compile != nil {
			c.rules[s.Name] = s.Compile(c.Document, m)
		}
	}
	return c
}

// Rules are those of one section; nil where it has none.
func (c *Case) Rules(section string) Rules { return c.rules[section] }

// Can is what this machine carries of a setting.
func (c *Case) Can(s enforce.Setting) fact.Capability { return c.Machine.Can(string(s)) }

// NotYet is the finding of a setting that nothing on this machine carries.
func NotYet(c *Case, s enforce.Setting) enforce.Finding {
	return enforce.Finding{Setting: s, Mode: c.Document.Mode(s), Compliance: enforce.Uncertain,
		Enforcement: enforce.Unsupported, Reason: c.Can(s).Limit}
}

// AllNotYet is the outcome of a section that no back end carries.
func AllNotYet(name string) func(*Case) Outcome {
	return func(c *Case) Outcome {
		var out Outcome
		for _, s := range c.Document.Managed(name) {
			out.Findings = append(out.Findings, NotYet(c, s))
		}
		return out
	}
}
