package agent

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/warderd/warder/agent/identity"
	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/sync/protocol"
)

// custody keeps who this device is and its signed policy: the flat files, and what they say. Only the loop changes it;
// the lock is for readers outside the loop.
type custody struct {
	ids    *identity.Store
	health *health
	now    func() time.Time
	shelf  *shelf // the long lists of documents

	mu     sync.Mutex
	state  identity.State
	doc    *policy.Document     // the policy in force, or suspended by a hold
	issued *protocol.Assignment // that the policy came with
	// standin says that the document in force is the confirmed policy and not the newest one. After a boot the
	// confirmed policy is applied first, and it also replaces a newest one that cannot be used.
	standin bool
	waiting bool // the newest policy is on trial, and will be applied again
}

// load reads identity and policy as an earlier run left them. boot identifies the current boot.
func (c *custody) load(boot string) {
	st, err := c.ids.Load()
	if err != nil {
		c.health.set(identityDamaged, err.Error())
	}
	c.state = st
	if st.Device == nil {
		return
	}
	order := []*identity.Assignment{st.Policy, st.Confirmed}
	if t := st.Trial; t != nil && t.Network && t.Boot != boot && st.Confirmed != nil && st.Policy != nil && !st.Policy.Confirmed {
		order, c.waiting = []*identity.Assignment{st.Confirmed, st.Policy}, true
	}
	for i, as := range order {
		if as == nil {
			continue
		}
		issued, doc, err := c.read(as)
		if err == nil {
			c.issued, c.doc = issued, c.shelf.attach(doc)
			c.waiting = c.waiting && i == 0
			c.standin = st.Policy != nil && as != st.Policy && as.JWS != st.Policy.JWS
			return
		}
		c.health.set(policyRefused, "the stored policy cannot be used: "+err.Error())
	}
}

// read decodes a stored policy after verifying it against the keys that were pinned when it arrived: a later rotation
// does not invalidate it.
func (c *custody) read(stored *identity.Assignment) (*protocol.Assignment, *policy.Document, error) {
	keys, err := protocol.ParseKeys(stored.Keys)
	if err != nil {
		return nil, nil, err
	}
	as, err := protocol.VerifyAssignment(stored.JWS, keys, c.state.Device.DeviceID, 0)
	if err != nil {
		return nil, nil, err
	}
	doc, err := policy.Decode(as.Policy, policy.Options{})
	return as, doc, err
}

// save makes a state durable, and then current.
func (c *custody) save(st identity.State) error {
	if err := c.ids.Save(st); err != nil {
		c.health.of(identityStandby, "save", err.Error())
		return err
	}
	c.health.of(identityStandby, "save", "")
	c.mu.Lock()
	c.state = st
	c.mu.Unlock()
	return nil
}

// mend rewrites both copies of the identity if one is older, because the agent was killed between writing the two.
func (c *custody) mend() {
	if c.ids.Uneven() {
		_ = c.save(c.state)
	}
}

// view is a copy for readers outside the loop.
func (c *custody) view() (identity.State, *policy.Document, *protocol.Assignment) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state, c.doc, c.issued
}

// device is this device's identity; nil when it is not enrolled.
func (c *custody) device() *identity.Device {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state.Device
}

// put makes a document the one in force.
func (c *custody) put(doc *policy.Document, issued *protocol.Assignment) {
	doc = c.shelf.attach(doc)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.doc, c.issued = doc, issued
}

// refill gives the document in force its long lists again: others are here now.
func (c *custody) refill() { c.put(c.doc, c.issued) }

// refutedFor is how long a policy that cut the machine off is not tried again. The server side may be repaired
// meanwhile.
const refutedFor = 24 * time.Hour

// candidate is an assignment that is authentic, new and usable.
type candidate struct {
	jws string
	as  *protocol.Assignment
	doc *policy.Document
	// renewal: only the serial or the name is new, so there is nothing to plan.
	renewal bool
	// renamed: the id or version is new; the server shows which version each device has.
	renamed bool
}

// refusal is why an assignment is not taken. digest is set when the policy's own content cannot be used, so that the
// server need not send the same content again.
type refusal struct {
	digest string
	why    error
}

func (r *refusal) Error() string { return r.why.Error() }
func (r *refusal) Unwrap() error { return r.why }

