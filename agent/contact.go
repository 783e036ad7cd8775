package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/warderd/warder/agent/config"
	"github.com/warderd/warder/agent/identity"
	"github.com/warderd/warder/enforce/secret"
	"github.com/warderd/warder/sync/checkin"
	"github.com/warderd/warder/sync/protocol"
	"github.com/warderd/warder/sync/push"
)

// contact is the state of the agent's connection to its server: the client, the next check-in, and what the server is
// known to have. Only the loop changes it; the lock is for readers outside the loop.
type contact struct {
	now     func() time.Time
	client  *checkin.Client // nil when a test supplies the source
	source  Source          // nil while there is no server
	cadence *checkin.Cadence
	timer   *time.Timer // the next check-in

	busy    bool      // an exchange is under way
	begun   time.Time // when the last exchange began
	ended   time.Time // when the last exchange ended
	again   bool      // another exchange is wanted after this one
	rounds  int       // exchanges in a row without a pause
	shrinks int       // of those, the ones that only made a report smaller
	wanted  time.Time // while busy: the latest time for the next exchange
	paced   bool      // the next exchange waits only for the pause between two
	notYet  time.Time // the server asked not to be called before this time

	nudgedFor int64     // the change that the server sent a nudge for, until a report that names it was answered
	nudged    time.Time // the nudge whose policy is not yet verified
	bundling  bool      // a diagnostics bundle is being sent
	sent      sent
	batch     batch
	rest      bool // the server has accepted a batch, and more is waiting
	described described

	socket   *push.Socket
	renewed  bool // it was dropped because the network was changed
	stopPush context.CancelFunc
	sockets  sync.WaitGroup // the push socket, and earlier ones that are still ending

	mu   sync.Mutex
	seen seen
}

// seen is what status shows of the contact.
type seen struct {
	LastTry, LastOK, Next time.Time
	Error                 string
	Pushed                bool
	Offset                time.Duration // the server's clock minus this machine's
}

// sent is what the server is known to have, and the refusal of a policy that it has still to be told.
type sent struct {
	facts, findings string
	whole           time.Time // when all findings were last sent
	refused, reason string
}

// show changes what status shows.
func (c *contact) show(f func(*seen)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f(&c.seen)
}

// shown is what status shows of the contact.
func (c *contact) shown() seen {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.seen
}

// close ends the current connection.
func (c *contact) close() {
	if c.stopPush != nil {
		c.stopPush()
	}
	if c.client != nil {
		c.client.Close()
	}
	c.stopPush, c.source, c.client, c.socket = nil, nil, nil, nil
}

// forget clears everything when the device is no longer enrolled.
func (c *contact) forget() {
	c.timer.Stop()
	c.sent = sent{}
	c.show(func(s *seen) { *s = seen{} })
}

// serverNow is the server's time, as far as it is known.
func (c *contact) serverNow() time.Time {
	if c.client == nil {
		return c.now()
	}
	return c.now().Add(c.client.Offset())
}

// next sets the time of the next check-in.
func (c *contact) next(d time.Duration) {
	c.paced = false
	c.timer.Reset(d)
	at := c.now().Add(d).UTC()
	c.show(func(s *seen) { s.Next = at })
}

// soon brings the next check-in forward. It never puts it off.
func (c *contact) soon(d time.Duration) {
	if c.source == nil {
		return
	}
	at := c.now().Add(d)
	if c.busy {
		if c.wanted.IsZero() || at.Before(c.wanted) {
			c.wanted = at
		}
		return
	}
	if at.Before(c.notYet) {
		d, at = c.notYet.Sub(c.now()), c.notYet
	}
	if next := c.shown().Next; next.IsZero() || at.Before(next) {
		c.next(d)
	}
}

// begin reports whether an exchange may begin now, and marks it as begun. If it may not, begin sets the time of the
// next one.
func (c *contact) begin() bool {
	now := c.now()
	switch left := checkin.Pause - now.Sub(c.begun); {
	case c.source == nil:
		return false
	case c.busy:
		c.again = true
		return false
	case c.notYet.After(now):
		c.next(c.notYet.Sub(now)) // the server asked for a pause
		return false
	case !c.begun.IsZero() && left > 0 && left <= checkin.Pause:
		c.next(left)
		c.paced = true
		return false
	}
	c.busy, c.again, c.wanted, c.paced, c.begun = true, false, time.Time{}, false, now
	c.timer.Stop()
	c.show(func(s *seen) { s.LastTry, s.Next = now.UTC(), time.Time{} })
	return true
}

// failed handles a failed exchange and sets the time of the next one.
func (c *contact) failed(err error) {
	c.show(func(s *seen) { s.Error = secret.Scrub(err.Error()) })
	wait := c.cadence.Failed(err)
	if c.cadence.Told(err) {
		c.notYet = c.now().Add(wait)
	}
	c.rounds, c.shrinks = 0, 0
	c.next(wait)
}

