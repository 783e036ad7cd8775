package bpf

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
	"github.com/fsnotify/fsnotify"

	"github.com/warderd/warder/platform"
)

// Lookup reads what one of the maps has for a key.
func (p *Pinned) Lookup(name string, key, value any) error {
	m := p.Maps[name]
	if m == nil {
		return fmt.Errorf("map %s is not pinned", name)
	}
	return m.Lookup(key, value)
}

// Put writes it.
func (p *Pinned) Put(name string, key, value any) error {
	m := p.Maps[name]
	if m == nil {
		return fmt.Errorf("map %s is not pinned", name)
	}
	return m.Put(key, value)
}

// Entries reads a map.
func Entries[K, V comparable](p *Pinned, name string) (map[K]V, error) {
	m := p.Maps[name]
	if m == nil {
		return nil, fmt.Errorf("map %s is not pinned", name)
	}
	var k K
	var v V
	has := map[K]V{}
	it := m.Iterate()
	for it.Next(&k, &v) {
		has[k] = v
	}
	return has, it.Err()
}

// Become gives a map these entries and no others.
func Become[K, V comparable](p *Pinned, name string, want map[K]V) error {
	has, err := Entries[K, V](p, name)
	if err != nil {
		return err
	}
	m := p.Maps[name]
	for k, v := range want {
		if old, is := has[k]; is && old == v {
			continue
		}
		if err := m.Put(&k, &v); err != nil {
			return fmt.Errorf("map %s: %w", name, err)
		}
	}
	for k := range maps.Keys(has) {
		if _, is := want[k]; is {
			continue
		}
		if err := m.Delete(&k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("map %s: %w", name, err)
		}
	}
	return nil
}

// together: what is removed in one go is one change.
const together = 50 * time.Millisecond

// Watch calls back when something that is pinned of the set was removed or moved, until ctx ends.
func (s *Set) Watch(ctx context.Context, look func()) error {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return err
	}
	defer w.Close()
	if err := w.Add(Root); err != nil {
		return platform.Unwatched{Why: err.Error()}
	}
	dirs := []string{dir, s.path()}
	for _, d := range dirs {
		_ = w.Add(d) // it comes with the programs
	}
	settle := time.NewTimer(time.Hour)
	settle.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-w.Errors:
			return err
		case e := <-w.Events:
			for _, d := range dirs {
				_ = w.Add(d)
			}
			if e.Has(fsnotify.Remove) || e.Has(fsnotify.Rename) {
				settle.Reset(together)
			}
		case <-settle.C:
			look()
		}
	}
}

// Told is the map in which the programs tell of refusals, opened once more; nil if there is none.
func (p *Pinned) Told() *ebpf.Map {
	if p == nil || p.Maps["refusals"] == nil {
		return nil
	}
	m, err := p.Maps["refusals"].Clone()
	if err != nil {
		return nil
	}
	return m
}

// Follow hands over what the programs tell, until ctx ends. told returns their map (Told), which is closed here; fresh says that it is
// another one.
func Follow(ctx context.Context, fresh <-chan struct{}, told func() *ebpf.Map, hand func([]byte)) {
	for {
		var in *ringbuf.Reader
		m := told()
		if m != nil {
			in, _ = ringbuf.NewReader(m)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			for in != nil {
				rec, err := in.Read()
				if err != nil {
					return
				}
				hand(rec.RawSample)
			}
		}()
		select {
		case <-ctx.Done():
		case <-fresh:
		}
		if in != nil {
			_ = in.Close()
		}
		<-done
		if m != nil {
			_ = m.Close()
		}
		if ctx.Err() != nil {
			return
		}
	}
}
