package bpf

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"

	"github.com/cilium/ebpf"
)

// Held is a set as the agent holds it: what is pinned, while it is as it was made. A set that is not pinned any more stays open here,
// and so in force, until there is another one or it is given back.
type Held struct {
	set   *Set
	check func(*Pinned) error // what is wrong with a set that was opened, as a *Changed

	wanted, making atomic.Bool // it should be there; we are changing what is pinned

	mu      sync.Mutex
	present *Pinned
	fresh   chan struct{}

	run  string     // a directory that a boot empties
	over chan error // why the kernel does not carry the set any more
}

// Hold prepares to hold a set. run is a directory that a boot empties.
func Hold(s *Set, run string, check func(*Pinned) error) *Held {
	return &Held{set: s, run: run, check: check, fresh: make(chan struct{}, 1), over: make(chan error, 1)}
}

// With calls f with what is pinned; nil without an error: nothing is. Only one f runs at a time.
func (h *Held) With(f func(p *Pinned, err error)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f(h.open())
}

func (h *Held) open() (*Pinned, error) {
	if h.present != nil && h.making.Load() { // until the new one is there
		return h.present, nil
	}
	p, err := h.set.Open()
	if errors.Is(err, fs.ErrNotExist) {
		if h.present != nil {
			return nil, changed("they are not pinned any more")
		}
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if h.present != nil && h.present.Is(p) {
		p.Close()
		return h.present, h.check(h.present)
	}
	if err := h.check(p); err != nil {
		p.Close()
		return nil, err
	}
	h.take(p)
	return p, nil
}

// take makes a set the present one. The caller has the lock.
func (h *Held) take(p *Pinned) {
	h.close()
	h.present = p
	h.wanted.Store(true)
	select {
	case h.fresh <- struct{}{}:
	default:
	}
}

func (h *Held) close() {
	if h.present != nil {
		h.present.Close()
		h.present = nil
	}
}

// Make has the set made anew, with these arguments of its loader. What was there before is in force until then; with inherit, what it
// knows is told to the new one first; old is nil where there was none.
func (h *Held) Make(ctx context.Context, inherit func(p, old *Pinned) error, args ...string) error {
	h.making.Store(true)
	defer h.making.Store(false)
	if err := h.set.Load(ctx, args...); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	p, err := h.set.Open()
	if err != nil {
		return err
	}
	if inherit != nil {
		err = inherit(p, h.present)
	}
	if h.present != nil && h.set.Every {
		if n, _ := h.present.missed(); n > 0 { // which is forgotten with them
			h.end(h.saw(n))
		}
	}
	h.take(p)
	return errors.Join(err, h.set.EndStrays())
}

// Overlooked says why programs that have to see each call may not have done so, as a *Changed, or nil. Then the kernel does not carry
// the set any more: it is noted, and Await returns, so that the agent starts anew, with what is done instead.
func (h *Held) Overlooked(p *Pinned) error {
	if !h.set.Every {
		return nil
	}
	why := h.set.overlooks(h.run)
	if why == nil {
		switch n, err := p.missed(); {
		case err != nil:
			return err
		case n == 0:
			return nil
		default:
			why = h.saw(n)
		}
	}
	h.end(why)
	return changed("%v", why)
}

// saw notes that the kernel has passed over programs.
func (h *Held) saw(n uint64) error {
	if h.run != "" {
		_ = os.WriteFile(overlooked(h.run), nil, 0o600) // in memory; without it, they are made once more
	}
	return fmt.Errorf("the kernel has passed over them %d times", n)
}

func (h *Held) end(why error) {
	select {
	case h.over <- why:
	default:
	}
}

// Await waits until Overlooked says something, and returns it; nil when ctx ends.
func (h *Held) Await(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case err := <-h.over:
		return err
	}
}

// Remove gives the set back.
func (h *Held) Remove() error {
	h.making.Store(true)
	defer h.making.Store(false)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.wanted.Store(false)
	h.close()
	return h.set.Remove()
}

// Unused says that something of the set is in the kernel where that does not carry it, as a *Changed, or nil.
func (h *Held) Unused() error {
	if h.set.begun() {
		return changed("they are pinned, and not used here")
	}
	var stray *Changed
	if err := h.set.Strays(); errors.As(err, &stray) {
		return stray
	}
	return nil // also where the kernel does not say it
}

// Leave takes away what is in the kernel where it is not used. Whether copies of it are elsewhere may not be known there.
func (h *Held) Leave() error {
	if err := h.Remove(); h.set.begun() {
		return err
	}
	return nil
}

// Watch reports that another program has changed what is pinned.
func (h *Held) Watch(ctx context.Context, changed func()) error {
	return h.set.Watch(ctx, func() {
		if h.making.Load() { // it is us, and what comes of it is read then
			return
		}
		h.With(func(p *Pinned, err error) {
			if p == nil && h.wanted.Load() || err != nil {
				changed()
			}
		})
	})
}

// Follow hands over what the programs tell, until ctx ends.
func (h *Held) Follow(ctx context.Context, hand func([]byte)) {
	Follow(ctx, h.fresh, func() *ebpf.Map {
		h.mu.Lock()
		defer h.mu.Unlock()
		return h.present.Told()
	}, hand)
}
