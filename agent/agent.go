// Package agent is the daemon: it wires decisions, back ends and the wire together and owns the one
// loop in which policies are taken, applied, proved and reported. Policies come from a Source; the
// machine is changed through agent/reconcile alone; what a person on the machine may ask is
// answered through agent/localapi.
package agent

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/warderd/warder/agent/config"
	"github.com/warderd/warder/agent/identity"
	"github.com/warderd/warder/agent/ledger"
	"github.com/warderd/warder/agent/localapi"
	"github.com/warderd/warder/agent/reconcile"
	"github.com/warderd/warder/agent/store"
	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/enforce/secret"
	"github.com/warderd/warder/enforce/section"
	enforceusb "github.com/warderd/warder/enforce/usb"
	"github.com/warderd/warder/platform"
	"github.com/warderd/warder/platform/input"
	"github.com/warderd/warder/platform/link"
	"github.com/warderd/warder/platform/notify"
	"github.com/warderd/warder/platform/paths"
	"github.com/warderd/warder/platform/resume"
	"github.com/warderd/warder/platform/seat"
	"github.com/warderd/warder/platform/tick"
	"github.com/warderd/warder/platform/usb"
	"github.com/warderd/warder/platform/volume"
	"github.com/warderd/warder/sync/checkin"
	"github.com/warderd/warder/sync/protocol"
	"github.com/warderd/warder/sync/push"
)

// Source hands the agent its assignment and takes its report. The check-in client is one.
type Source interface {
	Exchange(context.Context, protocol.Report) (protocol.Answer, error)
}

// Options of an agent. The zero value of each field is the real machine.
type Options struct {
	Paths   paths.Paths
	Version string
	Log     *slog.Logger
	Level   *slog.LevelVar
	SysRoot string // of sysfs
	Inputs  string // the kernel's list of input devices
	Boot    string // the boot id
	Machine string // hash of the machine's own id
	Now     func() time.Time
	Random  func() float64
	Seat    func() []uint32 // the users at the machine now
	// Tell tells those of the users who have a session, and says whom it reached.
	Tell    func(message string, users []uint32) []string
	Release volume.Releaser // starts the program that empties a disk
	// Source replaces the check-in client of an enrolled device.
	Source func(*identity.Device) (Source, error)
	// Ready is called once the policy is in force and the local API answers; Alive from the loop,
	// every Watch.
	Ready func()
	Alive func()
	Watch time.Duration
	// Tuned says that the process is the agent's own (Tune was called).
	Tuned bool
}

