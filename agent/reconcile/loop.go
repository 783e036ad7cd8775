package reconcile

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/warderd/warder/agent/killpoint"
	"github.com/warderd/warder/agent/ledger"
	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/platform"
)

// Loop drives the back ends. Only one goroutine at a time may call Run.
type Loop struct {
	Backends []platform.Backend
	Ledger   Memory
	Now      func() time.Time

	kinds Kinds
	watch watch

	gone ledger.GivenBack
}

// Memory remembers what resources were before they were changed: the ledger, or the early start's.
type Memory interface {
	Rows() (map[enforce.Key]ledger.Row, error)
	Lost() bool    // rows of this boot may be missing
	Changed() bool // something was changed in this boot
	Intend([]ledger.Row) error
	Note([]ledger.Row) error // does not wait for the disk
	Settle(rows []ledger.Row, forget []enforce.Key) error
	Found() error // clears that rows were lost
	GiveBack(ledger.GivenBack) error
	LastGivenBack() ledger.GivenBack
}

// releasing is how long after a default was given back a device may still arrive that it refused.
const releasing = 10 * time.Second

// Releasing reports whether a device may still arrive that was refused by a default which was given back.
func (l *Loop) Releasing() bool {
	since := l.Now().Sub(l.gone.At)
	return since >= 0 && since < releasing
}

// past is what was in force earlier in this boot.
func (l *Loop) past() Past {
	out := Past{Changed: l.Ledger.Changed()}
	if !l.Releasing() {
		return out
	}
	out.Gone, out.There = map[enforce.Key]enforce.Reading{}, map[enforce.Key]bool{}
	for _, row := range l.gone.Rows {
		out.Gone[row.Key] = row.Baseline
	}
	for _, k := range l.gone.There {
		out.There[k] = true
	}
	return out
}

// giveBack remembers, before it is done, which defaults a plan gives back: an agent that is killed meanwhile must know.
func (l *Loop) giveBack(p Plan, seen Seen) {
	if rows := l.defaults(p, func(enforce.Change) bool { return true }); len(rows) > 0 {
		_ = l.Ledger.GiveBack(l.given(rows, seen, nil))
	}
}

// gaveBack remembers which defaults were given back, and what was planned about meanwhile: planned is the last list
// that a plan was made of. What is only in a later list, or in none, was on its way; so was what could not be written.
func (l *Loop) gaveBack(r *Result, planned Seen, failed map[enforce.Key]error) {
	rows := l.defaults(r.Plan, func(c enforce.Change) bool { return r.Seen.At(c.Key).Same(c.To) })
	if len(rows) == 0 && !l.Releasing() {
		return
	}
	now := l.given(rows, planned, failed)
	if len(rows) == 0 && slices.Equal(now.There, l.gone.There) {
		return
	}
	l.gone = now
	// Only an agent that is killed within the next seconds would miss it, so a full disk is no problem of this run.
	_ = l.Ledger.GiveBack(now)
}

// defaults are the defaults of a plan that were, or are to be, given back. What is only ours, such as a table, refuses nothing any more.
func (l *Loop) defaults(p Plan, is func(enforce.Change) bool) (rows []ledger.Row) {
	for _, c := range p.Apply {
		if kind := l.kinds.kinds[c.Key.Kind]; c.Baseline && kind.Life == platform.Boot && kind.Ours != "" && is(c) {
			rows = append(rows, ledger.Row{Key: c.Key, Baseline: c.To})
		}
	}
	return rows
}

// given is what was given back last, with these defaults and this list.
func (l *Loop) given(rows []ledger.Row, planned Seen, failed map[enforce.Key]error) ledger.GivenBack {
	out := ledger.GivenBack{At: l.gone.At}
	if l.Releasing() {
		out.Rows = slices.Clone(l.gone.Rows)
	}
	for _, row := range rows {
		out.Rows = slices.DeleteFunc(out.Rows, func(x ledger.Row) bool { return x.Key == row.Key })
		out.Rows = append(out.Rows, row)
		// The writes may have waited for the guards: the time begins when they are done.
		out.At = l.Now()
	}
	for k := range planned.Has {
		if l.kinds.kinds[k.Kind].From != nil && failed[k] == nil {
			out.There = append(out.There, k)
		}
	}
	sortKeys(out.There)
	return out
}

// sortKeys puts keys in order.
func sortKeys(keys []enforce.Key) {
	slices.SortFunc(keys, func(a, b enforce.Key) int { return strings.Compare(a.String(), b.String()) })
}

