package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/warderd/warder/agent/dbfile"
	"github.com/warderd/warder/agent/reconcile"
	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/section"
)

// applyLimit bounds one look at the machine.
const applyLimit = 2 * time.Minute

// If a part of the machine cannot be read, it is looked at again after blindRetry, and then less and less often, up to
// blindMost.
const (
	blindRetry = 10 * time.Second
	blindMost  = 5 * time.Minute
)

// guardFiles recreates the agent's own files when somebody has removed or replaced them, and records it.
func (a *Agent) guardFiles() {
	tell := func(what string, err error) {
		if what == "" {
			return
		}
		e := enforce.Event{At: a.o.Now().UTC(), Setting: "agent", Mode: enforce.Enforce, Kind: "restored", Subject: "state files",
			Reason: what + "; it was written again"}
		if err != nil {
			e.Kind, e.Reason = enforce.Failed, what+": "+err.Error()
			if a.clocks.unrestored == e.Reason {
				return // recorded, and tried again at each look
			}
			a.clocks.unrestored = e.Reason
		} else {
			a.clocks.unrestored = ""
		}
		a.o.Log.Warn("state file", "reason", e.Reason)
		a.journal.record(e)
	}
	a.watchHome()
	tell(a.ledger.Check())
	tell(a.store.Check())
	if what := a.custody.ids.Check(); what != "" && a.custody.device() != nil {
		tell(what, a.custody.save(a.custody.state))
	}
}

// State files that were written to the runtime directory move back as soon as the disk is writable: otherwise the next
// power cut would lose what happened meanwhile.
const (
	homeRetry = 10 * time.Second
	homeMost  = 2 * time.Minute
)

// goHome moves state from the runtime directory back to the disk, and records it.
func (a *Agent) goHome() {
	var back []string
	away := false
	for _, f := range []struct {
		name string
		home func() (bool, error)
		bad  func() bool
	}{
		{"ledger.db", a.ledger.Home, func() bool { return a.ledger.Health().Standby != "" }},
		{"store.db", a.store.Home, func() bool { return a.store.Health().Standby != "" }},
		{"identity.json", a.identityHome, a.custody.ids.Away},
	} {
		is, err := f.home()
		if err != nil {
			a.o.Log.Debug("the disk cannot be written yet", "file", f.name, "error", err)
		}
		if is {
			back = append(back, f.name)
		}
		away = away || f.bad()
	}
	if len(back) > 0 {
		reason := strings.Join(back, ", ") + ": the disk can be written again, and what was kept in the runtime directory is on it"
		a.o.Log.Info("state files", "reason", reason)
		a.journal.record(enforce.Event{At: a.o.Now().UTC(), Setting: "agent", Mode: enforce.Enforce, Kind: "restored",
			Subject: "state files", Reason: reason})
		a.flatten("running")
	}
	a.clocks.away = min(max(2*a.clocks.away, homeRetry), homeMost)
	if away {
		a.clocks.home.Reset(a.clocks.away)
	} else {
		a.clocks.away = 0
	}
}

// identityHome rewrites both copies of the identity if they are not on the disk.
func (a *Agent) identityHome() (bool, error) {
	if !a.custody.ids.Away() {
		return false, nil
	}
	if err := a.custody.save(a.custody.state); err != nil {
		return false, err
	}
	a.custody.ids.Wait()
	return !a.custody.ids.Away(), nil
}

// watchHome sets the time of the next try if one is needed and none is set.
func (a *Agent) watchHome() {
	if a.clocks.away == 0 && (a.ledger.Health().Standby != "" || a.store.Health().Standby != "" || a.custody.ids.Away()) {
		a.clocks.away = homeRetry / 2
		a.clocks.home.Reset(homeRetry)
	}
}

// look applies the policy and records the resulting state. Without a policy, or during a hold, it applies the empty
// plan, which restores the baseline.
func (a *Agent) look() {
	a.guardFiles()
	a.keep()
	a.looked()
}

