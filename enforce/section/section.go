// Package section is the one door of every policy section: its settings, the facts it needs, and pure decisions. Agent
// and server drive every section through it and import none. The list of sections is in enforce/all. The package never
// does anything to a machine.
package section

import (
	"encoding/json"
	"errors"
	"io"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/enforce/policy"
)

// Section is one section of the policy document as a value.
type Section struct {
	Name     string
	Settings []policy.Setting
	// Needs are the parts of a snapshot without which nothing can be decided. If one cannot be read, this section is
	// unknown, and only this one.
	Needs []fact.Part
	// Concerned reports whether a document asks anything of this section; nil: if it manages one of its settings.
	Concerned func(*policy.Document) bool
	// Compile prepares the rules that answer single events; nil: nothing is judged per event.
	Compile func(*policy.Document, *fact.Machine) Rules
	// Decide returns the wanted state and a finding for each managed setting. It receives the whole document, the whole
	// snapshot and every section's rules, because some settings affect other sections.
	Decide func(*Case) Outcome
	// Count returns figures for people; nil: none.
	Count func(*Case) []Count
	// ReadList reads a long list that one of the settings names, of at most so many names; nil: none does.
	ReadList func(in io.Reader, u policy.ListUse, most int) (policy.List, error)
	// Except describes exceptions of this section; nil: it has none.
	Except *Except
	// Single reports whether each case of a setting is an event of its own, below enforce, too: then people are told of those, and not
	// of the finding; nil: none is.
	Single func(enforce.Setting) bool
	// Redact removes from an event what must not be stored; nil: nothing.
	Redact func(*enforce.Event)
}

// Rules are one section's part of a policy, compiled once for a document and a snapshot. Guard, explain, status and
// what-if share them. They are read-only.
type Rules interface {
	// Explain answers a question about one subject, in the section's own form. ErrPresent means that the subject is
	// whatever is in some place now, and that a new snapshot is needed.
	Explain(subject json.RawMessage, now *fact.Machine) (Answer, error)
	// Replay judges the subject of an earlier event; false if the facts are not of this section.
	Replay(enforce.Facts) (Answer, bool)
	// Present judges everything in the snapshot, in its order.
	Present() []Answer
	// Public returns these rules without what monitor mode would do, which not everybody may see.
	Public() Rules
	// CanDeny reports whether anything can be refused at all.
	CanDeny() bool
}

// ErrPresent means that the question is about what is there now.
var ErrPresent = errors.New("a snapshot of the machine is needed")

// ErrAbsent means that there is nothing in the place that was asked about.
var ErrAbsent = errors.New("nothing is there")

// The answers to "may it?".
const (
	Allow     = "allow"
	Deny      = "deny"
	WouldDeny = "would deny"
	Depends   = "depends" // on something that the question did not say
)

// Word is a verdict as an answer.
func Word(v enforce.Verdict) string {
	switch {
	case !v.Allow:
		return Deny
	case v.WouldDeny:
		return WouldDeny
	}
	return Allow
}

// Answer is what the rules say about one subject.
type Answer struct {
	Answer  string `json:"answer"` // Allow, Deny, WouldDeny, Depends
	Subject string `json:"subject"`
	Reason  string `json:"reason"`
	Nearest string `json:"nearest,omitempty"` // the smallest change to the policy that would reverse the answer
	Now     string `json:"now,omitempty"`     // the machine's present state of it
	// Listed is the entry of a long list that decided; nil if none did.
	Listed *Listed `json:"listed,omitempty"`
	// Group is how the subject is counted in a fleet: by model, not by single device.
	Group string `json:"-"`
}

// Listed is one entry of a long list.
type Listed struct {
	policy.ListRef
	Entry string `json:"entry"`          // as it stands there
	Line  int    `json:"line,omitempty"` // 0 while it was not looked up
}

// Outcome is the state that a section wants, and its finding of each managed setting.
type Outcome struct {
	Wants    []enforce.Want
	Findings []enforce.Finding
	// Ask reports that the answer depends on a fact that only the device itself can tell, and that it was not asked for
	// yet.
	Ask bool
	// Blind are the sections that could not be decided, and why. Their resources are left as they are.
	Blind map[string]string
	// Unsure are kinds of resources for which it is not known what is wanted: they are left as they are.
	Unsure []string
}

// Count is one figure of a status: {"refused", 1}.
type Count struct {
	Name string `json:"name"`
	N    int    `json:"n"`
	Bad  bool   `json:"bad,omitempty"` // deserves attention if it is not 0
}

// Except is how exceptions of a section are named.
type Except struct {
	// Parse returns the canonical name of a subject, or says what is wrong with it.
	Parse func(subject string) (string, error)
	// Names are the names under which an exception may have been given for a subject, most specific first.
	Names func(subject string) []string
	// Refused are the subjects that are present and refused.
	Refused func(*Case) []string
}

// Case is one policy on one snapshot of a machine, with the rules of every section compiled for it.
type Case struct {
	// Document is the policy that decides: as Written, except that settings which this machine can only detect are at
	// most in monitor mode.
	Document, Written *policy.Document
	Machine           *fact.Machine
	rules             map[string]Rules
}

// Open compiles every section's rules. Everything asked about the policy and the snapshot uses them.
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

// Rules are those of one section; nil if it has none.
func (c *Case) Rules(section string) Rules { return c.rules[section] }

// Can is what this machine supports of a setting.
func (c *Case) Can(s enforce.Setting) fact.Capability { return c.Machine.Can(string(s)) }

// NotYet is the finding of a setting that nothing on this machine supports.
func NotYet(c *Case, s enforce.Setting) enforce.Finding {
	return enforce.Finding{Setting: s, Mode: c.Document.Mode(s), Compliance: enforce.Uncertain,
		Enforcement: enforce.Unsupported, Reason: c.Can(s).Limit}
}

// AllNotYet is the outcome of a section that no back end supports.
func AllNotYet(name string) func(*Case) Outcome {
	return func(c *Case) Outcome {
		var out Outcome
		for _, s := range c.Document.Managed(name) {
			out.Findings = append(out.Findings, NotYet(c, s))
		}
		return out
	}
}
