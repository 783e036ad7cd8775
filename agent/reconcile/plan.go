// Package reconcile is the one planner, and the only code that changes the machine. It compares what the sections want
// with what back ends list and what the ledger remembers; it applies the difference behind the gate, reads back, and
// settles. Uninstalling is a plan without wants; a rollback is the plan of the previous policy; what-if is a plan that
// is not applied. The package owns no policy and no resource.
package reconcile

import (
	"slices"
	"sort"

	"github.com/warderd/warder/agent/ledger"
	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/platform"
)

// Plan is the difference.
type Plan struct {
	Apply    []enforce.Change // in order
	Would    []enforce.Change // planned below enforce, for what-if and reports
	Conflict []enforce.Change // on release: neither ours nor the baseline, so left alone
	Unread   []enforce.Key    // wanted, but unreadable: nothing is done about it
	Adopt    []ledger.Row     // as wanted already, and ours to give back later
	Forget   []enforce.Key    // rows whose resource is gone or back at its baseline
}

// Kinds looks up a kind by name. The order of kinds is the order of changes.
type Kinds struct {
	order map[string]int
	kinds map[string]platform.Kind
}

// NewKinds collects the kinds of all back ends.
func NewKinds(backends []platform.Backend) Kinds {
	k := Kinds{map[string]int{}, map[string]platform.Kind{}}
	for _, b := range backends {
		for _, kind := range b.Kinds() {
			k.order[kind.Name], k.kinds[kind.Name] = len(k.order), kind
		}
	}
	return k
}

// Seen is what the back ends listed.
type Seen struct {
	Has map[enforce.Key]enforce.Reading
	// Unread are the kinds that a back end could not list, with the reason. A resource of these kinds that is not in
	// Has is unknown; one of the other kinds is absent.
	Unread map[string]string
}

// At is what is known of one resource.
func (s Seen) At(k enforce.Key) enforce.Reading {
	if r, ok := s.Has[k]; ok {
		return r
	}
	if why, ok := s.Unread[k.Kind]; ok {
		return enforce.Reading{State: enforce.Unknown, How: why}
	}
	return enforce.Reading{State: enforce.Absent}
}

// planner contains the inputs of one plan.
type planner struct {
	kinds Kinds
	seen  Seen
	rows  map[enforce.Key]ledger.Row
	lost  bool
	blind map[string]bool
	past  Past
	plan  Plan
}

// Past is what was in force earlier in this boot.
type Past struct {
	// Changed reports that something was. A resource that reads a value of ours without a row may then have been refused
	// by us, although the default that refused it was given back.
	Changed bool
	// Gone are the baselines of defaults given back a moment ago; There is what plans have taken into account since. Whatever is new
	// was on its way while they were in force.
	Gone  map[enforce.Key]enforce.Reading
	There map[enforce.Key]bool
}

// Ask is what is wanted of a machine.
type Ask struct {
	Wants []enforce.Want
	// Blind are the kinds for which it is not known what is wanted: nothing of them is given back.
	Blind map[string]bool
	// Before is called with the plan before any of it is done, and whether it changes what can cut this machine off
	// from its server. It may be nil.
	Before func(plan Plan, network bool)
	// Still means that the guards already have these rules, on an unchanged machine, and have decided nothing since. If
	// there is also nothing to do, the guards are not loaded again (which would reset what they remember), and the
	// existing list is used.
	Still bool
	// By are the programs that were seen changing resources since the last run.
	By map[enforce.Key]enforce.Program
}

// Make returns the plan. lost says that rows of this boot are missing: then a resource at a value that only we write
// counts as ours.
func Make(kinds Kinds, ask Ask, seen Seen, rows map[enforce.Key]ledger.Row, lost bool, past Past) Plan {
	p := planner{kinds: kinds, seen: seen, rows: rows, lost: lost, blind: ask.Blind, past: past}
	wanted := map[enforce.Key]bool{}
	wants, _ := join(kinds, ask.Wants)
	for _, w := range wants {
		if w.Mode >= enforce.Enforce {
			wanted[w.Key] = true
			p.want(w)
		} else if r := seen.At(w.Key); r.State != enforce.Unknown && !r.Same(w.To()) && !p.missing(w, r) {
			p.plan.Would = append(p.plan.Would, enforce.Change{Key: w.Key, From: r, To: w.To(), By: w.By, Phase: w.Phase, Mode: w.Mode})
		}
	}
	for k, row := range rows {
		if !wanted[k] && !(seen.At(k).State == enforce.Present && p.spokenFor(k, wanted)) {
			p.release(row)
		}
	}
	p.strays(wanted)
	p.orphans(wanted)
	if lost {
		p.leftovers(wanted)
	}
	p.sort()
	return p.plan
}

func present(v enforce.Value) enforce.Reading {
	return enforce.Reading{Value: v, State: enforce.Present}
}

