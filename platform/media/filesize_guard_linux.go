package media

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/platform"
	"github.com/warderd/warder/platform/bpf"
	"github.com/warderd/warder/platform/mountinfo"
	"github.com/warderd/warder/platform/uevent"
)

// LimitGuard says which disks are exempt from the limit, follows image files that are used as disks, and tells of refusals. What
// the kernel limits, it limits without it.
type LimitGuard struct {
	*Limit
	platform.Listener
	ruling atomic.Pointer[ruling]
	judges sync.Mutex

	tells     sync.Mutex
	takenTold bpf.Hourly
}

// sizer is the interface of the section's rules.
type sizer interface {
	Sizes() enforce.Judge[fact.Medium]
	MaxFileSize() (uint64, bool)
	CanLimit() bool
	PlainPaths() bool
	ExceptedFiles() []string
}

// Section names the section whose rules it uses.
func (g *LimitGuard) Section() string { return sizeSetting.Section() }

// Load replaces the rules and judges every disk again.
func (g *LimitGuard) Load(r platform.Rules) error {
	if r == nil || g.off {
		g.ruling.Store(nil)
		return nil
	}
	s, ok := r.(sizer)
	if !ok {
		return platform.Unsupported{Feature: "the size of files", Need: "rules that judge it"}
	}
	if !s.CanLimit() {
		g.ruling.Store(nil)
		return nil
	}
	g.ruling.Store(&ruling{judge: s.Sizes(), act: true, paths: s.PlainPaths(), files: s.ExceptedFiles()})
	return g.rescan()
}

// rescan judges every disk that is there.
func (g *LimitGuard) rescan() error {
	if g.falls.Load() {
		return g.takeFrom()
	}
	list, err := g.disks()
	if err != nil {
		return fmt.Errorf("the disks cannot be listed: %w", err)
	}
	errs := []error{g.refresh()}
	for _, d := range list {
		errs = append(errs, g.judge(d))
	}
	return errors.Join(errs...)
}

// refresh tells the programs which others may write to disks now, and what rests on external ones.
func (g *LimitGuard) refresh() (err error) {
	if g.ruling.Load() == nil {
		return nil
	}
	g.with(func(k *kernel, why error) {
		if k == nil || why != nil {
			return // the planner attaches them, and this is called again when they are there
		}
		var may bool
		if may, err = g.may(); may {
			err = errors.Join(k.exempt(), g.rests(k), g.except(k))
		}
	})
	return err
}

// may reports whether the programs' maps may be written. What another program contends for is left alone, and reported as drift.
func (g *LimitGuard) may() (bool, error) {
	err := g.gate(enforce.Change{Key: limitKey, Mode: enforce.Enforce})
	if errors.Is(err, enforce.ErrContended) {
		return false, nil
	}
	return err == nil, err
}

// judge says whether a disk is exempt, reads that back, and tells if something is wrong with it.
func (g *LimitGuard) judge(d disk) error {
	g.judges.Lock()
	defer g.judges.Unlock()
	r := g.ruling.Load()
	if bus, _ := g.bus(d); r == nil || bus == "" {
		return nil
	}
	x, v, limited, err := g.settle(d, r)
	if err != nil || v.Guard != enforce.NoGuard {
		g.Hand(platform.Decision{Section: sizeSetting.Section(), Key: enforce.Key{Kind: "filesize.disk", ID: x.Key()}, Subject: subject(&x), Verdict: v,
			Fact: &fact.Written{Medium: x, About: fact.AboutSize}, Reason: func() (string, string) { return r.judge.Reason(v, &x) }, Done: sizeReading(limited), Err: err})
	}
	return err
}

// settle tells the kernel what was decided about a disk, and reads it back.
func (g *LimitGuard) settle(d disk, r *ruling) (x fact.Medium, v enforce.Verdict, limited *bool, err error) {
	x = fact.Medium{Name: d.name()}
	g.with(func(k *kernel, why error) {
		if k != nil && why == nil { // otherwise the planner attaches them, and this is called again when they are there
			x, v, limited, err = g.settleWith(k, d, r)
		}
	})
	return x, v, limited, err
}

