package dlp

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/enforce/section"
)

const (
	settingSharing   enforce.Setting = "dlp.clipboard_sharing"
	settingDirection enforce.Setting = "dlp.clipboard_direction"
	settingZones     enforce.Setting = "dlp.zones"
)

// The zones. Whoever is not named, or cannot be told, is outside work.
const (
	Work     = "work"
	Personal = "personal"
)

// KindClipboard is the kind of the resource that is the clipboard of one session.
const KindClipboard = "clipboard"

// Clipboard is what a session's helper keeps the clipboard by. It is sent to the helper as JSON.
type Clipboard struct {
	// Kept are the zones whose contents do not leave them.
	Kept []string `json:"kept"`
	// Work and Private say who is in which zone. Without Mapped, everybody but the session's own user is outside work.
	Mapped  bool    `json:"mapped"`
	Work    Members `json:"work"`
	Private Members `json:"personal"`
	// Look is how what is copied is looked into (fact.LookRead, fact.LookHold), "" if it is not; Late says that what cannot be looked into
	// in time may be pasted. By is another one if anything is judged differently: what is there is looked into again then.
	Look string `json:"look,omitempty"`
	Late bool   `json:"late_is_free,omitempty"`
	By   string `json:"by,omitempty"`
}

// Members are who belongs to a zone.
type Members struct {
	Users    []string `json:"users,omitempty"`
	Units    []string `json:"units,omitempty"`    // slices and scopes of systemd; * is any text
	Programs []string `json:"programs,omitempty"` // as policy.ParseProgram reads them
}

// Zone is where a program belongs. What a program is says more than where it runs, and that more than whose it is; who is in both zones
// by the same is outside work.
func (c *Clipboard) Zone(p *fact.Program, self uint32) string {
	switch {
	case !c.Mapped && p.Known && p.UID != self:
		return Personal
	case !c.Mapped:
		return Work
	case !p.Known:
		return Personal
	}
	for _, in := range []func(*Members) bool{
		func(m *Members) bool {
			return slices.ContainsFunc(m.Programs, func(e string) bool {
				file, sum, err := policy.ParseProgram(e)
				return err == nil && p.Is(file, sum)
			})
		},
		func(m *Members) bool {
			return slices.ContainsFunc(m.Units, func(u string) bool { return inUnit(p, u) })
		},
		func(m *Members) bool { return slices.Contains(m.Users, p.User) },
	} {
		switch work, private := in(&c.Work), in(&c.Private); {
		case private:
			return Personal
		case work:
			return Work
		}
	}
	return Personal
}

// Refuses reports whether something from one zone may not be pasted in another.
func (c *Clipboard) Refuses(from, to string) bool { return from != to && slices.Contains(c.Kept, from) }

// Keeps reports whether anything of a zone may not leave it.
func (c *Clipboard) Keeps(zone string) bool { return slices.Contains(c.Kept, zone) }

// Apart says that anything is kept apart at all, and Alone that only programs of other users are.
func (c *Clipboard) Apart() bool { return len(c.Kept) > 0 }

// Alone is as Apart says.
func (c *Clipboard) Alone() bool { return c.Apart() && !c.Mapped }

// Looks is how what is copied is looked into.
func (c *Clipboard) Looks() string { return c.Look }

// LateIsFree says what becomes of what cannot be looked into in time.
func (c *Clipboard) LateIsFree() bool { return c.Late }

// Programs are the files that are named, and those of them of which a sum is named.
func (c *Clipboard) Programs() (files, summed []string) {
	for _, m := range []*Members{&c.Work, &c.Private} {
		for _, e := range m.Programs {
			file, sum, err := policy.ParseProgram(e)
			if err != nil {
				continue
			}
			if files = append(files, file); sum != "" {
				summed = append(summed, file)
			}
		}
	}
	return files, summed
}

// DecodeClipboard reads what a helper was sent.
func DecodeClipboard(b json.RawMessage) (*Clipboard, error) {
	c := &Clipboard{}
	if err := json.Unmarshal(b, c); err != nil {
		return nil, fmt.Errorf("the rules of the clipboard cannot be read: %w", err)
	}
	return c, nil
}

