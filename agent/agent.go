// Package agent is the daemon: it wires decisions, back ends and the wire together and owns the one
// loop in which policies are taken, applied, proved and reported. Policies come from a Source; the
// machine is changed through agent/reconcile alone, by the capabilities of this system; what a person on
// the machine may ask is answered through agent/localapi.
package agent

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/warderd/warder/agent/config"
	"github.com/warderd/warder/agent/identity"
	"github.com/warderd/warder/agent/ledger"
	"github.com/warderd/warder/agent/localapi"
	"github.com/warderd/warder/agent/store"
	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/platform/link"
	"github.com/warderd/warder/platform/resume"
	"github.com/warderd/warder/platform/tick"
	"github.com/warderd/warder/sync/checkin"
)

// Agent is one running daemon: its parts, each in the file of its name, and the loop that drives them.
type Agent struct {
	o       Options
	started time.Time
	run     string // names this run, at random

	ledger *ledger.Ledger
	store  *store.Store

	custody    *custody
	machine    *machine
	contact    *contact
	exceptions *exceptions
	journal    *journal
	health     *health
	latency    latencies

	mailbox
	clocks     clocks
	background sync.WaitGroup // what the loop has begun and does not wait for

	mu      sync.Mutex
	config  config.Config
	lastWay struct { // to the server, when it was last looked at
		at          time.Time
		server, why string
	}
}

// mailbox is the loop's inbox: each is a request to do something soon. looks asks for a look at the
// machine, rests for one later, and neither is waited for: a guard asks while it must not wait.
type mailbox struct {
	wake         chan func()
	looks, rests chan struct{}
	ctx          context.Context
}

