package api

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	quick "github.com/segmentio/encoding/json"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/all"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/enforce/section"
	"github.com/warderd/warder/sync/protocol"
	"github.com/warderd/warder/sync/server/fleet"
	"github.com/warderd/warder/sync/server/roster"
	"github.com/warderd/warder/sync/server/store"
)

// The bounds of one question.
const (
	whatIfTime   = 20 * time.Second
	whatIfMost   = 10_000 // devices examined; the answer says where to continue
	whatIfShown  = 500    // devices listed one by one; all are counted
	whatIfEvents = 200    // a device's newest
)

type whatIfView struct {
	Changes     []string       `json:"changes" doc:"what the candidate changes in the policy"`
	Total       int            `json:"total" doc:"devices that have the policy"`
	Devices     int            `json:"devices" doc:"devices that this answer covers"`
	Judged      int            `json:"judged" doc:"devices whose reported facts could be judged"`
	CannotTell  int            `json:"cannot_tell" doc:"devices for which a needed fact is missing"`
	Affected    int            `json:"affected" doc:"devices for which a finding or an event would differ"`
	Findings    int            `json:"findings_flipped"`
	Events      int            `json:"events_flipped"`
	EventsAsked int            `json:"events_judged"`
	NewlyDenied map[string]int `json:"newly_denied" doc:"what would be refused and is not now, with the number of devices; beyond 500 kinds, the rest is counted as other"`
	Truncated   string         `json:"truncated,omitempty" doc:"why not all devices are covered"`
	Next        string         `json:"next,omitempty" doc:"cursor for the next devices; absent after the last"`
	Left        int            `json:"left" doc:"devices that the next answers cover"`
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

// whatIf answers what a candidate would change on the devices that have the policy. It runs the code that decides on
// the devices, on the facts and events that they reported. Nothing is stored. For a large fleet, the answer covers some
// thousands and says where to continue.
func whatIf(a *API, q *request) (whatIfView, error) {
	out := whatIfView{NewlyDenied: map[string]int{}, Data: []whatIfDevice{}}
	from, err := q.cursor("what-if")
	if err != nil {
		return out, err
	}
	e, err := a.edit(q, q.body)
	if err != nil {
		return out, err
	}
	out.Changes = changesOf(e.before, e.after)
	r, err := a.ready(q.Context())
	if err != nil {
		return out, err
	}
	f := roster.Filter{Policy: q.PathValue("id")}
	out.Total = r.Count(f, nil)
	numbers := r.Numbers(f, from.N+1, math.MaxInt)
	out.Left = len(numbers)
	waiting, stop := context.WithTimeout(q.Context(), whatIfTime)
	defer stop()
	select { // one after the other: each takes all processors that devices leave
	case a.questions <- struct{}{}:
		defer func() { <-a.questions }()
	case <-waiting.Done():
		return out, &problem{status: http.StatusServiceUnavailable, code: "busy",
			message: "another question of this kind is being answered"}
	}
	ctx, cancel := context.WithTimeout(q.Context(), whatIfTime)
	defer cancel()
	w := &whatIfWork{a: a, st: a.state.Load()}
	if w.before, err = a.withLists(ctx, e.before); err == nil {
		w.after, err = a.withLists(ctx, e.after)
	}
	if err != nil {
		return out, err
	}
	last, err := w.run(ctx, numbers[:min(len(numbers), whatIfMost)], &out)
	if err != nil && ctx.Err() != nil && q.Context().Err() == nil {
		out.Truncated, err = fmt.Sprintf("%d devices were looked at in %s; go on with the cursor in next", out.Devices, whatIfTime), nil
	}
	out.Left -= out.Devices
	if out.Left > 0 {
		if out.Devices == 0 {
			return out, &problem{status: http.StatusServiceUnavailable, code: "busy",
				message: "no device could be examined within " + whatIfTime.String()}
		}
		out.Next = cursorOf(roster.Mark{N: last, Sort: "what-if"})
		if out.Truncated == "" {
			out.Truncated = fmt.Sprintf("an answer is about %d devices at most; go on with the cursor in next", whatIfMost)
		}
	}
	return out, err
}

// whatIfWork is one question in progress.
type whatIfWork struct {
	a             *API
	st            *fleet.State
	before, after *policy.Document
}

// whatIfPart is how many devices are read and judged together.
const whatIfPart = 100

// run judges devices, one part on each processor, and adds the results up in the devices' order. It returns the last
// device that is counted.
func (w *whatIfWork) run(ctx context.Context, numbers []int64, out *whatIfView) (last int64, err error) {
	type part struct {
		list []int64
		sum  whatIfView
		err  error
		done chan struct{}
	}
	var parts []*part
	for list := range slices.Chunk(numbers, whatIfPart) {
		parts = append(parts, &part{list: list, done: make(chan struct{})})
	}
	ctx, cancel := context.WithCancel(ctx)
	var next atomic.Int64
	var all sync.WaitGroup
	defer all.Wait()
	defer cancel()
	for range min(runtime.GOMAXPROCS(0), len(parts)) {
		all.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(parts)); i = next.Add(1) - 1 {
				p := parts[i]
				p.sum, p.err = w.safely(ctx, p.list)
				close(p.done)
			}
		})
	}
	for _, p := range parts {
		<-p.done
		if p.err != nil {
			return last, p.err
		}
		out.add(&p.sum)
		last = p.list[len(p.list)-1]
	}
	return last, nil
}

