package media

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cilium/ebpf"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/platform"
	"github.com/warderd/warder/platform/bpf"
	"github.com/warderd/warder/platform/uevent"
)

// Guard judges each disk as it comes. The kernel refuses it before: what the guard does is to let some be opened, to take away
// what may be open since before, and to tell.
type Guard struct {
	*Media
	platform.Listener
	ruling atomic.Pointer[ruling]
	judges sync.Mutex // one disk at a time

	coming struct {
		sync.Mutex
		at map[string]time.Time // when disks came, by key; of the last seconds
	}
}

type ruling struct {
	judge enforce.Judge[fact.Medium]
	act   bool
	paths bool     // events name files by their paths
	files []string // that may have any size
}

// watcher is the interface of the section's rules.
type watcher interface {
	Watch() enforce.Judge[fact.Medium]
	Concerned() bool
}

// Section names the section whose rules it uses.
func (g *Guard) Section() string { return setting.Section() }

// Load replaces the rules and judges every disk again.
func (g *Guard) Load(r platform.Rules) error {
	if r == nil || g.off {
		g.ruling.Store(nil)
		return nil
	}
	w, ok := r.(watcher)
	if !ok {
		return platform.Unsupported{Feature: "the control of external disks", Need: "rules that judge disks"}
	}
	if !w.Concerned() {
		g.ruling.Store(nil)
		return nil
	}
	g.ruling.Store(&ruling{judge: w.Watch(), act: r.CanDeny()})
	g.resume()
	g.offing.Store(r.CanDeny() && g.cannot.Load())
	// Those that are allowed by now come back, and so do all of them where the kernel refuses them from now on.
	back := g.putBack(func(x *fact.Medium) bool { return !r.CanDeny() || !g.cannot.Load() || w.Watch().Judge(x).Allow })
	return errors.Join(back, g.rescan())
}

// rescan judges everything that is there.
func (g *Guard) rescan() error {
	list, err := g.disks()
	if err != nil {
		return fmt.Errorf("the disks cannot be listed: %w", err)
	}
	var errs []error
	for _, d := range list {
		errs = append(errs, g.judge(d, time.Time{}))
	}
	return errors.Join(errs...)
}

// judge judges one disk and applies the verdict.
func (g *Guard) judge(d disk, came time.Time) error {
	g.judges.Lock()
	defer g.judges.Unlock()
	r := g.ruling.Load()
	if r == nil {
		return nil
	}
	g.mu.Lock()
	k, why := g.opened()
	if bus, _ := g.bus(d); k != nil && bus != "" && r.act {
		why = announce(k, d, byUs+uint64(time.Now().UnixNano())) // one that the kernel does not tell by itself
	}
	before := fact.Medium{Dev: line(d.dir + "/dev")}
	g.add(&before, d, k, why)
	x := g.describe(d)
	g.add(&x, d, k, why)
	g.mu.Unlock()
	if before.Turn != x.Turn {
		return nil // another one came meanwhile, and is judged when it is announced
	}
	if !x.External.V && !(x.Refused.OK && x.Refused.V) {
		return nil // nothing is done about it, and it is nobody's news
	}
	v := r.judge.Judge(&x)
	decided := time.Now()
	if !came.IsZero() {
		g.comes(x.Key(), came)
	}
	out := platform.Decision{Section: setting.Section(), Key: enforce.Key{Kind: "media.disk", ID: x.Key()}, Subject: subject(&x), Verdict: v,
		Fact: &x, New: !came.IsZero(), Clock: "disk", Received: came, Decided: decided,
		Reason: func() (string, string) { return r.judge.Reason(v, &x) }}
	out.Done = reading(&x)
	switch {
	case !r.act:
	case k != nil:
		out.Err = g.carryOut(d, &x, v)
		out.Done = reading(&x)
	case g.cannot.Load():
		if !v.Allow {
			out.Err = g.away(d, &x)
		}
		if out.Done = reading(&x); out.Done.State == enforce.Present {
			out.Done.How = howOff
		}
	case !v.Allow && why == nil:
		out.Err = errors.New("the programs that refuse disks are not in the kernel")
	case !v.Allow:
		out.Err = why
	}
	out.Verified = time.Now()
	g.Hand(out)
	return out.Err
}

// reading is what the kernel does with a disk.
func reading(x *fact.Medium) enforce.Reading {
	r := enforce.Reading{State: enforce.Unknown, How: how}
	if x.Refused.OK {
		r.State, r.Value = enforce.Present, "it can be used"
		if x.Refused.V {
			r.Value = "refused"
		}
	}
	return r
}

// carryOut tells the kernel what was decided about a disk, and reads it back.
func (g *Guard) carryOut(d disk, x *fact.Medium, v enforce.Verdict) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	k, err := g.opened()
	if k == nil {
		return errors.Join(errors.New("the programs that refuse disks have gone"), err)
	}
	dev, ok := bpf.NumberOf(x.Dev)
	if !ok {
		return nil // gone
	}
	e, known, err := k.entry(dev)
	switch {
	case err != nil:
		return err
	case !known && v.Allow || known && e.Turn != x.Turn:
		return nil // the kernel lets it pass; or another disk is there, and is judged when it is announced
	case !known:
		return errors.New("the kernel does not know it as external")
	case v.Allow:
		if x.Refused.OK && !x.Refused.V {
			return nil
		}
		if err := g.gate(enforce.Change{Key: external, Mode: enforce.Enforce}); err != nil {
			return err
		}
		if err := k.allow(e); err != nil {
			return err
		}
		g.all.Go(func() { g.wake(d) })
	default:
		if x.Refused.OK && !x.Refused.V {
			if err := g.gate(enforce.Change{Key: external, Mode: enforce.Enforce}); err != nil {
				return err
			}
			if err := k.refuse(e); err != nil {
				return err
			}
		}
	}
	g.add(x, d, k, nil)
	if x.Refused.OK && x.Refused.V == v.Allow {
		return errors.New("the kernel does not show what it was told")
	}
	if !v.Allow && x.Open {
		_ = g.take(d, *x, true)
	}
	return nil
}

