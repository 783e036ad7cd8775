package checkin

import (
	"errors"
	"hash/fnv"
	"math/rand/v2"
	"net/http"
	"time"
)

// The timing of check-ins.
const (
	DefaultInterval = 300 * time.Second
	PushedInterval  = 3600 * time.Second // while the push socket is up
	firstDelay      = 5 * time.Second
	maxDelay        = 15 * time.Minute
	refusedDelay    = time.Hour        // after 401 and 403
	SpreadEvent     = 10 * time.Second // network-up, resume: at once, spread over this
	// Pause is the least time between the starts of two check-ins. The first change is reported at once. Whatever
	// causes many check-ins, even a server that nudges without end, gets one per second.
	Pause = time.Second

	minInterval = 10 * time.Second
	maxInterval = 24 * time.Hour
)

// Bounded limits an interval from a server, in seconds, to what a device accepts. If it is not positive, it returns the
// default.
func Bounded(seconds int) time.Duration {
	if seconds <= 0 {
		return DefaultInterval
	}
	return min(max(time.Duration(min(seconds, int(maxInterval/time.Second)))*time.Second, minInterval), maxInterval)
}

// Cadence says when to check in next. Its intervals run on the monotonic clock, so a jump of the wall clock neither
// delays nor triggers a check-in.
type Cadence struct {
	Interval time.Duration // as the server last said
	Pushed   bool          // the push socket is up
	failures int
	rand     func() float64
}

// NewCadence starts a cadence; random returns numbers in [0,1).
func NewCadence(random func() float64) *Cadence {
	if random == nil {
		random = rand.Float64
	}
	return &Cadence{Interval: DefaultInterval, rand: random}
}

// First is the delay of a device's first check-in after a start. It is derived from a hash of its id, so that it is
// predictable and a fleet that boots at once is spread.
func First(device string, within time.Duration) time.Duration {
	h := fnv.New64a()
	_, _ = h.Write([]byte(device))
	return time.Duration(h.Sum64() % uint64(max(within, 1)))
}

// Done is the delay after a successful check-in.
func (c *Cadence) Done() time.Duration {
	c.failures = 0
	if c.Pushed {
		return max(PushedInterval, c.Interval)
	}
	return c.Interval
}

// Failed is the delay after a failed one. The jitter is added after the cap, so that a fleet that lost its server does
// not come back all at once.
func (c *Cadence) Failed(err error) time.Duration {
	var s *StatusError
	if errors.As(err, &s) {
		switch {
		case s.RetryAfter > 0:
			return s.RetryAfter + c.jitter(s.RetryAfter/10+time.Second)
		case s.Code == http.StatusUnauthorized || s.Code == http.StatusForbidden:
			return refusedDelay + c.jitter(refusedDelay/10)
		case s.Final():
			// This request will never succeed; the next one may, at its time.
			return c.Done() + c.jitter(firstDelay)
		}
	}
	d := maxDelay
	if c.failures < 16 {
		d = min(firstDelay<<c.failures, maxDelay)
	}
	c.failures++
	return d + c.jitter(d)
}

// Told reports whether the server itself said when to come again. Until then nothing brings a check-in forward.
func (c *Cadence) Told(err error) bool {
	var s *StatusError
	return errors.As(err, &s) && (s.RetryAfter > 0 || s.Code == http.StatusUnauthorized || s.Code == http.StatusForbidden)
}

// Soon is the delay after network-up or a resume from sleep.
func (c *Cadence) Soon() time.Duration {
	c.failures = 0
	return c.jitter(SpreadEvent)
}

// Poll is the delay of the next check-in after the socket is lost: spread over an interval, so that a fleet does not
// come all at its end.
func (c *Cadence) Poll() time.Duration { return c.Interval/2 + c.jitter(c.Interval/2) }

// Failures counts the failures in a row.
func (c *Cadence) Failures() int { return c.failures }

func (c *Cadence) jitter(d time.Duration) time.Duration { return time.Duration(c.rand() * float64(d)) }
