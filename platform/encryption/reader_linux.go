package encryption

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/platform/mountinfo"
)

// Reader reads the mounts, the swaps and the block devices beneath. It opens no file on a mounted file system, which
// may be a user's and never answer.
type Reader struct {
	Sys, Proc, Dev string
	// Tables returns the targets of a device-mapper device; nil asks the kernel.
	Tables func(dev string) ([]Target, error)
	ask    asker
	// Locks reports whether a disk encrypts by itself; nil asks the drive.
	Locks func(node string) bool
}

// The bounds of what is followed.
const (
	maxVolumes = 512
	maxDepth   = 24
	maxNodes   = 4096
)

// Observe fills in the snapshot's volumes: every internal, writable, persistent file system that is mounted, and every
// swap, each once with all its mount points.
func (r *Reader) Observe(_ context.Context, m *fact.Machine) error {
	list, err := r.volumes()
	if err != nil {
		m.Volumes = fact.Unread[[]fact.Volume](err.Error())
		return err
	}
	m.Volumes = fact.Is(list)
	return nil
}

// volumes reads the mounts and swaps.
func (r *Reader) volumes() ([]fact.Volume, error) {
	text, err := os.ReadFile(r.Proc + "/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("the mounts cannot be read: %w", err)
	}
	mounts, skipped, err := mountinfo.Parse(bytes.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("the mounts cannot be read: %w", err)
	}
	if len(mounts) == 0 {
		return nil, errors.New("the list of mounts is empty")
	}
	l := look{r: r, mounts: mounts}
	var out []fact.Volume
	at := map[string]int{} // by device; -1: not examined
	for _, mnt := range mounts {
		if mnt.ReadOnly {
			continue
		}
		if i, again := at[mnt.Dev]; again {
			if i >= 0 {
				out[i].Also = append(out[i].Also, enforce.Plain(mnt.Point))
			}
			continue
		}
		at[mnt.Dev] = -1
		v, is := l.volume(mnt)
		if !is {
			continue
		}
		if len(out) >= maxVolumes {
			return nil, fmt.Errorf("more than %d file systems are mounted", maxVolumes)
		}
		at[mnt.Dev] = len(out)
		out = append(out, v)
	}
	swaps, err := l.swaps()
	if err != nil {
		return nil, err
	}
	out = append(out, swaps...)
	if skipped > 0 {
		// A line that cannot be read may be a disk's.
		out = append(out, fact.Volume{Mount: "?", Encrypted: fact.Unread[bool](fmt.Sprintf("%d lines of the list of mounts cannot be read",
			skipped))})
	}
	for i := range out {
		slices.Sort(out[i].Also)
	}
	return out, nil
}

// look is one look at the machine.
type look struct {
	r      *Reader
	mounts []mountinfo.Mount
	nodes  int
}

// The file systems that are not on a block device of this machine, or only in memory. An unknown one without a block
// device is not on a disk of this machine either; those that hide their device are listed by name.
var hidden = map[string]string{
	"zfs":      "ZFS encrypts by dataset, and Warder does not read which",
	"bcachefs": "bcachefs has its own encryption, and Warder does not read it",
}

// volume returns a mount that has to be examined; false if it is not this machine's own, cannot be written, or is in
// memory.
func (l *look) volume(m mountinfo.Mount) (fact.Volume, bool) {
	v := fact.Volume{Dev: m.Dev, Mount: enforce.Plain(m.Point), FS: enforce.Plain(m.FS), External: fact.Is(false)}
	if why, is := hidden[m.FS]; is {
		v.Dev = m.FS + " " + enforce.Plain(m.Source)
		v.Encrypted = fact.Unread[bool](why)
		return v, true
	}
	var legs []string
	if m.FS == "btrfs" {
		var err error
		if legs, err = l.btrfs(m.Source); err != nil {
			v.Encrypted = fact.Unread[bool](err.Error())
			return v, true
		}
	} else if dir, err := filepath.EvalSymlinks(l.r.Sys + "/dev/block/" + m.Dev); err == nil {
		legs = []string{dir}
	} else {
		return v, false // tmpfs, proc, overlays, the network
	}
	system := l.isSystem(m.Dev)
	if !system && l.external(legs) {
		return v, false
	}
	l.judge(&v, legs)
	return v, true
}

// system are the mount points that are this machine's, wherever their disk is attached.
var system = []string{"/", "/usr", "/var", "/home", "/boot", "/boot/efi", "/efi"}

func (l *look) isSystem(dev string) bool {
	return slices.ContainsFunc(l.mounts, func(m mountinfo.Mount) bool { return m.Dev == dev && slices.Contains(system, m.Point) })
}

// btrfs returns the block devices of a file system that has several. It is mounted under a number of its own; its
// source is one of the devices.
func (l *look) btrfs(source string) ([]string, error) {
	unknown := func(why any) ([]string, error) {
		return nil, fmt.Errorf("cannot determine the disks of the btrfs file system on %s: %v", enforce.Plain(source), why)
	}
	one, err := l.node(source)
	if err != nil {
		return unknown(err)
	}
	found, _ := filepath.Glob(l.r.Sys + "/fs/btrfs/*/devices/" + filepath.Base(one))
	if len(found) != 1 {
		return unknown(fmt.Sprintf("%d file systems are on it", len(found)))
	}
	all, err := os.ReadDir(filepath.Dir(found[0]))
	if err != nil {
		return unknown(err)
	}
	var legs []string
	for _, e := range all {
		dir, err := filepath.EvalSymlinks(filepath.Join(filepath.Dir(found[0]), e.Name()))
		if err != nil {
			return unknown(err)
		}
		legs = append(legs, dir)
	}
	return legs, nil
}

// node is the directory of a block device, by its node.
func (l *look) node(path string) (string, error) {
	dev, err := l.r.ask.node(path)
	if err != nil {
		return "", err
	}
	return l.block(dev)
}

// block is the directory of a block device, by its number.
func (l *look) block(dev string) (string, error) {
	if dev == "" {
		return "", errors.New("it is not a block device")
	}
	return filepath.EvalSymlinks(l.r.Sys + "/dev/block/" + dev)
}

// external reports whether every leg is attached to an external port: USB, a card slot, or a PCI slot that says it is
// removable.
func (l *look) external(legs []string) bool {
	for _, dir := range legs {
		if !l.outside(dir, 0) {
			return false
		}
	}
	return len(legs) > 0
}

// outside reports whether everything below a block device is attached to an external port.
func (l *look) outside(dir string, depth int) bool {
	if depth > maxDepth {
		return false
	}
	if below := slaves(dir); len(below) > 0 {
		for _, s := range below {
			if !l.outside(s, depth+1) {
				return false
			}
		}
		return true
	}
	for at := dir; len(at) > len(l.r.Sys); at = filepath.Dir(at) {
		base := filepath.Base(at)
		if n, ok := strings.CutPrefix(base, "usb"); ok && n != "" && strings.Trim(n, "0123456789") == "" {
			return true
		}
		if strings.HasPrefix(base, "mmc") && line(at+"/type") == "SD" {
			return true
		}
		if line(at+"/removable") == "removable" { // the device's own statement, not a medium's "1"
			return true
		}
	}
	return false
}

// slaves are the block devices beneath one.
func slaves(dir string) []string {
	all, _ := os.ReadDir(dir + "/slaves")
	var out []string
	for _, e := range all {
		if to, err := filepath.EvalSymlinks(filepath.Join(dir, "slaves", e.Name())); err == nil {
			out = append(out, to)
		}
	}
	return out
}

// line reads a small file without surrounding space; "" if it cannot be read.
func line(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
