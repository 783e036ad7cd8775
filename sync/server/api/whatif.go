package api

import (
	"context"
	"encoding/json"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/all"
	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/enforce/section"
	"github.com/warderd/warder/sync/protocol"
	"github.com/warderd/warder/sync/server/fleet"
	"github.com/warderd/warder/sync/server/roster"
	"github.com/warderd/warder/sync/server/store"
)

// The bounds of one question.
const (
	whatIfTime   = 30 * time.Second
	whatIfShown  = 500 // devices told of one by one; all are counted
	whatIfEvents = 200 // a device's newest
)

type whatIfView struct {
	Changes     []string       `json:"changes" doc:"what the candidate changes in the policy"`
	Devices     int            `json:"devices" doc:"that have the policy"`
	Judged      int            `json:"judged" doc:"whose reported facts could be judged"`
	CannotTell  int            `json:"cannot_tell" doc:"of which a fact that the policy needs is missing, or that have reported none"`
	Affected    int            `json:"affected" doc:"for which a finding or an event would be different"`
	Findings    int            `json:"findings_flipped"`
	Events      int            `json:"events_flipped"`
	EventsAsked int            `json:"events_judged"`
	NewlyDenied map[string]int `json:"newly_denied" doc:"what would be refused and is not now, with the number of machines"`
	Truncated   string         `json:"truncated,omitempty" doc:"why not all was looked at"`
	Data        []whatIfDevice `json:"data"`
}

type whatIfDevice struct {
	ID       string          `json:"id"`
	Name     string          `json:"device_name"`
	Findings []whatIfFinding `json:"findings"`
	Events   []whatIfEvent   `json:"events"`
}

type whatIfFinding struct {
	Setting enforce.Setting `json:"setting"`
	Now     string          `json:"now"`
	Then    string          `json:"then"`
	Reason  string          `json:"reason,omitempty"`
}

type whatIfEvent struct {
	At      time.Time `json:"at"`
	Subject string    `json:"subject"`
	Now     string    `json:"now"`
	Then    string    `json:"then"`
	Reason  string    `json:"reason"`
}

// whatIf asks what a candidate would change on the devices that have the policy: the same code that
// decides on them, on the facts and events that they reported. Nothing is stored.
func whatIf(a *API, q *request) (whatIfView, error) {
	out := whatIfView{NewlyDenied: map[string]int{}, Data: []whatIfDevice{}}
	e, err := a.edit(q, q.body)
	if err != nil {
		return out, err
	}
	before, after := e.before, e.after
	out.Changes = changesOf(before, after)
	ctx, cancel := context.WithTimeout(q.Context(), whatIfTime)
	defer cancel()
	st := a.state.Load()
	r, err := a.ready(ctx)
	if err != nil {
		return out, err
	}
	err = a.each(ctx, r.Numbers(roster.Filter{Policy: q.PathValue("id")}, 0, math.MaxInt), func(d *store.Device) bool {
		out.Devices++
		v, err := a.whatIf(ctx, d, st, before, after, &out)
		if err != nil {
			out.Truncated = "looking at a device took too long or failed: " + err.Error()
			return false
		}
		if v == nil {
			return true
		}
		out.Affected++
		if len(out.Data) < whatIfShown {
			out.Data = append(out.Data, *v)
		}
		return true
	})
	if ctx.Err() != nil && q.Context().Err() == nil {
		out.Truncated, err = "not all devices could be judged in "+whatIfTime.String(), nil
	}
	return out, err
}

// each reads devices with the whole of their reports, some at a time, until use says stop.
func (a *API) each(ctx context.Context, numbers []int64, use func(*store.Device) bool) error {
	for part := range slices.Chunk(numbers, 500) {
		list, err := a.Store.Devices(ctx, part, true)
		if err != nil {
			return err
		}
		for _, d := range list {
			if !use(d) {
				return nil
			}
		}
	}
	return nil
}

