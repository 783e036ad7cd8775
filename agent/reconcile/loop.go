package reconcile

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/warderd/warder/agent/killpoint"
	"github.com/warderd/warder/agent/ledger"
	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/platform"
)

// Contention: after this many repairs of one resource within the window, it is left alone for the
// rest: whoever keeps changing it back would win in the end, and the machine would do nothing else.
const (
	maxRepairs     = 5
	repairWindow   = time.Minute
	contentionRest = 5 * time.Minute
)

// Loop drives the back ends. One goroutine at a time calls its methods.
type Loop struct {
	Backends []platform.Backend
	Ledger   *ledger.Ledger
	Now      func() time.Time

	kinds   Kinds
	repairs map[enforce.Key][]time.Time
	resting map[enforce.Key]time.Time
}

// New makes a loop.
func New(l *ledger.Ledger, now func() time.Time, backends ...platform.Backend) *Loop {
	return &Loop{Backends: backends, Ledger: l, Now: now, kinds: NewKinds(backends),
		repairs: map[enforce.Key][]time.Time{}, resting: map[enforce.Key]time.Time{}}
}

// Result is what a run did, and what it read back.
type Result struct {
	Plan      Plan
	Seen      Seen // after the run
	At        time.Time
	Failed    map[enforce.Key]string // applied, and not as wanted when read back
	Drifted   []enforce.Change       // another's changes that were repaired
	Contended map[enforce.Key]bool
	Problems  []error // the ledger or a back end
	Network   bool    // something was changed that can cut the machine off from its server
}

// Changed reports whether the machine was written to.
func (r Result) Changed() bool { return len(r.Plan.Apply) > 0 }

// Preview is the plan without doing it.
func (l *Loop) Preview(ctx context.Context, wants []enforce.Want) (Plan, error) {
	seen, err := l.List(ctx)
	rows, lerr := l.Ledger.Rows()
	return Make(l.kinds, wants, seen, rows, false), errors.Join(err, lerr)
}

// Run makes the machine as wanted. load is called between what closes and what opens: it loads the
// guards.
func (l *Loop) Run(ctx context.Context, wants []enforce.Want, load func(context.Context)) Result {
	r := Result{At: l.Now(), Failed: map[enforce.Key]string{}, Contended: map[enforce.Key]bool{}}
	seen, err := l.List(ctx)
	r.problem(err)
	rows, err := l.Ledger.Rows()
	r.problem(err)
	// A ledger that cannot be read remembers nothing: only what is safe without it is done.
	lost := err != nil || l.Ledger.Lost()
	r.Plan = Make(l.kinds, wants, seen, rows, lost)
	l.rest(&r, rows)
	if err := l.intend(r.Plan, rows, lost); err != nil {
		// Without a row nothing new may be taken; giving back needs none.
		r.problem(err)
		r.Plan.Apply = baselines(r.Plan.Apply)
	}
	for _, c := range r.Plan.Apply {
		r.Network = r.Network || l.kinds.kinds[c.Key.Kind].Network
	}

	killpoint.Hit("apply.close.before")
	errs := l.apply(ctx, r.Plan.Apply, enforce.Close)
	killpoint.Hit("apply.close.after")
	load(ctx)
	killpoint.Hit("apply.guard.after")
	errs = append(errs, l.apply(ctx, r.Plan.Apply, enforce.Open)...)
	killpoint.Hit("apply.open.after")

	r.Seen, err = l.List(ctx)
	r.problem(err)
	if len(baselines(r.Plan.Apply)) > 0 {
		errs = append(errs, l.stragglers(ctx, &r, wants, rows, lost)...)
	}
	r.problem(l.settle(&r, lost && len(wants) == 0, errors.Join(errs...)))
	return r
}

func baselines(all []enforce.Change) (out []enforce.Change) {
	for _, c := range all {
		if c.Baseline {
			out = append(out, c)
		}
	}
	return out
}

