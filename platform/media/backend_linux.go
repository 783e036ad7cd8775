package media

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"time"

	"github.com/cilium/ebpf"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/platform"
	"github.com/warderd/warder/platform/bpf"
)

const how = "the programs pinned at /sys/fs/bpf/warder/media"

// external is the one resource, and refused its value.
var external = enforce.Key{Kind: name, ID: "external"}

const refused enforce.Value = fact.MediaRefused

// start tells the programs that an earlier agent left which program is ours now, and ends what that agent had begun.
func (m *Media) start() {
	m.resume()
	if m.off {
		return
	}
	p, err := bpf.Media.Open()
	if err != nil {
		return
	}
	defer p.Close()
	k := &kernel{p}
	c, err := k.config()
	is, ours := own()
	if err == nil && ours == nil && c.Version == is.Version && c.Closed != 0 {
		is.Closed = c.Closed
		_ = k.Put("config", uint32(0), &is) // read back whenever it is looked at
	}
}

// Kinds is the one kind: programs in the kernel, which end with a boot.
func (m *Media) Kinds() []platform.Kind {
	return []platform.Kind{{Name: name, Life: platform.Boot, Made: true}}
}

// opened opens what is pinned, if it is as we made it. nil without an error: nothing is pinned. The caller has the lock.
func (m *Media) opened() (*kernel, error) {
	if m.off {
		return nil, nil
	}
	// A set that is not pinned any more stays open here, and so in force, until there is another one or it is given back.
	p, err := bpf.Media.Open()
	if errors.Is(err, fs.ErrNotExist) {
		if m.set != nil {
			return nil, &bpf.Changed{Why: "they are not pinned any more"}
		}
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	k := &kernel{p}
	c, err := k.config()
	if err == nil && c.Version != bpf.Media.Version() {
		err = &bpf.Changed{Why: "they are another version's"}
	}
	if err == nil && c.Closed == 0 {
		err = &bpf.Changed{Why: "they refuse nothing"}
	}
	if is, ours := own(); err == nil && ours == nil && (is.OwnDev != c.OwnDev || is.OwnIno != c.OwnIno) {
		err = &bpf.Changed{Why: "they exempt another program than this one"}
	}
	if err != nil {
		p.Close()
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
	if m.cannot.Load() && !bpf.Media.Pinned() {
		return m.listOff(), nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	k, err := m.opened()
	if err == nil {
		err = bpf.Media.Strays()
	}
	var changed *bpf.Changed
	if errors.As(err, &changed) {
		return map[enforce.Key]enforce.Reading{external: {State: enforce.Present, Value: enforce.Value("changed: " + changed.Why), How: how}}, nil
	}
	if err != nil {
		return map[enforce.Key]enforce.Reading{external: {State: enforce.Unknown, How: how + ": " + err.Error()}}, nil
	}
	if k == nil {
		return m.listOff(), nil
	}
	n, err := k.counts()
	if err != nil {
		return nil, err
	}
	value := refused
	if n.Lost > 0 {
		value += enforce.Value(fmt.Sprintf("; but %d of them did not fit", n.Lost))
	}
	return map[enforce.Key]enforce.Reading{external: {State: enforce.Present, Value: value, How: how}}, nil
}

// Apply attaches the programs, or removes them.
func (m *Media) Apply(ctx context.Context, changes []enforce.Change) map[enforce.Key]error {
	out := map[enforce.Key]error{}
	for _, c := range changes {
		if err := m.change(ctx, c); err != nil {
			out[c.Key] = err
		}
	}
	return out
}

func (m *Media) change(ctx context.Context, c enforce.Change) error {
	if c.Key != external || m.off {
		return fmt.Errorf("there is no %s", c.Key)
	}
	if err := m.gate(c); err != nil {
		return err
	}
	m.making.Store(true)
	defer m.making.Store(false)
	m.offing.Store(c.To.State != enforce.Absent && m.cannot.Load())
	if c.To.State != enforce.Absent {
		if m.cannot.Load() {
			return nil // the guard does it, disk by disk
		}
		return bpf.Media.Load(ctx)
	}
	off := len(m.offs()) > 0
	left := m.putBack(func(*fact.Medium) bool { return true })
	if (m.cannot.Load() || off) && !bpf.Media.Pinned() {
		return left // there were no programs
	}
	m.mu.Lock()
	m.wanted.Store(false)
	woken := m.refusedNow()
	m.close()
	err := bpf.Media.Remove()
	m.mu.Unlock()
	if err = errors.Join(err, left); err != nil {
		return err
	}
	m.resume()
	var all sync.WaitGroup
	for _, d := range woken {
		all.Go(func() { m.wake(d) })
	}
	within(wakeWait, &all) // a disk that does not answer keeps nobody waiting
	return nil
}

// within waits for a group, but not for ever.
func within(most time.Duration, all *sync.WaitGroup) {
	done := make(chan struct{})
	go func() { all.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(most):
	}
}

// wakeWait bounds how long disks are waited for that can be used again.
const wakeWait = 3 * time.Second

// byUs is where the turns begin that we give to disks that were there before the programs.
const byUs = 1 << 40

// know tells the programs that a disk is external, and which devices belong to it, its own first, as far as they do not know.
func (k *kernel) know(d disk, devs []uint32, turn uint64) error {
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
		if err := k.mark(dev); err != nil {
			return fmt.Errorf("disk %s cannot be told to the kernel: %w", d.name(), err)
		}
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
	return bpf.Media.Watch(ctx, func() {
		if m.making.Load() { // it is us, and what comes of it is read then
			return
		}
		m.mu.Lock()
		k, err := m.opened()
		m.mu.Unlock()
		if k == nil && m.wanted.Load() || err != nil {
			changed(platform.Touch{Key: external})
		}
	})
}
