package media

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/warderd/warder/platform/bpf"
)

// Loading programs takes tens of megabytes, for the kernel's description of its types, and the agent would keep them. So a child
// does it, which ends at once.
const (
	childMake = "load"
	childTry  = "try"
	// childLimit bounds it. On a slow emulated machine it takes a second.
	childLimit = time.Minute
	maxSaid    = 2 << 10
)

// Main is the child: it loads, attaches and pins the programs, or tries whether the kernel takes them.
func Main(what string) error {
	switch what {
	case childMake:
		m := &Media{sys: "/sys"}
		return bpf.Media.Make(m.fill)
	case childTry:
		return bpf.Media.Try()
	}
	return fmt.Errorf("%q is neither %s nor %s", what, childMake, childTry)
}

// child runs it. Its error is what it said.
func child(ctx context.Context, what string) error {
	ctx, cancel := context.WithTimeout(ctx, childLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/proc/self/exe", "external-disks", what)
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

// try says why this machine cannot carry the programs. That it can is remembered until it starts anew.
func (m *Media) try(ctx context.Context) error {
	note, version := filepath.Join(m.run, "kernel-takes.media"), fmt.Sprintf("%x", bpf.Media.Version())
	if b, err := os.ReadFile(note); err == nil && m.run != "" && string(b) == version {
		return nil
	}
	if err := child(ctx, childTry); err != nil {
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
		return m.present(k, len(old.Maps) == len(bpf.Media.Maps))
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
		for it := m.Iterate(); it.Next(&dev, &e); {
			if err := k.put("disks", dev, &e); err != nil {
				return err
			}
		}
	}
	var turn uint64
	if m := old.Maps["allowed"]; m != nil {
		for it := m.Iterate(); it.Next(&dev, &turn); {
			if err := k.put("allowed", dev, turn); err != nil {
				return err
			}
		}
	}
	return nil
}

// present tells the programs of the disks that were there before them. Where there was a whole set before, those that it did not
// know are refused until they are judged; otherwise they can be used until then.
func (m *Media) present(k *kernel, inherited bool) error {
	list, err := m.disks()
	if err != nil {
		return err
	}
	for i, d := range list {
		if bus, _ := m.bus(d); bus == "" {
			continue
		}
		_, devs := d.parts()
		if len(devs) == 0 {
			continue // gone
		}
		if err := m.announce(k, d, byUs+uint64(time.Now().UnixNano())+uint64(i)); err != nil {
			return err
		}
		if inherited {
			continue
		}
		if e, ok, err := k.entry(devs[0]); err != nil || ok && k.allow(e) != nil {
			return fmt.Errorf("disk %s cannot be told to the kernel: %w", d.name(), err)
		}
	}
	return nil
}