// examine checks an assignment. It returns a candidate, nil if there is nothing new, or a refusal.
func (c *custody) examine(jws string) (*candidate, *refusal) {
	keys, err := protocol.ParseKeys(c.state.Device.PolicyKeys)
	if err != nil {
		return nil, &refusal{"", err}
	}
	as, err := protocol.VerifyAssignment(jws, keys, c.state.Device.DeviceID, c.state.Highest)
	if err != nil {
		return nil, &refusal{"", err}
	}
	if p := c.state.Policy; p != nil && as.Serial > 0 && as.Serial == p.Serial && c.doc != nil && !c.standin {
		// Replayed or sent twice: it is in force already, and its exceptions keep their first start.
		return nil, nil
	}
	if as.Serial == c.state.Refuted {
		return nil, &refusal{"", fmt.Errorf("serial %d cut this machine off from its server before; it is not tried again", as.Serial)}
	}
	doc, err := policy.Decode(as.Policy, policy.Options{})
	if err != nil {
		return nil, &refusal{policy.DigestOf(as.Policy), fmt.Errorf("the policy cannot be used: %w", err)}
	}
	if c.state.RefutedDigest != "" && doc.Digest == c.state.RefutedDigest && c.now().Sub(c.state.RefutedAt) < refutedFor {
		return nil,
			&refusal{doc.Digest, fmt.Errorf("this policy cut this machine off from its server before (serial %d); it is not tried again",
				c.state.Refuted)}
	}
	return &candidate{jws: jws, as: as, doc: doc, renewal: c.doc != nil && c.doc.Digest == doc.Digest,
		renamed: c.doc == nil || c.doc.ID != doc.ID || c.doc.Version != doc.Version}, nil
}

// adopt makes a candidate durable, and then the policy in force. A new policy is on trial until a check-in has passed
// under it.
func (c *custody) adopt(x *candidate, exceptions []identity.Exception) error {
	assigned := &identity.Assignment{JWS: x.jws, Keys: c.state.Device.PolicyKeys, Serial: x.as.Serial, Received: c.now().UTC()}
	st := c.state
	st.Highest, st.Exceptions = x.as.Serial, exceptions
	switch {
	case !x.renewal:
		st.Trial = nil // of the previous policy
	case st.Policy != nil:
		assigned.Confirmed = st.Policy.Confirmed
		if t := st.Trial; t != nil {
			again := *t
			again.Serial = x.as.Serial
			st.Trial = &again
		}
	}
	st.Policy = assigned
	if assigned.Confirmed {
		st.Confirmed = assigned
	}
	if err := c.save(st); err != nil {
		return err
	}
	c.waiting, c.standin = false, false
	c.put(x.doc, x.as)
	return nil
}

// risk records durably, before it happens, that the policy in force changes something which can cut this machine off
// from its server. If it cannot be stored, it is kept for this run only. A policy that was confirmed before that was in force
// goes on trial with it, if closes says that it adds something: giving back cuts nobody off.
func (c *custody) risk(boot string, closes bool) error {
	p := c.state.Policy
	if p == nil || p.Confirmed && (p.Network || !closes || c.withoutNetwork()) || c.standin || c.state.Hold != nil {
		return nil
	}
	if t := c.state.Trial; t != nil && t.Serial == p.Serial && t.Network && t.Boot == boot {
		return nil
	}
	st := c.state
	st.Trial = &identity.Trial{Serial: p.Serial, Network: true, Boot: boot}
	if p.Confirmed {
		again := *p
		again.Confirmed = false
		st.Policy, st.Confirmed = &again, p
	}
	err := c.save(st)
	c.mu.Lock()
	c.state.Trial, c.state.Policy, c.state.Confirmed = st.Trial, st.Policy, st.Confirmed
	c.mu.Unlock()
	return err
}

// withoutNetwork reports whether the policy in force is not to change the network: that was refuted, or, after a boot, it is
// on trial and the first check-in has not passed yet.
func (c *custody) withoutNetwork() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	p, good := c.state.Policy, c.state.Confirmed
	return p != nil && p.Serial == c.state.Refuted || c.waiting && p != nil && good != nil && good.Serial == p.Serial
}

// onTrial reports whether the policy in force is not yet confirmed, and whether it may be refuted.
func (c *custody) onTrial() (trial, network bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.state.Policy
	if p == nil || p.Confirmed || c.standin || c.state.Hold != nil {
		return false, false
	}
	return true, c.state.Trial != nil && c.state.Trial.Serial == p.Serial && c.state.Trial.Network
}

// resume applies a policy on trial again, after the confirmed one was applied first. It reports false if none is
// waiting.
func (c *custody) resume() bool {
	if !c.waiting {
		return false
	}
	c.waiting = false
	issued, doc, err := c.read(c.state.Policy)
	if err != nil {
		c.health.set(policyRefused, "the stored policy cannot be used: "+err.Error())
		return false
	}
	c.standin = false
	c.put(doc, issued)
	return true
}

