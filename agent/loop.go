package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/warderd/warder/agent/reconcile"
	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/all"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/enforce/secret"
	"github.com/warderd/warder/enforce/section"
	enforceusb "github.com/warderd/warder/enforce/usb"
	"github.com/warderd/warder/platform/link"
	"github.com/warderd/warder/platform/usb"
	"github.com/warderd/warder/sync/checkin"
	"github.com/warderd/warder/sync/protocol"
)

// applyLimit bounds one look at the machine.
const applyLimit = 2 * time.Minute

// reconcile makes the machine as the policy says, and finds how it stands. Without a policy, or
// while one is held, that is the plan of nothing: back to the baseline.
func (a *Agent) reconcile() {
	a.recon.Stop()
	a.work()
	defer a.work()
	// Not the loop's context: a stop must not leave a plan half done.
	ctx, cancel := context.WithTimeout(context.Background(), applyLimit)
	defer cancel()
	a.mu.Lock()
	doc, held := a.excepted(), a.state.Hold != nil
	a.mu.Unlock()
	m := a.observe(ctx)
	if doc != nil && !held && (!m.USB.OK || !m.Controllers.OK) {
		a.blind(doc, &m)
		return
	}
	var out section.Outcome
	var load func(context.Context)
	if doc != nil && !held {
		out = all.Decide(doc, &m)
		load = func(context.Context) { a.loadGuard(doc, &m) }
	} else {
		load = func(context.Context) {
			a.guard.Load(usb.Ruling{Judge: nothing{}, Act: false})
			a.mu.Lock()
			a.rules = nil
			a.mu.Unlock()
		}
	}
	r := a.loop.Run(ctx, out.Wants, load)
	a.risky = r.Network
	problem := ""
	if err := errors.Join(r.Problems...); err != nil {
		problem = err.Error()
	}
	a.note("machine", problem)
	after := a.observe(ctx)
	if doc != nil && !held {
		// Decided again on the machine as it is now: what stood against the policy may be gone.
		out = all.Decide(doc, &after)
	}
	findings := append(a.loop.Prove(out.Findings, out.Wants, r), reconcile.Conflicts(r)...)
	before, err := a.store.Findings()
	if err != nil {
		a.note("store", err.Error())
	}
	findings = mergeSince(r.At, findings, before)
	changed := len(before) != len(findings)
	for _, f := range findings {
		changed = changed || !before[f.Setting].Alike(f)
	}
	if changed {
		if err := a.store.PutFindings(findings); err != nil {
			a.note("store", err.Error())
		}
	}
	a.mu.Lock()
	a.machine, a.outcome, a.findings, a.result = after, out, findings, r
	a.mu.Unlock()
	for _, c := range r.Drifted {
		a.o.Log.Warn("repaired", "resource", c.Key.String(), "was", c.From.String())
		a.record(enforce.Event{At: r.At.UTC(), Setting: first(c.By), Mode: c.Mode, Kind: "drift", Subject: c.Key.String(),
			Reason: "another program changed it to " + c.From.String() + "; it was set back to " + c.To.String(), Done: r.Seen.At(c.Key)})
	}
	if changed {
		a.reportSoon()
	}
	a.flatten("running")
}

func first(s []enforce.Setting) enforce.Setting {
	if len(s) == 0 {
		return ""
	}
	return s[0]
}

// loadGuard gives the guard the rules for the machine as observed.
func (a *Agent) loadGuard(doc *policy.Document, m *fact.Machine) {
	r := enforceusb.Compile(doc, m)
	a.mu.Lock()
	a.rules = r
	a.mu.Unlock()
	a.guard.Load(usb.Ruling{Judge: newJudge(r), Act: r.CanDeny()})
}

// blindRetry is when the machine is looked at again after it could not be read.
const blindRetry = 10 * time.Second

// blind: a machine that cannot be read is left as it is, under the rules it has. Unknown never acts.
func (a *Agent) blind(doc *policy.Document, m *fact.Machine) {
	a.mu.Lock()
	a.machine, a.outcome = *m, all.Decide(doc, m)
	a.findings = mergeSince(a.o.Now(), a.outcome.Findings, nil)
	a.mu.Unlock()
	a.note("machine", "the USB devices cannot be read: "+m.USB.Why)
	a.recon.Reset(blindRetry)
	a.reportSoon()
	a.flatten("running")
}

