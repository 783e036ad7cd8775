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

// visit is one check-in in progress: what arrived, from whom, and the answer so far.
type visit struct {
	a   *API
	q   *request
	e   *entry
	in  *received
	st  *fleet.State
	was protocol.PolicyState // what the device had at its last visit
	out protocol.Answer
}

// checkin processes a report and answers with what the device should have. A report without news does not touch the
// database: everything to compare is in memory.
func checkin(a *API, q *request) (protocol.Answer, error) {
	var none protocol.Answer
	if a.stopping.Load() {
		return none, errStopping
	}
	in, err := receive(q.body)
	if err != nil {
		return none, err
	}
	v := &visit{a: a, q: q, e: q.known, in: in, was: q.known.current, out: protocol.Answer{Interval: int(a.Interval.Seconds())}}
	steps := []func() error{v.check, v.hear, v.keys, v.ask, v.keep, v.give, v.note}
	if in.Agent.Ended != "" { // it does not wait for an answer
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

// hear reads changes if the device was nudged for one that this node has not read yet.
func (v *visit) hear() error {
	if v.in.Sequence <= v.a.heard.Load() {
		return nil
	}
	return v.a.catchUp(context.WithoutCancel(v.q.Context()))
}

// keys updates a device that pins older keys.
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

// ask lists what the server wants from the device: what it has not reported, and diagnostics.
func (v *visit) ask() error {
	unknown := func() bool {
		p := &v.e.d.Report
		return v.in.Device == nil && v.in.DeviceDigest != p.FactsDigest || v.in.Findings == nil && v.in.FindingsDigest != p.FindingsDigest
	}
	if unknown() {
		// It may have reported to another node.
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

// keep stores what is news, and records the visit.
func (v *visit) keep() error {
	in, e := v.in, v.e
	v.st = v.a.state.Load()
	news := in.Device != nil || in.Findings != nil || len(in.Events) > 0 || in.Policy != e.current || in.Agent != e.run
	if news && !e.quota.report() {
		// Nothing of it is stored, so its digests differ and it is asked again. It still receives its policy.
		v.a.stats.quota.Inc()
		news = false
	}
	if news {
		rec, err := v.a.record(v.q, e, in, v.st)
		if err != nil {
			return err
		}
		// The rest is accepted: a device that reports too much still receives its policy, and keeps its events.
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
			// Another node has had a later report: this one is replayed, or this node's data is old.
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

// give signs what the device should have, if that is something else.
func (v *visit) give() error {
	to, ok := v.st.Effective(&v.e.d.Device, v.q.now)
	if ok && v.in.Policy.Serial >= v.st.Sequence && (v.in.Policy.ID != to.Policy || v.in.Policy.Version != to.Version) {
		// The device has something newer than this node knows: it was at another node, or the server was restored from
		// a backup. Read changes first, so that the device is not sent back to the previous version.
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

// note records that the device came.
func (v *visit) note() error {
	v.a.batch.note(v.seen())
	return nil
}

// seen is this visit's record.
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

// older is the error of a report whose counter is not above the last; it tells the device the last one.
func older(counter, last uint64) error {
	return &detailed{http.StatusConflict, protocol.Problem{Error: &protocol.ProblemBody{
		Code: protocol.CodeCounter, Message: fmt.Sprintf("counter %d is not above %d", counter, last), Counter: last,
	}}}
}

// cloned recognises two machines with one key: by another machine id, or by an agent run that had ended and is back.
// The latter finds an image that copies the machine id, too, at the third check-in of the two. Start times would not
// do: a machine without a clock begins each boot at the same time.
func cloned(e *entry, in *received) string {
	if in.Agent.Machine != "" && e.d.Machine != "" && in.Agent.Machine != e.d.Machine {
		return "machine id"
	}
	if run := in.Agent.Run; run != "" && run == e.d.Report.Previous && run != e.run.Run {
		return "an agent run that was over"
	}
	return ""
}

// learn updates what this node knows from a stored report.
func (e *entry) learn(in *received, rec *store.Record) {
	e.current, e.run = in.Policy, in.Agent
	e.d.Current.Policy, e.d.Current.Version = in.Policy.ID, in.Policy.Version
	p := &e.d.Report
	p.Previous = rec.Previous
	if rec.Facts != nil {
		p.FactsDigest = rec.FactsDigest
	}
	if rec.Findings != nil {
		p.FindingsDigest, p.Standing, p.Rollup = rec.FindingsDigest, rec.Standing, rec.Rollup
	}
}
