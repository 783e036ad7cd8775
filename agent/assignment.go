package agent

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/warderd/warder/agent/identity"
	"github.com/warderd/warder/agent/store"
	"github.com/warderd/warder/enforce/policy"
)

// take is what happens to an assignment: examined → adopted → applied → proved by the next check-in. A failure
// anywhere leaves the policy in force as it was, and is reported with its reason. The history of versions comes
// after the machine: it waits for the disk, and nothing depends on it.
func (a *Agent) take(jws string) {
	x, no := a.custody.examine(jws)
	if no != nil {
		a.refuse(no)
		return
	}
	a.health.set(policyRefused, "")
	if x == nil {
		return
	}
	before, had := a.custody.doc, a.custody.state.Exceptions
	next := granted(&a.custody.state, x.as, a.o.Now())
	err := a.custody.adopt(x, next)
	defer a.received(x, before)
	if err != nil {
		a.refuse(&refusal{"", err})
		return
	}
	a.contact.sent.refused, a.contact.sent.reason = "", ""
	excepted := a.granted(had, next)
	if x.renewal && !excepted {
		a.contact.again = a.contact.again || x.renamed
		return
	}
	a.keep()
	if at := a.contact.nudged; !at.IsZero() {
		a.latency.record(nudgeToVerified, a.o.Now().Sub(at))
		a.contact.nudged = time.Time{}
	}
	a.host = describe()
	a.flatten("running")
	a.o.Log.Info("policy in force", "policy", x.doc.ID, "version", x.doc.Version, "serial", x.as.Serial)
	// The next check-in reports what was read back, and proves that the server can still be reached.
	a.contact.again = true
}

// received keeps the version that came, beside the one that it follows.
func (a *Agent) received(x *candidate, before *policy.Document) {
	v := store.Policy{Serial: x.as.Serial, Digest: x.doc.Digest, Received: a.o.Now().UTC(), State: "pending",
		Changes: policy.Diff(before, x.doc), Document: x.as.Policy}
	if x.renewal {
		v.State = "active"
	}
	if err := a.store.PutPolicy(v); err != nil {
		a.health.set(storeBad, err.Error())
	}
}

// granted says what exceptions came, and reports whether they differ from those that were there.
func (a *Agent) granted(had, now []identity.Exception) bool {
	if sameExceptions(now, had) {
		return false
	}
	a.exceptions.arm(now)
	for _, x := range now {
		if !slices.ContainsFunc(had, func(h identity.Exception) bool { return h.ID == x.ID }) {
			a.journal.record(exceptionEvent(x, x.Since, "exception", fmt.Sprintf("%s: %s, until %s", x.ID, x.Reason, x.Until.Format(time.RFC3339))))
		}
	}
	return true
}

// refuse reports why an assignment was not taken.
func (a *Agent) refuse(no *refusal) {
	a.o.Log.Warn("policy refused", "error", no)
	a.health.set(policyRefused, "the last good policy stays in force: "+no.Error())
	a.contact.sent.refused, a.contact.sent.reason = no.digest, no.Error()
	a.contact.again = a.contact.again || no.digest != ""
}

// stored keeps what became of a version.
func (a *Agent) stored(serial int64, state, reason string) {
	if err := a.store.MarkPolicy(serial, state, reason); err != nil {
		a.health.set(storeBad, err.Error())
	}
}

// remembered makes the history say what is in force and what became of it: the agent was killed before it did, or
// the history was lost.
func (a *Agent) remembered() {
	st := a.custody.state
	if st.Refuted > 0 {
		a.stored(st.Refuted, "reverted", "")
	}
	for _, as := range []*identity.Assignment{st.Confirmed, st.Policy} {
		if as == nil {
			continue
		}
		issued, doc, err := a.custody.read(as)
		if err != nil {
			continue // said where it is needed
		}
		// The serial that it came with: after the recovery key's word, the identity counts anew.
		v := store.Policy{Serial: issued.Serial, Digest: doc.Digest, Received: as.Received, State: "pending", Document: issued.Policy}
		if as.Confirmed {
			v.State = "active"
		}
		there, room, err := a.store.HasPolicy(v.Serial)
		switch {
		case err == nil && there && as.Confirmed:
			a.stored(v.Serial, v.State, "")
		case err == nil && !there && room:
			err = a.store.PutPolicy(v)
		}
		if err != nil {
			a.health.set(storeBad, err.Error())
		}
	}
}

// revertPolicy goes back to the last confirmed policy after the one in force was refuted: it is the
// plan of the previous policy, and that serial is not tried again.
func (a *Agent) revertPolicy(why string) {
	serial, err := a.custody.refuted()
	if err != nil {
		a.health.set(policyRefused, err.Error())
		return
	}
	a.o.Log.Warn("policy reverted", "serial", serial, "why", why)
	a.stored(serial, "reverted", why)
	a.health.set(policyRefused, fmt.Sprintf("serial %d was reverted: %s", serial, why))
	// Said as a refusal, so that the server neither sends it again nor takes it for held.
	a.contact.sent.refused, a.contact.sent.reason = a.custody.state.RefutedDigest, why
	a.look()
}

// rotate follows a change of the policy keys.
func (a *Agent) rotate(jws string) {
	recovered, err := a.custody.rotate(jws, a.contact.serverNow())
	if err != nil {
		a.health.set(keysRefused, err.Error())
		return
	}
	a.health.set(keysRefused, "")
	if recovered {
		a.o.Log.Warn("the recovery key has replaced the policy keys")
		a.contact.again = true
	}
}

// release gives everything back and forgets the server, on the server's signed word.
func (a *Agent) release(jws string) bool {
	if err := a.custody.released(jws); err != nil {
		a.health.set(releaseRefused, "the server's release is not taken: "+err.Error())
		return false
	}
	a.o.Log.Info("released by the server")
	if err := a.forget(""); err != nil {
		a.health.set(releaseRefused, err.Error())
		return false
	}
	return true
}

// forget plans to nothing, then erases who we were. In this order: a crash between the two leaves
// an enrolled device with an open machine, which its policy closes again, and never the reverse.
func (a *Agent) forget(why string) error {
	word := a.lastWord() // with the key that is about to go
	_, doc, issued := a.custody.view()
	a.custody.put(nil, nil)
	a.look()
	err := a.machine.last().notGivenBack()
	if err == nil {
		_ = a.unnoteEarly() // said by the health, and mended at the next start
		err = a.custody.erase()
	}
	if err != nil {
		// Still enrolled, so still governed.
		a.custody.put(doc, issued)
		a.clocks.look.Reset(settleDelay)
		return fmt.Errorf("the machine is not released: %w", err)
	}
	a.contact.forget()
	a.health.clear()
	a.connect()
	a.flatten("running")
	a.background.Go(func() { a.say(word, why) })
	return nil
}

// ErrNotEnrolled is the error of what needs a policy server, on a machine that has none.
var ErrNotEnrolled = errors.New("this machine is not enrolled")

// stale: past its expiry the last policy stays in force, and is called stale. It expires by the
// server's clock.
func (a *Agent) stale() bool {
	_, _, issued := a.custody.view()
	return issued != nil && a.o.Now().Add(a.contact.shown().Offset).After(issued.ExpiresAt)
}
