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
)

// applyLimit bounds one look at the machine.
const applyLimit = 2 * time.Minute

// A machine of which a part cannot be read is looked at again after a while, and ever less often.
const (
	blindRetry = 10 * time.Second
	blindMost  = 5 * time.Minute
)

// look makes the machine as the policy says, and finds how it stands. Without a policy, or while one is
// held, that is the plan of nothing: back to the baseline.
func (a *Agent) look() {
	a.keep()
	a.host = describe()
	a.flatten("running")
}

// keep is look without showing it to "warder status" yet.
func (a *Agent) keep() {
	a.clocks.look.Stop()
	a.clocks.due, a.clocks.asked = time.Time{}, time.Time{}
	a.work()
	defer a.work()
	// Not the loop's context: a stop must not leave a plan half done.
	ctx, cancel := context.WithTimeout(context.Background(), applyLimit)
	defer cancel()
	doc := a.governing()
	if a.custody.state.Hold != nil {
		doc = nil
	}
	s := a.machine.hold(ctx, doc, func(_ reconcile.Plan, network bool) {
		if network {
			_ = a.custody.risk(a.o.Boot) // what cannot be stored is said by the custody itself
		}
	})
	problem := ""
	if err := errors.Join(s.result.Problems...); err != nil {
		problem = err.Error()
	}
	a.health.set(machineFailed, problem)
	a.unread(s)
	for _, c := range s.result.Drifted {
		a.o.Log.Warn("repaired", "resource", c.Key.String(), "was", c.From.String())
		a.journal.record(driftEvent(c, s.result))
	}
	if a.found(s) {
		a.reportSoon()
	}
}

// unread says which sections cannot be decided, and sets the next look for them.
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
	a.clocks.blind = min(max(2*a.clocks.blind, blindRetry), blindMost)
	a.clocks.look.Reset(a.clocks.blind)
}

// found keeps what was found, and reports whether it says something else than before.
func (a *Agent) found(s standing) bool {
	before := a.before()
	changed := len(before) != len(s.findings)
	for i, f := range s.findings {
		s.findings[i].Since = s.result.At.UTC()
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

// before are the findings of the look before this one, or of an earlier run.
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

func driftEvent(c enforce.Change, r reconcile.Result) enforce.Event {
	e := enforce.Event{At: r.At.UTC(), Mode: c.Mode, Kind: "drift", Subject: c.Key.String(),
		Reason: "another program changed it to " + c.From.String() + "; it was set back to " + c.To.String(), Done: r.Seen.At(c.Key)}
	if len(c.By) > 0 {
		e.Setting = c.By[0]
	}
	return e
}

// leave gives the machine back when the agent stops, unless an upgrade asked it to keep hold.
func (a *Agent) leave() {
	if keepAsked(a.o.Paths) {
		a.o.Log.Info("stopping for an upgrade: the policy stays in force")
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), applyLimit)
	defer cancel()
	s := a.machine.hold(ctx, nil, nil)
	a.custody.put(nil, nil)
	s.findings = nil
	a.machine.put(s)
	if err := errors.Join(s.result.Problems...); err != nil {
		a.o.Log.Error("the machine is not fully given back", "error", err)
	}
	for k, why := range s.result.Failed {
		a.o.Log.Error("not given back", "resource", k.String(), "error", why)
	}
}

// unwell is what is wrong with a database file; "" for nothing.
func unwell(h dbfile.Health) string {
	if h.OK() {
		return ""
	}
	return h.String()
}