func (a *API) whatIf(ctx context.Context, d *store.Device, st *fleet.State, before, after *policy.Document, out *whatIfView) (*whatIfDevice, error) {
	// A mode that comes with the assignment holds for the candidate, too.
	if _, mode := st.Assigned(&d.Device); mode != "" {
		before, after = inMode(before, mode), inMode(after, mode)
	}
	was, is := a.cases(d, before, after)
	if was == nil {
		out.CannotTell++
		return nil, nil
	}
	x, y := all.Decide(was), all.Decide(is)
	if len(x.Blind) > 0 || len(y.Blind) > 0 {
		out.CannotTell++ // what the other sections would do is told all the same
	} else {
		out.Judged++
	}
	v := &whatIfDevice{ID: d.ID, Name: d.Name, Findings: flips(x.Findings, y.Findings), Events: []whatIfEvent{}}
	denied := map[string]bool{}
	compare := func(x, y section.Answer) bool {
		if x.Answer == y.Answer {
			return false
		}
		if y.Answer == section.Deny || y.Answer == section.WouldDeny && x.Answer == section.Allow {
			denied[y.Group] = true
		}
		return true
	}
	for _, s := range all.Sections {
		if _, blind := y.Blind[s.Name]; blind || was.Rules(s.Name) == nil {
			continue
		}
		then := is.Rules(s.Name).Present()
		for i, now := range was.Rules(s.Name).Present() {
			compare(now, then[i])
		}
	}
	events, err := a.Store.Events(ctx, d.N, whatIfEvents)
	if err != nil {
		return nil, err
	}
	for _, e := range events {
		now, then, ok := replay(was, is, &e.Event)
		if !ok {
			continue
		}
		out.EventsAsked++
		if compare(now, then) {
			v.Events = append(v.Events, whatIfEvent{second(e.At), e.Subject, now.Answer, then.Answer, then.Reason})
		}
	}
	for group := range denied {
		out.NewlyDenied[group]++
	}
	if len(v.Findings) == 0 && len(v.Events) == 0 && len(denied) == 0 {
		return nil, nil
	}
	out.Findings += len(v.Findings)
	out.Events += len(v.Events)
	return v, nil
}

// cases are both policies on what a device reported; nil where that says nothing.
func (a *API) cases(d *store.Device, before, after *policy.Document) (was, is *section.Case) {
	if d.Report.Facts == nil {
		return nil, nil
	}
	var facts protocol.Facts
	if err := json.Unmarshal(d.Report.Facts, &facts); err != nil || facts.Capable == nil { // of an agent before 0.2
		return nil, nil
	}
	m, err := facts.Machine()
	if err != nil {
		return nil, nil
	}
	return all.Open(before, &m), all.Open(after, &m)
}

// replay asks both policies about an event: the rules of the section that judged it, or, of an agent that
// did not say which, of whichever knows its facts.
func replay(was, is *section.Case, e *enforce.Event) (now, then section.Answer, ok bool) {
	for _, s := range all.Sections {
		if e.Section != "" && e.Section != s.Name || was.Rules(s.Name) == nil {
			continue
		}
		if now, ok = was.Rules(s.Name).Replay(e.Facts); ok {
			then, ok = is.Rules(s.Name).Replay(e.Facts)
			return now, then, ok
		}
	}
	return now, then, false
}

func inMode(d *policy.Document, mode string) *policy.Document {
	m, _ := enforce.ParseMode(mode)
	return d.InMode(m)
}

// flips lists the settings whose finding is another one.
func flips(now, then []enforce.Finding) []whatIfFinding {
	out := []whatIfFinding{}
	say := func(f *enforce.Finding) string {
		if f == nil {
			return "unmanaged"
		}
		return string(f.Compliance) + ", " + string(f.Enforcement) + ", " + f.Mode.String()
	}
	find := func(list []enforce.Finding, s enforce.Setting) *enforce.Finding {
		for i := range list {
			if list[i].Setting == s {
				return &list[i]
			}
		}
		return nil
	}
	seen := map[enforce.Setting]bool{}
	for _, f := range append(slices.Clone(now), then...) {
		if seen[f.Setting] {
			continue
		}
		seen[f.Setting] = true
		x, y := find(now, f.Setting), find(then, f.Setting)
		if say(x) == say(y) {
			continue
		}
		w := whatIfFinding{Setting: f.Setting, Now: say(x), Then: say(y)}
		if y != nil {
			w.Reason = y.Reason
		}
		out = append(out, w)
	}
	slices.SortFunc(out, func(a, b whatIfFinding) int { return strings.Compare(string(a.Setting), string(b.Setting)) })
	return out
}
