package reconcile

import (
	"maps"
	"sync"
	"time"

	"github.com/warderd/warder/agent/ledger"
	"github.com/warderd/warder/enforce"
)

// Contention: after this many repairs of one resource within the window, it is left alone until nobody has changed it
// for a while. A program that keeps changing it back would win in the end, and the machine would do nothing else.
const (
	maxRepairs   = 5
	repairWindow = time.Minute
	quiet        = 5 * time.Minute
	// echo is how long after a repair the kernel may still announce the write that was repaired. It does so when the
	// write has ended, which for a device is when its drivers are bound.
	echo = 2 * time.Second
)

// Drift is a resource that another program changed.
type Drift struct {
	enforce.Change                 // From is how it was found, To is the wanted value
	Was            enforce.Reading // when it was read before; unknown if that was in an earlier run
	By             enforce.Program // zero if nobody was seen
	Contended      bool            // it is left alone from now on; or, if nothing is repaired, no longer reported
	Back           bool            // it was changed, or written to, and now reads as wanted again
}

// Left reports whether nothing is done about it.
func (d Drift) Left() bool { return d.Contended || d.Mode < enforce.Enforce }

// watch distinguishes what others change from what we change. Guards write and ask concurrently with the loop.
type watch struct {
	mu      sync.Mutex
	last    map[enforce.Key]enforce.Reading // as read after the last run, or as a guard left it
	asked   map[enforce.Key]enforce.Want    // of the last run
	repairs map[enforce.Key][]time.Time
	resting map[enforce.Key]time.Time // contended, until this time
	told    map[enforce.Key][]time.Time
	hushed  map[enforce.Key]time.Time // reported often enough, if nothing is repaired, until this time
	mended  map[enforce.Key]time.Time // time of the last repair
}

func newWatch() watch {
	return watch{last: map[enforce.Key]enforce.Reading{}, repairs: map[enforce.Key][]time.Time{}, resting: map[enforce.Key]time.Time{},
		told: map[enforce.Key][]time.Time{}, hushed: map[enforce.Key]time.Time{}, mended: map[enforce.Key]time.Time{}}
}

// read keeps the readings: those taken after the run for what the run changed, and those taken before it for the rest.
// What another program changed during the run is drift for the next one.
func (w *watch) read(before, s Seen, p Plan) {
	w.mu.Lock()
	defer w.mu.Unlock()
	ours := make(map[enforce.Key]bool, len(p.Apply))
	for _, c := range p.Apply {
		ours[c.Key] = true
	}
	w.last = maps.Clone(s.Has)
	for k := range w.last {
		if was, ok := before.Has[k]; ok && !ours[k] {
			w.last[k] = was
		}
	}
	for k := range w.mended {
		if _, there := w.last[k]; !there && len(s.Unread) == 0 {
			delete(w.mended, k)
		}
	}
	for _, count := range []map[enforce.Key][]time.Time{w.repairs, w.told} {
		for k := range count {
			if _, there := w.last[k]; !there && len(s.Unread) == 0 {
				delete(count, k)
			}
		}
	}
}

// wrote keeps what a guard wrote.
func (w *watch) wrote(k enforce.Key, done enforce.Reading) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.last[k] = done
}

// Rests reports whether a resource is contended and has to be left alone. It may be called concurrently with Run.
func (l *Loop) Rests(k enforce.Key) bool {
	w := &l.watch
	w.mu.Lock()
	defer w.mu.Unlock()
	until, is := w.resting[k]
	return is && l.Now().Before(until)
}

