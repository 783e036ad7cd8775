package media

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/warderd/warder/enforce/fact"
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

// Observe lists the disks, and what the kernel does with them.
func (m *Media) Observe(_ context.Context, out *fact.Machine) error {
	list, err := m.disks()
	if err != nil {
		out.Media = fact.Unread[[]fact.Medium](err.Error())
		return fmt.Errorf("the disks cannot be listed: %w", err)
	}
	var mounts []mountinfo.Mount
	if f, err := os.Open(m.proc + "/self/mountinfo"); err == nil {
		mounts, _, _ = mountinfo.Parse(f)
		_ = f.Close()
	}
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
			if slices.Contains(devs, at.Dev) || slices.ContainsFunc(names, func(n string) bool { return node(at.Source) == n }) {
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
	out.Media = fact.Is(all)
	return nil
}

// add adds what the kernel does with a disk, and what the system has on it. The caller has the lock.
func (m *Media) add(x *fact.Medium, d disk, k *kernel, why error) {
	if x.External.V && m.carries != nil {
		x.System = m.carries(d.device)
	}
	x.Held = k != nil
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
