package agent

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"time"

	"github.com/warderd/warder/agent/early"
	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/enforce/section"
	"github.com/warderd/warder/platform/paths"
)

// earlyNote is what was written for the next early start.
type earlyNote struct {
	text []byte           // written by this run; nil means nothing was
	jws  string           // of the confirmed policy decoded last
	doc  *policy.Document // that policy
}

// earlyLock is the lock that an early start has while it runs; earlyPatience is how long it has to end.
const (
	earlyLock     = "early.lock"
	earlyPatience = 2 * time.Second
)

// endEarly ends a running early start, prevents another one during this boot, and moves its resources into the agent's
// ledger. From here until the first look no guard answers: what is plugged in has to wait.
func (a *Agent) endEarly() error {
	err := early.End(a.o.Paths.Run, a.o.Boot)
	if err != nil {
		a.o.Log.Warn("cannot mark that the early start is over", "error", err)
	}
	// Without this mark the early start would give everything back when it is asked to end.
	if !paths.Evict(filepath.Join(a.o.Paths.Run, earlyLock), earlyPatience, err != nil) {
		a.o.Log.Error("the early start does not end; it decides by the last confirmed policy until it does")
	}
	return a.ledger.TakeOver()
}

// takeOver ends the early start and writes its decisions into the journal.
func (a *Agent) takeOver() error {
	if err := a.endEarly(); err != nil {
		return err
	}
	r, err := early.Recorded(a.o.Paths.Run, a.o.Boot)
	if err != nil {
		a.o.Log.Warn("cannot read what the early start did", "error", err)
	}
	if r != nil {
		a.o.Log.Info("took over from the early start", "began", r.Began.Round(time.Millisecond), "held", r.InForce.Round(time.Millisecond),
			"decisions", len(r.Told))
		if !a.journalEarly(r) {
			return nil // try again at the next start
		}
	}
	if err := early.Forget(a.o.Paths.Run); err != nil {
		a.o.Log.Warn("cannot remove what the early start left", "error", err)
	}
	return nil
}

// journalEarly writes the early start's decisions into the journal, each once. It reports false if some could not be
// written.
func (a *Agent) journalEarly(r *early.Record) bool {
	list := r.Told
	own := func(kind enforce.EventKind, reason string, count int) {
		e := enforce.Event{At: a.o.Now().UTC(), Setting: "agent", Mode: enforce.Enforce, Kind: kind, Subject: "early start", Reason: reason,
			Count: count}
		list = append(list, early.Told{Event: e, What: string(kind)})
	}
	if r.Problem != "" {
		own(enforce.Failed, "the policy was not in force while the machine started up: "+r.Problem, 0)
	}
	if r.Lost > 0 {
		own("dropped", "more was decided before the agent ran than can be kept", r.Lost)
	}
	all := true
	for i, t := range list {
		mark := fmt.Sprintf("early start, %d", i)
		if a.store.Seen(a.o.Boot, mark, t.What) {
			continue // the agent was killed before it deleted the record
		}
		t.Event.Seq = 0
		if !a.journal.record(t.Event) {
			all = false
			continue
		}
		a.store.Remember(a.o.Boot, mark, t.What)
		if t.Key != "" {
			a.store.Remember(a.o.Boot, t.Key, t.What)
		}
	}
	return all
}

// unnoteEarly removes the file before the policy it describes ends, so that no later start can enforce it whatever
// happens in between.
func (a *Agent) unnoteEarly() error {
	a.early.text = nil
	err := early.Remove(a.o.Paths.EarlyFile())
	if err != nil {
		a.health.set(earlyUnwritten, err.Error())
		return fmt.Errorf("the policy still applies at the next start of this machine, until the agent runs: %w", err)
	}
	return nil
}

// noteEarly maintains the file for the next early start. It contains the confirmed policy if that policy enforces
// something early; otherwise there is no file.
func (a *Agent) noteEarly() {
	path := a.o.Paths.EarlyFile()
	text, known, err := a.earlyText()
	if !known {
		return // leave it as it is until the machine can be read again
	}
	how, absent := early.Differs(path, text)
	switch {
	case err != nil:
	case text == nil && !absent:
		err = early.Remove(path)
	case text != nil && how != "":
		if err = early.Write(path, text); err == nil && bytes.Equal(a.early.text, text) {
			a.o.Log.Warn("state file", "reason", how+"; it was written again")
			a.journal.record(enforce.Event{At: a.o.Now().UTC(), Setting: "agent", Mode: enforce.Enforce, Kind: "restored",
				Subject: "state files", Reason: how + "; it was written again"})
		}
	}
	a.early.text = text
	problem := ""
	if err != nil {
		problem, a.early.text = err.Error(), nil
	}
	a.health.set(earlyUnwritten, problem)
}

// earlyText is the content that the file should have; nil means that there should be none. known is false when that
// cannot be decided now.
func (a *Agent) earlyText() (text []byte, known bool, err error) {
	st := a.custody.state
	if st.Device == nil {
		return nil, false, nil // the files may be damaged; whatever ends an enrollment removes this file itself
	}
	if st.Hold != nil || st.Confirmed == nil {
		return nil, true, nil
	}
	e := &a.early
	if e.doc == nil || e.jws != st.Confirmed.JWS {
		_, doc, err := a.custody.read(st.Confirmed)
		if err != nil {
			return nil, true, err
		}
		e.doc, e.jws = doc, st.Confirmed.JWS
	}
	snapshot := a.machine.last().snapshot
	c := section.Open(a.o.Sections, a.with(&st, e.doc), &snapshot)
	out := section.Decide(a.o.Sections, c)
	kinds, notes := a.machine.early()
	enforced := slices.ContainsFunc(out.Wants, func(w enforce.Want) bool { return w.Mode >= enforce.Enforce && kinds[w.Key.Kind] })
	switch {
	case !enforced && len(out.Blind)+len(out.Unsure) > 0:
		return nil, false, nil
	case !enforced:
		return nil, true, nil
	}
	text, err = early.File{DeviceID: st.Device.DeviceID, JWS: st.Confirmed.JWS, Keys: st.Confirmed.Keys,
		Exceptions: a.exceptions.current(st.Exceptions), Notes: notes}.Encode()
	if err != nil {
		return nil, true, errors.Join(errors.New("the early start's file cannot be made"), err)
	}
	return text, true, nil
}

// EnforcesEarly reports whether there is a file that puts a policy in force early at the next start of the machine.
func EnforcesEarly(p paths.Paths) (bool, error) {
	err := early.Check(p.EarlyFile())
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}
