// Package dlp decides the section "dlp": whether anything may be printed, whether pictures of the screen may be taken, and what may be
// pasted where, and which sensitive data may not leave the machine. It is pure.
package dlp

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/enforce/section"
)

// Section answers for every managed setting of "dlp".
var Section = section.Section{
	Name: "dlp", Settings: policy.Section("dlp"), Decide: decide,
	Compile: func(d *policy.Document, m *fact.Machine) section.Rules { return compile(d, m) },
	Except:  &section.Except{Parse: parseSubject, Names: subjectNames, Refused: refusedNow},
}

// decide answers for every managed setting of "dlp".
func decide(c *section.Case) section.Outcome {
	var out section.Outcome
	for _, s := range c.Document.Managed("dlp") {
		switch s {
		case settingPrint:
			printing(c, &out)
		case settingShots:
			screenshots(c, &out)
		case settingSharing, settingDirection:
			clipboard(c, &out, s)
		case settingZones:
			zones(c, &out)
		case policy.SettingPatterns, policy.SettingNamed:
			out.Findings = append(out.Findings, sensitiveData(c, s))
		case settingTimeout, settingDays:
			out.Findings = append(out.Findings, sensitiveRule(c, s))
		default:
			out.Findings = append(out.Findings, section.NotYet(c, s))
		}
	}
	browsers(c, &out)
	return out
}

// Rules are the section's part of a policy.
type Rules struct {
	machine      *fact.Machine
	print, shots ban
	clip         board
	looks        looks
}

func compile(d *policy.Document, m *fact.Machine) *Rules {
	return &Rules{machine: m, clip: boardOf(d, m), looks: looksOf(d, m),
		print: banOf(d, m, settingPrint, d.DLP.PrintAllowed, policy.PrintSubject, Printing, linePrint),
		shots: banOf(d, m, settingShots, d.DLP.ScreenshotAllowed, policy.ScreenshotSubject, Screenshots, lineShots)}
}

// rulesOf are the rules of this section in a case.
func rulesOf(c *section.Case) *Rules { return c.Rules("dlp").(*Rules) }

// Subject is the subject of a question: whether something may be printed, or pasted, whether pictures of the screen may be taken, or
// sensitive data may leave.
type Subject struct {
	Clipboard bool   `json:"clipboard,omitempty"`
	From      string `json:"from,omitempty"` // from this zone to that one; both are empty for both ways
	To        string `json:"to,omitempty"`

	Print bool   `json:"print,omitempty"`
	Queue string `json:"queue,omitempty"` // by this queue; what the answer says of now is about it

	Screenshot bool   `json:"screenshot,omitempty"`
	Program    string `json:"program,omitempty"` // by this one

	Sensitive bool `json:"sensitive,omitempty"`
}

// Explain answers whether something may be done.
func (r *Rules) Explain(subject json.RawMessage, now *fact.Machine) (section.Answer, error) {
	var in Subject
	if err := json.Unmarshal(subject, &in); err != nil {
		return section.Answer{}, fmt.Errorf("the subject cannot be read: %w", err)
	}
	switch {
	case count(in.Clipboard, in.Print, in.Screenshot, in.Sensitive) != 1:
		return section.Answer{}, errSubject
	case in.Sensitive:
		return r.explainSensitive(), nil
	case in.Screenshot:
		if len(in.Program) > maxQueue {
			return section.Answer{}, fmt.Errorf("program %q must have at most %d bytes", enforce.Plain(in.Program[:maxQueue]), maxQueue)
		}
		return r.explainShots(in.Program), nil
	case in.Clipboard:
		return r.explainClipboard(&in)
	}
	if len(in.Queue) > maxQueue {
		return section.Answer{}, fmt.Errorf("queue %q must have at most %d bytes", enforce.Plain(in.Queue[:maxQueue]), maxQueue)
	}
	if in.Queue == "" { // anybody may ask; what the queues do, their capability says
		return r.explainPrint(), nil
	}
	if now == nil {
		return section.Answer{}, section.ErrPresent
	}
	if why, unread := now.Unread(fact.PartPrinting); unread {
		return section.Answer{}, errors.New(why)
	}
	list := now.Printing.V.Queues
	for i := range list {
		if list[i].Name == in.Queue {
			return r.askPrint(&list[i]), nil
		}
	}
	return section.Answer{}, fmt.Errorf("%w: the spooler has no queue %q", section.ErrAbsent, enforce.Plain(in.Queue))
}

