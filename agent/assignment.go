package agent

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/warderd/warder/agent/identity"
	"github.com/warderd/warder/agent/store"
	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/sync/protocol"
)

// read verifies a stored policy against the keys that were pinned when it came, and decodes it: a
// rotation since then does not take the policy away.
func (a *Agent) read(stored *identity.Assignment) (*protocol.Assignment, *policy.Document, error) {
	keys, err := protocol.ParseKeys(stored.Keys)
	if err != nil {
		return nil, nil, err
	}
	as, err := protocol.VerifyAssignment(stored.JWS, keys, a.state.Device.DeviceID, 0)
	if err != nil {
		return nil, nil, err
	}
	doc, err := policy.Decode(as.Policy, policy.Options{})
	return as, doc, err
}

// refutedFor is how long a policy that cut the machine off is not tried again: what it needs may be
// mended on the other side.
const refutedFor = 24 * time.Hour

// take is what happens to an assignment: verify → decode → store as pending → apply → confirm →
// active. A failure anywhere leaves the policy in force as it was, and is reported with its reason.
func (a *Agent) take(jws string) {
	keys, err := protocol.ParseKeys(a.state.Device.PolicyKeys)
	if err != nil {
		a.refuse("", err)
		return
	}
	as, err := protocol.VerifyAssignment(jws, keys, a.state.Device.DeviceID, a.state.Highest)
	if err != nil {
		a.refuse("", err)
		return
	}
	if p := a.state.Policy; p != nil && as.Serial > 0 && as.Serial == p.Serial && a.doc != nil {
		// Played again, or sent twice: it is in force, and what came with it keeps its first start.
		a.note("policy", "")
		return
	}
	if as.Serial == a.state.Refuted {
		a.refuse("", fmt.Errorf("serial %d cut this machine off from its server before; it is not tried again", as.Serial))
		return
	}
	doc, err := policy.Decode(as.Policy, policy.Options{})
	if err != nil {
		a.refuse(policy.DigestOf(as.Policy), fmt.Errorf("the policy cannot be used: %w", err))
		return
	}
	if a.state.RefutedDigest != "" && doc.Digest == a.state.RefutedDigest && a.o.Now().Sub(a.state.RefutedAt) < refutedFor {
		a.refuse(doc.Digest, fmt.Errorf("this policy cut this machine off from its server before (serial %d); it is not tried again", a.state.Refuted))
		return
	}
	a.note("policy", "")
	assigned := &identity.Assignment{JWS: jws, Keys: a.state.Device.PolicyKeys, Serial: as.Serial, Received: a.o.Now().UTC()}
	renewal := a.doc != nil && a.doc.Digest == doc.Digest
	st := a.state
	st.Highest = as.Serial
	st.Exceptions = a.granted(as)
	had := a.state.Exceptions
	excepted := !sameExceptions(st.Exceptions, had)
	if renewal {
		// The same policy under a new serial, or a new name: nothing to plan.
		assigned.Confirmed = a.state.Policy != nil && a.state.Policy.Confirmed
	}
	version := store.Policy{Serial: as.Serial, Digest: doc.Digest, Received: assigned.Received, State: "pending",
		Changes: policy.Diff(a.doc, doc), Document: as.Policy}
	if renewal {
		version.State = "active"
	}
	if err := a.store.PutPolicy(version); err != nil {
		a.note("store", err.Error())
	}
	st.Policy = assigned
	if assigned.Confirmed {
		st.Confirmed = assigned
	}
	if err := a.save(st); err != nil {
		a.refuse("", err)
		return
	}
	a.mu.Lock()
	renamed := a.doc == nil || a.doc.ID != doc.ID || a.doc.Version != doc.Version
	a.doc, a.issued = doc, as
	a.sent.refused, a.sent.reason = "", ""
	a.mu.Unlock()
	if excepted {
		a.armExceptions()
		for _, x := range st.Exceptions {
			if !slices.ContainsFunc(had, func(h identity.Exception) bool { return h.ID == x.ID }) {
				a.record(enforce.Event{At: x.Since, Setting: "usb.exception", Mode: enforce.Enforce, Kind: "exception", Subject: "usb " + x.USB,
					Reason: fmt.Sprintf("%s: %s, until %s", x.ID, enforce.Plain(x.Reason), x.Until.Format(time.RFC3339))})
			}
		}
	}
	if renewal && !excepted {
		a.again = a.again || renamed // the server shows which version each device holds
		return
	}
	a.o.Log.Info("policy received", "policy", doc.ID, "version", doc.Version, "serial", as.Serial)
	a.reconcile()
	if !a.nudged.IsZero() {
		a.latency.record(nudgeToVerified, a.o.Now().Sub(a.nudged))
		a.nudged = time.Time{}
	}
	// The next check-in reports what was read back, and proves that the server can still be reached.
	a.again = true
}