// succeeded records what the server has now.
func (c *contact) succeeded(r *protocol.Report, what sent, a *protocol.Answer) {
	c.notYet, c.shrinks = time.Time{}, 0
	if r.Sequence == c.nudgedFor {
		c.nudgedFor = 0
	}
	c.show(func(s *seen) {
		s.LastOK, s.Error = c.now().UTC(), ""
		if c.client != nil {
			s.Offset = c.client.Offset()
		}
	})
	c.sent.facts, c.sent.findings, c.sent.whole = what.facts, what.findings, what.whole
	if r.Policy.Refused == c.sent.refused && r.Policy.Reason == c.sent.reason && a.Assignment == "" {
		c.sent.reason = "" // reported once; the digest stays, so that the server does not send the policy again
	}
	if a.Interval > 0 {
		c.cadence.Interval = checkin.Bounded(a.Interval)
	}
}

// maxRounds bounds the exchanges in a row: for example a policy and then its report. A server that always asks for one
// more has to wait.
const maxRounds = 4

// maxShrinks bounds how often one check-in is made smaller: from 768 KiB down to 32, and then three parts left out.
const maxShrinks = 12

// While the server accepts a backlog, it is sent at one report a second for maxRest, and afterwards one every restWait.
const (
	maxRest  = 60
	restWait = 5 * time.Second
	// againWait is the wait before one more exchange when maxRounds is used up.
	againWait = time.Minute
)

// another reports whether the next exchange follows at once. If not, it sets its time.
func (c *contact) another() bool {
	if c.again && (c.rounds < maxRounds || c.rest && c.rounds < maxRest) {
		c.rounds++
		return true
	}
	wait := c.cadence.Done()
	if c.rest {
		wait = min(wait, restWait)
	} else if c.again {
		wait = min(wait, againWait)
	}
	if left := c.wanted.Sub(c.now()); !c.wanted.IsZero() && left < wait {
		wait = max(left, 0)
	}
	c.again, c.rounds, c.nudged = false, 0, time.Time{}
	c.next(wait)
	return false
}

// connect makes the source for the enrolled device, and its push socket.
func (a *Agent) connect() {
	c := a.contact
	c.close()
	d := a.custody.device()
	if d == nil {
		return
	}
	if err := a.connectTo(d); err != nil {
		a.health.set(serverSetup, err.Error())
		return
	}
	a.health.set(serverSetup, "")
}

// connectTo makes the client for an enrolled device and starts its push socket, unless a test supplies the source.
func (a *Agent) connectTo(d *identity.Device) error {
	c := a.contact
	if a.o.Source != nil {
		s, err := a.o.Source(d)
		c.source = s
		return err
	}
	key, err := deviceKey(d)
	if err != nil {
		return err
	}
	server := a.serverOf(d)
	client, err := checkin.NewClient(server, d.DeviceID, key, a.o.Now)
	if err != nil {
		return err
	}
	client.Trusted = func() json.RawMessage {
		if d := a.custody.device(); d != nil {
			return d.PolicyKeys
		}
		return nil
	}
	c.cadence.Interval = checkin.Bounded(d.Interval)
	c.source, c.client = client, client
	ctx, cancel := context.WithCancel(a.ctx)
	c.stopPush = cancel
	c.socket = &push.Socket{URL: client.Server.URL, Device: d.DeviceID, HTTP: client.HTTPClient(), Sign: client.Sign, Now: a.o.Now,
		Nudged: func(n protocol.Nudge) { at := a.o.Now(); a.do(func() { a.nudge(n, at) }) },
		Up:     func(up bool) { a.do(func() { a.pushed(up) }) }}
	s := c.socket
	c.sockets.Go(func() { s.Run(ctx) })
	return nil
}

// serverOf is the server's address: from the configuration, or else from the enrollment.
func (a *Agent) serverOf(d *identity.Device) checkin.Server {
	conf := a.settings()
	server := checkin.Server{URL: d.Server, CA: d.CA, Proxy: conf.Proxy, Dial: a.dial}
	if conf.Server != "" {
		server.URL = conf.Server
	}
	return server
}

// deviceKey decodes a device's private key.
func deviceKey(d *identity.Device) (*jose.JSONWebKey, error) {
	var k jose.JSONWebKey
	if err := k.UnmarshalJSON(d.Key); err != nil || !k.Valid() || k.IsPublic() {
		return nil, errors.New("the device key cannot be read: enroll this machine again")
	}
	return &k, nil
}

// settings is the current configuration.
func (a *Agent) settings() config.Config {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.config
}

// wrongClock describes the difference between this machine's clock and the server's, if it is large enough to matter.
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

// clockMatters is the clock difference from which a warning is shown: certificates and people are affected by it.
const clockMatters = 5 * time.Minute

// roughly rounds a difference so that it does not change from one check-in to the next.
func roughly(d time.Duration) string {
	switch {
	case d >= 48*time.Hour:
		return fmt.Sprintf("%d days", int(d.Round(24*time.Hour)/(24*time.Hour)))
	case d >= 2*time.Hour:
		return fmt.Sprintf("%d hours", int(d.Round(time.Hour)/time.Hour))
	}
	return fmt.Sprintf("%d minutes", int(d.Round(time.Minute)/time.Minute))
}
