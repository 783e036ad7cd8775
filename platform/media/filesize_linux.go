package media

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/platform"
	"github.com/warderd/warder/platform/bpf"
)

const (
	howSize  = "the programs pinned at /sys/fs/bpf/warder/filesize"
	howTaken = "the agent's own list of what it watches"
)

// limitKey is the one resource: how large files on external disks may be.
var limitKey = enforce.Key{Kind: sizeName, ID: "external"}

// Limit keeps files on external disks from growing past a size. The programs in the kernel do it (docs/decisions/0037), for every
// way of writing, and stay when the agent ends; the guard says which disks are exempt, and what rests on an external one.
type Limit struct {
	*Media // its view of the disks alone
	held   *bpf.Held

	excepted atomic.Pointer[stairs] // what the programs were told of files that may have any size

	taker   *taker      // instead, where the kernel takes no such programs
	falls   atomic.Bool // that is so
	touched atomic.Pointer[func(platform.Touch)]
}

// FileSize is the control of the size of files on external disks.
func FileSize(h platform.Host) platform.Capability {
	l := &Limit{Media: &Media{sys: h.Sysfs, proc: h.Proc, run: h.Run, off: h.Sysfs != "/sys", gate: h.Gate, log: h.Log}, held: bpf.Hold(&bpf.FileSize, h.Run, checkSizes)}
	g := &LimitGuard{Limit: l}
	l.useTaker(g, filepath.Dir(h.Quarantine))
	return platform.Capability{
		Name: sizeName, Claims: sizeClaims(), Probe: l.probe,
		Observers: []platform.Observer{l}, Backends: []platform.Backend{l}, Guards: []platform.Guard{g},
		Uses: []platform.Port{
			platform.Borrow(platform.PortCarries, func(f platform.CarriesSystem) { l.carries = f }),
			platform.Borrow(platform.PortKeep, func(f platform.KeepFile) { l.taker.keep = f }),
		},
	}
}

// probe says why this machine cannot limit the size of files, or which programs get round it, if that is so.
func (l *Limit) probe(ctx context.Context) []platform.Claim {
	err := errors.New("this machine is simulated")
	if !l.off {
		err = bpf.FileSize.Takes(ctx, l.run)
	}
	l.falls.Store(err != nil && !l.off)
	if err != nil && !l.off {
		return []platform.Claim{{Setting: sizeSetting, OS: "linux", Level: fact.Partial, Limit: takenLimit + ": " + err.Error()}}
	}
	if err != nil {
		return []platform.Claim{{Setting: sizeSetting, OS: "linux", Level: fact.Unsupported, Limit: "the size of files is not limited: " + err.Error()}}
	}
	if list := named(helpers(fileSystems)); len(list) > 0 {
		return []platform.Claim{{Setting: sizeSetting, OS: "linux", Level: fact.Partial,
			Limit: strings.Join(list, ", ") + " may write to a disk itself, because it is the file system of it; " + sizeLimit}}
	}
	return nil
}

// The forms of what the programs keep (platform/bpf/c/filesize.c).
type (
	sizeConfig struct {
		On, _   uint32
		Limit   uint64
		Version [16]byte
	}
	program struct {
		Ino    uint64
		Dev, _ uint32
	}
)

func (k *kernel) sizes() (c sizeConfig, err error) {
	return c, k.Lookup("config", uint32(0), &c)
}

// The programs that may write to an external disk itself. Other programs that do so would get round the limit: mkfs.ext4 can fill a
// file system with files, for one.
var (
	// fileSystems are file systems of disks, outside the kernel. The files that others write through them are limited.
	fileSystems = []string{"bin/ntfs-3g", "bin/lowntfs-3g", "sbin/mount.exfat-fuse"}
	// keepers repair a file system, or make a disk from what is on another one. They write what is theirs, and no files.
	keepers = []string{"sbin/e2fsck", "sbin/fsck.fat", "sbin/fsck.exfat", "sbin/xfs_repair", "bin/ntfsfix", "bin/btrfs", "sbin/cryptsetup", "lib/systemd/systemd-cryptsetup",
		"bin/systemd-cryptsetup", "libexec/udisks2/udisksd", "lib/udisks2/udisksd", "sbin/lvm", "sbin/mdadm"}
)

