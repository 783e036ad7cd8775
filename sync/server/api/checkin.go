package api

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/warderd/warder/sync/protocol"
	"github.com/warderd/warder/sync/server/fleet"
	"github.com/warderd/warder/sync/server/store"
)

var errStopping = &problem{status: http.StatusServiceUnavailable, code: "stopping", message: "this node is stopping; connect again"}

// visit is one check-in on its way: what came, from whom, and the answer so far.
type visit struct {
	a   *API
	q   *request
	e   *entry
	in  *received
	st  *fleet.State
	was protocol.Held // what the device held at its last visit
	out protocol.Answer
}

// checkin takes a report and answers with what the device is to hold. A report without news costs no
// database: what is compared is in memory.
func checkin(a *API, q *request) (protocol.Answer, error) {
	var none protocol.Answer
	if a.stopping.Load() {
		return none, errStopping
	}
	in, err := receive(q.body)
	if err != nil {
		return none, err
	}
	v := &visit{a: a, q: q, e: q.known, in: in, was: q.known.held, out: protocol.Answer{Interval: int(a.Interval.Seconds())}}
	steps := []func() error{v.check, v.hear, v.keys, v.ask, v.keep, v.give, v.note}
	if in.Agent.Ended != "" { // it is not there for an answer
		steps = []func() error{v.check, v.keep, v.note}
	}
	if v.e.d.State == store.Retired {
		steps = []func() error{v.check, v.hear, v.keys, v.release}
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return none, err
		}
	}
	return v.out, nil
}

// hear looks for changes where the device was nudged for one that this node has not heard of yet.
func (v *visit) hear() error {
	if v.in.Sequence <= v.a.heard.Load() {
		return nil
	}
	return v.a.catchUp(context.WithoutCancel(v.q.Context()))
}

// keys brings a device on that pins older ones.
func (v *visit) keys() error {
	if v.in.Pinned != "" && v.in.Pinned != v.a.Keys.Pinned() {
		v.out.Keys = v.a.Keys.Rotation(v.in.Pinned)
	}
	return nil
}

// release is all that a retired device gets.
func (v *visit) release() (err error) {
	v.out.Release, err = protocol.SignRelease(v.a.Keys.Signing(),
		protocol.Release{DeviceID: v.e.d.ID, Release: true, IssuedAt: v.q.now.UTC()})
	return err
}

// ask is what the server wants of the device: what it has not told, and diagnostics.
func (v *visit) ask() error {
	unknown := func() bool {
		p := &v.e.d.Report
		return v.in.Device == nil && v.in.DeviceDigest != p.FactsDigest || v.in.Findings == nil && v.in.FindingsDigest != p.FindingsDigest
	}
	if unknown() {
		// It may have told another node.
		if err := v.a.book.load(v.q.Context(), v.e); err != nil {
			return err
		}
		if unknown() {
			v.out.Request = append(v.out.Request, protocol.WantFullReport)
		}
	}
	if !v.e.d.Diagnose.IsZero() {
		v.out.Request = append(v.out.Request, protocol.WantDiagnostics)
	}
	return nil
}

// keep stores what is news, and notes the visit.
func (v *visit) keep() error {
	in, e := v.in, v.e
	v.st = v.a.state.Load()
	news := in.Device != nil || in.Findings != nil || len(in.Events) > 0 || in.Policy != e.held || in.Agent != e.run
	if news && !e.quota.report() {
		// Nothing of it is stored: its digests differ then, and it is asked again. It is governed all the same.
		v.a.stats.quota.Inc()
		news = false
	}
	if news {
		rec, err := v.a.record(v.q, e, in, v.st)
		if err != nil {
			return err
		}
		// The rest is taken: a device that has too much to tell is governed all the same, and keeps its events.
		if !e.quota.events(in.events) {
			v.a.stats.quota.Inc()
			if e.quota.say() {
				v.a.Log.Warn("a device has sent more events than a device may; they stay with it", "device", e.d.ID)
			}
			rec.Events, rec.Epoch = nil, ""
		}
		rec.Seen = v.seen()
		if err := v.a.batch.put(v.q.Context(), rec); err != nil {
			return err
		}
		if rec.Old {
			// Another node has had a later one: this one's clock is behind, or it is played again.
			if err := v.a.book.load(v.q.Context(), e); err != nil {
				return err
			}
			return older(in.Counter, e.d.Counter)
		}
		e.learn(in, rec)
		v.a.hub.update(&e.d.Device)
		v.out.AckSeq = rec.Ack
	}
	v.a.stats.checkin(news)
	e.d.Counter, e.d.LastSeen = in.Counter, v.q.now
	return nil
}

