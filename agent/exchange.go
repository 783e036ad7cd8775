package agent

import (
	"context"
	"reflect"
	"slices"
	"time"

	"github.com/warderd/warder/agent/reconcile"
	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/sync/checkin"
	"github.com/warderd/warder/sync/protocol"
)

// wholeEvery: all findings are sent at least this often.
const wholeEvery = 24 * time.Hour

// exchangeLimit bounds one exchange with all its tries and probes.
const exchangeLimit = 2 * time.Minute

// exchange is one check-in: what was sent, and what became of it.
type exchange struct {
	source Source
	report protocol.Report
	sent   sent
	answer protocol.Answer
	err    error
	proof  reconcile.Proof // of the policy in force, where it is on trial
	anew   bool            // on a connection that was made for it
}

// firstCheckIn spreads the first check-in of a start. A device that has no policy yet asks at once.
func (a *Agent) firstCheckIn() {
	if a.contact.source == nil {
		a.resumeTrial()
		return
	}
	within := checkin.SpreadEvent
	if a.custody.doc == nil {
		within = time.Second
	}
	a.contact.timer.Reset(checkin.First(a.custody.state.Device.DeviceID, within))
}

// checkInDue: each check-in at its time is also the look that finds drift.
func (a *Agent) checkInDue() {
	if !a.contact.paced {
		a.look()
	}
	a.contact.paced = false
	a.checkIn()
}

// resumeTrial brings back a policy on trial, after the confirmed one came first at boot.
func (a *Agent) resumeTrial() {
	if a.custody.resume() {
		a.o.Log.Info("the policy on trial is in force again")
		a.look()
	}
}

// checkIn checks in, in the background; one at a time.
func (a *Agent) checkIn() {
	c := a.contact
	if c.source != nil && !c.busy {
		a.resumeTrial()
	}
	if !c.begin() {
		return
	}
	a.work()
	x := exchange{source: c.source}
	x.report, x.sent = a.report()
	trial, network := a.custody.onTrial()
	server, proxy := "", ""
	if c.client != nil {
		server, proxy = c.client.Server.URL, c.client.Server.Proxy.Reveal()
	}
	// An old connection would prove nothing.
	send := x.source.Exchange
	if x.anew = c.client != nil && trial && network; x.anew {
		send = c.client.ExchangeAnew
	}
	a.background.Go(func() {
		ctx, cancel := context.WithTimeout(a.ctx, exchangeLimit)
		defer cancel()
		x.answer, x.err = send(ctx, x.report)
		if x.err != nil && x.anew {
			x.proof = reconcile.Probe(ctx, a.reach(server, proxy, false), a.reach(server, proxy, true))
		}
		a.do(func() { a.exchanged(&x) })
	})
}

// reach asks whether a server can be reached. Only a policy that changed the network is asked about:
// whoever owns the network could otherwise have any policy taken back by dropping the right packets.
func (a *Agent) reach(server, proxy string, exempt bool) func(context.Context) error {
	return func(ctx context.Context) error { return a.o.Reach(ctx, server, proxy, exempt) }
}

// exchanged is the end of a check-in: outdated, failed, or answered.
func (a *Agent) exchanged(x *exchange) {
	c := a.contact
	c.busy, c.ended = false, a.o.Now()
	a.watchHome()
	a.work()
	switch {
	case x.source != c.source: // enrolled anew, or another server, meanwhile
		if c.again {
			a.checkIn()
		}
	case tooLarge(x.err) && c.shrinks < maxShrinks && c.batch.refused(&x.report, c.ended):
		a.o.Log.Warn("a report was refused as too large; a smaller one is sent", "bytes", size(&x.report), "events", len(x.report.Events))
		c.shrinks++
		c.begun = time.Time{} // at once: this is the same check-in
		a.checkIn()
	case x.err != nil:
		if x.proof == reconcile.Refuted {
			a.revertPolicy("under it the server could not be reached, and past it it could")
		}
		c.failed(x.err)
		a.health.set(serverAway, x.err.Error())
		a.flatten("running")
	default:
		a.answered(x)
	}
}

