// Package platformtest has stand-ins for a system in tests, and the suites that both the stand-ins and the real back
// ends pass. A fake that passes only its own tests would prove nothing.
package platformtest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/platform"
)

// Fake is a back end in memory.
type Fake struct {
	kinds []platform.Kind
	gate  enforce.Gate

	mu     sync.Mutex
	Has    map[enforce.Key]enforce.Reading
	Refuse map[enforce.Key]error // writes that fail
	Stuck  map[enforce.Key]bool  // writes that return nil and change nothing
	Blind  error                 // List fails
	Writes int

	told func(platform.Touch)
}

// NewFake makes a fake with some kinds.
func NewFake(gate enforce.Gate, kinds ...platform.Kind) *Fake {
	return &Fake{kinds: kinds, gate: gate, Has: map[enforce.Key]enforce.Reading{}, Refuse: map[enforce.Key]error{},
		Stuck: map[enforce.Key]bool{}}
}

// Set sets a value without reporting it.
func (f *Fake) Set(kind, id string, v enforce.Value) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.Has[enforce.Key{Kind: kind, ID: id}] = enforce.Reading{Value: v, State: enforce.Present, How: "fake"}
}

// Changed sets a value as another program would, and reports it.
func (f *Fake) Changed(kind, id string, v enforce.Value, by enforce.Program) {
	f.Set(kind, id, v)
	f.mu.Lock()
	told := f.told
	f.mu.Unlock()
	if told != nil {
		told(platform.Touch{Key: enforce.Key{Kind: kind, ID: id}, By: by})
	}
}

// Remove removes a resource, as another program would.
func (f *Fake) Remove(kind, id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.Has, enforce.Key{Kind: kind, ID: id})
}

// At reads one resource.
func (f *Fake) At(k enforce.Key) enforce.Reading {
	f.mu.Lock()
	defer f.mu.Unlock()
	if r, ok := f.Has[k]; ok {
		return r
	}
	return enforce.Reading{State: enforce.Absent}
}

// Get reads one value.
func (f *Fake) Get(kind, id string) enforce.Value {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.Has[enforce.Key{Kind: kind, ID: id}].Value
}

func (f *Fake) Kinds() []platform.Kind { return f.kinds }

func (f *Fake) List(context.Context) (map[enforce.Key]enforce.Reading, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.Blind != nil {
		return nil, f.Blind
	}
	out := map[enforce.Key]enforce.Reading{}
	for k, v := range f.Has {
		out[k] = v
	}
	return out, nil
}

// Watch reports calls of Changed.
func (f *Fake) Watch(ctx context.Context, changed func(platform.Touch)) error {
	f.mu.Lock()
	f.told = changed
	f.mu.Unlock()
	<-ctx.Done()
	f.mu.Lock()
	f.told = nil
	f.mu.Unlock()
	return nil
}

// Apply changes the values in memory, behind the gate.
func (f *Fake) Apply(_ context.Context, changes []enforce.Change) map[enforce.Key]error {
	f.mu.Lock()
	defer f.mu.Unlock()
	failed := map[enforce.Key]error{}
	for _, c := range changes {
		if err := f.gate(c); err != nil {
			failed[c.Key] = err
			continue
		}
		if err := f.Refuse[c.Key]; err != nil {
			failed[c.Key] = err
			continue
		}
		f.Writes++
		if !f.Stuck[c.Key] {
			f.Has[c.Key] = enforce.Reading{Value: c.To.Value, State: c.To.State, How: "fake"}
		}
	}
	return failed
}

// Subject is a back end under test, with one resource of it that may be changed and put back.
type Subject struct {
	Backend platform.Backend
	Key     enforce.Key
	Other   enforce.Value // a value that it can be set to, other than the present one
	// Elsewhere sets it as another program; nil if the suite cannot.
	Elsewhere func(*testing.T, enforce.Value)
	// Gate is the gate that the back end was made with; the suite closes it.
	Gate *Gate
}

// Gate is a gate that can be closed.
type Gate struct {
	Shut  bool
	Asked int
}

// Pass is the gate's function.
func (g *Gate) Pass(c enforce.Change) error {
	g.Asked++
	if g.Shut {
		return fmt.Errorf("%s: shut", c.Key)
	}
	return nil
}