// save makes a state durable and then current.
func (a *Agent) save(st identity.State) error {
	if err := a.ids.Save(st); err != nil {
		a.note("identity", err.Error())
		return err
	}
	a.note("identity", "")
	a.mu.Lock()
	a.state = st
	a.mu.Unlock()
	return nil
}

// refuse reports why an assignment was not taken. digest names it where it is this policy's own
// content that cannot be used: the server need not send that again.
func (a *Agent) refuse(digest string, why error) {
	a.o.Log.Warn("policy refused", "error", why)
	a.note("policy", "the last good policy stays in force: "+why.Error())
	a.mu.Lock()
	a.sent.refused, a.sent.reason = digest, why.Error()
	a.mu.Unlock()
	a.again = a.again || digest != ""
}

// confirm marks the policy in force as proved by a check-in that passed under it.
func (a *Agent) confirm() {
	if a.state.Policy == nil || a.state.Policy.Confirmed {
		return
	}
	st := a.state
	p := *st.Policy
	p.Confirmed = true
	st.Policy, st.Confirmed = &p, &p
	if a.save(st) == nil {
		a.stored(p.Serial, "active", "")
	}
}

func (a *Agent) stored(serial int64, state, reason string) {
	list, err := a.store.Policies()
	if err != nil {
		a.note("store", err.Error())
		return
	}
	for _, p := range list {
		if p.Serial == serial && p.State != state {
			p.State, p.Reason = state, reason
			if err := a.store.PutPolicy(p); err != nil {
				a.note("store", err.Error())
			}
		}
	}
}

// revertPolicy goes back to the last confirmed policy after the one in force was refuted: it is the
// plan of the previous policy, and that serial is not tried again.
func (a *Agent) revertPolicy(why string) {
	bad := a.state.Policy
	st := a.state
	st.Refuted, st.Policy, st.RefutedDigest, st.RefutedAt = bad.Serial, st.Confirmed, "", a.o.Now().UTC()
	if a.doc != nil {
		st.RefutedDigest = a.doc.Digest
	}
	var doc *policy.Document
	var issued *protocol.Assignment
	if st.Confirmed != nil {
		var err error
		if issued, doc, err = a.read(st.Confirmed); err != nil {
			a.note("policy", "cannot go back to the confirmed policy: "+err.Error())
			return
		}
	}
	if a.save(st) != nil {
		return
	}
	a.stored(bad.Serial, "reverted", why)
	a.note("policy", fmt.Sprintf("serial %d was reverted: %s", bad.Serial, why))
	a.mu.Lock()
	a.doc, a.issued = doc, issued
	// Said as a refusal, so that the server neither sends it again nor takes it for held.
	a.sent.refused, a.sent.reason = st.RefutedDigest, why
	a.mu.Unlock()
	a.reconcile()
}

// release gives everything back and forgets the server, on the server's signed word.
func (a *Agent) release(jws string) bool {
	keys, err := protocol.ParseKeys(a.state.Device.PolicyKeys)
	if err == nil {
		_, err = protocol.VerifyRelease(jws, keys, a.state.Device.DeviceID)
	}
	if err != nil {
		a.note("release", "the server's release is not taken: "+err.Error())
		return false
	}
	a.o.Log.Info("released by the server")
	if err := a.forget(); err != nil {
		a.note("release", err.Error())
		return false
	}
	return true
}

