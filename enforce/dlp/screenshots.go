package dlp

import (
	"fmt"
	"strings"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/enforce/section"
)

const settingShots enforce.Setting = "dlp.screenshot_allowed"

// KindDesktop is the kind of the resource that is the settings of one desktop; platform/desktop has it.
const KindDesktop = "desktop.settings"

// toolsKey is the resource that keeps known programs from being started; platform/programs has it.
var toolsKey = enforce.Key{Kind: "screenshots", ID: "tools"}

// The lines of the decision order for screenshots, after those for the clipboard.
const (
	lineShots  int32 = 8  // screenshot_allowed decides
	lineNoTool int32 = 10 // it is none that is known
)

// x11Why is why nothing can be done there.
const x11Why = "on X11 every program can read the screen"

// AboutTools reports whether screenshots can be refused in any mode.
func (r *Rules) AboutTools() bool { return r.shots.about() }

// CanStopTools reports whether they are refused in enforce mode, now.
func (r *Rules) CanStopTools() bool { return r.shots.stops() }

// Tools judge whether a program that takes pictures of the screen may run.
func (r *Rules) Tools() enforce.Judge[fact.Running] { return shooters{r} }

type shooters struct{ r *Rules }

// Judge judges one program.
func (s shooters) Judge(x *fact.Running) enforce.Verdict {
	if _, known := fact.Tools.ByID(x.App); !known {
		rule := enforce.Rule{Line: lineNoTool}
		return enforce.Verdict{Allow: true, Rule: rule, Would: rule}
	}
	return s.r.shots.verdict()
}

// Reason says why.
func (s shooters) Reason(v enforce.Verdict, x *fact.Running) (reason, nearest string) {
	if v.Rule.Line == lineNoTool {
		return "it is none of the programs that are known", ""
	}
	if reason, nearest = s.r.shots.reason(v); v.Rule.Line == lineShots || v.WouldDeny {
		reason += ", and " + toolName(x.App) + " takes pictures of the screen"
	}
	return reason, nearest
}

// toolName names a program for people.
func toolName(id string) string {
	if t, ok := fact.Tools.ByID(id); ok {
		return t.Name
	}
	return enforce.Plain(id)
}

// toolIDs are those of all that have programs, in the order of the table.
func toolIDs() (ids []string) {
	for i := range fact.Tools {
		ids = append(ids, fact.Tools[i].ID)
	}
	return ids
}

// Screenshots is how they are called in answers.
const Screenshots = "screenshots"

// explainShots answers for all of them, or for one program by its ID, its name or that of its file.
func (r *Rules) explainShots(program string) section.Answer {
	a := section.Answer{Subject: Screenshots, Group: Screenshots}
	if program == "" {
		v := r.shots.verdict()
		a.Answer = section.Word(v)
		a.Reason, a.Nearest = r.shots.reason(v)
		return a
	}
	t, ok := fact.Tools.ByID(program)
	if !ok {
		t, _, ok = fact.Tools.ByProgram(program)
	}
	for i := range fact.Tools {
		if !ok && strings.EqualFold(fact.Tools[i].Name, program) {
			t, ok = &fact.Tools[i], true
		}
	}
	x := &fact.Running{App: program}
	if a.Subject = enforce.Plain(program); ok {
		x.App, a.Subject = t.ID, t.Name
	}
	v := r.Tools().Judge(x)
	a.Answer, a.Group = section.Word(v), "screenshot program"
	a.Reason, a.Nearest = r.Tools().Reason(v, x)
	return a
}

// screenshots is the finding of screenshot_allowed, and what is wanted for it: known programs do not start, and desktops do not offer it.
func screenshots(c *section.Case, out *section.Outcome) {
	s, can, r := settingShots, c.Can(settingShots), rulesOf(c)
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
	case !r.shots.on:
		return
	case r.shots.may:
		f.Reason = "screenshots are allowed by an exception"
		return
	}
	want := func(k enforce.Key, value string) {
		out.Wants = append(out.Wants, enforce.Want{Key: k, Value: enforce.Value(value), By: []enforce.Setting{s}, Mode: f.Mode, Phase: enforce.Close})
	}
	want(toolsKey, fact.ToolsRefused(toolIDs()))
	if _, unread := c.Machine.Unread(fact.PartDesktops); unread {
		out.Unsure = append(out.Unsure, KindDesktop)
	} else {
		for _, x := range c.Machine.Desktops.V.Files {
			if x.Taken == "" {
				want(enforce.Key{Kind: KindDesktop, ID: x.ID}, fact.NoScreenshots)
			} else {
				can.Limit += "; settings of " + x.Name + ": " + enforce.Plain(x.Taken)
			}
		}
	}
	if names := othersBrowsers(c.Machine); names != "" {
		can.Limit += "; the policies of " + enforce.Plain(names) + " are somebody else's, so that screenshots and sharing are still offered there"
	}
	for _, p := range []fact.Part{fact.PartSessions, fact.PartTools, fact.PartDesktops, fact.PartBrowsers} {
		if why, unread := c.Machine.Unread(p); unread {
			f = section.Unread(c, s, why)
			return
		}
	}
	list := c.Machine.Sessions.V
	if f.Reason = fact.NoDesktop; len(list) == 0 {
		return
	}
	f.Reason = ""
	wayland := 0
	for i := range list {
		x := &list[i]
		if x.Type == "x11" && f.Mode == enforce.Enforce && f.Enforcement != enforce.Unsupported {
			f.Compliance, f.Enforcement, f.Reason = enforce.Uncertain, enforce.Unsupported, fmt.Sprintf("session %s (x11): %s", enforce.Plain(x.ID), x11Why)
		} else if x.Type != "x11" {
			wayland++
		}
		if i < maxShown {
			f.Evidence = append(f.Evidence, enforce.Evidence{Key: "screenshots/" + x.ID, State: enforce.Present, Value: enforce.Value(x.Type), How: "systemd-logind"})
		}
	}
	if f.Compliance != enforce.Compliant {
		return
	}
	if f.Mode < enforce.Enforce {
		f.Compliance, f.Reason = enforce.Noncompliant, fmt.Sprintf("pictures of the screen can be taken in session %s", enforce.Plain(list[0].ID))
		return
	}
	if running := c.Machine.Tools.V; len(running) > 0 {
		x := &running[0]
		f.Compliance, f.Reason = enforce.Noncompliant, fmt.Sprintf("%s runs (program %s, %d process(es))", toolName(x.App), enforce.Plain(x.Program), x.Processes)
		return
	}
	if late := c.Machine.Desktops.V.Pending; len(late) > 0 {
		f.Compliance, f.Enforcement = enforce.Noncompliant, enforce.PendingRelogin
		f.Reason = enforce.Plain(late[0]) + "; the settings hold from the next login on"
		return
	}
	f.Enforcement, f.Reason = enforce.Partial, fmt.Sprintf("refused in %d session(s); partial: %s", wayland, can.Limit)
}