// nothing lets everything pass: there is no policy.
type nothing struct{}

func (nothing) Judge(*fact.USB) enforce.Verdict { return enforce.Verdict{Allow: true} }

// leave gives the machine back when the agent stops, unless an upgrade asked it to keep hold.
func (a *Agent) leave() {
	if keepAsked(a.o.Paths) {
		a.o.Log.Info("stopping for an upgrade: the policy stays in force")
		return
	}
	a.mu.Lock()
	a.doc, a.rules, a.findings = nil, nil, nil
	a.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), applyLimit)
	defer cancel()
	r := a.loop.Run(ctx, nil, func(context.Context) { a.guard.Load(usb.Ruling{Judge: nothing{}}) })
	if err := errors.Join(r.Problems...); err != nil {
		a.o.Log.Error("the machine is not fully given back", "error", err)
	}
	for k, why := range r.Failed {
		a.o.Log.Error("not given back", "resource", k.String(), "error", why)
	}
}

// sentDigests is what the server is known to have.
type sentDigests struct {
	facts, findings string
	whole           time.Time // when all findings were last sent
	refused, reason string
}

// wholeEvery: all findings are sent at least this often.
const wholeEvery = 24 * time.Hour

// exchange checks in, in the background; one at a time.
func (a *Agent) exchange() {
	if a.source == nil {
		return
	}
	if a.busy {
		a.again = true
		return
	}
	if left := a.notYet.Sub(a.o.Now()); left > 0 {
		a.next(left) // the server asked for a pause
		return
	}
	if left := checkin.Pause - a.o.Now().Sub(a.begun); !a.begun.IsZero() && left > 0 && left <= checkin.Pause {
		a.next(left)
		a.paced = true
		return
	}
	a.busy, a.again, a.wanted, a.paced, a.begun = true, false, time.Time{}, false, a.o.Now()
	a.work()
	a.checkin.Stop()
	report, sent := a.report()
	source, server := a.source, ""
	if a.client != nil && a.risky {
		server = a.client.Server.URL
	}
	a.mu.Lock()
	a.contact.LastTry, a.contact.Next = a.o.Now().UTC(), time.Time{}
	a.mu.Unlock()
	go func() {
		ctx, cancel := context.WithTimeout(a.ctx, 2*time.Minute)
		defer cancel()
		answer, err := source.Exchange(ctx, report)
		proof := reconcile.Proved
		if err != nil {
			proof = a.unproved(ctx, server)
		}
		a.do(func() { a.exchanged(source, report, sent, answer, err, proof) })
	}()
}

// unproved asks, after a check-in failed under a policy that is not confirmed yet, whether that
// policy is to blame. Only a policy that changed the network can be: whoever owns the network could
// otherwise have any policy taken back by dropping the right packets.
func (a *Agent) unproved(ctx context.Context, server string) reconcile.Proof {
	a.mu.Lock()
	asked := a.state.Policy != nil && !a.state.Policy.Confirmed && server != ""
	a.mu.Unlock()
	if !asked {
		return reconcile.Unprovable
	}
	governed := func(ctx context.Context) error { return link.Probe(ctx, server, false) }
	exempt := func(ctx context.Context) error { return link.Probe(ctx, server, true) }
	return reconcile.Probes(governed, exempt)(ctx)
}