func (o *Options) defaults() {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.SysRoot == "" {
		o.SysRoot = "/sys"
	}
	if o.Inputs == "" {
		o.Inputs = "/proc/bus/input/devices"
	}
	if o.Boot == "" {
		o.Boot = bootID()
	}
	if o.Machine == "" {
		o.Machine = machineID()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Watch == 0 {
		o.Watch = 5 * time.Minute
	}
	if o.Seat == nil {
		o.Seat = seat.Active
	}
	if o.Tell == nil {
		o.Tell = notify.Tell
	}
}

// Agent is one running daemon.
type Agent struct {
	o       Options
	ids     *identity.Store
	ledger  *ledger.Ledger
	store   *store.Store
	loop    *reconcile.Loop
	ports   *usb.Ports
	guard   *usb.Guard
	gate    *gate
	journal *journal
	latency latencies
	started time.Time
	run     string // names this run, at random

	// The loop's inbox: each is a request to do something soon. look asks for a look at the machine
	// and is never waited for: the guard asks while it must not wait.
	wake chan func()
	look chan struct{}

	mu       sync.Mutex // guards what follows, for the local API
	state    identity.State
	config   config.Config
	doc      *policy.Document
	issued   *protocol.Assignment
	machine  fact.Machine
	outcome  section.Outcome
	findings []enforce.Finding
	rules    *enforceusb.Rules // nil while there is no policy, or it is held
	result   reconcile.Result
	ident    string // what is wrong with the identity, in words
	problems map[string]string
	contact  contact
	follow   map[chan enforce.Event]struct{}
	// deadlines of exceptions, with their monotonic reading.
	deadlines map[string]time.Time

	// Used by the loop alone.
	source    Source
	client    *checkin.Client
	key       *jose.JSONWebKey
	cadence   *checkin.Cadence
	checkin   *time.Timer
	recon     *time.Timer
	holding   *time.Timer
	excepts   *time.Timer // the next exception that ends
	idle      *time.Timer
	tidied    bool
	socket    *push.Socket
	busy      bool                 // an exchange is under way
	begun     time.Time            // when the last one began
	ended     time.Time            // when the last one ended
	paced     bool                 // the next one only waits for the pause between two
	bundling  bool                 // a diagnostics bundle is being sent
	redeemed  map[string]time.Time // who tried a code last, and when
	rounds    int                  // exchanges in a row without a pause
	wanted    time.Time            // while busy: when the next one is wanted at the latest
	notYet    time.Time            // the server asked not to be called before
	retry     *time.Timer
	tries     int
	again     bool      // another is wanted after it
	risky     bool      // the last plan changed the way to the network
	nudgedFor int64     // the change that the server nudged for, until a check-in has named it
	nudged    time.Time // the nudge whose policy is not verified yet
	sent      sentDigests
	stopPush  context.CancelFunc
	sockets   sync.WaitGroup // the push socket, and those before it that are ending
	ctx       context.Context
}

// contact is how the agent stands with its server.
type contact struct {
	LastTry, LastOK time.Time
	Next            time.Time
	Error           string
	Pushed          bool
	Offset          time.Duration // the server's clock less this machine's
}

// New opens an agent's files. It comes up whatever state they are in.
func New(o Options) (*Agent, error) {
	o.defaults()
	a := &Agent{o: o, wake: make(chan func(), 64), look: make(chan struct{}, 1), problems: map[string]string{}, follow: map[chan enforce.Event]struct{}{}, started: o.Now(), run: rand.Text()[:8]}
	a.ids = identity.New(o.Paths.State, o.Paths.Run)
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
	a.gate = &gate{}
	a.ports = &usb.Ports{Root: o.SysRoot, DevRoot: "/dev", Gate: a.gate.pass, Release: releaser(o.Release.In(o.Paths.Run), o.Log), Carries: volume.Carries}
	a.loop = reconcile.New(a.ledger, o.Now, usb.Backend{Ports: a.ports})
	a.journal = newJournal(a)
	a.guard = &usb.Guard{Ports: a.ports, Hand: a.journal.put, Gone: func(string) { a.soon() }}
	a.guard.Watch()
	a.cadence = checkin.NewCadence(o.Random)
	a.latency.init()
	a.load()
	return a, nil
}

// load reads identity and policy as an earlier run left them.
func (a *Agent) load() {
	c, err := config.LoadKept(a.o.Paths.ConfigFile(), a.o.Paths.Kept)
	if err != nil {
		a.problems["config"] = "the last good configuration stays in force: " + err.Error()
	}
	if _, err := checkin.CheckURL(c.Server); err != nil {
		c.Server = ""
	}
	a.config = c
	st, err := a.ids.Load()
	if err != nil {
		a.ident = err.Error()
		a.o.Log.Error("identity", "error", err)
	}
	a.state = st
	if st.Device == nil {
		return
	}
	for _, as := range []*identity.Assignment{st.Policy, st.Confirmed} {
		if as == nil {
			continue
		}
		issued, doc, err := a.read(as)
		if err == nil {
			a.issued, a.doc = issued, doc
			return
		}
		a.problems["policy"] = "the stored policy cannot be used: " + err.Error()
	}
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
	volume.Resume(a.o.Paths.Run)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	a.ctx = ctx
	a.checkin, a.recon, a.holding, a.idle, a.retry, a.excepts = stopped(), stopped(), stopped(), stopped(), stopped(), stopped()
	_ = os.Remove(filepath.Join(a.o.Paths.Run, KeepFile)) // an upgrade that was cut off must not count for ever

	var running sync.WaitGroup
	failed := make(chan error, 1)
	spawn := func(name string, vital bool, f func(context.Context) error) {
		running.Go(func() {
			if err := f(ctx); err != nil && ctx.Err() == nil {
				a.o.Log.Error("stopped", "part", name, "error", err)
				a.note(name, err.Error())
				if vital {
					select {
					case failed <- err:
					default:
					}
				}
			}
		})
	}
	spawn("journal", false, a.journal.run)
	spawn("guard", true, a.guard.Run)
	a.connect()
	a.armHold()
	a.armExceptions()
	a.reconcile()
	spawn("local API", true, func(ctx context.Context) error { return localapi.Serve(ctx, listener, a.routes(), a.o.Log) })
	spawn("resume", false, func(ctx context.Context) error { return resume.Watch(ctx, func() { a.do(a.resumed) }) })
	spawn("link", false, func(ctx context.Context) error { return link.Watch(ctx, func() { a.do(a.linked) }) })
	spawn("config", false, a.watchConfig)
	if a.source != nil {
		a.checkin.Reset(checkin.First(a.state.Device.DeviceID, a.firstWithin()))
	}
	if a.o.Ready != nil {
		a.o.Ready()
	}
	spawn("tick", false, func(ctx context.Context) error { return tick.Every(ctx, a.o.Watch, func() { a.do(a.ticked) }) })
	err = nil
	for done := false; !done; {
		select {
		case <-ctx.Done():
			done = true
		case err = <-failed:
			done = true
		case f := <-a.wake:
			f()
		case <-a.look:
			a.recon.Reset(settleDelay)
		case <-a.checkin.C:
			// Each check-in at its time is also the look that finds drift.
			if !a.paced {
				a.reconcile()
			}
			a.paced = false
			a.exchange()
		case <-a.recon.C:
			a.reconcile()
		case <-a.holding.C:
			a.lift("its time is up")
		case <-a.excepts.C:
			a.endExceptions()
		case <-a.retry.C:
			go a.dropped(ctx)
		case <-a.idle.C:
			a.tidy()
		}
	}
	cancel()
	a.ports.Stop()
	running.Wait()
	a.sockets.Wait()
	a.journal.drain() // what was decided at the very end
	_ = os.Remove(a.o.Paths.Socket())
	if err == nil {
		a.leave()
	}
	a.flatten("stopped")
	return err
}

// ticked tells the service manager that the loop lives, and looks after the socket.
func (a *Agent) ticked() {
	if a.o.Alive != nil {
		a.o.Alive()
	}
	if a.socket != nil {
		a.socket.Check()
	}
	// A tick was reached: whatever ends were counted before, this start is healthy.
	_ = os.Remove(filepath.Join(a.o.Paths.Run, "ends"))
}

// firstWithin spreads the first check-in of a start. A device that has no policy yet asks at once.
func (a *Agent) firstWithin() time.Duration {
	if a.doc == nil {
		return time.Second
	}
	return checkin.SpreadEvent
}

func stopped() *time.Timer { t := time.NewTimer(time.Hour); t.Stop(); return t }

// do runs f in the loop, soon.
func (a *Agent) do(f func()) {
	select {
	case a.wake <- f:
	case <-a.ctx.Done():
	}
}

// settleDelay gathers a burst of plugs into one look at the machine.
const settleDelay = 300 * time.Millisecond

// soon looks at the whole machine again after a short while.
func (a *Agent) soon() {
	select {
	case a.look <- struct{}{}:
	default:
	}
}

// call runs f in the loop and waits for it.
func (a *Agent) call(ctx context.Context, f func()) error {
	done := make(chan struct{})
	a.do(func() { f(); close(done) })
	select {
	case <-done:
		return nil
	case <-a.ctx.Done():
		return errors.New("the agent is stopping")
	case <-ctx.Done():
		return ctx.Err()
	}
}

// note keeps a problem for the status, until it is cleared with "".
func (a *Agent) note(what, problem string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if problem == "" {
		delete(a.problems, what)
	} else {
		a.problems[what] = secret.Scrub(problem)
	}
}

// connect makes the source for the device as enrolled, and the push socket beside it.
func (a *Agent) connect() {
	if a.stopPush != nil {
		a.stopPush()
		a.stopPush = nil
	}
	a.source, a.client, a.socket = nil, nil, nil
	d := a.state.Device
	if d == nil {
		return
	}
	if a.o.Source != nil {
		s, err := a.o.Source(d)
		if err != nil {
			a.note("server", err.Error())
			return
		}
		a.source = s
		return
	}
	key, err := deviceKey(d)
	if err != nil {
		a.note("server", err.Error())
		return
	}
	server := checkin.Server{URL: d.Server, CA: d.CA, Proxy: a.config.Proxy}
	if a.config.Server != "" {
		server.URL = a.config.Server
	}
	c, err := checkin.NewClient(server, d.DeviceID, key, a.o.Now)
	if err != nil {
		a.note("server", err.Error())
		return
	}
	c.Trusted = a.trusted
	a.cadence.Interval = checkin.Bounded(d.Interval)
	a.source, a.client, a.key = c, c, key
	ctx, cancel := context.WithCancel(a.ctx)
	a.stopPush = cancel
	s := &push.Socket{URL: server.URL, Device: d.DeviceID, HTTP: c.HTTPClient(), Sign: c.Sign, Now: a.o.Now,
		Nudged: func(n protocol.Nudge) { at := a.o.Now(); a.do(func() { a.nudge(n, at) }) },
		Up:     func(up bool) { a.do(func() { a.pushed(up) }) }}
	a.socket = s
	a.sockets.Go(func() { s.Run(ctx) })
}

func deviceKey(d *identity.Device) (*jose.JSONWebKey, error) {
	var k jose.JSONWebKey
	if err := k.UnmarshalJSON(d.Key); err != nil || !k.Valid() || k.IsPublic() {
		return nil, errors.New("the device key cannot be read: enrol this machine anew")
	}
	return &k, nil
}

// trusted are the policy keys of now.
func (a *Agent) trusted() json.RawMessage {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.state.Device == nil {
		return nil
	}
	return a.state.Device.PolicyKeys
}

// observe takes a snapshot of the machine.
func (a *Agent) observe(ctx context.Context) fact.Machine {
	m := fact.Machine{Boot: a.o.Boot, Capable: platform.Capable()}
	for _, o := range []platform.Observer{a.ports, input.Observer{File: a.o.Inputs}} {
		if err := o.Observe(ctx, &m); err != nil {
			a.o.Log.Warn("cannot observe", "error", err)
		}
	}
	return m
}

// host describes this machine to the server.
func host() protocol.Host {
	name, _ := os.Hostname()
	return protocol.Host{Name: name, OS: runtime.GOOS, OSVersion: osVersion(), Arch: runtime.GOARCH, Serial: hardwareSerial()}
}