// board is the section's part about the clipboard.
type board struct {
	Clipboard
	mode enforce.Mode
	by   enforce.Setting // the setting that refuses; "" if none does
	may  bool            // an exception is in force
	// noZones: a direction is asked for, and nothing says who is at work.
	noZones bool
}

// The lines of the decision order for the clipboard, after those for printing.
const (
	lineSharing      int32 = 4 + iota // clipboard_sharing decides
	lineDirection                     // clipboard_direction decides
	lineAnyClipboard                  // nothing managed
	lineSame                          // both are in one zone
)

func boardOf(d *policy.Document, m *fact.Machine) (b board) {
	can := func(s enforce.Setting) bool {
		return m.Can(string(s)).Level != fact.Unsupported && d.Mode(s) > enforce.Off
	}
	b.may = slices.Contains(d.Exceptions["dlp"], policy.ClipboardSubject)
	b.Mapped = d.DLP.Zones.Set && can(settingZones)
	if z := d.DLP.Zones.V; b.Mapped {
		of := func(name string) Members {
			return Members{Users: z[name].Users, Units: z[name].Slices, Programs: z[name].Executables}
		}
		b.Work, b.Private = of(Work), of(Personal)
	}
	if !d.DLP.ClipboardSharing.Or(true) && can(settingSharing) {
		b.by, b.Kept = settingSharing, []string{Work, Personal}
	} else if d.DLP.ClipboardDirection.Set && can(settingDirection) {
		switch d.DLP.ClipboardDirection.V {
		case "none":
			b.Kept = []string{Work, Personal}
		case "work_to_personal":
			b.Kept = []string{Personal}
		case "personal_to_work":
			b.Kept = []string{Work}
		}
		if b.noZones = len(b.Kept) == 1 && !b.Mapped; b.noZones {
			b.Kept = nil
		}
		if len(b.Kept) > 0 {
			b.by = settingDirection
		}
	}
	b.mode = d.Mode(b.by)
	return b
}

// CanKeepClipboard reports whether anything is refused in enforce mode, now.
func (r *Rules) CanKeepClipboard() bool {
	return r.clip.by != "" && r.clip.mode == enforce.Enforce && !r.clip.may
}

// ClipboardAlone says that only other users are kept apart.
func (r *Rules) ClipboardAlone() bool { return r.CanKeepClipboard() && r.clip.Alone() }

// ForClipboard are the rules for helpers; nil if nothing is refused and nothing is looked into.
func (r *Rules) ForClipboard() json.RawMessage {
	var c Clipboard
	if r.CanKeepClipboard() {
		c = r.clip.Clipboard
	}
	if r.SensitiveMode() > enforce.Off {
		c.Look, c.Late, c.By = fact.LookRead, r.LateIsFree(), r.SensitiveKey()
		if r.HoldsSensitive() {
			c.Look = fact.LookHold
		}
	}
	if !c.Apart() && c.Look == "" {
		return nil
	}
	b, err := json.Marshal(&c)
	if err != nil {
		return nil
	}
	return b
}

// Paste judges one paste; from and to are zones.
func (r *Rules) Paste(p *fact.Paste) enforce.Verdict {
	rule := enforce.Rule{Setting: r.clip.by, Line: lineSharing}
	if r.clip.by == settingDirection {
		rule.Line = lineDirection
	}
	free := func(rule enforce.Rule) enforce.Verdict { return enforce.Verdict{Allow: true, Rule: rule, Would: rule} }
	switch {
	case r.clip.by == "" || r.clip.mode == enforce.Off:
		return free(enforce.Rule{Line: lineAnyClipboard})
	case !r.clip.Refuses(p.From, p.To):
		return free(enforce.Rule{Line: lineSame})
	case r.clip.may:
		return free(enforce.Rule{Setting: settingException, Line: lineExcepted})
	case r.clip.mode < enforce.Enforce:
		return enforce.Verdict{Allow: true, Rule: enforce.Rule{Line: lineAnyClipboard}, Would: rule, WouldDeny: true, WouldMode: r.clip.mode}
	}
	return enforce.Verdict{Rule: rule, Would: rule, WouldMode: r.clip.mode}
}