// confirm marks the policy in force as confirmed by a check-in that passed under it. It reports false if it already
// was.
func (c *custody) confirm() (serial int64, changed bool) {
	p := c.state.Policy
	if p == nil || p.Confirmed || c.standin {
		return 0, false
	}
	st := c.state
	proved := *p
	proved.Confirmed = true
	proved.Network = c.state.Trial != nil && c.state.Trial.Serial == p.Serial && c.state.Trial.Network
	st.Policy, st.Confirmed, st.Trial = &proved, &proved, nil
	return proved.Serial, c.save(st) == nil
}

// refuted goes back to the last confirmed policy. The refuted serial is not tried again, and the same content not for a
// day. It returns the refuted serial.
func (c *custody) refuted() (serial int64, err error) {
	bad, st := c.state.Policy, c.state
	st.Refuted, st.Policy, st.RefutedDigest, st.RefutedAt, st.Trial = bad.Serial, st.Confirmed, "", c.now().UTC(), nil
	if c.doc != nil {
		st.RefutedDigest = c.doc.Digest
	}
	var doc *policy.Document
	var issued *protocol.Assignment
	if st.Confirmed != nil {
		if issued, doc, err = c.read(st.Confirmed); err != nil {
			return 0, fmt.Errorf("cannot go back to the confirmed policy: %w", err)
		}
	}
	if err := c.save(st); err != nil {
		return 0, err
	}
	c.put(doc, issued)
	return bad.Serial, nil
}

// rotate follows a rotation of the policy keys, signed by a pinned key or by the recovery key. After a recovery,
// serials begin anew, because whoever had the old key could have signed any serial.
func (c *custody) rotate(jws string, now time.Time) (recovered bool, err error) {
	d := *c.state.Device
	trust := protocol.Trust{PolicyKeys: d.PolicyKeys, Recovery: d.RecoveryKey, Enrolled: d.EnrolledAt, KeysAt: d.KeysAt, Count: d.Recovered,
		CountAt: d.RecoveredAt}
	next, recovered, err := trust.Follow(jws, now)
	if err != nil {
		return false, fmt.Errorf("the rotation of policy keys is not followed: %w", err)
	}
	if string(next.PolicyKeys) == string(d.PolicyKeys) && next.Count == d.Recovered && next.CountAt.Equal(d.RecoveredAt) {
		return false, nil
	}
	st := c.state
	d.PolicyKeys, d.KeysAt, d.Recovered, d.RecoveredAt = next.PolicyKeys, next.KeysAt, next.Count, next.CountAt
	st.Device = &d
	if recovered {
		st.Highest, st.Refuted, st.RefutedDigest = 0, 0, ""
		if st.Policy != nil {
			// The current policy stays in force until the next one arrives, which may have any serial.
			p := *st.Policy
			p.Serial = 0
			st.Policy = &p
			if st.Trial != nil {
				t := *st.Trial
				t.Serial = 0
				st.Trial = &t
			}
		}
	}
	if c.save(st) != nil {
		return false, errors.New("the rotation of policy keys cannot be stored")
	}
	return recovered, nil
}

// released verifies the server's signed message that this device is released.
func (c *custody) released(jws string) error {
	keys, err := protocol.ParseKeys(c.state.Device.PolicyKeys)
	if err == nil {
		_, err = protocol.VerifyRelease(jws, keys, c.state.Device.DeviceID)
	}
	return err
}

// erase erases the identity.
func (c *custody) erase() error {
	if err := c.ids.Erase(); err != nil {
		return err
	}
	_ = c.shelf.library.Clear() // what is left is removed at the next start
	c.mu.Lock()
	defer c.mu.Unlock()
	c.state, c.doc, c.issued, c.waiting, c.standin = identity.State{}, nil, nil, false, false
	return nil
}

// pinned names the policy keys that this device trusts.
func (c *custody) pinned() string {
	d := c.device()
	if d == nil {
		return ""
	}
	keys, err := protocol.ParseKeys(d.PolicyKeys)
	if err != nil {
		return ""
	}
	return protocol.KeysDigest(keys)
}

// reported is what is reported of the policy in force.
func (c *custody) reported() protocol.PolicyState {
	c.mu.Lock()
	defer c.mu.Unlock()
	// The highest serial seen, not the serial of the policy in force: the next one that the server issues must be
	// higher.
	h := protocol.PolicyState{Serial: min(c.state.Highest, protocol.MaxSerial), State: "none"}
	if c.doc == nil || c.state.Policy == nil {
		return h
	}
	h.ID, h.Version, h.Digest, h.State = c.doc.ID, c.doc.Version, c.doc.Digest, "active"
	h.Exceptions = protocol.ExceptionsDigest(served(c.state.Exceptions))
	switch {
	case c.state.Hold != nil:
		h.State = "held"
	case !c.state.Policy.Confirmed:
		h.State = "unconfirmed"
	}
	return h
}
