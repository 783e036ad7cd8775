package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/warderd/warder/agent/early"
	"github.com/warderd/warder/agent/ledger"
	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/platform"
	"github.com/warderd/warder/platform/host"
	"github.com/warderd/warder/platform/paths"
	"github.com/warderd/warder/platform/service"
)

// The early start.
const (
	// earlyReady is how long the start of the machine waits for it at most: a device may take seconds to be
	// taken away.
	earlyReady = time.Second
	// earlyLimit bounds what it does at a time.
	earlyLimit = time.Minute
)

// Early holds this machine by the last confirmed policy from early in its start until the agent takes over: by the
// same sections, planner and guards, from one flat file, without a network and without /var. What it changes and
// decides it writes to the runtime directory, where the agent finds it. It returns when it is told to: with the
// machine as it is where an agent has taken over, or takes over after a restart, and else with all given back.
func Early(ctx context.Context, o Options) error {
	o.defaults()
	began := host.Uptime()
	ready := sync.OnceFunc(func() {
		if o.Ready != nil {
			o.Ready()
		}
	})
	run := o.Paths.Run
	if err := os.MkdirAll(run, 0o755); err != nil {
		return fmt.Errorf("cannot make the runtime directory: %w", err)
	}
	unlock, err := paths.Lock(filepath.Join(run, earlyLock))
	if err != nil {
		return fmt.Errorf("another early start runs: %w", err)
	}
	defer unlock()
	if early.Ended(run, o.Boot) {
		o.Log.Info("the agent has run since this machine was started: there is nothing for an early start to do")
		ready()
		return nil
	}
	book, err := ledger.OpenEarly(run, o.Boot)
	if err != nil {
		return err
	}
	file, doc, err := early.Load(o.Paths.EarlyFile())
	if errors.Is(err, fs.ErrNotExist) {
		o.Log.Info("no confirmed policy holds anything from the start of this machine on")
		err = open(&o, book)
		ready()
		return err
	}
	if err != nil {
		return fmt.Errorf("the early start has no policy: %w", err)
	}
	s := &starting{o: &o, book: book, record: early.Record{Boot: o.Boot, Began: began}, looks: make(chan struct{}, 1),
		doc: excepted(o.Sections, doc, (&exceptions{now: o.Now}).current(file.Exceptions))}
	if before, err := early.Recorded(run, o.Boot); err == nil && before != nil {
		s.record = *before // of one that was killed
	}
	notes := file.Notes
	if notes == nil {
		notes = platform.Notes{}
	}
	if s.machine, err = newMachine(&o, book, &notes); err != nil {
		return err
	}
	return s.run(ctx, ready)
}

// open gives back what was closed in the initramfs, where nothing is to be held.
func open(o *Options, book *ledger.Early) error {
	m, err := newMachine(o, book, &platform.Notes{})
	if err != nil {
		return err
	}
	defer m.stop()
	ctx, cancel := context.WithTimeout(context.Background(), earlyLimit)
	defer cancel()
	return m.hold(ctx, nil, nil).notGivenBack()
}

// starting is an early start under way.
type starting struct {
	o       *Options
	book    *ledger.Early
	machine *machine
	journal *journal
	doc     *policy.Document
	looks   chan struct{}

	mu     sync.Mutex
	record early.Record
}

func (s *starting) run(ctx context.Context, ready func()) error {
	quiet := func() {}
	s.journal = &journal{boot: s.o.Boot, now: s.o.Now, store: s, sections: s.o.Sections, health: newHealth(s.o.Now), latency: &latencies{},
		seat: func() []uint32 { return nil }, tell: func(string, []uint32) []string { return nil }, remember: s.machine.loop.Remember,
		look: quiet, report: quiet, wake: make(chan struct{}, 1), told: map[string]time.Time{}, follow: map[chan enforce.Event]struct{}{}}
	s.journal.latency.init()
	s.machine.start(s.journal.put, func(bool) {
		select {
		case s.looks <- struct{}{}:
		default:
		}
	})
	defer s.machine.stop()
	inner, cancel := context.WithCancel(ctx)
	failed := make(chan error, 1)
	var all sync.WaitGroup
	all.Go(func() { _ = s.journal.run(inner) })
	all.Go(func() {
		if err := s.machine.guard(inner); err != nil && inner.Err() == nil {
			failed <- err
		}
	})
	late := time.AfterFunc(earlyReady, ready)
	s.hold(s.doc)
	s.mu.Lock()
	s.record.Held = host.Uptime()
	s.mu.Unlock()
	s.save()
	late.Stop()
	ready()
	s.o.Log.Info("holding the machine while it starts up", "policy", s.doc.ID, "version", s.doc.Version, "after", s.record.Held.Round(time.Millisecond))
	err := s.wait(ctx, failed)
	cancel()
	all.Wait()
	s.journal.drain()
	s.save()
	if early.Ended(s.o.Paths.Run, s.o.Boot) {
		s.o.Log.Info("the agent takes over")
		return nil
	}
	if why := s.o.Ending(context.Background()); why == service.Shutdown {
		return nil
	}
	// Nobody would be left who answers what is plugged in.
	s.machine.stop()
	s.hold(nil)
	return errors.Join(err, s.machine.last().notGivenBack())
}

// wait looks again when the machine has changed, until it is told to end or a guard fails.
func (s *starting) wait(ctx context.Context, failed <-chan error) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-failed:
			return err
		case <-s.looks:
			s.hold(s.doc)
			select { // one at a time, and not at every device
			case <-ctx.Done():
			case <-time.After(settleDelay):
			}
		}
	}
}

// hold makes the machine as a policy says; nil gives it back.
func (s *starting) hold(doc *policy.Document) {
	ctx, cancel := context.WithTimeout(context.Background(), earlyLimit)
	defer cancel()
	st := s.machine.hold(ctx, doc, nil)
	s.machine.put(st)
	if err := st.notGivenBack(); err != nil {
		s.o.Log.Warn("the machine is not as it should be", "error", err)
	}
}

// save writes what was decided so far.
func (s *starting) save() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.record.Save(s.o.Paths.Run); err != nil {
		s.o.Log.Warn("cannot keep what was decided", "error", err)
	}
}

// Append, Fold, Seen and Remember are the journal's store: the record that the agent takes over.

// Append keeps an event for the agent.
func (s *starting) Append(e enforce.Event) (uint64, error) {
	s.mu.Lock()
	n := len(s.record.Told)
	if n < early.MaxTold {
		e.Reason += "; decided while the machine started up"
		s.record.Told = append(s.record.Told, early.Told{Event: e})
		n++
	}
	s.mu.Unlock()
	s.save()
	return uint64(n), nil
}

// Fold has nothing to fold: the record is bounded.
func (s *starting) Fold() error { return nil }

// Seen reports whether something was told already.
func (s *starting) Seen(_, subject, what string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.record.Told {
		if t.Key == subject && t.What == what {
			return true
		}
	}
	return false
}

// Remember names the event that was kept last.
func (s *starting) Remember(_, subject, what string) {
	s.mu.Lock()
	if n := len(s.record.Told); n > 0 {
		s.record.Told[n-1].Key, s.record.Told[n-1].What = subject, what
	}
	s.mu.Unlock()
	s.save()
}
