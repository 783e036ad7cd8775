package api

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/all"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/enforce/usb"
	"github.com/warderd/warder/sync/protocol"
	"github.com/warderd/warder/sync/server/fleet"
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
	NoFacts     int            `json:"without_facts" doc:"that have not reported any"`
	Affected    int            `json:"affected" doc:"for which a finding or an event would be different"`
	Findings    int            `json:"findings_flipped"`
	Events      int            `json:"events_flipped"`
	EventsAsked int            `json:"events_judged"`
	NewlyDenied map[string]int `json:"newly_denied" doc:"USB devices that would be refused and are not now, with the number of machines"`
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
	_, before, after, err := a.edit(q, q.body)
	if err != nil {
		return out, err
	}
	out.Changes = changesOf(before, after)
	ctx, cancel := context.WithTimeout(q.Context(), whatIfTime)
	defer cancel()
	st := a.state.Load()
	err = a.Store.Each(ctx, st, store.Filter{Policy: q.PathValue("id")}, func(d *store.Device) bool {
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

func (a *API) whatIf(ctx context.Context, d *store.Device, st *fleet.State, before, after *policy.Document, out *whatIfView) (*whatIfDevice, error) {
	if d.Report.Facts == nil {
		out.NoFacts++
		return nil, nil
	}
	var facts protocol.Facts
	if err := json.Unmarshal(d.Report.Facts, &facts); err != nil {
		return nil, err
	}
	if facts.Capable == nil {
		out.NoFacts++ // an agent that does not report them yet
		return nil, nil
	}
	out.Judged++
	// A mode that comes with the assignment holds for the candidate, too.
	if _, mode := st.Assigned(&d.Device); mode != "" {
		before, after = inMode(before, mode), inMode(after, mode)
	}
	m := facts.Machine()
	v := &whatIfDevice{ID: d.ID, Name: d.Name, Findings: flips(all.Decide(before, &m).Findings, all.Decide(after, &m).Findings), Events: []whatIfEvent{}}
	was, is := usb.Compile(before, &m), usb.Compile(after, &m)
	denied := map[string]bool{}
	compare := func(u *fact.USB, at time.Time, subject string) {
		x, y := was.Ask(u), is.Ask(u)
		if x.Answer == y.Answer {
			return
		}
		if y.Answer == "deny" || y.Answer == "would deny" && x.Answer == "allow" {
			denied[u.ID()] = true
		}
		if !at.IsZero() {
			v.Events = append(v.Events, whatIfEvent{second(at), subject, x.Answer, y.Answer, y.Reason})
		}
	}
	for i := range m.USB.V {
		compare(&m.USB.V[i], time.Time{}, "")
	}
	events, err := a.Store.Events(ctx, d.N, whatIfEvents)
	if err != nil {
		return nil, err
	}
	for _, e := range events {
		var u fact.USB
		if e.Facts == "" || json.Unmarshal([]byte(e.Facts), &u) != nil || len(u.Interfaces) == 0 && u.Truncated == "" {
			continue
		}
		out.EventsAsked++
		compare(&u, e.At, e.Subject)
	}
	for id := range denied {
		out.NewlyDenied[id]++
	}
	if len(v.Findings) == 0 && len(v.Events) == 0 && len(denied) == 0 {
		return nil, nil
	}
	out.Findings += len(v.Findings)
	out.Events += len(v.Events)
	return v, nil
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