// Conformance tests what every back end must do. make returns a fresh one.
func Conformance(t *testing.T, make func(*testing.T) Subject) {
	ctx := context.Background()
	read := func(t *testing.T, s Subject) enforce.Reading {
		t.Helper()
		m, err := s.Backend.List(ctx)
		if err != nil {
			t.Fatal(err)
		}
		r, ok := m[s.Key]
		if !ok || r.State != enforce.Present {
			t.Fatalf("%s is not listed: %v", s.Key, r)
		}
		return r
	}
	change := func(s Subject, to enforce.Reading) enforce.Change {
		return enforce.Change{Key: s.Key, To: to, Mode: enforce.Enforce, Phase: enforce.Close}
	}
	t.Run("lists only its kinds, and says how it read", func(t *testing.T) {
		s := make(t)
		kinds := map[string]bool{}
		for _, k := range s.Backend.Kinds() {
			kinds[k.Name] = true
		}
		m, err := s.Backend.List(ctx)
		if err != nil || len(m) == 0 {
			t.Fatal(m, err)
		}
		for k, r := range m {
			if !kinds[k.Kind] || r.How == "" {
				t.Errorf("%s: %+v", k, r)
			}
		}
	})
	t.Run("applies, and can be read back and put back", func(t *testing.T) {
		s := make(t)
		before := read(t, s)
		if err := s.Backend.Apply(ctx, []enforce.Change{change(s, enforce.Reading{Value: s.Other, State: enforce.Present})}); len(err) > 0 {
			t.Fatal(err)
		}
		if got := read(t, s); !got.Is(s.Other) {
			t.Errorf("reads %v after %s was applied", got, s.Other)
		}
		if err := s.Backend.Apply(ctx, []enforce.Change{change(s, before)}); len(err) > 0 {
			t.Fatal(err)
		}
		if got := read(t, s); !got.Same(before) {
			t.Errorf("reads %v after %v was put back", got, before)
		}
	})
	t.Run("a shut gate lets nothing through", func(t *testing.T) {
		s := make(t)
		before := read(t, s)
		s.Gate.Shut = true
		err := s.Backend.Apply(ctx, []enforce.Change{change(s, enforce.Reading{Value: s.Other, State: enforce.Present})})
		if err[s.Key] == nil || s.Gate.Asked == 0 {
			t.Errorf("error %v, the gate was asked %d times", err, s.Gate.Asked)
		}
		if got := read(t, s); !got.Same(before) {
			t.Errorf("reads %v past a shut gate", got)
		}
	})
	t.Run("one change that fails does not stop the others", func(t *testing.T) {
		s := make(t)
		before := read(t, s)
		bad := enforce.Change{Key: enforce.Key{Kind: s.Key.Kind, ID: "../../etc/passwd"},
			To: enforce.Reading{Value: s.Other, State: enforce.Present}, Mode: enforce.Enforce}
		if err := s.Backend.Apply(ctx, []enforce.Change{bad,
			change(s, enforce.Reading{Value: s.Other, State: enforce.Present})}); err[bad.Key] == nil || err[s.Key] != nil {
			t.Errorf("a change of nothing passes, or its error is another's: %v", err)
		}
		if got := read(t, s); !got.Is(s.Other) {
			t.Errorf("reads %v", got)
		}
		if err := s.Backend.Apply(ctx, []enforce.Change{change(s, before)}); len(err) > 0 {
			t.Fatal(err)
		}
	})
	t.Run("watches until it is told to end, or says why it cannot", func(t *testing.T) {
		s := make(t)
		ctx, cancel := context.WithCancel(ctx)
		_, done := goWatch(ctx, s.Backend)
		cancel()
		var unwatched platform.Unwatched
		if err := <-done; err != nil && (!errors.As(err, &unwatched) || unwatched.Why == "") {
			t.Errorf("%v", err)
		}
	})
	if make(t).Elsewhere == nil {
		return // the subject is a tree of files, which nobody watches
	}
	t.Run("tells of another's writes, and not of its own", func(t *testing.T) {
		s := make(t)
		before := read(t, s)
		ctx, cancel := context.WithCancel(ctx)
		told, done := goWatch(ctx, s.Backend)
		defer func() { cancel(); <-done }()
		for end := time.Now().Add(30 * time.Second); ; {
			s.Elsewhere(t, s.Other) // again until the watch has begun
			select {
			case got := <-told:
				if got.Key != s.Key {
					t.Errorf("told of %v", got)
				}
			case <-time.After(100 * time.Millisecond):
				if time.Now().Before(end) {
					continue
				}
				t.Fatal("nothing was told")
			}
			break
		}
		time.Sleep(200 * time.Millisecond) // what was written before
		for len(told) > 0 {
			<-told
		}
		for _, to := range []enforce.Reading{before, {Value: s.Other, State: enforce.Present}, before} {
			if err := s.Backend.Apply(ctx, []enforce.Change{change(s, to)}); len(err) > 0 {
				t.Fatal(err)
			}
		}
		select {
		case got := <-told:
			t.Errorf("told of its own write: %v", got)
		case <-time.After(500 * time.Millisecond):
		}
	})
}

// goWatch runs a back end's watch, and returns what it reports and its end.
func goWatch(ctx context.Context, b platform.Backend) (told chan platform.Touch, done chan error) {
	told, done = make(chan platform.Touch, 1000), make(chan error, 1)
	go func() {
		done <- b.Watch(ctx, func(t platform.Touch) {
			select {
			case told <- t:
			default:
			}
		})
	}()
	return told, done
}
