package media

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/fsnotify/fsnotify"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/platform"
	"github.com/warderd/warder/platform/bpf"
)

const how = "the programs pinned at /sys/fs/bpf/warder/media"

// external is the one resource, and refused its value.
var external = enforce.Key{Kind: name, ID: "external"}

const refused enforce.Value = "external disks are refused"

// Kinds is the one kind: programs in the kernel, which end with a boot.
func (m *Media) Kinds() []platform.Kind {
	return []platform.Kind{{Name: name, Life: platform.Boot, Made: true}}
}

// opened opens what is pinned, if it is as we made it. nil without an error: nothing is pinned. The caller has the lock.
func (m *Media) opened() (*kernel, error) {
	if m.off {
		return nil, nil
	}
	p, err := bpf.Media.Open()
	if err != nil {
		m.close()
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		return nil, err
	}
	k := &kernel{p}
	c, err := k.config()
	if err == nil && c.Version != bpf.Media.Version() {
		err = errors.New("they are another version's")
	}
	if err == nil && c.Closed == 0 {
		err = errors.New("they refuse nothing")
	}
	if err != nil {
		p.Close()
		m.close()
		return nil, err
	}
	if m.set != nil && m.set.Is(p) {
		p.Close()
		return m.set, nil
	}
	m.close()
	m.set = k
	m.wanted.Store(true)
	select {
	case m.fresh <- struct{}{}:
	default:
	}
	return k, nil
}

func (m *Media) close() {
	if m.set != nil {
		m.set.Close()
		m.set = nil
	}
}

// List reads what is pinned.
func (m *Media) List(context.Context) (map[enforce.Key]enforce.Reading, error) {
	if m.off {
		return nil, nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	k, err := m.opened()
	if err != nil {
		return map[enforce.Key]enforce.Reading{external: {State: enforce.Present, Value: enforce.Value("changed: " + err.Error()), How: how}}, nil
	}
	if k == nil {
		return map[enforce.Key]enforce.Reading{}, nil
	}
	n, err := k.counts()
	if err != nil {
		return nil, err
	}
	value := refused
	if n.Lost > 0 {
		value += enforce.Value(fmt.Sprintf("; but there was no room for %d of them", n.Lost))
	}
	return map[enforce.Key]enforce.Reading{external: {State: enforce.Present, Value: value, How: how}}, nil
}

// Apply attaches the programs, or removes them.
func (m *Media) Apply(_ context.Context, changes []enforce.Change) map[enforce.Key]error {
	out := map[enforce.Key]error{}
	for _, c := range changes {
		if err := m.change(c); err != nil {
			out[c.Key] = err
		}
	}
	return out
}

func (m *Media) change(c enforce.Change) error {
	if c.Key != external || m.off {
		return fmt.Errorf("there is no %s", c.Key)
	}
	if err := m.gate(c); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if c.To.State == enforce.Absent {
		m.wanted.Store(false)
		woken := m.refusedNow()
		m.close()
		if err := bpf.Media.Remove(); err != nil {
			return err
		}
		var all sync.WaitGroup
		for _, d := range woken {
			all.Go(func() { m.wake(d) })
		}
		done := make(chan struct{})
		go func() { all.Wait(); close(done) }()
		select {
		case <-done:
		case <-time.After(wakeWait): // a disk that does not answer keeps nobody waiting
		}
		return nil
	}
	return child(context.Background(), childMake)
}

// wakeWait bounds how long disks are waited for that can be used again.
const wakeWait = 3 * time.Second

// byUs is where the turns begin that we give to disks that were there before the programs.
const byUs = 1 << 40

// announce tells the programs that a disk is external, if they do not know.
func (m *Media) announce(k *kernel, d disk, turn uint64) error {
	_, devs := d.parts()
	if len(devs) == 0 {
		return nil // gone
	}
	e, known, err := k.entry(devs[0])
	if err != nil {
		return err
	}
	if !known {
		e = entry{Turn: turn, Whole: devs[0]}
	}
	for _, dev := range devs {
		if err := k.Maps["disks"].Update(dev, &e, ebpf.UpdateNoExist); err != nil && !errors.Is(err, ebpf.ErrKeyExist) {
			return fmt.Errorf("disk %s cannot be told to the kernel: %w", d.name(), err)
		}
	}
	return nil
}

// Watch reports that another program has removed something that is pinned.
func (m *Media) Watch(ctx context.Context, changed func(platform.Touch)) error {
	if m.off {
		<-ctx.Done()
		return nil
	}
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return err
	}
	defer w.Close()
	if err := w.Add(bpf.Root); err != nil {
		return platform.Unwatched{Why: err.Error()}
	}
	for _, dir := range bpf.Media.Dirs() {
		_ = w.Add(dir) // it comes with the programs
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-w.Errors:
			return err
		case e := <-w.Events:
			for _, dir := range bpf.Media.Dirs() {
				_ = w.Add(dir)
			}
			if !e.Has(fsnotify.Remove) && !e.Has(fsnotify.Rename) {
				continue
			}
			m.mu.Lock() // what we do ourselves is over then
			k, err := m.opened()
			m.mu.Unlock()
			if k == nil && m.wanted.Load() || err != nil {
				changed(platform.Touch{Key: external})
			}
		}
	}
}