// helpers are those of a list that this machine has, and that nobody but root can change.
func helpers(list []string) map[string]program {
	out := map[string]program{}
	for _, name := range list {
		for _, path := range []string{"/usr/" + name, "/" + name} { // one of them can be a link to the other
			var st unix.Stat_t
			if unix.Stat(path, &st) != nil || st.Uid != 0 || st.Mode&(unix.S_IWGRP|unix.S_IWOTH) != 0 || st.Mode&unix.S_IFMT != unix.S_IFREG {
				continue
			}
			if dev, ino, err := bpf.File(path); err == nil {
				out[path] = program{Ino: ino, Dev: dev}
			}
		}
	}
	return out
}

// named are the names of programs, each once.
func named(list map[string]program) (out []string) {
	for path := range list {
		if name := filepath.Base(path); !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// exempt tells the programs which others may write to disks.
func (k *kernel) exempt() error {
	want := map[program]uint32{}
	for _, list := range [][]string{fileSystems, keepers} {
		for _, p := range helpers(list) {
			want[p] = 1
		}
	}
	return bpf.Become(k.Pinned, "programs", want)
}

// fill tells new programs what is there, before the next one is attached. Nothing is limited before the last.
func (l *Limit) fill(limit uint64) func(p, old *bpf.Pinned, attached int) error {
	return func(p, old *bpf.Pinned, attached int) error {
		k := &kernel{p}
		c := sizeConfig{Limit: limit, Version: bpf.FileSize.Version()}
		switch attached {
		case 0:
			return errors.Join(k.Put("config", uint32(0), &c), k.exempt(), k.inherit(&kernel{old}))
		case 1: // arrivals are counted from now on
			return errors.Join(l.present(k, decides(old), stack), l.rests(k))
		case len(bpf.FileSize.Programs):
			c.On = 1
			return k.Put("config", uint32(0), &c)
		}
		return nil
	}
}

// stack tells the programs that a disk, its partitions and what rests on them are external, by number and by name.
func stack(k *kernel, d disk, turn uint64) error {
	names, numbers := d.resting()
	var devs []uint32
	for i, s := range numbers {
		n, ok := bpf.NumberOf(s)
		if !ok {
			continue
		}
		devs = append(devs, n)
		var name [32]byte
		if copy(name[:31], names[i]) < len(names[i]) {
			continue // no disk is called so
		}
		if err := k.Put("names", name, n); err != nil {
			return fmt.Errorf("disk %s cannot be told to the kernel: %w", d.name(), err)
		}
	}
	return k.know(d, devs, turn)
}

// rests finds what rests on external disks and does not say so in the kernel, and what does not rest on one any more: image files
// that are used as disks, and their partitions; device-mapper and md, which the kernel's programs follow only upwards.
func (l *Limit) rests(k *kernel) error {
	list, err := os.ReadDir(l.sys + "/class/block")
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range list {
		name := e.Name()
		if !strings.HasPrefix(name, "loop") && !strings.HasPrefix(name, "dm-") && !strings.HasPrefix(name, "md") {
			continue
		}
		dir, err := filepath.EvalSymlinks(l.sys + "/class/block/" + name)
		if err != nil {
			continue // gone
		}
		dev, ok := bpf.NumberOf(line(dir + "/dev"))
		if !ok {
			continue
		}
		below, on, err := l.below(k, dir, 0)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		is, known, err := k.entry(dev)
		switch {
		case err != nil:
			errs = append(errs, err)
		case on && is != below: // a new one, or it rests on another disk than before
			errs = append(errs, k.mark(dev), k.Put("disks", dev, &below))
			var text [32]byte
			copy(text[:31], name)
			errs = append(errs, k.Put("names", text, dev))
		case known && !on:
			if err := k.Maps["disks"].Delete(dev); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

// maxStack bounds how many disks rest on each other.
const maxStack = 8

// below is the entry of the external disk on which another one rests, if it rests on one.
func (l *Limit) below(k *kernel, dir string, depth int) (e entry, on bool, err error) {
	if depth > maxStack {
		return e, false, nil
	}
	if _, err := os.Stat(dir + "/partition"); err == nil {
		return l.below(k, filepath.Dir(dir), depth+1)
	}
	if _, err := os.Stat(dir + "/loop/backing_file"); err == nil {
		n, err := behind(filepath.Base(dir))
		if err != nil {
			return e, false, nil //nolint:nilerr // it has been given up meanwhile
		}
		return k.entry(n)
	}
	slaves, _ := filepath.Glob(dir + "/slaves/*")
	for _, s := range slaves {
		to, err := filepath.EvalSymlinks(s)
		if err != nil {
			continue
		}
		stacked := strings.HasPrefix(filepath.Base(to), "loop") || strings.HasPrefix(filepath.Base(to), "dm-") || strings.HasPrefix(filepath.Base(to), "md")
		if stacked {
			e, on, err = l.below(k, to, depth+1)
		} else if n, ok := bpf.NumberOf(line(to + "/dev")); ok {
			e, on, err = k.entry(n)
		}
		if on || err != nil {
			return e, on, err
		}
	}
	return e, false, nil
}

// behind is the file system on which a loop device's file lies.
func behind(name string) (dev uint32, err error) {
	fd, err := unix.Open("/dev/"+name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	info, err := unix.IoctlLoopGetStatus64(fd)
	if err != nil {
		return 0, err
	}
	return bpf.Number(unix.Major(info.Device), unix.Minor(info.Device)), nil
}

// Kinds is the one kind: programs in the kernel, which end with a boot.
func (l *Limit) Kinds() []platform.Kind {
	return []platform.Kind{{Name: sizeName, Life: platform.Boot, Made: true}}
}

// checkSizes says what is wrong with programs that were pinned.
func checkSizes(p *bpf.Pinned) error {
	c, err := (&kernel{p}).sizes()
	switch {
	case err != nil:
		return err
	case c.Version != bpf.FileSize.Version():
		return &bpf.Changed{Why: "they are another version's"}
	case c.On == 0:
		return &bpf.Changed{Why: "they limit nothing"}
	}
	return nil
}

// with calls f with what is pinned; nil without an error: nothing is. Only one f runs at a time.
func (l *Limit) with(f func(k *kernel, err error)) {
	if l.off {
		f(nil, nil)
		return
	}
	l.held.With(func(p *bpf.Pinned, err error) {
		if p == nil {
			f(nil, err)
			return
		}
		f(&kernel{p}, err)
	})
}

// List reads what is pinned.
func (l *Limit) List(context.Context) (map[enforce.Key]enforce.Reading, error) {
	if l.off {
		return nil, nil
	}
	out := map[enforce.Key]enforce.Reading{}
	if l.falls.Load() {
		if err := l.held.Unused(); err != nil {
			out[limitKey] = enforce.Reading{State: enforce.Present, Value: enforce.Value("changed: " + err.Error()), How: howSize}
		} else if limit, on := l.taker.state(); on {
			out[limitKey] = enforce.Reading{State: enforce.Present, Value: enforce.Value(fact.FileSizeLimit(limit)), How: howTaken}
		}
		return out, nil
	}
	l.with(func(k *kernel, err error) {
		var c sizeConfig
		var n counts
		if err == nil && k != nil {
			c, err = k.sizes()
		}
		if err == nil && k != nil {
			n, err = k.counts()
		}
		if err == nil {
			err = bpf.FileSize.Strays()
		}
		if err == nil && k != nil {
			err = l.held.Overlooked(k.Pinned)
		}
		if err == nil && k != nil {
			var is bool
			if is, err = k.unmarked(); is {
				err = errors.Join(err, &bpf.Changed{Why: "they do not look for a disk that they know"})
			}
		}
		if err == nil && k != nil {
			var is bool
			if is, err = l.strangers(k); is {
				err = &bpf.Changed{Why: "they let other files have any size than those with an exception"}
			}
		}
		var changed *bpf.Changed
		switch {
		case errors.As(err, &changed):
			out[limitKey] = enforce.Reading{State: enforce.Present, Value: enforce.Value("changed: " + changed.Why), How: howSize}
		case err != nil:
			out[limitKey] = enforce.Reading{State: enforce.Unknown, How: howSize + ": " + err.Error()}
		case k != nil:
			value := enforce.Value(fact.FileSizeLimit(c.Limit))
			if n.Lost > 0 {
				value += enforce.Value(fmt.Sprintf("; but %d of the disks did not fit", n.Lost))
			}
			out[limitKey] = enforce.Reading{State: enforce.Present, Value: value, How: howSize}
		}
	})
	return out, nil
}

// Apply attaches the programs, changes the limit, or removes them.
func (l *Limit) Apply(ctx context.Context, changes []enforce.Change) map[enforce.Key]error {
	out := map[enforce.Key]error{}
	for _, c := range changes {
		if err := l.change(ctx, c); err != nil {
			out[c.Key] = err
		}
	}
	return out
}

func (l *Limit) change(ctx context.Context, c enforce.Change) error {
	if c.Key != limitKey || l.off {
		return fmt.Errorf("there is no %s", c.Key)
	}
	if err := l.gate(c); err != nil {
		return err
	}
	if c.To.State == enforce.Absent {
		l.taker.stop()
		if l.falls.Load() {
			return l.held.Leave()
		}
		return l.held.Remove()
	}
	limit, ok := fact.ParseFileSizeLimit(string(c.To.Value))
	if !ok {
		return fmt.Errorf("%q names no limit", c.To.Value)
	}
	if l.falls.Load() {
		return errors.Join(l.taker.start(limit), l.held.Leave())
	}
	told := false
	var err error
	l.with(func(k *kernel, why error) {
		if told = k != nil && why == nil && bpf.FileSize.Strays() == nil; !told {
			return
		}
		if err = errors.Join(l.held.Overlooked(k.Pinned), k.markAll()); err != nil {
			return
		}
		var is sizeConfig
		if is, err = k.sizes(); err == nil {
			is.Limit = limit // no moment without one
			err = k.Put("config", uint32(0), &is)
		}
		if want := l.excepted.Load(); want != nil {
			err = errors.Join(err, bpf.Become(k.Pinned, "excepted", *want))
		}
	})
	if told {
		return err
	}
	if err := bpf.FileSize.Calls(ctx, l.run); err != nil {
		return err
	}
	// What the earlier ones knew of the disks is told to the new ones before they are all there are.
	return l.held.Make(ctx, func(p, old *bpf.Pinned) error {
		if old == nil {
			return nil
		}
		return (&kernel{p}).inherit(&kernel{old})
	}, strconv.FormatUint(limit, 10))
}

// Watch reports that another program has removed something that is pinned.
func (l *Limit) Watch(ctx context.Context, changed func(platform.Touch)) error {
	if l.off {
		<-ctx.Done()
		return nil
	}
	l.touched.Store(&changed)
	if l.falls.Load() {
		<-ctx.Done()
		return nil
	}
	return l.held.Watch(ctx, func() { changed(platform.Touch{Key: limitKey}) })
}

// Observe adds to the disks whether the kernel limits the size of files on them.
func (l *Limit) Observe(_ context.Context, out *fact.Machine) error {
	if l.falls.Load() {
		return l.observeTaken(out)
	}
	l.with(func(k *kernel, err error) {
		if err != nil || k == nil || !out.Media.OK {
			return // the reading says what is wrong
		}
		for i := range out.Media.V {
			x := &out.Media.V[i]
			if !x.External.V {
				continue
			}
			if _, x.Limited = l.state(k, x.Dev); x.Limited == nil {
				x.Unread = "the programs' maps do not answer for device " + x.Dev
			}
		}
	})
	return nil
}

// state is a disk's entry, and whether files on it are limited; nil if that cannot be read.
func (l *Limit) state(k *kernel, at string) (e entry, limited *bool) {
	dev, ok := bpf.NumberOf(at)
	if !ok {
		return e, nil
	}
	e, known, err := k.entry(dev)
	if err != nil {
		return e, nil
	}
	allowed := false
	if known {
		if allowed, _, err = k.allowed(e); err != nil {
			return e, nil
		}
	}
	is := known && !allowed
	return e, &is
}