// settleWith does it, with the programs that are there.
func (g *LimitGuard) settleWith(k *kernel, d disk, r *ruling) (x fact.Medium, v enforce.Verdict, limited *bool, err error) {
	x = fact.Medium{Name: d.name()}
	if may, err := g.may(); !may {
		return x, v, nil, err
	}
	if err := stack(k, d, byUs+uint64(time.Now().UnixNano())); err != nil { // one that the kernel does not tell by itself
		return x, v, nil, err
	}
	before := line(d.dir + "/dev")
	x, e, limited := g.now(k, d)
	if limited == nil || x.Dev != before {
		return x, v, nil, nil // it has gone
	}
	v = r.judge.Judge(&x)
	if *limited != v.Allow {
		return x, v, limited, nil
	}
	tell := k.refuse
	if v.Allow {
		tell = k.allow
	}
	if err := tell(e); err != nil {
		return x, v, limited, err
	}
	if _, limited = g.state(k, x.Dev); limited == nil || *limited == v.Allow {
		err = errors.New("the kernel does not show what it was told")
	}
	x.Limited = limited
	return x, v, limited, err
}

// now reads a disk, and what the kernel does with it. The caller has the lock.
func (g *LimitGuard) now(k *kernel, d disk) (x fact.Medium, e entry, limited *bool) {
	x = g.describe(d)
	if x.External.V && g.carries != nil {
		x.System = g.carries(d.device)
	}
	e, limited = g.state(k, x.Dev)
	x.Turn, x.Limited = e.Turn, limited
	return x, e, limited
}

func sizeReading(limited *bool) enforce.Reading {
	r := enforce.Reading{State: enforce.Unknown, How: howSize}
	if limited != nil {
		r.State, r.Value = enforce.Present, "files may have any size"
		if *limited {
			r.Value = "files are limited"
		}
	}
	return r
}

// Run judges disks as they are announced, and tells of refusals, until ctx ends.
func (g *LimitGuard) Run(ctx context.Context) error {
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
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	all.Go(func() { cancel(g.held.Await(ctx)) })
	all.Go(func() { g.tell(ctx) })
	all.Go(func() { g.follow(ctx) })
	end := context.AfterFunc(ctx, s.Stop)
	defer func() { end(); _ = s.Close() }()
	b := make([]byte, uevent.Max+1)
	for {
		n, err := s.Read(b)
		switch {
		case errors.Is(context.Cause(ctx), context.Canceled):
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, unix.ENOBUFS):
			_ = g.rescan() // announcements were lost
			continue
		case err != nil:
			return fmt.Errorf("cannot read the kernel's announcements of disks: %w", err)
		}
		u, err := uevent.Parse(b[:n])
		if err != nil || u.Subsystem != "block" || u.Devtype != "disk" && !strings.HasPrefix(path.Base(u.Path), "loop") {
			continue
		}
		disk := path.Base(u.Path)
		switch {
		case g.falls.Load(): // a disk is watched once it is mounted
		case strings.HasPrefix(disk, "loop"), strings.HasPrefix(disk, "dm-"), strings.HasPrefix(disk, "md"):
			g.tried(g.refresh())
		case u.Action == "add" && !u.Synthetic:
			g.tried(g.refresh())
			if d, ok := g.disk(disk); ok {
				_ = g.judge(d) // what went wrong stands in its event
			}
		}
	}
}

// follow has files taken off disks as they are mounted, where that is what is done; and finds files with an exception there.
func (g *LimitGuard) follow(ctx context.Context) {
	for ctx.Err() == nil {
		g.tried(mountinfo.Watch(ctx, func() {
			switch r := g.ruling.Load(); {
			case g.falls.Load():
				g.tried(g.takeFrom())
			case r != nil && len(r.files) > 0:
				g.tried(g.refresh())
			}
		}, g.proc+"/self/mountinfo"))
		select {
		case <-ctx.Done():
		case <-time.After(10 * time.Second): // it could not be watched
		}
	}
}

// tried notes what went wrong; the next look tries again.
func (g *LimitGuard) tried(err error) {
	if err != nil {
		g.log.Warn("not all of what is on external disks is limited", "error", err)
	}
}

// Work lists nothing: all of it is done at once.
func (g *LimitGuard) Work() []platform.Work { return nil }

// Stop ends what takes files off disks: what is in between stays where it is.
func (g *LimitGuard) Stop() { g.taker.stop() }

// What was refused (platform/bpf/c/filesize.c).
const (
	tooLarge = 1 + iota
	rawWrite
	coreDump
)