// forget plans to nothing, then erases who we were. In this order: a crash between the two leaves
// an enrolled device with an open machine, which its policy closes again, and never the reverse.
func (a *Agent) forget() error {
	a.mu.Lock()
	doc, issued := a.doc, a.issued
	a.doc, a.issued = nil, nil
	a.mu.Unlock()
	a.reconcile()
	err := a.notGivenBack()
	if err == nil {
		err = a.ids.Erase()
	}
	if err != nil {
		// Still enrolled, so still governed.
		a.mu.Lock()
		a.doc, a.issued = doc, issued
		a.mu.Unlock()
		a.recon.Reset(settleDelay)
		return fmt.Errorf("the machine is not released: %w", err)
	}
	a.mu.Lock()
	a.state, a.contact, a.sent = identity.State{}, contact{}, sentDigests{}
	a.problems = map[string]string{}
	a.mu.Unlock()
	a.checkin.Stop()
	a.connect()
	a.flatten("running")
	return nil
}

// rotate follows a rotation of the policy keys that a pinned key, or the recovery key, signed. After
// the recovery key's word, serials begin anew: whoever had the key before it could sign any.
func (a *Agent) rotate(jws string) {
	d := *a.state.Device
	trust := protocol.Trust{PolicyKeys: d.PolicyKeys, Recovery: d.RecoveryKey, Enrolled: d.EnrolledAt, KeysAt: d.KeysAt, Count: d.Recovered, CountAt: d.RecoveredAt}
	next, recovered, err := trust.Follow(jws, a.serverNow())
	if err != nil {
		a.note("keys", "the rotation of policy keys is not followed: "+err.Error())
		return
	}
	a.note("keys", "")
	if string(next.PolicyKeys) == string(d.PolicyKeys) && next.Count == d.Recovered && next.CountAt.Equal(d.RecoveredAt) {
		return
	}
	st := a.state
	d.PolicyKeys, d.KeysAt, d.Recovered, d.RecoveredAt = next.PolicyKeys, next.KeysAt, next.Count, next.CountAt
	st.Device = &d
	if recovered {
		a.o.Log.Warn("the recovery key has replaced the policy keys", "recovery", next.Count)
		st.Highest, st.Refuted, st.RefutedDigest = 0, 0, ""
		if st.Policy != nil {
			// It stays in force until the next one comes, which may have any serial.
			p := *st.Policy
			p.Serial = 0
			st.Policy = &p
		}
		a.again = true
	}
	if a.save(st) != nil {
		a.note("keys", "the rotation of policy keys cannot be stored")
	}
}

// serverNow is the server's time, as far as it is known.
func (a *Agent) serverNow() time.Time {
	if a.client == nil {
		return a.o.Now()
	}
	return a.o.Now().Add(a.client.Offset())
}

// heldPolicy is what the report says of the policy. Called with the lock held.
func (a *Agent) heldPolicy() protocol.Held {
	// The highest serial seen, not that of the policy in force: the server's next must be above it.
	h := protocol.Held{Serial: min(a.state.Highest, protocol.MaxSerial), State: "none", Refused: a.sent.refused, Reason: a.sent.reason}
	if a.doc == nil || a.state.Policy == nil {
		return h
	}
	h.ID, h.Version, h.Digest, h.State = a.doc.ID, a.doc.Version, a.doc.Digest, "active"
	h.Exceptions = protocol.ExceptionsDigest(served(a.state.Exceptions))
	switch {
	case a.state.Hold != nil:
		h.State = "held"
	case !a.state.Policy.Confirmed:
		h.State = "unconfirmed"
	}
	return h
}

var errNotEnrolled = errors.New("this machine is not enrolled")

// stale: past its expiry the last policy stays in force, and is called stale. It expires by the
// server's clock. Called with the lock held.
func (a *Agent) stale() bool {
	return a.issued != nil && a.o.Now().Add(a.contact.Offset).After(a.issued.ExpiresAt)
}

// mergeSince keeps since when a finding has said what it says.
func mergeSince(now time.Time, list []enforce.Finding, before map[enforce.Setting]enforce.Finding) []enforce.Finding {
	for i, f := range list {
		list[i].Since = now.UTC()
		if b, ok := before[f.Setting]; ok && b.Alike(f) {
			list[i].Since = b.Since
		}
	}
	return list
}