// subject is a disk for people.
func subject(x *fact.Medium) string {
	s := "disk " + x.Name
	if x.Model != "" {
		s += " (" + enforce.Plain(x.Model) + ")"
	}
	if x.Serial != "" {
		s += " " + enforce.Plain(x.Serial)
	}
	return s
}

// Run judges disks as they are announced, and tells of refusals, until ctx ends.
func (g *Guard) Run(ctx context.Context) error {
	if g.off {
		<-ctx.Done()
		return nil
	}
	s, err := uevent.Open()
	if err != nil {
		return fmt.Errorf("cannot listen to the kernel's announcements of disks: %w", err)
	}
	var all sync.WaitGroup
	defer all.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	all.Go(func() { g.tell(ctx) })
	end := context.AfterFunc(ctx, s.Stop)
	defer func() { end(); _ = s.Close() }()
	b := make([]byte, uevent.Max+1)
	for {
		n, err := s.Read(b)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENOBUFS):
			_ = g.rescan() // announcements were lost
			continue
		case err != nil:
			return fmt.Errorf("cannot read the kernel's announcements of disks: %w", err)
		}
		u, err := uevent.Parse(b[:n])
		if err != nil || u.Subsystem != "block" || u.Devtype != "disk" || u.Synthetic {
			continue
		}
		at := time.Now()
		switch u.Action {
		case "add":
			if d, ok := g.disk(path.Base(u.Path)); ok {
				_ = g.judge(d, at) // what went wrong stands in its event
				g.Look(true)
			}
		case "remove":
			g.Look(false)
		}
	}
}

// A refusal is told once for each disk, program and hour. Root's programs that look at a disk as it comes (udev) are not told by
// themselves: the disk's own event stands for them.
const settles = 5 * time.Second

// tell reads refusals as they happen.
func (g *Guard) tell(ctx context.Context) {
	var told bpf.Hourly
	bpf.Follow(ctx, g.fresh, func() *ebpf.Map {
		g.mu.Lock()
		defer g.mu.Unlock()
		return g.set.pinned().Told()
	}, func(b []byte) {
		if r, ok := readRefusal(b); ok {
			g.refusal(r, &told)
		}
	})
}

// comes notes when a disk came.
func (g *Guard) comes(key string, at time.Time) {
	g.coming.Lock()
	defer g.coming.Unlock()
	if g.coming.at == nil {
		g.coming.at = map[string]time.Time{}
	}
	maps.DeleteFunc(g.coming.at, func(_ string, at time.Time) bool { return time.Since(at) > settles })
	g.coming.at[key] = at
}

// settling reports whether a disk came a moment ago.
func (g *Guard) settling(key string) bool {
	g.coming.Lock()
	defer g.coming.Unlock()
	at, ok := g.coming.at[key]
	return ok && time.Since(at) < settles
}

// refusal tells of one refusal.
func (g *Guard) refusal(r refusal, told *bpf.Hourly) {
	rule := g.ruling.Load()
	if rule == nil || !rule.act {
		return
	}
	program, _, _ := strings.Cut(string(r.Name[:]), "\x00")
	who := fmt.Sprintf("%d@%d %d", r.Whole, r.Turn, r.UID)
	if !told.News(who, program) {
		return
	}
	list, err := g.disks()
	if err != nil {
		return
	}
	at := slices.IndexFunc(list, func(d disk) bool { n, ok := bpf.NumberOf(line(d.dir + "/dev")); return ok && n == r.Whole })
	if at < 0 {
		return // it has gone
	}
	d := list[at]
	if r.UID == 0 && g.settling(fmt.Sprintf("%s@%d", d.name(), r.Turn)) {
		return
	}
	told.Told(who, program)
	g.mu.Lock()
	k, why := g.opened()
	x := g.describe(d)
	g.add(&x, d, k, why)
	g.mu.Unlock()
	v := rule.judge.Judge(&x)
	if v.Allow || x.Turn != r.Turn {
		return
	}
	part := x.Name
	names, devs := d.parts()
	if i := slices.Index(devs, r.Dev); i >= 0 {
		part = names[i]
	}
	g.Hand(platform.Decision{Section: setting.Section(), Key: enforce.Key{Kind: "media.open", ID: fmt.Sprintf("%s %d %s %d", x.Key(), r.UID, enforce.Plain(program),
		time.Now().Unix()/int64(bpf.TellAgain.Seconds()))}, Subject: subject(&x), Verdict: v, Fact: &x, Done: reading(&x),
		Reason: func() (string, string) { return rule.judge.Reason(v, &x) },
		Note:   fmt.Sprintf("%s (pid %d, user %d) tried to open %s", enforce.Plain(program), r.PID, r.UID, part)})
}
