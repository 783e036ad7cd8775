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

// take processes an assignment: it is examined, adopted, applied, and then proved by the next check-in. If any step
// fails, the policy in force stays and the failure is reported with its reason. The version history is written last,
// because it waits for the disk and nothing depends on it.
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

// received stores the new version beside the one it follows.
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

// granted records new exceptions in the journal. It reports whether the list changed.
func (a *Agent) granted(had, now []identity.Exception) bool {
	if sameExceptions(now, had) {
		return false
	}
	a.exceptions.arm(now)
	for _, x := range now {
		if !slices.ContainsFunc(had, func(h identity.Exception) bool { return h.ID == x.ID }) {
			a.journal.record(exceptionEvent(x, x.Since, "exception",
				fmt.Sprintf("%s: %s, until %s", x.ID, x.Reason, x.Until.Format(time.RFC3339))))
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

// stored records what became of a version.
func (a *Agent) stored(serial int64, state, reason string) {
	if err := a.store.MarkPolicy(serial, state, reason); err != nil {
		a.health.set(storeBad, err.Error())
	}
}

// remembered corrects the history at start-up, when the agent was killed before writing it or the history was lost.
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
			continue // reported where the history is needed
		}
		// The serial of the policy itself: after a recovery-key rotation the identity counts serials anew.
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

// revertPolicy goes back to the last confirmed policy after the one in force was refuted. It applies the previous
// policy's plan, and the refuted serial is not tried again.
func (a *Agent) revertPolicy(why string) {
	serial, err := a.custody.refuted()
	if err != nil {
		a.health.set(policyRefused, err.Error())
		return
	}
	a.o.Log.Warn("policy reverted", "serial", serial, "why", why)
	a.stored(serial, "reverted", why)
	a.health.set(policyRefused, fmt.Sprintf("serial %d was reverted: %s", serial, why))
	// Reported as a refusal, so that the server neither sends this serial again nor believes that it is in force.
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

// release gives everything back and forgets the server, when the server's signed message says so.
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

// forget applies an empty plan and then erases the identity. The order matters: a crash between the two leaves an
// enrolled device with nothing in force, which its policy repairs at the next start. The other order would leave a
// machine locked by nobody.
func (a *Agent) forget(why string) error {
	word := a.lastWord() // signed with the key that is about to be erased
	_, doc, issued := a.custody.view()
	a.custody.put(nil, nil)
	a.look()
	err := a.machine.last().notGivenBack()
	if err == nil {
		_ = a.unnoteEarly() // shown as a warning, and repaired at the next start
		err = a.custody.erase()
	}
	if err != nil {
		// Still enrolled, so the policy still applies.
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

// ErrNotEnrolled is returned by requests that need a policy server on a machine that has none.
var ErrNotEnrolled = errors.New("this machine is not enrolled")

// stale reports whether the policy has expired, by the server's clock. An expired policy stays in force; it is only
// shown as stale.
func (a *Agent) stale() bool {
	_, _, issued := a.custody.view()
	return issued != nil && a.o.Now().Add(a.contact.shown().Offset).After(issued.ExpiresAt)
}
