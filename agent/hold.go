package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/warderd/warder/agent/identity"
	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/platform/paths"
)

// maxReason bounds the text that a person writes.
const maxReason = 500

// hold suspends the policy. It is stored and reported, and ends by itself when its time is up.
func (a *Agent) hold(who, reason string, length time.Duration) error {
	if a.custody.state.Device == nil {
		return ErrNotEnrolled
	}
	h, err := newHold(who, reason, length, a.o.Now())
	if err != nil {
		return err
	}
	st := a.custody.state
	st.Hold = h
	noted := a.unnoteEarly()
	if err := a.custody.save(st); err != nil {
		return err
	}
	a.armHold()
	a.look()
	a.journal.record(enforce.Event{At: a.o.Now().UTC(), Setting: "agent", Mode: enforce.Enforce, Kind: "held", Subject: who,
		Reason: reason})
	if left := a.machine.last().notGivenBack(); left != nil {
		return errors.Join(fmt.Errorf("the policy is suspended, but not everything could be given back: %w", left), noted)
	}
	if noted != nil {
		return fmt.Errorf("the policy is suspended, but %w", noted)
	}
	return nil
}

// newHold validates a request. A length of 0 means until it is lifted.
func newHold(who, reason string, length time.Duration, now time.Time) (*identity.Hold, error) {
	if reason == "" || len(reason) > maxReason {
		return nil, fmt.Errorf("a hold needs a reason of 1 to %d bytes", maxReason)
	}
	if length < 0 || length > 30*24*time.Hour {
		return nil, fmt.Errorf("a hold lasts at most 30 days (received %s)", length)
	}
	h := &identity.Hold{Who: who, Reason: reason, Since: now.UTC()}
	if length > 0 {
		h.Until = now.Add(length).UTC()
	}
	return h, nil
}

var errNoHold = errors.New("no hold is in force")

// lift ends a hold. If that cannot be stored, the hold stays.
func (a *Agent) lift(why string) error {
	if a.custody.state.Hold == nil {
		return errNoHold
	}
	st := a.custody.state
	who := st.Hold.Who
	st.Hold = nil
	if err := a.custody.save(st); err != nil {
		return fmt.Errorf("the hold stays in force: %w", err)
	}
	a.clocks.hold.Stop()
	a.look()
	a.journal.record(enforce.Event{At: a.o.Now().UTC(), Setting: "agent", Mode: enforce.Enforce, Kind: "hold_ended", Subject: who,
		Reason: why})
	return nil
}

// armHold sets the timer for a hold that ends. The length is computed once and runs on the monotonic clock, so that a
// jump of the clock does not end the hold early.
func (a *Agent) armHold() {
	a.clocks.hold.Stop()
	h := a.custody.state.Hold
	if h == nil || h.Until.IsZero() {
		return
	}
	// Never more than the length it was given, whatever the clock says now.
	left := min(h.Until.Sub(a.o.Now()), h.Until.Sub(h.Since))
	a.clocks.hold.Reset(max(left, time.Millisecond))
}

// KeepFile, in the runtime directory, asks the next stop to leave the policy in force: an upgrade must not leave the
// machine unprotected between the old program and the new one.
const KeepFile = "keep"

// KeepAsked reports whether the file is there.
func KeepAsked(p paths.Paths) bool {
	_, err := os.Stat(filepath.Join(p.Run, KeepFile))
	return err == nil
}
