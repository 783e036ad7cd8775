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

// wholeEvery is the longest time between two reports of all findings.
const wholeEvery = 24 * time.Hour

// exchangeLimit bounds one exchange with all its tries and probes.
const exchangeLimit = 2 * time.Minute

// exchange is one check-in: what was sent, and the result.
type exchange struct {
	source Source
	report protocol.Report
	sent   sent
	answer protocol.Answer
	err    error
	proof  reconcile.Proof // of the policy in force, if it is on trial
	anew   bool            // on a connection made for this exchange
}

// firstCheckIn spreads the first check-ins after a start. A device without a policy asks at once.
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

// checkInDue runs a due check-in. Each regular check-in is also a look at the machine, to find drift.
func (a *Agent) checkInDue() {
	if !a.contact.paced {
		a.look()
	}
	a.contact.paced = false
	a.checkIn()
}

// resumeTrial applies a policy on trial again, after the confirmed one was applied first at boot.
func (a *Agent) resumeTrial() {
	if a.custody.resume() {
		a.o.Log.Info("the policy on trial is in force again")
		a.look()
	}
}

// checkIn checks in, in the background, one at a time.
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

// reach asks whether a server can be reached. This only matters for a policy that changed the network: otherwise
// whoever controls the network could have any policy reverted by dropping the right packets.
func (a *Agent) reach(server, proxy string, exempt bool) func(context.Context) error {
	return func(ctx context.Context) error { return a.o.Reach(ctx, server, proxy, exempt) }
}

// exchanged handles the end of a check-in: it is outdated, failed, or answered.
func (a *Agent) exchanged(x *exchange) {
	c := a.contact
	c.busy, c.ended = false, a.o.Now()
	a.watchHome()
	a.work()
	switch {
	case x.source != c.source: // enrolled anew, or with another server, meanwhile
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
		a.endpoints.again()
		if !a.portal.open(a.o.Now()).IsZero() {
			c.soon(portalTry)
		}
		a.health.set(serverAway, x.err.Error())
		a.flatten("running")
	default:
		a.answered(x)
	}
}

// answered processes an answer, part by part. The keys come first, because the rest may be signed by a new one. After a
// release nothing else is processed.
func (a *Agent) answered(x *exchange) {
	c := a.contact
	c.succeeded(&x.report, x.sent, &x.answer)
	a.closePortal("the policy server was reached")
	a.countPortals()
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
	// The server has accepted this batch; the rest of the backlog waits for the next.
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

// acknowledge deletes events that the server has. It never deletes more than was sent, even if a faulty server
// acknowledges more.
func (a *Agent) acknowledge(x *exchange) {
	sent := uint64(0)
	if n := len(x.report.Events); n > 0 {
		sent = x.report.Events[n-1].Seq
	}
	if err := a.store.Ack(x.report.Epoch, min(x.answer.AckSeq, sent)); err != nil {
		a.health.set(storeBad, err.Error())
	}
}

// proved confirms the policy that was in force when the report was made. A suspended policy proves nothing, nor does an
// exchange that began before the policy changed the path to the server.
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
		a.keepLists()
	}
}

// settled clears the warnings that a successful answer disproves.
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

// requested does what the server asked for. "The whole" means the parts that were not sent just now, and that get
// through.
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

// reportSoon checks in at once after a change in findings or an event. After failures the back-off applies, because
// more requests do not help a server in trouble. If the loop is busy, it will report what it finds anyway.
func (a *Agent) reportSoon() {
	a.try(func() {
		if a.contact.cadence.Failures() == 0 {
			a.contact.soon(0)
		}
	})
}

// nudge handles the server's message that something has changed.
func (a *Agent) nudge(n protocol.Nudge, at time.Time) {
	c := a.contact
	if c.source == nil {
		return // released after the nudge was sent
	}
	if c.nudged.IsZero() {
		c.nudged = at
	}
	c.nudgedFor = max(c.nudgedFor, n.Sequence)
	// What is asked for now begins a new row: what came before must not use it up. A server that nudges without end still
	// waits the pause between two.
	c.rounds = 0
	if n.Within > 0 {
		c.soon(checkin.First(a.custody.state.Device.DeviceID, time.Duration(n.Within)*time.Millisecond))
		return
	}
	a.checkIn()
}

// pushed handles the push socket coming up or going down.
func (a *Agent) pushed(up bool) {
	c := a.contact
	c.cadence.Pushed = up
	c.show(func(s *seen) { s.Pushed = up })
	if up && (c.cadence.Failures() > 0 || c.renewed) {
		c.renewed = false
		c.soon(c.cadence.Soon()) // while there was no socket, a nudge may have been missed
	}
	if !up && c.source != nil {
		// Poll again at the usual interval from now.
		c.soon(c.cadence.Poll())
	}
	a.flatten("running")
}

// resumed runs after a suspend: devices and policy may have changed while the machine slept.
func (a *Agent) resumed() {
	a.closePortal("the machine slept")
	a.clocks.look.Reset(settleDelay)
	a.contact.soon(a.contact.cadence.Soon())
}

// linked handles a new route to other networks: check in soon.
func (a *Agent) linked() {
	if a.clocks.tries > 0 {
		a.clocks.enroll.Reset(time.Second) // a dropped enrollment waits for the network
	}
	if a.contact.cadence.Failures() > 0 {
		a.contact.soon(a.contact.cadence.Soon())
	}
	if !a.portal.open(a.o.Now()).IsZero() {
		a.contact.soon(checkin.Pause)
	}
	a.shelf.listsSoon()
	a.fetchLists()
}

// report describes the machine, and contains only what the server does not have yet.
func (a *Agent) report() (protocol.Report, sent) {
	epoch, events, err := a.store.Pending(protocol.MaxEvents)
	if err != nil {
		a.health.set(storeBad, err.Error())
	}
	for i := range events {
		events[i].Users = nil // who uses the machine is not for the server
	}
	facts, digest := a.facts()
	stands := a.machine.last()
	findings := stands.findings
	now, has := a.o.Now(), a.contact.sent
	r := protocol.Report{Policy: a.custody.reported(), Epoch: epoch, Events: events, Pinned: a.custody.pinned(),
		Sequence: a.contact.nudgedFor,
		Agent:    protocol.Agent{Version: a.o.Version, StartedAt: a.started.UTC().Truncate(time.Second), Machine: a.o.Machine, Run: a.run}}
	if !stands.result.At.IsZero() {
		at := stands.result.At.UTC().Truncate(time.Second)
		r.LookedAt = &at
	}
	r.Policy.Refused, r.Policy.Reason = has.refused, has.reason
	if r.Policy.State == "unconfirmed" {
		r.Policy.State = "active" // the fact that this report arrives answers that
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

// findingsDigest is a digest of the findings without their times and readings, so that it changes only when a finding
// does.
func findingsDigest(list []enforce.Finding) string {
	short := make([]enforce.Finding, len(list))
	for i, f := range list {
		f.Evidence, f.ReadAt = nil, time.Time{}
		short[i] = f
	}
	return protocol.Digest(short)
}

// described caches the last facts and their digest: most reports follow no change.
type described struct {
	look   int
	rest   protocol.Facts // everything but what was observed
	facts  protocol.Facts
	digest string
}

// facts are what is reported about this machine, with their digest.
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