// New makes a loop.
func New(l Memory, now func() time.Time, backends ...platform.Backend) *Loop {
	loop := &Loop{Backends: backends, Ledger: l, Now: now, kinds: NewKinds(backends), watch: newWatch()}
	if l == nil {
		return loop // it only answers questions
	}
	loop.gone = l.LastGivenBack()
	if at := now(); loop.gone.At.After(at) {
		loop.gone.At = at // the clock was set back
	}
	return loop
}

// Result is what a run did, and what it read back.
type Result struct {
	Plan      Plan
	Seen      Seen // after the run
	At        time.Time
	Failed    map[enforce.Key]string // applied, but not as wanted when read back
	Drifted   []Drift
	Contended map[enforce.Key]bool
	Rested    time.Time // when the first contended resource is tried again; zero if there is none
	Problems  []error   // of the ledger or a back end
	Network   bool      // something was changed that can cut the machine off from its server
}

// Run changes the machine to what is wanted. It calls load, which loads the guards, after closing and before opening.
func (l *Loop) Run(ctx context.Context, ask Ask, load func(context.Context)) Result {
	r := Result{At: l.Now(), Failed: map[enforce.Key]string{}, Contended: map[enforce.Key]bool{}}
	seen, err := l.List(ctx)
	r.problem(err)
	rows, err := l.Ledger.Rows()
	r.problem(err)
	// A ledger that cannot be read remembers nothing: only what is safe without it is done.
	lost := err != nil || l.Ledger.Lost()
	r.Plan = Make(l.kinds, ask, seen, rows, lost, l.past())
	l.watch.compare(&r, l.kinds, ask, seen, rows)
	if err := l.intend(r.Plan, seen, rows, lost); err != nil {
		// Without a row nothing new may be changed; giving back needs no row.
		r.problem(err)
		r.Plan.Apply = baselines(r.Plan.Apply)
	}
	for _, c := range r.Plan.Apply {
		r.Network = r.Network || l.kinds.kinds[c.Key.Kind].Network
	}
	if ask.Before != nil {
		ask.Before(r.Plan, r.Network)
	}

	if ask.Still && len(r.Plan.Apply) == 0 && len(r.Drifted) == 0 && len(r.Problems) == 0 {
		r.Seen = seen
		l.watch.read(seen, r.Seen, r.Plan)
		r.problem(l.settle(&r, lost && len(ask.Wants) == 0 && len(ask.Blind) == 0, nil))
		return r
	}

	l.giveBack(r.Plan, seen)
	killpoint.Hit("apply.close.before")
	failed := map[enforce.Key]error{}
	l.apply(ctx, r.Plan.Apply, enforce.Close, failed)
	killpoint.Hit("apply.close.after")
	load(ctx)
	killpoint.Hit("apply.guard.after")
	l.apply(ctx, r.Plan.Apply, enforce.Open, failed)
	killpoint.Hit("apply.open.after")

	r.Seen, err = l.List(ctx)
	r.problem(err)
	planned := seen
	if len(baselines(r.Plan.Apply)) > 0 {
		planned = r.Seen
		l.stragglers(ctx, &r, ask, rows, lost, failed)
	}
	l.watch.read(seen, r.Seen, r.Plan)
	l.gaveBack(&r, planned, failed)
	r.problem(l.settle(&r, lost && len(ask.Wants) == 0 && len(ask.Blind) == 0, failed))
	return r
}

// baselines returns the changes of a plan that give back.
func baselines(all []enforce.Change) (out []enforce.Change) {
	for _, c := range all {
		if c.Baseline {
			out = append(out, c)
		}
	}
	return out
}

// stragglers gives back devices that our defaults still refused while they were being given back: plugged in between
// the list and the write.
func (l *Loop) stragglers(ctx context.Context, r *Result, ask Ask, rows map[enforce.Key]ledger.Row, lost bool,
	failed map[enforce.Key]error) {
	done := map[enforce.Key]bool{}
	for _, c := range r.Plan.Apply {
		done[c.Key] = true
	}
	var more []enforce.Change
	for _, c := range baselines(Make(l.kinds, ask, r.Seen, rows, lost, l.past()).Apply) {
		if !done[c.Key] {
			more = append(more, c)
		}
	}
	if len(more) == 0 {
		return
	}
	l.apply(ctx, more, enforce.Open, failed)
	r.Plan.Apply = append(r.Plan.Apply, more...)
	var err error
	r.Seen, err = l.List(ctx)
	r.problem(err)
}

// problem adds an error to the result.
func (r *Result) problem(err error) {
	if err != nil {
		r.Problems = append(r.Problems, err)
	}
}

