package agent

import (
	"context"
	"errors"
	"time"
)

// mailbox is the loop's inbox. Each message asks for something to be done soon. looks asks for a look at the machine,
// rests for a later one. Both never block, because guards send them.
type mailbox struct {
	wake         chan func()
	looks, rests chan struct{}
	drifts       chan bool // another program changed something; true: a resource that we know
	ctx          context.Context
}

// clocks are the loop's timers.
type clocks struct {
	look   *time.Timer // the next look at the machine
	due    time.Time   // of that look, if it collects a burst
	asked  time.Time   // when the burst began
	hold   *time.Timer // the end of a hold
	idle   *time.Timer // when memory is given back
	enroll *time.Timer // the next try of a dropped enrollment
	home   *time.Timer // the next try to move the state files back to the disk
	away   time.Duration
	tries  int // of that try
	blind  time.Duration
	// blinded is when that was set; unrestored is the state file that could not be recreated.
	blinded    time.Time
	unrestored string

	drift  time.Time // when the look for another program's change is due; zero if none is
	looked time.Time // when the last look began
	vain   int       // looks in a row that other programs' writes asked for and that found no change
}

// lookIn sets the next look. More messages of a burst put it off, up to a limit.
func (c *clocks) lookIn(d time.Duration, now time.Time) {
	if c.asked.IsZero() {
		c.asked = now
	}
	d = min(d, max(c.asked.Add(burstMost).Sub(now), 0))
	if !c.drift.IsZero() {
		d = min(d, max(c.drift.Sub(now), 0))
	}
	c.due = now.Add(d)
	c.look.Reset(d)
}

// A change by another program is looked at at once, and then at most this often. If the writes keep changing nothing,
// the looks become rarer.
const (
	driftGap  = 250 * time.Millisecond
	vainGaps  = 4 // doublings
	forgiving = time.Minute
)

// backstop is the greatest age of the last look. What it found is unknown afterwards.
const backstop = 5 * time.Minute

// evidenceGood is how long a reading counts as evidence. It is longer than backstop because the regular look may be
// late.
const evidenceGood = backstop + time.Minute

// driftIn is the wait before the look that another program's change asks for. A change of a known resource never waits
// because of others: otherwise a program that first writes in vain would be alone for seconds afterwards.
func (c *clocks) driftIn(known bool, now time.Time) time.Duration {
	since := now.Sub(c.looked)
	if since > forgiving {
		c.vain = 0
	}
	gap := driftGap
	if !known {
		gap <<= min(c.vain, vainGaps)
	}
	return max(gap-since, 0)
}

// driftLook sets that look. It never moves a look that is already due, so that writes of no importance cannot delay a
// repair.
func (c *clocks) driftLook(d time.Duration, now time.Time) {
	at := now.Add(d)
	if !c.drift.IsZero() && !at.Before(c.drift) || !c.due.IsZero() && !at.Before(c.due) {
		return
	}
	c.drift = at
	c.look.Reset(d)
}

func stopped() *time.Timer { t := time.NewTimer(time.Hour); t.Stop(); return t }

var errStopping = errors.New("the agent is stopping")

// do runs f in the loop, soon.
func (m *mailbox) do(f func()) {
	select {
	case m.wake <- f:
	case <-m.ctx.Done():
	}
}

// try is do for callers that must not wait: if the loop is busy, f is not run.
func (m *mailbox) try(f func()) {
	select {
	case m.wake <- f:
	default:
	}
}

// settleDelay collects a burst of plugs into one look.
const settleDelay = 300 * time.Millisecond

// burstMost is how long a burst may put a look off.
const burstMost = 2 * time.Second

// restDelay is the wait after something was unplugged. Nothing has to be done about that at once, and the next plug is
// answered by a guard that has the machine for itself.
const restDelay = time.Second

// soon schedules a look after a short while.
func (m *mailbox) soon() { m.asked(true) }

// drifted schedules a look at once: another program changed something, known or not.
func (m *mailbox) drifted(known bool) {
	for {
		select {
		case m.drifts <- known:
			return
		default:
		}
		if !known {
			return // one is already waiting
		}
		select { // which may be of a resource that is not known
		case <-m.drifts:
		default:
		}
	}
}

// asked schedules a look soon, or once the machine has come to rest.
func (m *mailbox) asked(soon bool) {
	to := m.looks
	if !soon {
		to = m.rests
	}
	select {
	case to <- struct{}{}:
	default:
	}
}

// call runs f in the loop and waits for it.
func (m *mailbox) call(ctx context.Context, f func()) error {
	done := make(chan struct{})
	select {
	case m.wake <- func() { f(); close(done) }:
	case <-m.ctx.Done():
		return errStopping
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-done:
		return nil
	case <-m.ctx.Done():
		return errStopping
	case <-ctx.Done():
		return ctx.Err()
	}
}
