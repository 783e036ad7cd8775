package programs

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/platform"
	"github.com/warderd/warder/platform/bpf"
)

// Guard stops programs that run, and tells of those that could not start. What the kernel refuses, it refuses without it.
type Guard struct {
	*Control
	platform.Listener
	ruling atomic.Pointer[rules]

	mu      sync.Mutex
	seen    map[string]*met      // processes of apps, by number and start
	since   map[string]time.Time // when an app of a user's was asked to stop first: one that starts others does not gain time by it
	told    bpf.Hourly
	door    bpf.Hourly // those that the doorman refused
	doors   sync.Mutex
	waiting bool // one was asked to stop, and is waited for
	soon    chan struct{}
}

func newGuard(c *Control) *Guard { return &Guard{Control: c, soon: make(chan struct{}, 1)} }

// met is a process that was judged.
type met struct{ asked, ended bool }

const (
	patience = 10 * time.Second // from when an app was asked to stop until it is ended
	eachTime = time.Second      // while one was asked
	settles  = 3 * time.Second  // a program that was started just before the kernel refused it runs by then
	regular  = 10 * time.Minute // what was installed meanwhile; what runs by a way that nothing sees
	often    = time.Minute      // where nothing keeps them from starting
)

// Section names the section whose rules it uses.
func (g *Guard) Section() string { return g.setting.Section() }

// Load replaces the rules, and asks what runs against them to stop.
func (g *Guard) Load(r platform.Rules) error {
	if r == nil || g.off {
		g.ruling.Store(nil)
		return nil
	}
	s, ok := g.rules(r)
	if !ok {
		return platform.Unsupported{Feature: "the control of " + g.what, Need: "rules that judge them"}
	}
	if !s.about {
		g.ruling.Store(nil)
		return g.pass()
	}
	g.ruling.Store(&s)
	g.again()
	return g.pass()
}

// again has Run look once more in a while.
func (g *Guard) again() {
	select {
	case g.soon <- struct{}{}:
	default:
	}
}

// pass judges every process of an app once.
func (g *Guard) pass() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	before := g.waiting
	g.waiting = false
	r := g.ruling.Load()
	if r == nil {
		g.seen = nil
		return nil
	}
	list, unread := g.running()
	if g.seen == nil {
		g.seen, g.since = map[string]*met{}, map[string]time.Time{}
	}
	present, asked := map[string]bool{}, map[string]bool{}
	errs := []error{unread}
	for _, p := range list {
		at, who := fmt.Sprintf("%d@%s", p.pid, p.started), fmt.Sprintf("%s of %d", p.app.ID, p.uid)
		present[at] = true
		x := fact.Running{App: p.app.ID, Program: p.program, Processes: 1}
		v := r.judge.Judge(&x)
		m := g.seen[at]
		if m == nil {
			m = &met{}
			g.seen[at] = m
		}
		var what, note string
		var failed error
		switch {
		case v.Allow || !r.act:
			*m = met{}
			if !v.WouldDeny && v.Allow {
				continue
			}
			what = "would"
		case g.contended():
			continue // left alone, and reported as drift
		default:
			asked[who] = true
			if _, is := g.since[who]; !is {
				g.since[who] = time.Now()
			}
			late := time.Since(g.since[who]) >= patience
			switch {
			case m.ended, m.asked && !late:
				g.waiting = g.waiting || !m.ended // one that cannot even be ended is left to the regular look
				continue
			case late:
				failed = g.signal(p, unix.SIGKILL)
				m.ended = failed == nil
				what, note = "ended", fmt.Sprintf("it did not stop within %s (pid %d, user %d) and was ended", patience, p.pid, p.uid)
			default:
				failed = g.signal(p, unix.SIGTERM)
				m.asked = failed == nil
				what, note = "asked", fmt.Sprintf("it ran (pid %d, user %d) and was asked to stop", p.pid, p.uid)
			}
			g.waiting = g.waiting || failed == nil // otherwise the regular look tries again
			errs = append(errs, failed)
		}
		if !g.told.News(who, what) {
			continue
		}
		g.told.Told(who, what)
		out := g.decision(r, &x, v, fmt.Sprintf("%s %s %d", what, who, time.Now().Unix()/int64(bpf.TellAgain.Seconds())))
		if out.Err = failed; failed == nil {
			out.Note = note
		}
		g.Hand(out)
	}
	maps.DeleteFunc(g.seen, func(at string, _ *met) bool { return !present[at] && unread == nil })
	maps.DeleteFunc(g.since, func(who string, _ time.Time) bool { return !asked[who] && unread == nil })
	if before && !g.waiting {
		g.Look(false) // the finding is another one now
	}
	return errors.Join(errs...)
}

// contended reports whether another program contends for what we do.
func (g *Guard) contended() bool {
	return errors.Is(g.gate(enforce.Change{Key: g.key, Mode: enforce.Enforce}), enforce.ErrContended)
}

// signal sends a signal to a process, if it is still the one that was judged.
func (g *Guard) signal(p process, s unix.Signal) error {
	if err := g.gate(enforce.Change{Key: g.key, Mode: enforce.Enforce}); err != nil {
		return err
	}
	fd, err := unix.PidfdOpen(p.pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil // it has gone
	}
	if err != nil {
		return fmt.Errorf("process %d cannot be reached: %w", p.pid, err)
	}
	defer unix.Close(fd)
	now, ok, err := g.process(p.pid)
	if err != nil {
		return fmt.Errorf("process %d cannot be read: %w", p.pid, err)
	}
	if !ok || now.started != p.started || now.app != p.app {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, s, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("process %d cannot be told to stop: %w", p.pid, err)
	}
	return nil
}