func (a *Agent) exchanged(source Source, report protocol.Report, sent sentDigests, answer protocol.Answer, err error, proof reconcile.Proof) {
	a.busy, a.ended = false, a.o.Now()
	a.work()
	if source != a.source {
		if a.again { // enrolled anew, or another server, meanwhile
			a.exchange()
		}
		return
	}
	now := a.o.Now()
	if err != nil {
		a.mu.Lock()
		a.contact.Error = secret.Scrub(err.Error())
		a.mu.Unlock()
		if proof == reconcile.Refuted {
			a.revertPolicy("under it the server could not be reached, and past it it could")
		}
		wait := a.cadence.Failed(err)
		if a.cadence.Told(err) {
			a.notYet = now.Add(wait)
		}
		a.rounds = 0
		a.next(wait)
		a.flatten("running")
		return
	}
	a.notYet = time.Time{}
	if report.Sequence == a.nudgedFor {
		a.nudgedFor = 0
	}
	a.mu.Lock()
	a.contact.LastOK, a.contact.Error = now.UTC(), ""
	if a.client != nil {
		a.contact.Offset = a.client.Offset()
	}
	a.sent = sentDigests{sent.facts, sent.findings, sent.whole, a.sent.refused, a.sent.reason}
	if report.Policy.Refused == a.sent.refused && report.Policy.Reason == a.sent.reason && answer.Assignment == "" {
		a.sent.reason = "" // said once; the digest stays, so that the server does not send it again
	}
	a.mu.Unlock()
	if answer.Interval > 0 {
		a.cadence.Interval = checkin.Bounded(answer.Interval)
	}
	// Never more than was sent: what a wrong server acknowledges beyond that would be lost.
	ack := min(answer.AckSeq, lastSeq(report.Events))
	if err := a.store.Ack(report.Epoch, ack); err != nil {
		a.note("store", err.Error())
	}
	a.mu.Lock()
	same := a.doc != nil && report.Policy.Digest == a.doc.Digest
	refused := a.sent.refused
	a.mu.Unlock()
	if same && report.Policy.State != "held" { // a policy that is held back proves nothing
		a.confirm()
	}
	if answer.Assignment == "" && refused == "" {
		a.note("policy", "")
	}
	a.note("server", "")
	a.note("clock", wrongClock(a.client))
	if answer.Release == "" {
		a.note("release", "")
	}
	if answer.Keys == "" {
		a.note("keys", "")
	}
	for _, r := range answer.Request {
		switch r {
		case protocol.WantFullReport:
			a.mu.Lock()
			a.sent.facts, a.sent.findings = "", ""
			a.mu.Unlock()
			a.again = true
		case protocol.WantDiagnostics:
			a.sendDiagnostics()
		}
	}
	// The keys first: what comes with them may be signed by the new one.
	if answer.Keys != "" {
		a.rotate(answer.Keys)
	}
	if answer.Release != "" && a.release(answer.Release) {
		return
	}
	if answer.Assignment != "" {
		a.take(answer.Assignment)
	}
	if len(report.Events) == protocol.MaxEvents {
		a.again = true
	}
	// A few rounds at once: a policy and its report, a full report. A server that always wants one
	// more is not given it.
	if a.again && a.rounds < maxRounds {
		a.rounds++
		a.exchange()
		return
	}
	wait := a.cadence.Done()
	if left := a.wanted.Sub(now); !a.wanted.IsZero() && left < wait {
		wait = max(left, 0)
	}
	a.again, a.rounds, a.nudged = false, 0, time.Time{}
	a.next(wait)
	a.flatten("running")
}

// maxRounds bounds the exchanges in a row.
const maxRounds = 4

func lastSeq(list []enforce.Event) uint64 {
	if len(list) == 0 {
		return 0
	}
	return list[len(list)-1].Seq
}

// next sets the time of the next check-in.
func (a *Agent) next(d time.Duration) {
	a.paced = false
	a.checkin.Reset(d)
	a.mu.Lock()
	a.contact.Next = a.o.Now().Add(d).UTC()
	a.mu.Unlock()
}

// soonAt is a check-in brought forward; never put off.
func (a *Agent) soonAt(d time.Duration) {
	if a.source == nil {
		return
	}
	at := a.o.Now().Add(d)
	if a.busy {
		if a.wanted.IsZero() || at.Before(a.wanted) {
			a.wanted = at
		}
		return
	}
	if at.Before(a.notYet) {
		d, at = a.notYet.Sub(a.o.Now()), a.notYet
	}
	a.mu.Lock()
	next := a.contact.Next
	a.mu.Unlock()
	if next.IsZero() || at.Before(next) {
		a.next(d)
	}
}

// wrongClock says how this machine's clock stands to the server's, where that matters to people.
func wrongClock(c *checkin.Client) string {
	if c == nil {
		return ""
	}
	off := c.Offset()
	how := "behind"
	if off < 0 {
		off, how = -off, "ahead of"
	}
	if off < clockMatters {
		return ""
	}
	return "this machine's clock is " + roughly(off) + " " + how + " the server's; set it"
}

// clockMatters is from when on a wrong clock is told: certificates and people go by it.
const clockMatters = 5 * time.Minute

// roughly rounds to what does not change from one check-in to the next.
func roughly(d time.Duration) string {
	switch {
	case d >= 48*time.Hour:
		return fmt.Sprintf("%d days", int(d.Round(24*time.Hour)/(24*time.Hour)))
	case d >= 2*time.Hour:
		return fmt.Sprintf("%d hours", int(d.Round(time.Hour)/time.Hour))
	}
	return fmt.Sprintf("%d minutes", int(d.Round(time.Minute)/time.Minute))
}