// List asks every back end. What one back end cannot list is unknown; the plans of the others go on.
func (l *Loop) List(ctx context.Context) (Seen, error) {
	out := Seen{map[enforce.Key]enforce.Reading{}, map[string]string{}}
	var errs []error
	for _, b := range l.Backends {
		m, err := b.List(ctx)
		for k, v := range m {
			out.Has[k] = v
		}
		if err != nil {
			errs = append(errs, err)
			for _, k := range b.Kinds() {
				out.Unread[k.Name] = err.Error()
			}
		}
	}
	return out, errors.Join(errs...)
}

// intend writes the rows of a plan before anything is done.
func (l *Loop) intend(p Plan, seen Seen, rows map[enforce.Key]ledger.Row, lost bool) error {
	var wait, quick []ledger.Row
	add := func(r ledger.Row) {
		if l.kinds.kinds[r.Key.Kind].Urgent {
			quick = append(quick, r)
		} else {
			wait = append(wait, r)
		}
	}
	pl := planner{kinds: l.kinds, rows: rows, lost: lost, past: l.past(), seen: seen}
	pl.plan.Adopt = p.Adopt
	for _, c := range p.Apply {
		row, known := rows[c.Key]
		if !known {
			row = ledger.Row{Key: c.Key, Life: l.kinds.kinds[c.Key.Kind].Life, Baseline: pl.baseline(c.Key, c.From), Last: c.From}
			if c.Baseline {
				row.Baseline = c.To
			}
		}
		if row.Ours(c.From) {
			// The present value is ours, and has to be known as ours if this plan is interrupted, too.
			row.Last = c.From
		}
		row.Next, row.By = c.To, c.By
		if !c.Baseline {
			row.Phase = c.Phase
		}
		add(row)
	}
	for _, r := range p.Adopt {
		add(r)
	}
	return errors.Join(l.Ledger.Intend(wait), l.Ledger.Note(quick))
}

// apply makes the changes of one phase: new changes in the order of the back ends, then what is given back in the
// reverse order.
func (l *Loop) apply(ctx context.Context, all []enforce.Change, phase enforce.Phase, failed map[enforce.Key]error) {
	batch := func(b platform.Backend, baseline bool) {
		mine := map[string]bool{}
		for _, k := range b.Kinds() {
			mine[k.Name] = true
		}
		var list []enforce.Change
		for _, c := range all {
			if c.Phase == phase && c.Baseline == baseline && mine[c.Key.Kind] {
				list = append(list, c)
			}
		}
		if len(list) > 0 {
			maps.Copy(failed, b.Apply(ctx, list))
		}
	}
	for _, b := range l.Backends {
		batch(b, false)
	}
	for _, b := range slices.Backward(l.Backends) {
		batch(b, true)
	}
}

// Remember stores the row of a resource that a guard wrote. It may be called concurrently with Run.
func (l *Loop) Remember(key enforce.Key, done enforce.Reading, by []enforce.Setting) error {
	l.watch.wrote(key, done)
	rows, err := l.Ledger.Rows()
	if err != nil {
		return err
	}
	kind, base := l.kinds.kinds[key.Kind], done
	if kind.From != nil {
		base = kind.From(key, base, func(k enforce.Key) (enforce.Reading, bool) { r, ok := rows[k]; return r.Baseline, ok })
	}
	return l.Ledger.Note([]ledger.Row{{Key: key, Life: kind.Life, Baseline: base, Last: done, By: by}})
}

// settle records what was read back. Only the reading counts: an error of the call is merely the reason given if the
// reading is not as wanted.
func (l *Loop) settle(r *Result, released bool, failed map[enforce.Key]error) error {
	var rows []ledger.Row
	forget := r.Plan.Forget
	have, err := l.Ledger.Rows()
	if err != nil {
		return err
	}
	for _, c := range r.Plan.Apply {
		seen := r.Seen.At(c.Key)
		row := have[c.Key]
		switch {
		case seen.Same(c.To) && c.Baseline:
			forget = append(forget, c.Key)
			continue
		case seen.Same(c.To):
			row.Last, row.Next = seen, enforce.Reading{}
		case seen.State == enforce.Absent && l.kinds.kinds[c.Key.Kind].Found:
			forget = append(forget, c.Key) // unplugged meanwhile
			continue
		default:
			r.Failed[c.Key] = fmt.Sprintf("reads %s, wanted %s", seen, c.To)
			if err := failed[c.Key]; err != nil {
				r.Failed[c.Key] += ": " + err.Error()
			}
		}
		if row.Key == c.Key {
			rows = append(rows, row)
		}
	}
	if err := l.Ledger.Settle(rows, forget); err != nil {
		return err
	}
	if released && len(r.Failed) == 0 && len(r.Problems) == 0 {
		return l.Ledger.Found()
	}
	return nil
}