// give signs what the device is to hold, where that is something else.
func (v *visit) give() error {
	to, ok := v.st.Effective(&v.e.d.Device, v.q.now)
	if ok && v.in.Policy.Serial >= v.st.Sequence && (v.in.Policy.ID != to.Policy || v.in.Policy.Version != to.Version) {
		// The device has something newer than this node knows: it was at another one, or the server came
		// back from a backup. Looking first keeps it from being sent back to the version before.
		if err := v.a.catchUp(context.WithoutCancel(v.q.Context())); err != nil {
			return err
		}
		v.st = v.a.state.Load()
		to, ok = v.st.Effective(&v.e.d.Device, v.q.now)
	}
	if ok {
		r, err := v.st.Render(to)
		if err != nil {
			return err
		}
		if v.in.Policy.Digest == r.Digest && v.was.Digest != r.Digest && v.was.Digest != "" {
			v.a.latency.record(v.q.now.Sub(r.Changed))
		}
		if v.out.Assignment, err = v.a.assign(v.q, v.e, r, &v.in.Report, v.st); err != nil {
			return err
		}
	}
	return nil
}

// note remembers that the device came.
func (v *visit) note() error {
	v.a.batch.note(v.seen())
	return nil
}

// seen is this visit as what it leaves behind.
func (v *visit) seen() store.Seen {
	seen := store.Seen{Device: v.e.d.N, At: v.q.now, Counter: v.in.Counter, Assigned: v.e.d.AssignedAt, Fresh: v.a.fresh(v.e.id, v.q.now)}
	if v.in.Agent.Ended != "" {
		seen.Fresh = time.Time{} // it said so itself
	}
	if at := v.in.LookedAt; at != nil && at.After(time.Unix(0, 0)) && at.Before(v.q.now.AddDate(0, 0, 2)) { // some clocks are wrong
		seen.Looked = *at
	}
	return seen
}

func older(counter, last uint64) error {
	return &detailed{http.StatusConflict, protocol.Problem{Error: &protocol.ProblemBody{
		Code: protocol.CodeCounter, Message: fmt.Sprintf("counter %d is not above %d", counter, last), Counter: last,
	}}}
}

// cloned tells two machines with one key from one: another machine id, or an agent run that was
// over and is back. An image that copies the machine id too is found by the latter, at the third
// check-in of the two. Start times would not do: a machine without a clock begins each boot alike.
func cloned(e *entry, in *received) string {
	if in.Agent.Machine != "" && e.d.Machine != "" && in.Agent.Machine != e.d.Machine {
		return "machine id"
	}
	if run := in.Agent.Run; run != "" && run == e.d.Report.Previous && run != e.run.Run {
		return "an agent run that was over"
	}
	return ""
}

// learn takes a stored report into what this node knows.
func (e *entry) learn(in *received, rec *store.Record) {
	e.held, e.run = in.Policy, in.Agent
	e.d.Held.Policy, e.d.Held.Version = in.Policy.ID, in.Policy.Version
	p := &e.d.Report
	p.Previous = rec.Previous
	if rec.Facts != nil {
		p.FactsDigest = rec.FactsDigest
	}
	if rec.Findings != nil {
		p.FindingsDigest, p.Standing, p.Rollup = rec.FindingsDigest, rec.Standing, rec.Rollup
	}
}