// answered takes an answer, part by part. The keys come first: what comes with them may be signed by the
// new one. After a release there is nothing more to do.
func (a *Agent) answered(x *exchange) {
	c := a.contact
	c.succeeded(&x.report, x.sent, &x.answer)
	a.acknowledge(x)
	a.proved(x)
	a.settled(x)
	a.requested(&x.report, x.answer.Request)
	if x.answer.Keys != "" {
		a.rotate(x.answer.Keys)
	}
	if x.answer.Release != "" && a.release(x.answer.Release) {
		return
	}
	if x.answer.Assignment != "" {
		a.take(x.answer.Assignment)
	}
	// What was left waits, where this one has been taken.
	c.rest = c.batch.more && (len(x.report.Events) == 0 || x.answer.AckSeq > 0)
	if n := len(x.report.Events); n > 0 && !c.rest && x.answer.AckSeq >= x.report.Events[n-1].Seq {
		left, err := a.store.Backlog()
		c.rest = err == nil && left > 0
	}
	c.again = c.again || c.rest
	if c.another() {
		a.checkIn()
		return
	}
	a.flatten("running")
}

// acknowledge drops events that the server has: never more than was sent, for what a wrong server
// acknowledges beyond that would be lost.
func (a *Agent) acknowledge(x *exchange) {
	sent := uint64(0)
	if n := len(x.report.Events); n > 0 {
		sent = x.report.Events[n-1].Seq
	}
	if err := a.store.Ack(x.report.Epoch, min(x.answer.AckSeq, sent)); err != nil {
		a.health.set(storeBad, err.Error())
	}
}

// proved confirms the policy that was in force when the report was made. One that is held back proves
// nothing, nor does an exchange that began before the policy changed what leads to the server.
func (a *Agent) proved(x *exchange) {
	doc := a.custody.doc
	if doc == nil || x.report.Policy.Digest != doc.Digest || x.report.Policy.State == "held" {
		return
	}
	if _, network := a.custody.onTrial(); network && !x.anew && a.contact.client != nil {
		a.contact.again = true
		return
	}
	if serial, changed := a.custody.confirm(); changed {
		a.stored(serial, "active", "")
		a.noteEarly()
	}
}

// settled clears the warnings that an answer shows to be over.
func (a *Agent) settled(x *exchange) {
	for code, over := range map[string]bool{
		policyRefused: x.answer.Assignment == "" && a.contact.sent.refused == "", serverAway: true, serverSetup: true,
		releaseRefused: x.answer.Release == "", keysRefused: x.answer.Keys == "",
	} {
		if over {
			a.health.set(code, "")
		}
	}
	a.health.set(clockWrong, wrongClock(a.contact.client))
	a.health.set(reportCut, a.contact.batch.cut())
}

// requested does what the server asked for. The whole is what it has not just been sent, and what gets through.
func (a *Agent) requested(r *protocol.Report, list []string) {
	if slices.Contains(list, protocol.WantFullReport) {
		c := a.contact
		if r.Device == nil && c.batch.without&theFacts == 0 {
			c.sent.facts, c.again = "", true
		}
		if r.Findings == nil && c.batch.without&theFindings == 0 {
			c.sent.findings, c.again = "", true
		}
	}
	if slices.Contains(list, protocol.WantDiagnostics) {
		a.sendDiagnostics()
	}
}

// reportSoon: a change in findings, or an event, checks in at once. After failures the back-off stands: a
// server in trouble is not helped by more of the same. Where the loop is busy, it will report what it
// finds anyway.
func (a *Agent) reportSoon() {
	a.try(func() {
		if a.contact.cadence.Failures() == 0 {
			a.contact.soon(0)
		}
	})
}

func (a *Agent) nudge(n protocol.Nudge, at time.Time) {
	c := a.contact
	if c.source == nil {
		return // released between the nudge and now
	}
	if c.nudged.IsZero() {
		c.nudged = at
	}
	c.nudgedFor = max(c.nudgedFor, n.Sequence)
	if n.Within > 0 {
		c.soon(checkin.First(a.custody.state.Device.DeviceID, time.Duration(n.Within)*time.Millisecond))
		return
	}
	a.checkIn()
}