// join combines several wants for the same key into one. Equal wants add up who asks. Otherwise the higher mode wins.
// Different wants of the same mode go to the kind's Join; without one, the first is kept. over maps the settings whose
// want was dropped to the setting that won.
func join(kinds Kinds, wants []enforce.Want) (out []enforce.Want, over map[enforce.Setting]enforce.Want) {
	at := map[enforce.Key]int{}
	over = map[enforce.Setting]enforce.Want{}
	for _, w := range wants {
		i, again := at[w.Key]
		if !again {
			at[w.Key] = len(out)
			out = append(out, w)
			continue
		}
		have := &out[i]
		switch {
		case w.To() == have.To():
			if w.Mode > have.Mode { // name the setting of the higher mode first
				have.Mode, have.By = w.Mode, both(w.By, have.By)
			} else {
				have.By = both(have.By, w.By)
			}
		case w.Mode > have.Mode:
			*have = w
		case w.Mode == have.Mode:
			by := both(have.By, w.By)
			if f := kinds.kinds[w.Key.Kind].Join; f != nil {
				if j, ok := f(*have, w); ok {
					*have, have.By = j, by
					continue
				}
			}
			for _, s := range w.By {
				if !slices.Contains(have.By, s) {
					over[s] = *have
				}
			}
		}
	}
	return out, over
}