// round is the regular look. It usually finds no change, and then does not schedule the release of memory, which would
// wake an idle machine once more.
func (a *Agent) round() {
	a.guardFiles()
	if a.apply() {
		a.work()
	}
	a.looked()
}

// looked publishes the result of a look.
func (a *Agent) looked() {
	a.warn()
	a.noteEarly()
	a.host = describe()
	a.flatten("running")
}

// keep is look without publishing the result to "warder status".
func (a *Agent) keep() {
	a.work()
	a.apply()
	a.work()
}

// apply applies the policy. It reports whether anything was done or found.
func (a *Agent) apply() bool {
	a.clocks.look.Stop()
	a.clocks.due, a.clocks.asked, a.clocks.drift, a.clocks.looked = time.Time{}, time.Time{}, time.Time{}, a.o.Now()
	// Not the loop's context: a stop must not interrupt a plan.
	ctx, cancel := context.WithTimeout(context.Background(), applyLimit)
	defer cancel()
	doc := a.governing()
	if a.custody.state.Hold != nil {
		doc = nil
	}
	s := a.machine.apply(ctx, doc, func(p reconcile.Plan, network bool) {
		if network {
			_ = a.custody.risk(a.o.Boot, a.machine.closes(p)) // custody reports what cannot be stored
		}
	})
	if c := a.contact; s.result.Network && c.socket != nil {
		c.renewed = true
		c.socket.Renew()
	}
	a.fetchLists()
	if until := a.portal.until.Load(); until != nil && a.portal.open(a.o.Now()).IsZero() {
		a.portal.timer.Reset(0) // the clock was changed, or the machine slept
	}
	problem := ""
	if err := errors.Join(s.result.Problems...); err != nil {
		problem = err.Error()
	}
	a.health.set(machineFailed, problem)
	a.unread(s)
	switch {
	case len(s.blind) > 0: // set already
	case a.machine.loop.Releasing():
		a.clocks.look.Reset(restDelay) // for devices that arrived meanwhile
	case !s.result.Rested.IsZero():
		a.clocks.look.Reset(s.result.Rested.Sub(a.o.Now()) + time.Second)
	}
	for _, d := range s.result.Drifted {
		e := driftEvent(d, s.result)
		a.o.Log.Warn("drift", "resource", d.Key.String(), "reason", e.Reason)
		a.journal.record(e)
	}
	news := a.found(s)
	a.endStrays()
	if len(s.result.Drifted) > 0 || news {
		a.clocks.vain = 0
	} else if s.written {
		a.clocks.vain++
	}
	if news {
		a.reportSoon()
	}
	return news || len(s.result.Drifted) > 0 || len(s.result.Plan.Apply) > 0
}

// unread reports which sections cannot be decided, and sets the time of the next look for them.
func (a *Agent) unread(s standing) {
	if len(s.blind) == 0 {
		a.clocks.blind = 0
		a.health.set(machineUnread, "")
		return
	}
	var list []string
	for _, sec := range a.o.Sections {
		if why, is := s.blind[sec.Name]; is {
			list = append(list, fmt.Sprintf("%s is unknown: %s", sec.Name, why))
		}
	}
	a.health.set(machineUnread, strings.Join(list, "; "))
	// Looks asked for in between do not put this one off.
	if now := a.o.Now(); a.clocks.blind == 0 || now.Sub(a.clocks.blinded) >= a.clocks.blind {
		a.clocks.blind, a.clocks.blinded = min(max(2*a.clocks.blind, blindRetry), blindMost), now
	}
	a.clocks.look.Reset(a.clocks.blind)
}