// stragglers gives back what our defaults still refused while they were being given back: a device
// plugged in between the list and the write.
func (l *Loop) stragglers(ctx context.Context, r *Result, wants []enforce.Want, rows map[enforce.Key]ledger.Row, lost bool) []error {
	done := map[enforce.Key]bool{}
	for _, c := range r.Plan.Apply {
		done[c.Key] = true
	}
	var more []enforce.Change
	for _, c := range baselines(Make(l.kinds, wants, r.Seen, rows, lost).Apply) {
		if !done[c.Key] {
			more = append(more, c)
		}
	}
	if len(more) == 0 {
		return nil
	}
	errs := l.apply(ctx, more, enforce.Open)
	r.Plan.Apply = append(r.Plan.Apply, more...)
	var err error
	r.Seen, err = l.List(ctx)
	r.problem(err)
	return errs
}

func (r *Result) problem(err error) {
	if err != nil {
		r.Problems = append(r.Problems, err)
	}
}

// List asks every back end. What one cannot list is unknown, and the others' plans go on.
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

// rest takes contended resources out of the plan.
func (l *Loop) rest(r *Result, rows map[enforce.Key]ledger.Row) {
	var keep []enforce.Change
	for _, c := range r.Plan.Apply {
		row, known := rows[c.Key]
		if c.Baseline || !known || !row.Last.Same(c.To) {
			keep = append(keep, c)
			continue
		}
		if until, ok := l.resting[c.Key]; ok && r.At.Before(until) {
			r.Contended[c.Key] = true
			continue
		}
		var recent []time.Time
		for _, t := range l.repairs[c.Key] {
			if r.At.Sub(t) < repairWindow {
				recent = append(recent, t)
			}
		}
		if len(recent) >= maxRepairs {
			l.resting[c.Key] = r.At.Add(contentionRest)
			delete(l.repairs, c.Key)
			r.Contended[c.Key] = true
			continue
		}
		l.repairs[c.Key] = append(recent, r.At)
		r.Drifted = append(r.Drifted, c)
		keep = append(keep, c)
	}
	r.Plan.Apply = keep
}

// intend writes the rows of a plan before anything is done.
func (l *Loop) intend(p Plan, rows map[enforce.Key]ledger.Row, lost bool) error {
	var wait, quick []ledger.Row
	add := func(r ledger.Row) {
		if l.kinds.kinds[r.Key.Kind].Urgent {
			quick = append(quick, r)
		} else {
			wait = append(wait, r)
		}
	}
	pl := planner{kinds: l.kinds, rows: rows, lost: lost}
	for _, c := range p.Apply {
		row, known := rows[c.Key]
		if !known {
			row = ledger.Row{Key: c.Key, Life: l.kinds.kinds[c.Key.Kind].Life, Baseline: pl.baseline(c.Key, c.From), Last: c.From}
			if c.Baseline {
				row.Baseline = c.To
			}
		}
		if row.Ours(c.From) {
			// What is there now is ours, and must stay so if this plan is cut short, too.
			row.Last = c.From
		}
		row.Next, row.By = c.To, c.By
		add(row)
	}
	for _, r := range p.Adopt {
		add(r)
	}
	return errors.Join(l.Ledger.Intend(wait), l.Ledger.Note(quick))
}

func (l *Loop) apply(ctx context.Context, all []enforce.Change, phase enforce.Phase) []error {
	var errs []error
	for _, b := range l.Backends {
		mine := map[string]bool{}
		for _, k := range b.Kinds() {
			mine[k.Name] = true
		}
		var batch []enforce.Change
		for _, c := range all {
			if c.Phase == phase && mine[c.Key.Kind] {
				batch = append(batch, c)
			}
		}
		if len(batch) > 0 {
			if err := b.Apply(ctx, batch); err != nil {
				errs = append(errs, err)
			}
		}
	}
	return errs
}

// settle records what was read back. Only that counts: an error of the call is merely the reason
// given where the machine is not as wanted.
func (l *Loop) settle(r *Result, released bool, applied error) error {
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
			if applied != nil {
				r.Failed[c.Key] += ": " + applied.Error()
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
