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
	tries int         // of it
	blind time.Duration
}

// lookIn sets the next look; more of a burst puts it off, and a burst without end does not.
func (c *clocks) lookIn(d time.Duration, now time.Time) {
	if c.asked.IsZero() {
		c.asked = now
	}
	d = min(d, max(c.asked.Add(burstMost).Sub(now), 0))
	c.due = now.Add(d)
	c.look.Reset(d)
}

func stopped() *time.Timer { t := time.NewTimer(time.Hour); t.Stop(); return t }

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
	m.do(func() { f(); close(done) })
	select {
	case <-done:
		return nil
	case <-m.ctx.Done():
		return errors.New("the agent is stopping")
	case <-ctx.Done():
		return ctx.Err()
	}
}
