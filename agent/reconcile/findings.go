package reconcile

import (
	"fmt"
	"sort"
	"time"

	"github.com/warderd/warder/enforce"
)

// Prove turns what sections decided into what was read back: a setting in enforce mode is compliant when every resource
// it asks for was read after the run and has the wanted value.
func (l *Loop) Prove(findings []enforce.Finding, wants []enforce.Want, r Result) []enforce.Finding {
	by := map[enforce.Setting][]enforce.Want{}
	joined, over := join(l.kinds, wants)
	for _, w := range joined {
		for _, s := range w.By {
			by[s] = append(by[s], w)
		}
	}
	out := make([]enforce.Finding, len(findings))
	for i, f := range findings {
		out[i] = l.prove(f, by[f.Setting], r)
		if w, lost := over[f.Setting]; lost && f.Mode >= enforce.Enforce {
			out[i].Compliance, out[i].Enforcement = enforce.Noncompliant, enforce.NotEnforced
			out[i].Reason = fmt.Sprintf("%s is %s for %s, which asks otherwise", w.Key, w.To(), w.By[0])
		}
	}
	return out
}

// maxEvidence bounds how many agreeing readings a finding carries.
const maxEvidence = 8

// prove decides one finding from the readings of the resources that its setting asks for.
func (l *Loop) prove(f enforce.Finding, wants []enforce.Want, r Result) enforce.Finding {
	if f.Enforcement == enforce.Unsupported {
		return f
	}
	for _, w := range wants {
		seen := r.Seen.At(w.Key)
		if seen.State == enforce.Absent && !w.Absent && l.kinds.kinds[w.Key.Kind].Found {
			continue
		}
		f.Evidence = evidence(f.Evidence, w.Key, seen, r.At)
		if f.Mode < enforce.Enforce || w.Mode < enforce.Enforce {
			continue
		}
		switch {
		case r.Contended[w.Key]:
			f.Compliance, f.Enforcement = enforce.Noncompliant, enforce.Contended
			f.Reason = fmt.Sprintf("%s keeps being changed by another program; Warder stops repairing it until it has not been changed "+
				"for five minutes", w.Key)
		case seen.State == enforce.Unknown:
			if f.Compliance == enforce.Compliant {
				f.Compliance, f.Enforcement = enforce.Uncertain, enforce.NotEnforced
				f.Reason = fmt.Sprintf("%s cannot be read: %s", w.Key, seen.How)
			}
		case !seen.Same(w.To()):
			f.Compliance, f.Enforcement = enforce.Noncompliant, enforce.NotEnforced
			f.Reason = fmt.Sprintf("%s %s", w.Key, r.Failed[w.Key])
			if r.Failed[w.Key] == "" {
				f.Reason = fmt.Sprintf("%s reads %s, wanted %s", w.Key, seen, w.To())
			}
		}
	}
	return f
}

// evidence adds a reading to a finding's evidence, up to maxEvidence.
func evidence(list []enforce.Evidence, k enforce.Key, seen enforce.Reading, at time.Time) []enforce.Evidence {
	if len(list) >= maxEvidence {
		return list
	}
	return append(list, enforce.Evidence{Key: k.String(), State: seen.State, Value: seen.Value, How: seen.How, At: at})
}

// Conflicts returns, by setting, the findings of a release that left something alone.
func Conflicts(r Result) []enforce.Finding {
	by := map[enforce.Setting]enforce.Finding{}
	for _, c := range r.Plan.Conflict {
		s := enforce.Setting(c.Key.Kind)
		if len(c.By) > 0 {
			s = c.By[0]
		}
		if _, ok := by[s]; !ok {
			by[s] = enforce.Finding{Setting: s, Compliance: enforce.Uncertain, Enforcement: enforce.Conflicting,
				Reason:   fmt.Sprintf("%s reads %s, which is neither ours nor what was there before (%s): left alone", c.Key, c.From, c.To),
				Evidence: evidence(nil, c.Key, c.From, r.At)}
		}
	}
	out := make([]enforce.Finding, 0, len(by))
	for _, f := range by {
		out = append(out, f)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Setting < out[j].Setting })
	return out
}