func (a *Agent) pushed(up bool) {
	c := a.contact
	c.cadence.Pushed = up
	c.show(func(s *seen) { s.Pushed = up })
	if up && c.cadence.Failures() > 0 {
		c.soon(c.cadence.Soon())
	}
	if !up && c.source != nil {
		// Polling again at its own pace, from now.
		c.soon(c.cadence.Poll())
	}
	a.flatten("running")
}

// resumed: devices may have changed while the machine slept, and the server may have.
func (a *Agent) resumed() {
	a.clocks.look.Reset(settleDelay)
	a.contact.soon(a.contact.cadence.Soon())
}

func (a *Agent) linked() {
	if a.clocks.tries > 0 {
		a.clocks.enrol.Reset(time.Second) // a dropped enrolment waits for the network
	}
	if a.contact.cadence.Failures() > 0 {
		a.contact.soon(a.contact.cadence.Soon())
	}
}

// report says how the machine stands, and only what the server does not have yet.
func (a *Agent) report() (protocol.Report, sent) {
	epoch, events, err := a.store.Pending(protocol.MaxEvents)
	if err != nil {
		a.health.set(storeBad, err.Error())
	}
	for i := range events {
		events[i].Users = nil // who sat at the machine is for the local API
	}
	facts, digest := a.facts()
	stands := a.machine.last()
	findings := stands.findings
	now, has := a.o.Now(), a.contact.sent
	r := protocol.Report{Policy: a.custody.held(), Epoch: epoch, Events: events, Pinned: a.custody.pinned(), Sequence: a.contact.nudgedFor,
		Agent: protocol.Agent{Version: a.o.Version, StartedAt: a.started.UTC().Truncate(time.Second), Machine: a.o.Machine, Run: a.run}}
	if !stands.result.At.IsZero() {
		at := stands.result.At.UTC().Truncate(time.Second)
		r.LookedAt = &at
	}
	r.Policy.Refused, r.Policy.Reason = has.refused, has.reason
	if r.Policy.State == "unconfirmed" {
		r.Policy.State = "active" // the server that reads this is the proof
	}
	r.DeviceDigest = digest
	if r.DeviceDigest != has.facts {
		facts.Latency = a.latency.export()
		r.Device, has.facts = &facts, r.DeviceDigest
	}
	r.FindingsDigest = findingsDigest(findings)
	if r.FindingsDigest != has.findings || now.Sub(has.whole) > wholeEvery {
		list := append([]enforce.Finding{}, findings...)
		r.Findings = &list
		has.findings, has.whole = r.FindingsDigest, now
	}
	a.contact.batch.fit(&r, a.contact.sent, &has, now)
	return r, has
}

// findingsDigest leaves out when and on which reading: only a change in what is said is news.
func findingsDigest(list []enforce.Finding) string {
	short := make([]enforce.Finding, len(list))
	for i, f := range list {
		f.Evidence, f.ReadAt = nil, time.Time{}
		short[i] = f
	}
	return protocol.Digest(short)
}

// described is what was last made of the facts, and of what: most reports follow no change.
type described struct {
	look   int
	rest   protocol.Facts // all but what was observed
	facts  protocol.Facts
	digest string
}

// facts are what there is to tell of this machine, and their digest.
func (a *Agent) facts() (protocol.Facts, string) {
	rest := protocol.Facts{Host: a.host}
	rest.Health, rest.Codes = words(a.health.active())
	st, _, _ := a.custody.view()
	if h := st.Hold; h != nil {
		rest.Hold = h.Who + ": " + h.Reason
	}
	stands, d := a.machine.last(), &a.contact.described
	if d.digest == "" || d.look != stands.look || !reflect.DeepEqual(d.rest, rest) {
		f := protocol.FactsOf(&stands.snapshot)
		f.Host, f.Health, f.Codes, f.Hold = rest.Host, rest.Health, rest.Codes, rest.Hold
		*d = described{stands.look, rest, f, protocol.Digest(f)}
	}
	return d.facts, d.digest
}