// count counts what is so.
func count(list ...bool) (n int) {
	for _, x := range list {
		if x {
			n++
		}
	}
	return n
}

// Replay judges a paste or a program again that was refused.
func (r *Rules) Replay(facts enforce.Facts) (section.Answer, bool) {
	var x fact.Running
	if json.Unmarshal([]byte(facts), &x) == nil && x.App != "" {
		return r.explainShots(x.App), true
	}
	var d fact.Sensitive
	if json.Unmarshal([]byte(facts), &d) == nil && d.Where != "" && d.Found != nil {
		return r.askSensitive(&d), true
	}
	var p fact.Paste
	if err := json.Unmarshal([]byte(facts), &p); err != nil || p.From == "" || p.To == "" {
		return section.Answer{}, false
	}
	return r.askPaste(p), true
}

// Present answers for each queue and each screenshot program of the snapshot, and for the clipboard of each session.
func (r *Rules) Present() (out []section.Answer) {
	for i := range r.machine.Printing.V.Queues {
		out = append(out, r.askPrint(&r.machine.Printing.V.Queues[i]))
	}
	for i := range r.machine.Tools.V {
		out = append(out, r.explainShots(r.machine.Tools.V[i].App))
	}
	for i := range r.machine.Sessions.V {
		if a, err := r.explainClipboard(&Subject{}); err == nil {
			a.Subject = "the clipboard of session " + r.machine.Sessions.V[i].ID
			out = append(out, a)
		}
	}
	if len(r.looks.list) > 0 {
		out = append(out, r.explainSensitive())
	}
	return out
}

// Public returns these rules without anything below enforce.
func (r *Rules) Public() section.Rules {
	c := *r
	if c.print.mode < enforce.Enforce {
		c.print.mode = enforce.Off
	}
	if c.shots.mode < enforce.Enforce {
		c.shots.mode = enforce.Off
	}
	if c.clip.mode < enforce.Enforce {
		c.clip.mode = enforce.Off
	}
	c.looks.list, c.looks.modes = nil, map[enforce.Setting]enforce.Mode{}
	for _, p := range r.looks.list {
		if m := r.looks.modes[p.Setting]; m == enforce.Enforce {
			c.looks.list, c.looks.modes[p.Setting] = append(c.looks.list, p), m
		}
	}
	return &c
}

// CanDeny reports whether anything is refused.
func (r *Rules) CanDeny() bool {
	return r.CanStopPrinting() || r.CanKeepClipboard() || r.CanStopTools() || r.HoldsSensitive()
}

// parseSubject: an exception is for printing, for the clipboard, for screenshots, or for sensitive data.
func parseSubject(s string) (string, error) {
	if s != policy.PrintSubject && s != policy.ClipboardSubject && s != policy.ScreenshotSubject && s != policy.SensitiveSubject {
		return "", errors.New(`must be "print", "clipboard", "screenshot" or "sensitive"`)
	}
	return s, nil
}

func subjectNames(subject string) []string {
	if s, err := parseSubject(subject); err == nil {
		return []string{s}
	}
	return nil
}

// refusedNow are those of printing, the clipboard, screenshots and sensitive data that are refused.
func refusedNow(c *section.Case) (out []string) {
	if rulesOf(c).CanStopPrinting() {
		out = append(out, policy.PrintSubject)
	}
	if rulesOf(c).CanKeepClipboard() {
		out = append(out, policy.ClipboardSubject)
	}
	if rulesOf(c).CanStopTools() {
		out = append(out, policy.ScreenshotSubject)
	}
	if rulesOf(c).HoldsSensitive() {
		out = append(out, policy.SensitiveSubject)
	}
	return out
}