// both joins two lists of settings without duplicates.
func both(a, b []enforce.Setting) []enforce.Setting {
	out := slices.Clone(a)
	for _, s := range b {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// missing reports that a resource exists or not by itself, and does not exist: nothing has to be changed.
func (p *planner) missing(w enforce.Want, seen enforce.Reading) bool {
	return seen.State == enforce.Absent && !w.Absent && p.kinds.kinds[w.Key.Kind].Found
}

// baseline is what to give back later for a resource that has no row yet.
func (p *planner) baseline(k enforce.Key, seen enforce.Reading) enforce.Reading {
	kind := p.kinds.kinds[k.Kind]
	if kind.Made {
		return enforce.Reading{State: enforce.Absent}
	}
	base := seen
	if p.lost && kind.Safe != "" {
		base.Value, base.State = kind.Safe, enforce.Present
	}
	if kind.From == nil {
		return base
	}
	base = kind.From(k, base, p.owned)
	if p.past.Changed && kind.Ours != "" && seen.Is(kind.Ours) && base.Same(seen) {
		// No default of ours applies to it now. Earlier in this boot one may have refused it, and that value must not
		// become its baseline: it would be refused again on the day it is given back. The baseline is what its default
		// allows now, without us.
		base = kind.From(k, base, func(by enforce.Key) (enforce.Reading, bool) {
			r := p.seen.At(by)
			return r, r.State == enforce.Present
		})
	}
	return base
}

// owned is the baseline of a resource that we have changed.
func (p *planner) owned(k enforce.Key) (enforce.Reading, bool) {
	if r, ok := p.rows[k]; ok {
		return r.Baseline, true
	}
	for _, r := range p.plan.Adopt {
		if r.Key == k {
			return r.Baseline, true
		}
	}
	r, ok := p.past.Gone[k]
	return r, ok
}

// want plans one wanted resource.
func (p *planner) want(w enforce.Want) {
	seen := p.seen.At(w.Key)
	row, known := p.rows[w.Key]
	switch {
	case seen.State == enforce.Unknown:
		p.plan.Unread = append(p.plan.Unread, w.Key)
	case p.missing(w, seen):
		// Missing, or unplugged since the snapshot: nothing to do.
	case !seen.Same(w.To()):
		p.plan.Apply = append(p.plan.Apply, enforce.Change{Key: w.Key, From: seen, To: w.To(), By: w.By, Phase: w.Phase, Mode: w.Mode})
	case known && !row.Last.Same(w.To()):
		row.Last, row.Next, row.By, row.Phase = seen, enforce.Reading{}, w.By, w.Phase
		p.plan.Adopt = append(p.plan.Adopt, row)
	case !known && !w.Absent:
		// As wanted, without a change by us. A row is written if it would not be so without us, and always if a default
		// of ours applies to it: on the day that default is given back, a resource without a row counts as ours.
		if base := p.baseline(w.Key, seen); !base.Same(seen) || p.kinds.kinds[w.Key.Kind].From != nil {
			p.plan.Adopt = append(p.plan.Adopt, ledger.Row{Key: w.Key, Life: p.kinds.kinds[w.Key.Kind].Life, Baseline: base, Last: seen,
				By: w.By, Phase: w.Phase})
		}
	}
}

// release plans the return of one resource that is no longer wanted.
func (p *planner) release(row ledger.Row) {
	seen, base := p.seen.At(row.Key), row.Baseline
	if safe := p.kinds.kinds[row.Key.Kind].Safe; base.State == enforce.Unknown && safe != "" {
		base = present(safe) // its baseline is lost; the vendor's default is known
	}
	// Reversed for the guards: what opened after they were loaded closes before they are, and what closed before them
	// opens after.
	c := enforce.Change{Key: row.Key, From: seen, To: base, By: row.By, Phase: enforce.Open, Baseline: true}
	if row.Phase == enforce.Open {
		c.Phase = enforce.Close
	}
	switch {
	case seen.State == enforce.Unknown || p.blind[row.Key.Kind]:
		p.plan.Unread = append(p.plan.Unread, row.Key)
	case seen.State == enforce.Absent && base.State != enforce.Absent && !row.Ours(seen):
		p.plan.Forget = append(p.plan.Forget, row.Key)
	case seen.Same(base):
		p.plan.Forget = append(p.plan.Forget, row.Key)
	case (row.Ours(seen) || p.kinds.kinds[row.Key.Kind].Made) && base.State != enforce.Unknown:
		p.plan.Apply = append(p.plan.Apply, c)
	default:
		p.plan.Conflict = append(p.plan.Conflict, c)
	}
}

// strays gives back what our defaults refused before a row could be written for it: it reads a value of ours, and would
// not without the default that we set.
func (p *planner) strays(keep map[enforce.Key]bool) {
	for k, seen := range p.seen.Has {
		_, known := p.rows[k]
		kind := p.kinds.kinds[k.Kind]
		if keep[k] || known || p.blind[k.Kind] || kind.From == nil || kind.Ours == "" || !seen.Is(kind.Ours) || p.spokenFor(k, keep) {
			continue
		}
		if p.past.There[k] {
			continue // it arrived before the last default was given back, and was given back with it
		}
		if base := kind.From(k, seen, p.owned); !base.Same(seen) {
			p.plan.Apply = append(p.plan.Apply, enforce.Change{Key: k, From: seen, To: base, Phase: enforce.Open, Baseline: true})
		}
	}
}

// orphans removes what only we make, if nothing asks for it and no row is left of it.
func (p *planner) orphans(keep map[enforce.Key]bool) {
	for k, seen := range p.seen.Has {
		_, known := p.rows[k]
		if keep[k] || known || p.blind[k.Kind] || !p.kinds.kinds[k.Kind].Made || seen.State != enforce.Present {
			continue
		}
		p.plan.Apply = append(p.plan.Apply, enforce.Change{Key: k, From: seen, To: enforce.Reading{State: enforce.Absent},
			Phase: enforce.Close, Baseline: true})
	}
}

// leftovers gives back what only we can have written, after the ledger was lost.
func (p *planner) leftovers(keep map[enforce.Key]bool) {
	for k, seen := range p.seen.Has {
		_, known := p.rows[k]
		kind := p.kinds.kinds[k.Kind]
		if keep[k] || known || p.blind[k.Kind] || p.planned(k) || p.spokenFor(k, keep) || kind.Safe == "" || kind.Ours == "" ||
			!seen.Is(kind.Ours) {
			continue
		}
		p.plan.Apply = append(p.plan.Apply, enforce.Change{Key: k, From: seen, To: present(kind.Safe), Phase: enforce.Open, Baseline: true})
	}
}

// spokenFor reports that a default which this plan keeps applies to the resource. A device that arrived after the
// snapshot is in no want, and must not be let in because of that: the next look decides about it.
func (p *planner) spokenFor(k enforce.Key, keep map[enforce.Key]bool) bool {
	kind, spoken := p.kinds.kinds[k.Kind], false
	if kind.From != nil {
		kind.From(k, present(kind.Ours), func(by enforce.Key) (enforce.Reading, bool) {
			spoken = spoken || keep[by]
			return enforce.Reading{}, false
		})
	}
	return spoken
}

// planned reports whether a plan changes a resource already.
func (p *planner) planned(k enforce.Key) bool {
	for _, c := range p.plan.Apply {
		if c.Key == k {
			return true
		}
	}
	return false
}

// sort puts what closes before what opens, and within each the kinds in their back end's order. What is given back
// comes last, in reverse order.
func (p *planner) sort() {
	less := func(a, b enforce.Change) bool {
		if a.Phase != b.Phase {
			return a.Phase < b.Phase
		}
		if a.Baseline != b.Baseline {
			return b.Baseline
		}
		if x, y := p.kinds.order[a.Key.Kind], p.kinds.order[b.Key.Kind]; x != y {
			return (x < y) != a.Baseline
		}
		return a.Key.ID < b.Key.ID
	}
	for _, list := range [][]enforce.Change{p.plan.Apply, p.plan.Would, p.plan.Conflict} {
		sort.Slice(list, func(i, j int) bool { return less(list[i], list[j]) })
	}
	sort.Slice(p.plan.Adopt, func(i, j int) bool { return p.plan.Adopt[i].Key.String() < p.plan.Adopt[j].Key.String() })
}
