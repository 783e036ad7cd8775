package dlp

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/enforce/section"
	"github.com/warderd/warder/enforce/sensitive"
)

const (
	settingTimeout enforce.Setting = "dlp.scan_timeout"
	settingDays    enforce.Setting = "dlp.quarantine_days"
	settingPaths   enforce.Setting = "storage.event_paths"
)

// The lines of the decision order for sensitive data.
const (
	lineFound int32 = 11 // a pattern decides
	lineLate  int32 = 12 // scan_timeout decides
	lineClean int32 = 13 // nothing was found
)

// SensitiveData is how it is called in answers.
const SensitiveData = "sensitive data"

// keepDays is how long a file is kept if the policy says nothing.
const keepDays = 30

// looks is what is looked for, and what follows from it.
type looks struct {
	list  []policy.SensitivePattern // in their order; of settings that are managed and carried out here
	modes map[enforce.Setting]enforce.Mode
	free  bool // what cannot be looked into in time may be used
	may   bool // an exception is in force
	paths bool // events name files by their paths
	days  int
}

func looksOf(d *policy.Document, m *fact.Machine) looks {
	l := looks{modes: map[enforce.Setting]enforce.Mode{}, free: true, may: slices.Contains(d.Exceptions["dlp"], policy.SensitiveSubject), days: keepDays,
		paths: d.Storage.EventPaths.V == policy.PathsPlain && d.Mode(settingPaths) > enforce.Off}
	for _, s := range []enforce.Setting{policy.SettingPatterns, policy.SettingNamed} {
		if m.Can(string(s)).Level != fact.Unsupported {
			l.modes[s] = d.Mode(s)
		}
	}
	for _, p := range d.DLP.Sensitive() {
		if l.modes[p.Setting] > enforce.Off {
			l.list = append(l.list, p)
		}
	}
	if d.Mode(settingTimeout) == enforce.Enforce {
		l.free = d.DLP.ScanTimeout.Or(policy.ScanAllow) == policy.ScanAllow
	}
	if n := d.DLP.QuarantineDays; n.Set && d.Mode(settingDays) > enforce.Off {
		if l.days = int(n.V); d.Mode(settingDays) < enforce.Enforce {
			l.days = 0 // it is only watched
		}
	}
	return l
}

// chosen is what is looked for of a list of patterns, and why others are not.
type chosen struct {
	patterns json.RawMessage
	called   []fact.SensitiveFound
	left     []string
}

// choice remembers the last list: compiling a thousand patterns takes longer than all else that a look does.
var choice struct {
	sync.Mutex
	of string
	is *chosen
}

// chosen compiles the patterns.
func (l *looks) chosen() *chosen {
	if len(l.list) == 0 {
		return &chosen{}
	}
	plain := make([]sensitive.Pattern, len(l.list))
	for i := range l.list {
		plain[i] = l.list[i].Pattern
		plain[i].Name = l.list[i].Label()
	}
	key, err := json.Marshal(plain)
	if err != nil {
		return &chosen{left: []string{err.Error()}}
	}
	choice.Lock()
	defer choice.Unlock()
	if choice.is != nil && choice.of == string(key) {
		return choice.is
	}
	taken, left := sensitive.Select(plain)
	out := &chosen{}
	for i := range plain {
		if err := left[i]; err != nil {
			out.left = append(out.left, fmt.Sprintf("%s is not looked for: it %v", enforce.Plain(plain[i].Name), err))
		}
	}
	var these []sensitive.Pattern
	for _, i := range taken {
		these = append(these, plain[i])
		out.called = append(out.called, fact.SensitiveFound{Pattern: plain[i].Name, Setting: string(l.list[i].Setting)})
	}
	if out.patterns, err = json.Marshal(these); err != nil {
		return &chosen{left: []string{err.Error()}}
	}
	choice.of, choice.is = string(key), out
	return out
}

// mode is the strictest mode in which something is looked for.
func (l *looks) mode() (m enforce.Mode) {
	for _, p := range l.list {
		m = max(m, l.modes[p.Setting])
	}
	return m
}

// LooksFor are the patterns in the form of package enforce/sensitive, and what each is called.
func (r *Rules) LooksFor() (json.RawMessage, []fact.SensitiveFound) {
	c := r.looks.chosen()
	return c.patterns, c.called
}

// SensitiveMode is the strictest mode in which something is looked for; Off: nothing is.
func (r *Rules) SensitiveMode() enforce.Mode { return r.looks.mode() }

// SensitiveKey is another one if anything is judged differently.
func (r *Rules) SensitiveKey() string {
	l := &r.looks
	h := sha256.New()
	fmt.Fprintf(h, "%#v %#v %v %v", l.list, l.modes, l.free, l.may)
	return hex.EncodeToString(h.Sum(nil))
}

