package media

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/warderd/warder/platform/bpf"
)

// Loading programs takes tens of megabytes, for the kernel's description of its types, and the agent would keep them. So a child
// does it, which ends at once.
const (
	childMake = "load"
	childTry  = "try"
	// childProve finds out whether programs that the kernel takes are called, too.
	childProve = "prove"
	// childLimit bounds it. On a slow emulated machine it takes a second.
	childLimit = time.Minute
	maxSaid    = 2 << 10
)

// Main is the child: it loads, attaches and pins a set of programs (for file sizes, with the limit in bytes), or tries whether the
// kernel takes them.
func Main(args ...string) error {
	m := &Media{sys: "/sys"}
	switch {
	case slices.Equal(args, []string{childMake, name}):
		return bpf.Media.Make(m.fill)
	case slices.Equal(args, []string{childTry, name}):
		return bpf.Media.Try()
	case len(args) == 3 && args[0] == childMake && args[1] == sizeName:
		limit, err := strconv.ParseUint(args[2], 10, 64)
		if err != nil {
			return fmt.Errorf("limit %q is no number of bytes", args[2])
		}
		return bpf.FileSize.Make((&Limit{Media: m}).fill(limit))
	case slices.Equal(args, []string{childTry, sizeName}):
		return bpf.FileSize.Try()
	case slices.Equal(args, []string{childProve, sizeName}):
		return bpf.FileSize.Prove()
	}
	return fmt.Errorf("%q is nothing that it does", args)
}

// child runs it. Its error is what it said.
func child(ctx context.Context, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, childLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/proc/self/exe", append([]string{"external-disks"}, args...)...)
	cmd.Dir, cmd.Env, cmd.WaitDelay = "/", []string{"GOMAXPROCS=2"}, time.Second
	out, err := cmd.CombinedOutput()
	if err == nil {
		return nil
	}
	said := strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(string(out[:min(len(out), maxSaid)])), "warder: "))
	var ended *exec.ExitError
	if said == "" || !errors.As(err, &ended) || ended.ExitCode() < 0 {
		return fmt.Errorf("the program that loads them: %w %s", err, said)
	}
	return errors.New(said)
}

// try says why this machine cannot carry a set of programs.
func (m *Media) try(ctx context.Context, set *bpf.Set) error {
	return m.once(ctx, "kernel-takes.", childTry, set)
}

// once has the child find something out about a set. That it is so is remembered until the machine starts anew.
func (m *Media) once(ctx context.Context, file, what string, set *bpf.Set) error {
	note, version := filepath.Join(m.run, file+set.Name), fmt.Sprintf("%x", set.Version())
	if b, err := os.ReadFile(note); err == nil && m.run != "" && string(b) == version {
		return nil
	}
	if err := child(ctx, what, set.Name); err != nil {
		return err
	}
	if m.run != "" {
		_ = os.WriteFile(note, []byte(version), 0o600) // in memory, and only to save time
	}
	return nil
}

// fill tells the programs what is there, before the next one is attached. What is open now stays so until the guard has judged
// it: the disk that the system is on is never refused, not even for a moment. But what an earlier set refused stays refused.
func (m *Media) fill(p, old *bpf.Pinned, attached int) error {
	k := &kernel{p}
	c, err := own()
	if err != nil {
		return err
	}
	switch attached {
	case 0:
		return errors.Join(k.put("config", uint32(0), &c), k.inherit(&kernel{old}))
	case 1: // arrivals are counted from now on
		return m.present(k, len(old.Maps) == len(bpf.Media.Maps), announce)
	}
	c.Closed = 1
	return k.put("config", uint32(0), &c)
}

// inherit copies what an earlier set knew.
func (k *kernel) inherit(old *kernel) error {
	if n, err := old.counts(); err == nil {
		if err := k.put("counts", uint32(0), &n); err != nil {
			return err
		}
	}
	var dev uint32
	var e entry
	if m := old.Maps["disks"]; m != nil {
		it := m.Iterate()
		for it.Next(&dev, &e) {
			if err := k.put("disks", dev, &e); err != nil {
				return err
			}
		}
		if err := it.Err(); err != nil {
			return err
		}
	}
	var turn uint64
	if m := old.Maps["allowed"]; m != nil {
		it := m.Iterate()
		for it.Next(&dev, &turn) {
			if err := k.put("allowed", dev, turn); err != nil {
				return err
			}
		}
		if err := it.Err(); err != nil {
			return err
		}
	}
	return nil
}

// present tells the programs of the disks that were there before them. Where there was a whole set before, those that it did not
// know are refused until they are judged; otherwise they can be used until then.
func (m *Media) present(k *kernel, inherited bool, tell func(k *kernel, d disk, turn uint64) error) error {
	list, err := m.disks()
	if err != nil {
		return err
	}
	for i, d := range list {
		if bus, _ := m.bus(d); bus == "" {
			continue
		}
		dev, ok := numberOf(line(d.dir + "/dev"))
		if !ok {
			continue // gone
		}
		if err := tell(k, d, byUs+uint64(time.Now().UnixNano())+uint64(i)); err != nil {
			return err
		}
		if inherited {
			continue
		}
		if e, ok, err := k.entry(dev); err != nil || ok && k.allow(e) != nil {
			return fmt.Errorf("disk %s cannot be told to the kernel: %w", d.name(), err)
		}
	}
	return nil
}

// announce tells the programs that a disk and its partitions are external.
func announce(k *kernel, d disk, turn uint64) error {
	_, devs := d.parts()
	return k.know(d, devs, turn)
}
