package agent

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/warderd/warder/agent/config"
	"github.com/warderd/warder/agent/identity"
	"github.com/warderd/warder/agent/ledger"
	"github.com/warderd/warder/agent/store"
	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/sync/checkin"
	"github.com/warderd/warder/sync/protocol"
)

// Agent is one running daemon: its parts, each in the file of its name, and the loop that drives them.
type Agent struct {
	o       Options
	started time.Time
	run     string // a random name of this run

	ledger *ledger.Ledger
	store  *store.Store

	custody    *custody
	shelf      *shelf
	portal     portal
	machine    *machine
	contact    *contact
	exceptions *exceptions
	journal    *journal
	helpers    *helpers
	health     *health
	latency    latencies

	mailbox
	clocks     clocks
	early      earlyNote
	endpoints  *endpoints
	strays     strays
	pace       pace
	host       protocol.Host  // as they were at the last look
	background sync.WaitGroup // goroutines that the loop has started and does not wait for

	mu      sync.Mutex
	config  config.Config
	lastWay struct { // the connection to the server, when it was last tested
		at          time.Time
		server, why string
	}
}

// New opens an agent's files. It succeeds whatever state they are in.
func New(o Options) (*Agent, error) {
	o.defaults()
	a := &Agent{o: o, started: o.Now(), run: rand.Text()[:8],
		mailbox: mailbox{wake: make(chan func(), 64), looks: make(chan struct{}, 1), rests: make(chan struct{}, 1),
			drifts: make(chan bool, 1), ctx: context.Background()},
		clocks: clocks{look: stopped(), hold: stopped(), idle: stopped(), enroll: stopped(), home: stopped()}}
	a.portal.timer = stopped()
	a.health = newHealth(o.Now)
	a.latency.init()
	a.shelf = newShelf(o.Paths.Lists(), o.Sections)
	if o.Tuned {
		a.shelf.holds = a.pace.holds
	}
	a.custody = &custody{ids: identity.New(o.Paths.State, o.Paths.Run), health: a.health, now: o.Now, shelf: a.shelf}
	a.exceptions = &exceptions{now: o.Now, timer: stopped()}
	a.contact = &contact{now: o.Now, cadence: checkin.NewCadence(o.Random), timer: stopped()}
	var err error
	// If the state directory cannot be made, the runtime directory is used instead: the agent still has to start.
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
	a.helpers = newHelpers(o.Now, o.Logins, func() { a.try(a.warn) })
	if a.machine, err = newMachine(&a.o, a.ledger, a.helpers, nil); err != nil {
		return nil, errors.Join(err, a.Close())
	}
	a.endpoints = newEndpoints(filepath.Join(o.Paths.State, "endpoints.json"), o.Random, o.Now,
		func(f func(context.Context)) { a.background.Go(func() { f(a.ctx) }) }, func() { a.asked(true) })
	a.endpoints.ask = func(ctx context.Context, host string) ([]netip.Addr, error) {
		return lookUpPast(ctx, host, a.uplinks())
	}
	a.machine.way = a.network
	a.shelf.supported = a.machine.supports
	a.journal = &journal{boot: o.Boot, now: o.Now, store: a.store, sections: o.Sections, health: a.health, latency: &a.latency,
		seat: o.Seat, notices: newNotices(&a.o, a.helpers.tell), untold: map[enforce.Setting]time.Time{},
		remember: a.machine.loop.Remember, look: a.soon, report: a.reportSoon, wake: make(chan struct{}, 1),
		follow: map[chan enforce.Event]struct{}{}}
	a.health.pull(ledgerBad, func() string { return unwell(a.ledger.Health()) })
	a.health.pull(storeBad, func() string { return unwell(a.store.Health()) })
	a.health.pull(sessionMute, func() string {
		if !slices.ContainsFunc(a.machine.last().findings, func(f enforce.Finding) bool { return f.Mode == enforce.Warn }) {
			return ""
		}
		return a.helpers.untold()
	})
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
func (a *Agent) Close() error {
	a.custody.ids.Wait()
	return errors.Join(a.store.Close(), a.ledger.Close())
}