// HoldsSensitive reports whether something is refused if it is found.
func (r *Rules) HoldsSensitive() bool { return r.looks.mode() == enforce.Enforce && !r.looks.may }

// LateIsFree says what becomes of what cannot be looked into in time.
func (r *Rules) LateIsFree() bool { return r.looks.free || !r.HoldsSensitive() }

// PlainPaths reports whether events name files by their paths.
func (r *Rules) PlainPaths() bool { return r.looks.paths }

// KeepDays is how many days a file is kept that was taken away; 0: none is removed, because nothing is in enforce mode.
func (r *Rules) KeepDays() int {
	if r.looks.mode() < enforce.Enforce {
		return 0
	}
	return r.looks.days
}

// Sensitive judges a document by what was found in it: the strictest mode of what has been found decides.
func (r *Rules) Sensitive(x *fact.Sensitive) enforce.Verdict {
	l := &r.looks
	rule, mode := enforce.Rule{Line: lineClean}, enforce.Off
	for _, f := range x.Found {
		if m := l.modes[enforce.Setting(f.Setting)]; m > mode {
			rule, mode = enforce.Rule{Setting: enforce.Setting(f.Setting), Line: lineFound}, m
		}
	}
	if len(x.Found) == 0 && x.Late && !l.free {
		rule, mode = enforce.Rule{Setting: settingTimeout, Line: lineLate}, l.mode()
	}
	none := enforce.Rule{Line: lineClean}
	free := func(rule enforce.Rule) enforce.Verdict { return enforce.Verdict{Allow: true, Rule: rule, Would: rule} }
	switch {
	case mode == enforce.Off:
		return free(none)
	case l.may:
		return free(enforce.Rule{Setting: settingException, Line: lineExcepted})
	case mode < enforce.Enforce:
		return enforce.Verdict{Allow: true, Rule: none, Would: rule, WouldDeny: true, WouldMode: mode}
	}
	return enforce.Verdict{Rule: rule, Would: rule, WouldMode: mode}
}

// maxCalled bounds the patterns that a reason names.
const maxCalled = 5

// SensitiveReason says why, and the smallest change to the policy that would reverse it.
func (r *Rules) SensitiveReason(v enforce.Verdict, x *fact.Sensitive) (reason, nearest string) {
	rule, prefix := v.Rule, ""
	if v.WouldDeny {
		rule, prefix = v.Would, fmt.Sprintf("would be refused in enforce mode (%s is in %s mode): ", v.Would.Setting, v.WouldMode)
	}
	switch rule.Line {
	case lineFound:
		var words []string
		for _, f := range x.Found[:min(len(x.Found), maxCalled)] {
			words = append(words, fmt.Sprintf("%s (%d)", enforce.Plain(f.Pattern), f.Count))
		}
		if n := len(x.Found) - maxCalled; n > 0 {
			words = append(words, fmt.Sprintf("%d more", n))
		}
		what := "the file"
		switch x.Where {
		case fact.InClipboard:
			what = "what was copied"
		case fact.InPrintJob:
			what = "the print job"
		}
		return fmt.Sprintf("%s%s has sensitive data: %s", prefix, what, strings.Join(words, ", ")),
			fmt.Sprintf("grant an exception for %q, for a time, or change what %s has", policy.SensitiveSubject, rule.Setting)
	case lineLate:
		return prefix + "it could not be looked into in time, and dlp.scan_timeout is deny", fmt.Sprintf("grant an exception for %q, for a time, or set dlp.scan_timeout to allow", policy.SensitiveSubject)
	case lineExcepted:
		return "an exception for sensitive data is in force", ""
	}
	if x.Late {
		return "it could not be looked into in time, and dlp.scan_timeout is allow", "set dlp.scan_timeout to deny"
	}
	if len(x.Unread) > 0 && len(x.Found) == 0 {
		return "nothing that the policy looks for was found in what could be read of it", ""
	}
	return "nothing that the policy looks for was found in it", ""
}

