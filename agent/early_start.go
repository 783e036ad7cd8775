package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/warderd/warder/agent/early"
	"github.com/warderd/warder/agent/ledger"
	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/platform"
	"github.com/warderd/warder/platform/host"
	"github.com/warderd/warder/platform/paths"
	"github.com/warderd/warder/platform/service"
)

// Time limits of the early start.
const (
	// earlyReady is how long the boot waits for the early start at most. Taking a device away can take seconds.
	earlyReady = time.Second
	// earlyLimit bounds one look by the early start.
	earlyLimit = time.Minute
)

// Early enforces the last confirmed policy from early in the boot until the agent takes over. It uses the same
// sections, planner and guards, one flat file, no network and nothing under /var. What it changes and decides is
// written to the runtime directory, where the agent finds it. When it is told to end, it leaves the machine as it is if
// an agent has taken over or is about to after a restart. Otherwise it gives everything back.
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
	if errors.Is(err, ledger.ErrTaken) {
		o.Log.Info("an agent has run in this boot already: there is nothing for an early start to do")
		ready()
		return nil
	}
	if err != nil {
		return err
	}
	s := &starting{o: &o, book: book, record: early.Record{Boot: o.Boot, Began: began}, looks: make(chan struct{}, 1)}
	if before, err := early.Recorded(run, o.Boot); err == nil && before != nil {
		s.record = *before // of an early start that was killed
	}
	file, doc, err := early.Load(o.Paths.EarlyFile())
	if err != nil {
		// Open again what the initramfs has closed: no guard would answer for it.
		if errors.Is(err, fs.ErrNotExist) {
			o.Log.Info("no confirmed policy has to be in force while this machine starts up")
		} else {
			o.Log.Error("the policy is not in force while the machine starts up", "error", err)
			s.record.Problem = err.Error()
			s.save()
		}
		if s.machine, err = newMachine(&o, book, nil, &platform.Notes{}); err == nil {
			err = s.giveBack()
		}
		ready()
		return err
	}
	s.file, s.doc = file, doc
	notes := file.Notes
	if notes == nil {
		notes = platform.Notes{}
	}
	if s.machine, err = newMachine(&o, book, nil, &notes); err != nil {
		return err
	}
	// Nobody is reached yet. What must be reachable is among the notes of those who need it.
	s.machine.way = func() fact.Network { return fact.Network{Ready: true} }
	return s.run(ctx, ready)
}

// starting is an early start under way.
type starting struct {
	o       *Options
	book    *ledger.Early
	machine *machine
	journal *journal
	file    early.File
	doc     *policy.Document // without exceptions
	looks   chan struct{}

	mu     sync.Mutex
	record early.Record
}

// run applies the policy once, calls ready, and guards until it is told to end.
func (s *starting) run(ctx context.Context, ready func()) error {
	s.journal = &journal{boot: s.o.Boot, now: s.o.Now, store: s, sections: s.o.Sections, health: newHealth(s.o.Now), latency: &latencies{},
		seat: func() []uint32 { return nil }, remember: s.machine.loop.Remember,
		look: s.soon, report: func() {}, wake: make(chan struct{}, 1),
		follow: map[chan enforce.Event]struct{}{}}
	s.journal.latency.init()
	s.machine.start(s.journal.put, func(bool) { s.soon() })
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
	s.apply()
	s.mu.Lock()
	if s.record.InForce == 0 {
		s.record.InForce = host.Uptime()
	}
	s.mu.Unlock()
	s.save()
	late.Stop()
	ready()
	s.o.Log.Info("the policy is in force while the machine starts up", "policy", s.doc.ID, "version", s.doc.Version, "after",
		s.record.InForce.Round(time.Millisecond))
	err := s.wait(ctx, failed)
	cancel()
	all.Wait()
	s.journal.drain()
	s.save()
	if early.Ended(s.o.Paths.Run, s.o.Boot) {
		s.o.Log.Info("the agent takes over")
		return nil
	}
	switch s.o.Ending(context.Background()) {
	case service.Shutdown:
		return nil
	case service.Restarting:
		// Together with the agent, which could not start: the next early start goes on.
		s.o.Log.Info("restarting: the policy stays in force")
		return nil
	}
	// No guard would be left to answer for devices that are plugged in.
	s.machine.stop()
	return errors.Join(err, s.giveBack())
}

// soon asks for another look.
func (s *starting) soon() {
	select {
	case s.looks <- struct{}{}:
	default:
	}
}

// waitsAgain is the pause between looks while the boot waits for a disk. Once the disk is there, no other is let in.
const waitsAgain = 2 * time.Second

// wait looks again whenever the machine has changed, until it is told to end or a guard fails.
func (s *starting) wait(ctx context.Context, failed <-chan error) error {
	for {
		var again <-chan time.Time
		if st := s.machine.last().snapshot.Starting; st != nil && st.Waits != "" {
			again = time.After(waitsAgain)
		}
		select {
		case <-ctx.Done():
			return nil
		case err := <-failed:
			return err
		case <-again:
			s.apply()
		case <-s.looks:
			select { // one look at a time, not one per device
			case <-ctx.Done():
				return nil
			case <-time.After(settleDelay):
			}
			s.apply()
		}
	}
}

// apply applies the policy, with the exceptions that are current.
func (s *starting) apply() {
	ctx, cancel := context.WithTimeout(context.Background(), earlyLimit)
	defer cancel()
	now := exceptions{now: s.o.Now}
	doc := excepted(s.o.Sections, s.doc, now.current(s.file.Exceptions))
	st := s.machine.apply(ctx, doc, nil)
	s.machine.put(st)
	if err := st.notGivenBack(); err != nil {
		s.o.Log.Warn("the machine is not as it should be", "error", err)
	}
}

// giveBack restores what was there before.
func (s *starting) giveBack() error {
	defer s.machine.stop()
	ctx, cancel := context.WithTimeout(context.Background(), earlyLimit)
	defer cancel()
	return s.machine.letGo(ctx, s.o.Linger).notGivenBack()
}

// save writes the decisions so far.
func (s *starting) save() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.record.Save(s.o.Paths.Run); err != nil {
		s.o.Log.Warn("cannot keep what was decided", "error", err)
	}
}

// Append, Fold, Seen and Remember make this a store for the journal: the record that the agent takes over.

// Append keeps an event for the agent. Events that do not fit are counted.
func (s *starting) Append(e enforce.Event) (uint64, error) {
	s.mu.Lock()
	n, full := len(s.record.Told), false
	if full = n >= early.MaxTold; full {
		s.record.Lost++
	} else {
		e.Reason += "; decided before the agent ran"
		s.record.Told = append(s.record.Told, early.Told{Event: e})
	}
	s.mu.Unlock()
	s.save()
	if full {
		return 0, errFull
	}
	return uint64(n + 1), nil
}

var errFull = fmt.Errorf("more than %d decisions before the agent ran", early.MaxTold)

// Fold does nothing: the record is bounded.
func (s *starting) Fold() error { return nil }

// Seen reports whether something was already told.
func (s *starting) Seen(_, subject, what string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.record.Told, func(t early.Told) bool { return t.Key == subject && t.What == what })
}

// Remember marks what the last event was about as told.
func (s *starting) Remember(_, subject, what string) {
	s.mu.Lock()
	if n := len(s.record.Told); n > 0 && s.record.Told[n-1].Key == "" {
		s.record.Told[n-1].Key, s.record.Told[n-1].What = subject, what
	}
	s.mu.Unlock()
	s.save()
}