// found keeps the findings, and reports whether they differ from the previous ones.
func (a *Agent) found(s standing) bool {
	before := a.before()
	changed := len(before) != len(s.findings)
	for i, f := range s.findings {
		s.findings[i].Since, s.findings[i].ReadAt = s.result.At.UTC(), s.result.At.UTC()
		b, ok := before[f.Setting]
		if ok && b.Alike(f) {
			s.findings[i].Since = b.Since
		} else {
			changed = true
		}
	}
	a.machine.put(s)
	if !changed {
		return false
	}
	if err := a.store.PutFindings(s.findings); err != nil {
		a.health.set(storeBad, err.Error())
	}
	return true
}

// warn has people told of what is against a setting in warn mode, unless they are told of each case of it. It is asked at each look, and
// when somebody can be told who could not be before.
func (a *Agent) warn() {
	var list []enforce.Finding
	for _, f := range a.machine.last().findings {
		if f.Mode != enforce.Warn || f.Compliance != enforce.Noncompliant {
			continue
		}
		if s, ok := section.Find(a.o.Sections, f.Setting.Section()); !ok || s.Single == nil || !s.Single(f.Setting) {
			list = append(list, f)
		}
	}
	if len(list) > 0 {
		a.journal.warns(list)
	}
}

// before are the findings of the previous look, or of an earlier run.
func (a *Agent) before() map[enforce.Setting]enforce.Finding {
	last := a.machine.last()
	if last.result.At.IsZero() {
		stored, err := a.store.Findings()
		if err != nil {
			a.health.set(storeBad, err.Error())
		}
		return stored
	}
	out := map[enforce.Setting]enforce.Finding{}
	for _, f := range last.findings {
		out[f.Setting] = f
	}
	return out
}

// driftEvent says who changed what, what was done about it, and what was read back.
func driftEvent(d reconcile.Drift, r reconcile.Result) enforce.Event {
	now := r.Seen.At(d.Key)
	e := enforce.Event{At: r.At.UTC(), Mode: d.Mode, Kind: enforce.Drift, Subject: d.Key.String(), Done: now}
	if len(d.Change.By) > 0 {
		e.Setting = d.Change.By[0]
	}
	if d.By.PID > 0 {
		e.By = &d.By
	}
	if d.Back {
		// An announced write names its program, and may have changed nothing. A device whose interfaces appeared was
		// used.
		e.Reason = d.By.String() + " wrote to it"
		if d.By.PID == 0 {
			e.Reason = "another program changed it and changed it back before Warder read it"
		}
		e.Reason += "; it reads " + now.String() + ", as wanted"
		if d.Contended {
			e.Reason += "; further writes like this are not reported until there have been none for five minutes"
		}
		return e
	}
	e.Reason = d.By.String() + " changed it"
	if d.From.State == enforce.Absent && d.To.State == enforce.Present && now.State == enforce.Absent {
		e.Reason += "; it is gone by now"
		return e
	}
	if d.Was.State != enforce.Unknown {
		e.Reason += " from " + d.Was.String()
	}
	e.Reason += " to " + d.From.String() + "; "
	why, failed := r.Failed[d.Key]
	switch {
	case d.Contended:
		e.Reason += "it keeps being changed, so Warder stops repairing it until it has not been changed for five minutes; it reads " +
			now.String()
	case d.Mode < enforce.Enforce:
		e.Reason += d.Mode.String() + " mode leaves it"
	case failed:
		e.Reason += "it could not be set back: it " + why
	case now.State == enforce.Absent && d.To.State == enforce.Present:
		e.Reason += "it is gone by now"
	default:
		e.Reason += "it was set back and reads " + now.String()
	}
	return e
}

// deaf says that changes of a resource cannot be watched and are only found by the regular looks; "" ends the warning.
func (a *Agent) deaf(capability, why string) {
	if why != "" {
		why = capability + ": " + why
	}
	a.health.of(machineUnwatched, capability, why)
}

// unwell is what is wrong with a database file; "" means nothing.
func unwell(h dbfile.Health) string {
	if h.OK() {
		return ""
	}
	return h.String()
}