// explainSensitive answers for all of it.
func (r *Rules) explainSensitive() section.Answer {
	a := section.Answer{Subject: SensitiveData, Group: SensitiveData, Answer: section.Word(enforce.Verdict{Allow: true}), Reason: "no setting in force looks for sensitive data", Nearest: "name it in dlp.patterns"}
	if len(r.looks.list) == 0 {
		return a
	}
	x := &fact.Sensitive{Where: fact.InFile}
	for _, p := range r.looks.list {
		x.Found = append(x.Found, fact.SensitiveFound{Pattern: p.Label(), Setting: string(p.Setting), Count: 1})
	}
	v := r.Sensitive(x)
	a.Answer = section.Word(v)
	a.Reason, a.Nearest = r.SensitiveReason(v, x)
	if v.Rule.Line == lineFound || v.WouldDeny {
		names := make([]string, 0, maxCalled)
		for _, p := range r.looks.list[:min(len(r.looks.list), maxCalled)] {
			names = append(names, enforce.Plain(p.Label()))
		}
		word := "files on external disks and in sync folders, print jobs, and what is copied may not have"
		if v.WouldDeny {
			word = fmt.Sprintf("would be refused in enforce mode (%s is in %s mode): files on external disks and in sync folders, print jobs, and what is copied, with", v.Would.Setting, v.WouldMode)
		}
		a.Reason = fmt.Sprintf("%s what %d pattern(s) describe: %s", word, len(r.looks.list), strings.Join(names, ", "))
		if n := len(r.looks.list) - maxCalled; n > 0 {
			a.Reason += fmt.Sprintf(" and %d more", n)
		}
	}
	return a
}

// askSensitive judges again what was found in a document.
func (r *Rules) askSensitive(x *fact.Sensitive) section.Answer {
	v := r.Sensitive(x)
	what := "a " + x.Where + " on "
	switch x.Where {
	case fact.InPrintJob:
		what = "a " + x.Where + " for "
	case fact.InClipboard:
		what = "what was copied in "
	}
	a := section.Answer{Answer: section.Word(v), Subject: what + enforce.Plain(x.Place), Group: SensitiveData}
	a.Reason, a.Nearest = r.SensitiveReason(v, x)
	return a
}

// maxPlaces bounds the places that a finding names.
const maxPlaces = 8