// compare finds what others changed since the last run, and removes contended resources from the plan.
func (w *watch) compare(r *Result, kinds Kinds, ask Ask, seen Seen, rows map[enforce.Key]ledger.Row) {
	w.mu.Lock()
	defer w.mu.Unlock()
	wants, _ := join(kinds, ask.Wants)
	asked := make(map[enforce.Key]enforce.Want, len(wants))
	for _, want := range wants {
		asked[want.Key] = want
	}
	for _, list := range []map[enforce.Key]time.Time{w.resting, w.hushed} {
		for k, until := range list {
			_, touched := ask.By[k]
			was, known := w.last[k]
			now, before := asked[k], w.asked[k]
			switch {
			case now.To() != before.To() || now.Mode != before.Mode: // something else is wanted: start counting anew
				delete(list, k)
				delete(w.repairs, k)
				delete(w.told, k)
			case touched || known && !was.Same(seen.At(k)): // not quiet yet
				list[k] = r.At.Add(quiet)
			case !r.At.Before(until):
				delete(list, k)
			}
		}
	}
	var keep []enforce.Change
	for _, c := range r.Plan.Apply {
		_, rests := w.resting[c.Key]
		was, known := w.last[c.Key]
		row, ours := rows[c.Key]
		switch {
		case c.Baseline:
			keep = append(keep, c)
		case rests: // left alone
		case known && was.Same(c.To) || !known && ours && row.Last.Same(c.To):
			if !w.drifted(r, Drift{Change: c, Was: was, By: ask.By[c.Key]}) {
				keep = append(keep, c)
			}
		default:
			keep = append(keep, c)
		}
	}
	r.Plan.Apply = keep
	for _, want := range wants {
		k, now := want.Key, seen.At(want.Key)
		was, known := w.last[k]
		_, rests := w.hushed[k]
		if want.Mode >= enforce.Enforce || rests || !known || was.Same(now) || was.State == enforce.Unknown ||
			now.State == enforce.Unknown ||
			now.State == enforce.Absent && kinds.kinds[k.Kind].Found {
			continue
		}
		w.drifted(r, Drift{Change: enforce.Change{Key: k, From: now, To: want.To(), By: want.By, Phase: want.Phase, Mode: want.Mode},
			Was: was, By: ask.By[k]})
	}
	for k, by := range ask.By {
		// Changed, and gone before it was looked at.
		want, wanted := w.asked[k]
		was, known := w.last[k]
		d := Drift{Change: enforce.Change{Key: k, From: seen.At(k), To: want.To(), By: want.By, Phase: want.Phase, Mode: want.Mode},
			Was: was, By: by}
		_, rests := w.resting[k]
		_, hushed := w.hushed[k]
		switch {
		case !wanted || !known || was.State != enforce.Present:
		case d.From.State == enforce.Absent && kinds.kinds[k.Kind].Found:
			w.drifted(r, d)
		case want.Mode >= enforce.Enforce && want.Phase == enforce.Close && asked[k].To() == want.To() && was.Same(want.To()) &&
			d.From.Same(want.To()) && !rests && !hushed && r.At.Sub(w.mended[k]) >= echo:
			// A program that opens what is closed and closes it again before we look has still used it. What is open
			// may be written to: for example, programs choose the configuration of a phone.
			d.Back = true
			w.drifted(r, d)
		}
	}
	w.asked = asked
	for k, until := range w.resting {
		r.Contended[k] = true
		if r.Rested.IsZero() || until.Before(r.Rested) {
			r.Rested = until
		}
	}
}

// drifted records a change by another program, and reports whether it was one too many.
func (w *watch) drifted(r *Result, d Drift) bool {
	count, rest := w.repairs, w.resting
	if d.Mode < enforce.Enforce || d.Back {
		count, rest = w.told, w.hushed // nothing is repaired, so nothing is contended
	}
	var recent []time.Time
	for _, t := range count[d.Key] {
		if r.At.Sub(t) < repairWindow {
			recent = append(recent, t)
		}
	}
	if d.Contended = len(recent) >= maxRepairs; d.Contended {
		rest[d.Key] = r.At.Add(quiet)
		delete(count, d.Key)
	} else {
		count[d.Key] = append(recent, r.At)
	}
	if !d.Left() && !d.Back {
		w.mended[d.Key] = r.At
	}
	r.Drifted = append(r.Drifted, d)
	return d.Contended
}