type tooMuch struct {
	Turn, Size                uint64
	Dev, Whole, UID, PID, Why uint32
	Program, File, Path       string
}

const tooMuchSize = 40 + 16 + 64 + 512

func readTooMuch(b []byte) (r tooMuch, ok bool) {
	if len(b) < tooMuchSize {
		return r, false
	}
	e := binary.NativeEndian
	text := func(from, to int) string {
		s, _, _ := bytes.Cut(b[from:to], []byte{0})
		return string(s)
	}
	return tooMuch{Turn: e.Uint64(b), Size: e.Uint64(b[8:]), Dev: e.Uint32(b[16:]), Whole: e.Uint32(b[20:]), UID: e.Uint32(b[24:]), PID: e.Uint32(b[28:]),
		Why: e.Uint32(b[32:]), Program: text(40, 56), File: text(56, 120), Path: text(120, 632)}, true
}

// path is the path of the file of a refusal, or its name if the kernel could not tell the path.
func (r *tooMuch) path() string {
	if r.Path == "" {
		return r.File
	}
	return r.Path
}

// file names a file in an event, which everybody who may read events sees: not by its path, unless the policy says so, but so that
// two events about one file can be told to be about one.
func (g *LimitGuard) file(path string) string {
	if path == "" {
		return "a file whose path is not known"
	}
	if r := g.ruling.Load(); r != nil && r.paths {
		return fmt.Sprintf("file %q", enforce.Plain(path))
	}
	return "file #" + fileMark(path)
}

// fileMark is a keyed hash of a name. The key is this process's own: marks can be compared until the agent starts anew.
func fileMark(name string) string {
	m := hmac.New(sha256.New, markKey())
	m.Write([]byte(name))
	return hex.EncodeToString(m.Sum(nil)[:4])
}

var markKey = sync.OnceValue(func() []byte {
	b := make([]byte, 32)
	_, _ = rand.Read(b)
	return b
})

// tell reads refusals as they happen. One is told once for each disk, program, file and hour.
func (g *LimitGuard) tell(ctx context.Context) {
	var told bpf.Hourly
	g.held.Follow(ctx, func(b []byte) {
		if r, ok := readTooMuch(b); ok {
			g.refusal(&r, &told)
		}
	})
}

// refusal tells of one refusal.
func (g *LimitGuard) refusal(r *tooMuch, told *bpf.Hourly) {
	rule := g.ruling.Load()
	if rule == nil {
		return
	}
	r.Program = enforce.Plain(r.Program)
	who := fmt.Sprintf("%d@%d %d %d", r.Whole, r.Turn, r.UID, r.Why)
	what := fmt.Sprintf("%s %s", r.Program, fileMark(r.Path+"\x00"+r.File))
	if !told.News(who, what) {
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
	var x fact.Medium
	var limited *bool
	g.with(func(k *kernel, why error) {
		if k != nil && why == nil {
			x, _, limited = g.now(k, list[at])
		}
	})
	if limited == nil {
		return
	}
	v := rule.judge.Judge(&x)
	if v.Allow || x.Turn != r.Turn {
		return
	}
	told.Told(who, what)
	by := fmt.Sprintf("%s (pid %d, user %d)", r.Program, r.PID, r.UID)
	note := fmt.Sprintf("%s tried to make %s %d bytes large", by, g.file(r.path()), r.Size)
	if r.Size == 0 {
		note = fmt.Sprintf("%s wrote to %s in a way that cannot be measured", by, g.file(r.path()))
	}
	switch r.Why {
	case rawWrite:
		note = by + " tried to open the disk itself for writing, which is no file"
		g.tried(g.refresh()) // it may be the file system's program, and another one than before
	case coreDump:
		note = by + " crashed, and its memory would have been dumped there"
	}
	g.Hand(platform.Decision{Section: sizeSetting.Section(), Key: enforce.Key{Kind: "filesize.refused", ID: fmt.Sprintf("%s %s %s %d", x.Key(), who, what,
		time.Now().Unix()/int64(bpf.TellAgain.Seconds()))}, Subject: subject(&x), Verdict: v, Fact: &fact.Written{Medium: x, About: fact.AboutSize, Bytes: r.Size}, Done: sizeReading(limited),
		Reason: func() (string, string) { return rule.judge.Reason(v, &x) }, Note: note})
}