// PasteReason says why a verdict is as it is, and the smallest change to the policy that would reverse it.
func (r *Rules) PasteReason(v enforce.Verdict, p *fact.Paste) (reason, nearest string) {
	rule, prefix := v.Rule, ""
	if v.WouldDeny {
		rule, prefix = v.Would, fmt.Sprintf("would be refused in enforce mode (%s is in %s mode): ", v.Would.Setting, v.WouldMode)
	}
	from, to := r.zoneWord(p.From), r.zoneWord(p.To)
	grant := fmt.Sprintf("grant an exception for %q, for a time, or ", policy.ClipboardSubject)
	switch rule.Line {
	case lineSharing:
		return prefix + fmt.Sprintf("dlp.clipboard_sharing is false: nothing is copied from %s to %s", from, to), grant + "set dlp.clipboard_sharing to true"
	case lineDirection:
		return prefix + fmt.Sprintf("dlp.clipboard_direction refuses copying from %s to %s", from, to), grant + `set dlp.clipboard_direction to "both"`
	case lineExcepted:
		return "an exception for the clipboard is in force", ""
	case lineSame:
		if p.From == p.To {
			return "both are in the same zone", ""
		}
		return fmt.Sprintf("%s lets copying from %s to %s pass", r.clip.by, from, to), "set dlp.clipboard_sharing to false"
	}
	if r.clip.noZones {
		return noZones, "set dlp.zones"
	}
	return "no setting in force refuses it", "set dlp.clipboard_sharing to false"
}

const noZones = "dlp.clipboard_direction needs dlp.zones to tell work from personal, and the policy has none"

// zoneWord names a zone for people.
func (r *Rules) zoneWord(zone string) string {
	switch {
	case r.clip.Mapped:
		return zone
	case zone == Work:
		return "the session's user"
	}
	return "other users"
}

// ClipboardWord is how the clipboard as a whole is called in answers.
const ClipboardWord = fact.ClipboardWord

// explainClipboard answers for a paste, or for both directions; what is so in the sessions, their capability says.
func (r *Rules) explainClipboard(in *Subject) (section.Answer, error) {
	for _, z := range []struct{ name, v string }{{"from", in.From}, {"to", in.To}} {
		if z.v != Work && z.v != Personal && !(z.v == "" && in.From == in.To) {
			return section.Answer{}, fmt.Errorf("%s must be %q or %q (received %q)", z.name, Work, Personal, enforce.Plain(clipTo(z.v)))
		}
	}
	if in.From != "" {
		return r.askPaste(fact.Paste{From: in.From, To: in.To}), nil
	}
	there, back := r.askPaste(fact.Paste{From: Work, To: Personal}), r.askPaste(fact.Paste{From: Personal, To: Work})
	a := there
	switch {
	case there.Answer != back.Answer && there.Answer == section.Allow:
		a.Answer, a.Reason, a.Nearest = section.Depends, back.Reason+"; the other way it passes", back.Nearest
	case there.Answer != back.Answer:
		a.Answer, a.Reason = section.Depends, there.Reason+"; the other way it passes"
	}
	a.Subject = ClipboardWord
	return a, nil
}

// clipTo bounds a text of a question that is repeated in an answer.
func clipTo(s string) string { return s[:min(len(s), maxQueue)] }

func (r *Rules) askPaste(p fact.Paste) section.Answer {
	v := r.Paste(&p)
	a := section.Answer{Answer: section.Word(v), Subject: fmt.Sprintf("the clipboard from %s to %s", r.zoneWord(p.From), r.zoneWord(p.To)), Group: ClipboardWord}
	a.Reason, a.Nearest = r.PasteReason(v, &p)
	return a
}