// sensitiveData is the finding of one of the settings that say what is looked for.
func sensitiveData(c *section.Case, s enforce.Setting) enforce.Finding {
	can, r := c.Can(s), rulesOf(c)
	if can.Level == fact.Unsupported {
		return section.NotYet(c, s)
	}
	f := enforce.Finding{Setting: s, Mode: c.Document.Mode(s), Compliance: enforce.Compliant, Enforcement: enforce.Enforced}
	if f.Mode < enforce.Enforce {
		f.Enforcement = enforce.Observed
	}
	mine := 0
	for _, p := range r.looks.list {
		if p.Setting == s {
			mine++
		}
	}
	switch {
	case mine == 0:
		f.Reason = "it has no patterns"
		return f
	case r.looks.may && f.Mode == enforce.Enforce:
		f.Reason = "sensitive data is allowed by an exception"
		return f
	}
	for _, p := range []fact.Part{fact.PartScanning, fact.PartOutgoing, fact.PartPrintJobs, fact.PartSessions} {
		if why, unread := c.Machine.Unread(p); unread {
			return section.Unread(c, s, why)
		}
	}
	scan, out, jobs := &c.Machine.Scanning.V, &c.Machine.Outgoing.V, &c.Machine.PrintJobs.V
	disks, folders := 0, 0
	var bad []string
	for i := range out.Places {
		p := &out.Places[i]
		e := enforce.Evidence{Key: "outgoing/" + p.Name, State: enforce.Absent, How: "the list of what fanotify watches"}
		held := p.Watched && (p.Holds || f.Mode < enforce.Enforce)
		if held {
			e.State, e.Value = enforce.Present, "what is written there is looked into"
			if p.Holds {
				e.Value += " before it can be opened"
			}
		}
		if len(f.Evidence) < maxPlaces {
			f.Evidence = append(f.Evidence, e)
		}
		switch {
		case !held || p.Why != "":
			why := p.Why
			if why == "" {
				why = "who opens a file there does not wait"
			}
			bad = append(bad, fmt.Sprintf("not all of what is written to %s is looked into: %s", enforce.Plain(p.Name), enforce.Plain(why)))
		case p.App == "":
			disks++
		default:
			folders++
		}
	}
	printed := ""
	if jobs.Spooler {
		e := enforce.Evidence{Key: "outgoing/print jobs", State: enforce.Absent, How: "the list of what fanotify watches"}
		if held := jobs.Watched && (jobs.Holds || f.Mode < enforce.Enforce); held && jobs.Why == "" {
			e.State, e.Value, printed = enforce.Present, "what is printed is looked into", " and in print jobs"
			if jobs.Holds {
				e.Value += " before it is"
			}
		} else {
			why := jobs.Why
			if why == "" {
				why = "the spooler does not wait"
			}
			bad = append(bad, "what is printed is not looked into: "+enforce.Plain(why))
		}
		f.Evidence = append(f.Evidence, e)
	}
	copied, late, unsure, never := 0, 0, "", ""
	for i := range c.Machine.Sessions.V {
		x := &c.Machine.Sessions.V[i]
		late += x.LookedLate
		e := enforce.Evidence{Key: enforce.Key{Kind: KindClipboard, ID: x.ID}.String(), State: enforce.Absent, How: "the session's helper"}
		switch why := enforce.Plain(x.LookedWhy); {
		case x.Looked:
			if copied++; f.Mode == enforce.Enforce && x.Type == "x11" {
				e.State, e.Value = enforce.Present, "what is copied is looked into before it can be pasted"
			} else {
				e.State, e.Value = enforce.Present, "what is copied is looked into"
			}
		case x.LookedNever && never == "":
			never = fmt.Sprintf("; not in what is copied in session %s (%s): %s", enforce.Plain(x.ID), x.Type, why)
		case !x.LookedNever && unsure == "":
			if why == "" {
				why = "its helper does not say"
			}
			unsure = fmt.Sprintf("it is not known whether what is copied in session %s (%s) is looked into: %s", enforce.Plain(x.ID), x.Type, why)
		}
		if i < maxShown {
			f.Evidence = append(f.Evidence, e)
		}
	}
	left := r.looks.chosen().left
	switch {
	case scan.Why != "":
		f.Compliance, f.Reason = enforce.Noncompliant, "sensitive data is not looked for: "+enforce.Plain(scan.Why)
	case out.Held > 0:
		f.Compliance, f.Reason = enforce.Noncompliant, fmt.Sprintf("%d file(s) with sensitive data, or that could not be looked into, are still there and cannot be opened; %s", out.Held, enforce.Plain(out.HeldWhy))
	case len(left) > 0:
		f.Compliance, f.Reason = enforce.Noncompliant, left[0]
		if n := len(left) - 1; n > 0 {
			f.Reason += fmt.Sprintf(", and %d more", n)
		}
	case len(bad) > 0:
		f.Compliance, f.Reason = enforce.Noncompliant, bad[0]
		if n := len(bad) - 1; n > 0 {
			f.Reason += fmt.Sprintf(", and %d more", n)
		}
	case out.Stale:
		f.Compliance, f.Reason = enforce.Uncertain, fmt.Sprintf("%d file(s) or places wait to be looked into, some for longer than a minute", out.Behind)
	case unsure != "":
		f.Compliance, f.Reason = enforce.Uncertain, unsure
	case scan.Engine == "":
		f.Compliance, f.Reason = enforce.Uncertain, "the program that looks for sensitive data makes itself ready"
	default:
		if copied > 0 {
			printed += fmt.Sprintf(" and in what is copied in %d session(s)", copied)
		}
		f.Reason = fmt.Sprintf("%d pattern(s) are looked for in what is written to %d external disk(s) and %d sync folder(s)%s, by %s%s", mine, disks, folders, printed, enforce.Plain(scan.Engine), never)
		if jobs.LeftOut > 0 {
			f.Reason += fmt.Sprintf("; %d event(s) about print jobs were too many to tell", jobs.LeftOut)
		}
		if n := out.Late + jobs.Late + late; n > 0 {
			f.Reason += fmt.Sprintf("; %d file(s), print jobs or copies could not be looked into in time since the agent was started", n)
		}
	}
	if f.Enforcement != enforce.Enforced || f.Compliance != enforce.Compliant || can.Limit == "" {
		return f
	}
	f.Enforcement = enforce.Partial
	f.Reason += "; partial: " + can.Limit
	return f
}

// sensitiveRule is the finding of a setting that says what becomes of documents, and restricts nobody by itself.
func sensitiveRule(c *section.Case, s enforce.Setting) enforce.Finding {
	if c.Can(s).Level == fact.Unsupported {
		return section.NotYet(c, s)
	}
	f := enforce.Finding{Setting: s, Mode: c.Document.Mode(s), Compliance: enforce.Compliant, Enforcement: enforce.Enforced}
	if f.Mode < enforce.Enforce {
		f.Enforcement = enforce.Observed
	}
	l := &rulesOf(c).looks
	switch {
	case s == settingDays && f.Mode < enforce.Enforce:
		f.Reason = "files that were taken away are kept"
	case s == settingDays:
		f.Reason = fmt.Sprintf("files that were taken away are kept for %d day(s)", l.days)
	case l.free:
		f.Reason = "what cannot be looked into in time may be used"
	default:
		f.Reason = "what cannot be looked into in time may not be used"
	}
	if can := c.Can(s); can.Level == fact.Partial && f.Enforcement == enforce.Enforced {
		f.Enforcement = enforce.Partial
		f.Reason += "; partial: " + can.Limit
	}
	return f
}