// add adds a part to a whole.
func (v *whatIfView) add(p *whatIfView) {
	v.Devices += p.Devices
	v.Judged += p.Judged
	v.CannotTell += p.CannotTell
	v.Affected += p.Affected
	v.Findings += p.Findings
	v.Events += p.Events
	v.EventsAsked += p.EventsAsked
	for group, n := range p.NewlyDenied {
		if _, known := v.NewlyDenied[group]; !known && len(v.NewlyDenied) >= whatIfShown {
			group = "other"
		}
		v.NewlyDenied[group] += n
	}
	v.Data = append(v.Data, p.Data[:min(len(p.Data), whatIfShown-len(v.Data))]...)
}

// safely is judge; a panic in it ends the question and not the server.
func (w *whatIfWork) safely(ctx context.Context, numbers []int64) (out whatIfView, err error) {
	defer func() {
		if p := recover(); p != nil {
			w.a.Log.Error("a what-if ended in a panic", "panic", p, "stack", string(debug.Stack()))
			err = &problem{status: http.StatusInternalServerError, code: "internal",
				message: "internal error; the server's log has the details under this request's id"}
		}
	}()
	return w.judge(ctx, numbers)
}

// judge answers for some devices.
func (w *whatIfWork) judge(ctx context.Context, numbers []int64) (whatIfView, error) {
	out := whatIfView{NewlyDenied: map[string]int{}, Devices: len(numbers)}
	list, err := w.a.Store.Devices(ctx, numbers, true)
	if err != nil {
		return out, err
	}
	out.CannotTell += len(numbers) - len(list) // gone meanwhile
	for _, d := range list {
		v, err := w.device(ctx, d, &out)
		if err != nil {
			return out, err
		}
		if v == nil {
			continue
		}
		out.Affected++
		out.Data = append(out.Data, *v)
	}
	return out, nil
}

// device answers for one device; nil if nothing would change on it.
func (w *whatIfWork) device(ctx context.Context, d *store.Device, out *whatIfView) (*whatIfDevice, error) {
	before, after := w.before, w.after
	// A mode from the assignment applies to the candidate, too.
	if _, mode := w.st.Assigned(&d.Device); mode != "" {
		before, after = inMode(before, mode), inMode(after, mode)
	}
	was, is := w.a.cases(d, before, after)
	if was == nil {
		out.CannotTell++
		return nil, nil
	}
	x, y := all.Decide(was), all.Decide(is)
	if len(x.Blind) > 0 || len(y.Blind) > 0 {
		out.CannotTell++ // the other sections are answered nevertheless
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
	events, err := w.a.Store.Plugs(ctx, d.N, whatIfEvents)
	if err != nil {
		return nil, err
	}
	type asked struct {
		now, then section.Answer
		ok        bool
	}
	known := map[[2]string]asked{} // the same stick, once more
	for _, e := range events {
		key := [2]string{e.Section, string(e.Facts)}
		r, is2 := known[key]
		if !is2 {
			r.now, r.then, r.ok = replay(was, is, e.Section, e.Facts)
			known[key] = r
		}
		if !r.ok {
			continue
		}
		out.EventsAsked++
		if compare(r.now, r.then) {
			v.Events = append(v.Events, whatIfEvent{second(e.At), e.Subject, r.now.Answer, r.then.Answer, r.then.Reason})
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

// factsOf reads from a report the facts for decisions. They were checked strictly when they arrived; ten thousand of
// them are read here, with a library that takes a quarter of the time.
func factsOf(raw json.RawMessage) (f protocol.Facts, err error) {
	var all map[string]json.RawMessage
	if err = quick.Unmarshal(raw, &all); err != nil {
		return f, err
	}
	f.Parts = map[fact.Part]json.RawMessage{}
	for _, p := range fact.Parts() {
		if v, ok := all[string(p)]; ok && string(v) != "null" {
			f.Parts[p] = v
		}
	}
	for name, to := range map[string]any{"capable": &f.Capable, "unread": &f.Unread} {
		if v, ok := all[name]; ok && err == nil {
			err = quick.Unmarshal(v, to)
		}
	}
	return f, err
}

// cases are both policies on what a device reported; nil if that says nothing.
func (a *API) cases(d *store.Device, before, after *policy.Document) (was, is *section.Case) {
	if d.Report.Facts == nil {
		return nil, nil
	}
	facts, err := factsOf(d.Report.Facts)
	if err != nil || facts.Capable == nil { // from an agent before 0.2
		return nil, nil
	}
	m, err := facts.MachineBy(quick.Unmarshal)
	if err != nil {
		return nil, nil
	}
	return all.Open(before, &m), all.Open(after, &m)
}

// replay asks both policies about an event: by the rules of the section that judged it, or, for an agent that did not
// say which, of the section that recognises its facts.
func replay(was, is *section.Case, of string, facts enforce.Facts) (now, then section.Answer, ok bool) {
	for _, s := range all.Sections {
		if of != "" && of != s.Name || was.Rules(s.Name) == nil {
			continue
		}
		if now, ok = was.Rules(s.Name).Replay(facts); ok {
			then, ok = is.Rules(s.Name).Replay(facts)
			return now, then, ok
		}
	}
	return now, then, false
}

func inMode(d *policy.Document, mode string) *policy.Document {
	m, _ := enforce.ParseMode(mode)
	return d.InMode(m)
}

// flips lists the settings whose finding differs.
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