// clipboard is the finding of clipboard_sharing and of clipboard_direction: every desktop has a helper that keeps it.
func clipboard(c *section.Case, out *section.Outcome, s enforce.Setting) {
	can, r := c.Can(s), rulesOf(c)
	if can.Level == fact.Unsupported {
		out.Findings = append(out.Findings, section.NotYet(c, s))
		return
	}
	f := enforce.Finding{Setting: s, Mode: c.Document.Mode(s), Compliance: enforce.Compliant, Enforcement: enforce.Enforced}
	defer func() { out.Findings = append(out.Findings, f) }()
	if f.Mode < enforce.Enforce {
		f.Enforcement = enforce.Observed
	}
	switch {
	case s == settingDirection && r.clip.noZones:
		f.Compliance, f.Enforcement, f.Reason = enforce.Uncertain, enforce.Unsupported, noZones
		return
	case r.clip.by == "" || s == settingSharing && r.clip.by != s || s == settingDirection && c.Document.DLP.ClipboardDirection.V == "both":
		return // it refuses nothing itself
	case r.clip.may:
		f.Reason = "copying is allowed by an exception"
		return
	}
	if why, unread := c.Machine.Unread(fact.PartSessions); unread {
		f = section.Unread(c, s, why)
		return
	}
	list, kept, taken := c.Machine.Sessions.V, 0, 0
	for i := range list {
		x := &list[i]
		switch {
		case f.Mode < enforce.Enforce:
			f.Compliance, f.Reason = enforce.Noncompliant, "nothing keeps the clipboard of session "+enforce.Plain(x.ID)+" apart"
		case x.Never && f.Enforcement != enforce.Unsupported:
			f.Compliance, f.Enforcement, f.Reason = enforce.Uncertain, enforce.Unsupported, x.Said()
		case x.Clipboard:
			if kept++; x.Type == "x11" {
				taken++
			}
		case f.Compliance == enforce.Compliant:
			f.Compliance, f.Enforcement, f.Reason = enforce.Uncertain, enforce.NotEnforced, x.Said()
		}
		if i < maxShown {
			f.Evidence = append(f.Evidence, enforce.Evidence{Key: enforce.Key{Kind: KindClipboard, ID: x.ID}.String(), State: enforce.Present,
				Value: enforce.Value(x.Word()), How: "the session's helper"})
		}
	}
	if f.Compliance != enforce.Compliant {
		return
	}
	if f.Reason = fact.NoDesktop; len(list) == 0 {
		return
	}
	f.Reason = fmt.Sprintf("kept in %d session(s)", kept)
	if !r.clip.Mapped {
		f.Reason += ", apart from other users"
	}
	switch {
	case taken == 0: // on Wayland nothing is taken over: nobody else gets there
		f.Reason += "; enforced, with a limit: root's programs can connect to any desktop"
	case can.Level == fact.Partial:
		f.Enforcement = enforce.Partial
		f.Reason += "; partial: " + can.Limit
	}
}

// zones is the finding of zones, which says who is where and restricts nobody by itself.
func zones(c *section.Case, out *section.Outcome) {
	s, r := settingZones, rulesOf(c)
	if c.Can(s).Level == fact.Unsupported {
		out.Findings = append(out.Findings, section.NotYet(c, s))
		return
	}
	f := enforce.Finding{Setting: s, Mode: c.Document.Mode(s), Compliance: enforce.Compliant, Enforcement: enforce.Enforced, Reason: "no setting uses it"}
	if f.Mode < enforce.Enforce {
		f.Enforcement = enforce.Observed
	}
	if r.clip.by != "" {
		f.Reason = "used by " + string(r.clip.by)
		if can := c.Can(s); f.Mode == enforce.Enforce && can.Level == fact.Partial {
			f.Enforcement = enforce.Partial
			f.Reason += "; partial: " + can.Limit
		}
	}
	out.Findings = append(out.Findings, f)
}

// errSubject says what may be asked.
var errSubject = errors.New(`the subject must be "print", "clipboard", "screenshot" or "sensitive"`)

// inUnit reports whether a unit that a program runs in has that name; the name may have a * for any text. Nothing else in it is special:
// systemd's names have backslashes.
func inUnit(p *fact.Program, name string) bool {
	return slices.ContainsFunc(p.Units, func(u string) bool { return matches(name, u) })
}

func matches(pattern, s string) bool {
	first, rest, more := strings.Cut(pattern, "*")
	s, is := strings.CutPrefix(s, first)
	if !is || !more {
		return is && s == ""
	}
	for rest != "" { // what is between two of them is found as early as possible
		var part string
		part, rest, more = strings.Cut(rest, "*")
		if !more {
			return strings.HasSuffix(s, part)
		}
		_, after, found := strings.Cut(s, part)
		if !found {
			return false
		}
		s = after
	}
	return true
}
