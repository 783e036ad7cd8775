package media

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/platform"
	"github.com/warderd/warder/platform/bpf"
	"github.com/warderd/warder/platform/mountinfo"
)

// maxMounts bounds how many mount points of one disk are named.
const maxMounts = 16

// maxElsewhere bounds the mounts that are on none of the disks. A desktop has some fifty.
const maxElsewhere = 4096

// node is the kernel's name of the device that a mount's source names ("/dev/mapper/home"); "" if it names none.
func node(source string) string {
	if !strings.HasPrefix(source, "/dev/") {
		return ""
	}
	if to, err := filepath.EvalSymlinks(source); err == nil {
		source = to
	}
	return filepath.Base(source)
}

// mountsOf are the mounts of a disk, its partitions and what rests on them.
func (d disk) mountsOf(all []mountinfo.Mount) (out []mountinfo.Mount) {
	names, devs := d.resting()
	for _, m := range all {
		if rests(m, names, devs) {
			out = append(out, m)
		}
	}
	return out
}

// rests reports whether a mount is of one of these devices. A file system over several has a number of its own, and names one of
// its devices as its source.
func rests(m mountinfo.Mount, names, devs []string) bool {
	return slices.Contains(devs, m.Dev) || slices.Contains(names, node(m.Source))
}

// mounts are what this machine's own list says.
func (m *Media) mounts() ([]mountinfo.Mount, error) {
	f, err := os.Open(m.proc + "/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	all, _, err := mountinfo.Parse(f)
	return all, err
}

// Observe lists the disks, and what the kernel does with them.
func (m *Media) Observe(_ context.Context, out *fact.Machine) error {
	out.DisksRefused = !m.off
	list, err := m.disks()
	if err != nil {
		out.Media = fact.Unread[[]fact.Medium](err.Error())
		return fmt.Errorf("the disks cannot be listed: %w", err)
	}
	mounts, _ := m.mounts()           // without it, nothing is mounted as far as can be told
	used := make([]bool, len(mounts)) // on one of the disks
	m.mu.Lock()
	defer m.mu.Unlock()
	k, why := m.opened()
	all := make([]fact.Medium, 0, len(list))
	for _, d := range list {
		x := m.describe(d)
		m.add(&x, d, k, why)
		names, devs := d.resting()
		x.Parts = names
		for i, at := range mounts {
			if rests(at, names, devs) {
				used[i] = true
				if len(x.Mounts) < maxMounts {
					x.Mounts = append(x.Mounts, at.Point)
				}
			}
		}
		all = append(all, x)
	}
	for i, at := range mounts {
		if !used[i] && len(out.Elsewhere) < maxElsewhere {
			out.Elsewhere = append(out.Elsewhere, at.Point)
		}
	}
	if m.cannot.Load() {
		all = m.standing(all)
	}
	out.Media = fact.Is(all)
	return nil
}

// add adds what the kernel does with a disk, and what the system has on it. The caller has the lock.
func (m *Media) add(x *fact.Medium, d disk, k *kernel, why error) {
	if x.External.V && m.carries != nil {
		x.System = m.carries(d.device)
	}
	x.Held = k != nil
	if k == nil && m.cannot.Load() {
		x.Held, x.Refused = m.offing.Load(), fact.Is(false)
		x.Turn, _ = strconv.ParseUint(line(d.dir+"/diskseq"), 10, 64) // since Linux 5.15
		return
	}
	if k == nil {
		x.Refused = fact.Is(false)
		if why != nil {
			x.Refused = fact.Unread[bool](why.Error())
		}
		return
	}
	dev, ok := bpf.NumberOf(x.Dev)
	if !ok {
		x.Refused = fact.Unread[bool]("its number cannot be read")
		return
	}
	e, known, err := k.entry(dev)
	if err != nil {
		x.Refused = fact.Unread[bool](err.Error())
		return
	}
	if !known {
		x.Refused = fact.Is(false)
		return
	}
	allowed, before, err := k.allowed(e)
	if err != nil {
		x.Refused = fact.Unread[bool](err.Error())
		return
	}
	x.Turn, x.Refused, x.Open = e.Turn, fact.Is(!allowed), e.Fresh == 0 || before
}

// outside lists the external disks that have something mounted.
func (m *Media) outside() (out []platform.OutsideDisk, err error) {
	if m.off {
		return nil, nil
	}
	list, err := m.disks()
	if err != nil {
		return nil, err
	}
	all, err := m.mounts()
	if err != nil {
		return nil, err
	}
	for _, d := range list {
		if bus, _ := m.bus(d); bus == "" {
			continue
		}
		x := platform.OutsideDisk{Medium: m.describe(d), Mounts: d.mountsOf(all)}
		if x.External.V && m.carries != nil {
			x.System = m.carries(d.device)
		}
		if x.Name = subject(&x.Medium); len(x.Mounts) > 0 {
			out = append(out, x)
		}
	}
	return out, nil
}
