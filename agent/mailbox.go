package agent

import (
	"context"
	"errors"
	"time"
)

// mailbox is the loop's inbox: each is a request to do something soon. looks asks for a look at the
// machine, rests for one later, and neither is waited for: a guard asks while it must not wait.
type mailbox struct {
	wake         chan func()
	looks, rests chan struct{}
	drifts       chan bool // another program changed something; true: what we know
	ctx          context.Context
}

// clocks are the loop's timers.
type clocks struct {
	look  *time.Timer // the next look at the machine
	due   time.Time   // of it, where it gathers a burst
	asked time.Time   // when the burst began
	hold  *time.Timer // the end of a hold
	idle  *time.Timer // when memory is given back
	enrol *time.Timer // the next try of a dropped enrolment
	home  *time.Timer // the next try to keep the state files on the disk again
	away  time.Duration
	tries int // of it
	blind time.Duration
	// blinded is when that was set, unrestored the state file that could not be made again.
	blinded    time.Time
	unrestored string

	drift  time.Time // when the look is due that another program's change asked for; zero without one
	looked time.Time // when the last look began
	vain   int       // looks in a row that another program's writes asked for and that found nothing changed
}

// lookIn sets the next look; more of a burst puts it off, and a burst without end does not.
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

// What another program changed is looked at at once, and then at most this often. One that writes again and
// again what changes nothing makes the looks rarer.
const (
	driftGap  = 250 * time.Millisecond
	vainGaps  = 4 // doublings
	forgiving = time.Minute
)

// backstop is how old the last look at the machine may be: what was found then is unknown after it.
const backstop = 5 * time.Minute

// evidenceGood is how long what was read says how the machine stands: the look that comes round may be late.
const evidenceGood = backstop + time.Minute

// driftIn is how long to wait before the look that a change of another program asks for. One of a resource that we
// know is never put off for others: else who writes in vain first would be alone for seconds after.
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

// driftLook sets that look. It is never later than one that is due already, so that writes which matter to nobody
// cannot delay the repair of one that does.
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

// try is do for those who must not wait: where the loop is busy, f is not run.
func (m *mailbox) try(f func()) {
	select {
	case m.wake <- f:
	default:
	}
}

// settleDelay gathers a burst of plugs into one look at the machine.
const settleDelay = 300 * time.Millisecond

// burstMost is how long a burst may put a look off.
const burstMost = 2 * time.Second

// restDelay is how long the machine is left alone after something went away: nothing has to be done about
// that at once, and what comes next is answered by a guard that shares the machine with nobody.
const restDelay = time.Second

// soon looks at the whole machine again after a short while.
func (m *mailbox) soon() { m.asked(true) }

// drifted looks at it at once: another program changed something, known or not.
func (m *mailbox) drifted(known bool) {
	for {
		select {
		case m.drifts <- known:
			return
		default:
		}
		if !known {
			return // one is waiting
		}
		select { // which may be of something that is not known
		case <-m.drifts:
		default:
		}
	}
}

// asked looks at it soon, or when it has come to rest.
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