// reportSoon: a change in findings, or an event, checks in at once. After failures the
// back-off stands: a server in trouble is not helped by more of the same.
func (a *Agent) reportSoon() {
	select {
	case a.wake <- func() {
		if a.cadence.Failures() == 0 {
			a.soonAt(0)
		}
	}:
	default: // the loop is busy and will report what it finds anyway
	}
}

func (a *Agent) nudge(n protocol.Nudge, at time.Time) {
	if a.source == nil {
		return // released between the nudge and now
	}
	if a.nudged.IsZero() {
		a.nudged = at
	}
	a.nudgedFor = max(a.nudgedFor, n.Sequence)
	if n.Within > 0 {
		a.soonAt(checkin.First(a.state.Device.DeviceID, time.Duration(n.Within)*time.Millisecond))
		return
	}
	a.exchange()
}

func (a *Agent) pushed(up bool) {
	a.cadence.Pushed = up
	a.mu.Lock()
	a.contact.Pushed = up
	a.mu.Unlock()
	if up && a.cadence.Failures() > 0 {
		a.soonAt(a.cadence.Soon())
	}
	if !up && a.source != nil {
		// Polling again at its own pace, from now.
		a.soonAt(a.cadence.Poll())
	}
	a.flatten("running")
}

// resumed: devices may have changed while the machine slept, and the server may have.
func (a *Agent) resumed() {
	a.recon.Reset(settleDelay)
	a.soonAt(a.cadence.Soon())
}

func (a *Agent) linked() {
	if a.tries > 0 {
		a.retry.Reset(time.Second) // a dropped enrolment waits for the network
	}
	if a.cadence.Failures() > 0 {
		a.soonAt(a.cadence.Soon())
	}
}

// report says how the machine stands, and only what the server does not have yet.
func (a *Agent) report() (protocol.Report, sentDigests) {
	epoch, events, err := a.store.Pending(protocol.MaxEvents)
	if err != nil {
		a.note("store", err.Error())
	}
	for i := range events {
		events[i].Users = nil // who sat at the machine is for the local API
	}
	facts := a.facts()
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.o.Now()
	sent := a.sent
	r := protocol.Report{Policy: a.heldPolicy(), Epoch: epoch, Events: events, Pinned: a.pinned(), Sequence: a.nudgedFor,
		Agent: protocol.Agent{Version: a.o.Version, StartedAt: a.started.UTC().Truncate(time.Second), Machine: a.o.Machine, Run: a.run}}
	if r.Policy.State == "unconfirmed" {
		r.Policy.State = "active" // the server that reads this is the proof
	}
	r.DeviceDigest = protocol.Digest(facts)
	if r.DeviceDigest != sent.facts {
		facts.Latency = a.latency.export()
		r.Device, sent.facts = &facts, r.DeviceDigest
	}
	r.FindingsDigest = findingsDigest(a.findings)
	if r.FindingsDigest != sent.findings || now.Sub(sent.whole) > wholeEvery {
		list := append([]enforce.Finding{}, a.findings...)
		r.Findings = &list
		sent.findings, sent.whole = r.FindingsDigest, now
	}
	return r, sent
}

// findingsDigest leaves out when and on which reading: only a change in what is said is news.
func findingsDigest(list []enforce.Finding) string {
	short := make([]enforce.Finding, len(list))
	for i, f := range list {
		f.Evidence = nil
		short[i] = f
	}
	return protocol.Digest(short)
}

func (a *Agent) facts() protocol.Facts {
	f := protocol.Facts{Host: host(), Health: a.health()}
	a.mu.Lock()
	defer a.mu.Unlock()
	m := &a.machine
	f.USB, f.Controllers, f.Capable = m.USB.V, m.Controllers.V, m.Capable
	if m.Inputs.OK {
		f.Inputs = &m.Inputs.V
	}
	f.Unread = map[string]string{}
	if !m.USB.OK {
		f.Unread["usb"] = m.USB.Why
	}
	if !m.Controllers.OK {
		f.Unread["controllers"] = m.Controllers.Why
	}
	if a.state.Hold != nil {
		f.Hold = a.state.Hold.Who + ": " + a.state.Hold.Reason
	}
	return f
}