// decision is one about an app.
func (g *Guard) decision(r *rules, x *fact.Running, v enforce.Verdict, about string) platform.Decision {
	return platform.Decision{Section: g.setting.Section(), Key: enforce.Key{Kind: g.about, ID: x.App + " " + about}, Subject: g.subject(x), Verdict: v, Fact: x,
		Reason: func() (string, string) { return r.judge.Reason(v, x) }, Done: enforce.Reading{State: enforce.Present, Value: "it runs", How: "the list of processes"}}
}

// subject is one for people.
func (g *group) subject(x *fact.Running) string {
	s := x.App
	if c, ok := g.apps.ByID(x.App); ok {
		s = c.Name
	}
	return s
}

// Run stops what runs, and tells of refusals, until ctx ends.
func (g *Guard) Run(ctx context.Context) error {
	if g.off {
		<-ctx.Done()
		return nil
	}
	poke := g.again
	g.poke.Store(&poke)
	var all sync.WaitGroup
	defer all.Wait()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	all.Go(func() { cancel(g.held.Await(ctx)) })
	all.Go(func() { g.tell(ctx) })
	next := time.NewTimer(settles)
	defer next.Stop()
	asked := false // this look is for those that were asked to stop, and for nothing else
	at, fresh := time.Now().Add(settles), time.Time{}
	wait := func(d time.Duration) { at = time.Now().Add(d); next.Reset(d) }
	for {
		select {
		case <-ctx.Done():
			if why := context.Cause(ctx); !errors.Is(why, context.Canceled) {
				return why
			}
			return nil
		case <-g.soon:
			asked = false
			if time.Until(at) > settles { // one who asks again and again does not put it off
				wait(settles)
			}
			continue
		case <-next.C:
		}
		// Where the doorman stands, one that was started may be a new version.
		if !asked || g.falls.Load() && time.Since(fresh) > patience {
			g.refresh()
			fresh = time.Now()
		}
		if err := g.pass(); err != nil {
			g.log.Warn(g.what+" could not be stopped", "error", err)
		}
		asked = g.waits()
		switch {
		case g.ruling.Load() == nil: // until there are rules, nothing wakes
			at = time.Now().Add(regular)
		case asked:
			wait(eachTime)
		case g.cannot.Load():
			wait(often)
		default:
			wait(regular)
		}
	}
}

// waits reports whether an app was asked to stop, and is waited for.
func (g *Guard) waits() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.waiting
}

// refresh tells the programs in the kernel which files here are apps' programs now.
func (g *Guard) refresh() {
	if r := g.ruling.Load(); r == nil || !r.act || g.gate(enforce.Change{Key: g.key, Mode: enforce.Enforce}) != nil {
		return
	}
	var ids []string
	if g.falls.Load() {
		if ids, on, _, _ := g.doorman.state(); on && len(ids) > 0 {
			has, err := g.find(ids)
			if err == nil {
				err = g.doorman.renew(ids, has)
			}
			if err != nil {
				g.log.Warn(g.what+" could not all be watched", "error", err)
			}
		}
		return
	}
	g.held.With(func(p *bpf.Pinned, err error) {
		if p != nil && err == nil { // otherwise the planner attaches them
			ids, _ = g.list(p)
		}
	})
	if len(ids) == 0 {
		return
	}
	has, err := g.find(ids) // nothing is locked meanwhile
	if err == nil {
		g.held.With(func(p *bpf.Pinned, why error) {
			if p == nil || why != nil {
				return
			}
			if now, why := g.list(p); why != nil || !slices.Equal(now, ids) {
				return // told meanwhile
			}
			if err = has.tell(p); err == nil {
				g.last.Store(&has)
			}
		})
	}
	if err != nil {
		g.log.Warn(g.what+" could not be told to the kernel", "error", err)
	}
}

// Work lists nothing: what goes on ends within seconds.
func (g *Guard) Work() []platform.Work { return nil }

// Stop lets whoever waits for the doorman go on.
func (g *Guard) Stop() { g.doorman.stop() }

// atTheDoor tells of an app that the doorman refused.
func (g *Guard) atTheDoor(r refusal) {
	g.doors.Lock()
	defer g.doors.Unlock()
	g.refusal(&r, &g.door, howDoorman)
}

// tell reads refusals as they happen. One is told once for each app, user and hour.
func (g *Guard) tell(ctx context.Context) {
	var told bpf.Hourly
	g.held.Follow(ctx, func(b []byte) {
		if r, ok := readRefusal(b); ok {
			g.refusal(&r, &told, g.how())
		}
	})
}

// refusal tells of one refusal.
func (g *Guard) refusal(r *refusal, told *bpf.Hourly, how string) {
	rule := g.ruling.Load()
	if rule == nil {
		return
	}
	who, what := fmt.Sprint(r.UID), fmt.Sprintf("%s %d", r.App, r.Why)
	if !told.News(who, what) {
		return
	}
	x := fact.Running{App: r.App}
	note := fmt.Sprintf("%s (pid %d, user %d) tried to ", enforce.Plain(r.Program), r.PID, r.UID)
	// A file with another name is somebody's own: its name is nobody's news.
	c, program, is := g.apps.ByProgram(r.File)
	switch {
	case is && c.ID == r.App && r.Why == asLoaded:
		note += "run " + program + " without starting it"
	case is && c.ID == r.App:
		note += "start " + program
	default:
		note += "run a copy of it under another name"
	}
	v := rule.judge.Judge(&x)
	if v.Allow {
		return
	}
	told.Told(who, what)
	d := g.decision(rule, &x, v, fmt.Sprintf("refused %s %d %d", who, r.Why, time.Now().Unix()/int64(bpf.TellAgain.Seconds())))
	d.Note, d.Done = note, enforce.Reading{State: enforce.Present, Value: "refused", How: how}
	g.Hand(d)
}