// clocks are the loop's timers.
type clocks struct {
	look    *time.Timer // the next look at the machine
	due     time.Time   // of it, where it gathers a burst
	asked   time.Time   // when the burst began
	hold    *time.Timer // the end of a hold
	idle    *time.Timer // when memory is given back
	enrol   *time.Timer // the next try of a dropped enrolment
	tries   int         // of it
	blind   time.Duration
	relaxed bool // memory was given back, and the collector stopped
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

// New opens an agent's files. It comes up whatever state they are in.
func New(o Options) (*Agent, error) {
	o.defaults()
	a := &Agent{o: o, started: o.Now(), run: rand.Text()[:8],
		mailbox: mailbox{wake: make(chan func(), 64), looks: make(chan struct{}, 1), rests: make(chan struct{}, 1), ctx: context.Background()},
		clocks:  clocks{look: stopped(), hold: stopped(), idle: stopped(), enrol: stopped()}}
	a.health = newHealth(o.Now)
	a.latency.init()
	a.custody = &custody{ids: identity.New(o.Paths.State, o.Paths.Run), health: a.health, now: o.Now}
	a.exceptions = &exceptions{now: o.Now, timer: stopped()}
	a.contact = &contact{now: o.Now, cadence: checkin.NewCadence(o.Random), timer: stopped()}
	var err error
	// A state directory that cannot be made is no reason not to come up: the runtime directory carries.
	_ = os.MkdirAll(o.Paths.State, 0o700)
	if err = os.MkdirAll(o.Paths.Run, 0o755); err != nil {
		return nil, fmt.Errorf("cannot make the runtime directory: %w", err)
	}
	if a.ledger, err = ledger.Open(filepath.Join(o.Paths.State, "ledger.db"), o.Paths.Run, o.Boot); err != nil {
		return nil, err
	}
	if a.store, err = store.Open(filepath.Join(o.Paths.State, "store.db"), o.Paths.Run); err != nil {
		return nil, errors.Join(err, a.ledger.Close())
	}
	if a.machine, err = newMachine(&a.o, a.ledger); err != nil {
		return nil, errors.Join(err, a.Close())
	}
	a.journal = &journal{boot: o.Boot, now: o.Now, store: a.store, sections: o.Sections, health: a.health, latency: &a.latency, seat: o.Seat, tell: o.Tell,
		remember: a.machine.loop.Remember, look: a.soon, report: a.reportSoon, wake: make(chan struct{}, 1), told: map[string]time.Time{}, follow: map[chan enforce.Event]struct{}{}}
	a.health.pull(ledgerBad, func() string { return unwell(a.ledger.Health()) })
	a.health.pull(storeBad, func() string { return unwell(a.store.Health()) })
	a.health.pull(identityStandby, a.custody.ids.Health)
	a.load()
	return a, nil
}

// load reads configuration, identity and policy as an earlier run left them.
func (a *Agent) load() {
	c, err := config.LoadKept(a.o.Paths.ConfigFile(), a.o.Paths.Kept)
	if err != nil {
		a.health.set(configRefused, "the last good configuration stays in force: "+err.Error())
	}
	if _, err := checkin.CheckURL(c.Server); err != nil {
		c.Server = ""
	}
	a.config = c
	a.custody.load(a.o.Boot)
}

// Close closes the files.
func (a *Agent) Close() error { return errors.Join(a.store.Close(), a.ledger.Close()) }

// Run is the daemon. It returns when the context ends, with the machine given back unless keep was
// asked for (an upgrade).
func (a *Agent) Run(ctx context.Context) error {
	unlock, err := a.lock()
	if err != nil {
		return err
	}
	defer unlock()
	listener, err := localapi.Listen(a.o.Paths.Socket())
	if err != nil {
		return err
	}
	a.custody.ids.Sweep()
	a.machine.start(a.journal.put, a.asked)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	a.ctx = ctx
	_ = os.Remove(filepath.Join(a.o.Paths.Run, KeepFile)) // an upgrade that was cut off must not count for ever

	p := &parts{ctx: ctx, a: a, failed: make(chan error, 1)}
	p.start("journal", false, a.journal.run)
	p.start("guard", true, a.machine.guard)
	a.connect()
	a.armHold()
	a.exceptions.arm(a.custody.state.Exceptions)
	a.look()
	p.start("watch", false, func(ctx context.Context) error { return a.machine.watch(ctx, a.soon) })
	p.start("local API", true, func(ctx context.Context) error { return localapi.Serve(ctx, listener, a.routes(), a.o.Log) })
	p.start("resume", false, func(ctx context.Context) error { return resume.Watch(ctx, func() { a.do(a.resumed) }) })
	p.start("link", false, func(ctx context.Context) error { return link.Watch(ctx, func() { a.do(a.linked) }) })
	p.start("config", false, a.watchConfig)
	a.firstCheckIn()
	if a.o.Ready != nil {
		a.o.Ready()
	}
	p.start("tick", false, func(ctx context.Context) error { return tick.Every(ctx, a.o.Watch, func() { a.do(a.ticked) }) })
	err = a.serve(ctx, p.failed)
	cancel()
	a.machine.stop()
	p.running.Wait()
	a.background.Wait()
	a.contact.sockets.Wait()
	a.contact.close()
	a.journal.drain() // what was decided at the very end
	_ = os.Remove(a.o.Paths.Socket())
	if err == nil {
		a.leave()
	}
	a.flatten("stopped")
	return err
}

// serve is the loop. It ends with the context, or with a part that the agent cannot do without.
func (a *Agent) serve(ctx context.Context, failed <-chan error) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-failed:
			return err
		case f := <-a.wake:
			f()
		case <-a.looks:
			a.clocks.lookIn(settleDelay, a.o.Now())
		case <-a.rests:
			if a.clocks.due.IsZero() {
				a.clocks.lookIn(restDelay, a.o.Now())
			}
		case <-a.contact.timer.C:
			a.checkInDue()
		case <-a.clocks.look.C:
			a.look()
		case <-a.clocks.hold.C:
			a.lift("its time is up")
		case <-a.exceptions.timer.C:
			a.endExceptions()
		case <-a.clocks.enrol.C:
			a.background.Go(func() { a.dropped(ctx) })
		case <-a.clocks.idle.C:
			a.relax()
		}
	}
}

// parts are what runs beside the loop.
type parts struct {
	ctx     context.Context
	a       *Agent
	running sync.WaitGroup
	failed  chan error
}

// start runs a part; the agent ends with a vital one.
func (p *parts) start(name string, vital bool, f func(context.Context) error) {
	p.running.Go(func() {
		err := f(p.ctx)
		if err == nil || p.ctx.Err() != nil {
			return
		}
		p.a.o.Log.Error("stopped", "part", name, "error", err)
		p.a.health.of(partStopped, name, name+": "+err.Error())
		if vital {
			select {
			case p.failed <- err:
			default:
			}
		}
	})
}

// ticked tells the service manager that the loop lives, and looks after the socket.
func (a *Agent) ticked() {
	if a.o.Alive != nil {
		a.o.Alive()
	}
	if a.contact.socket != nil {
		a.contact.socket.Check()
	}
	// A tick was reached: whatever ends were counted before, this start is healthy.
	_ = os.Remove(filepath.Join(a.o.Paths.Run, "ends"))
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
