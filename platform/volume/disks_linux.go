package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/warderd/warder/platform/mountinfo"
)

// disk is one block device of a USB device, or one that rests on it: a partition, dm-crypt, LVM, md, a loop device of a
// file on it.
type disk struct {
	dev     string // "8:1"
	name    string // "sda1"
	depth   int    // 0 for the disk itself; the deepest is emptied first
	stacked bool   // another block device rests on it
}

// The bounds of what is followed for one device. Loop devices have depths of their own.
const (
	maxDisks  = 4096
	loopDepth = 16
	maxDepth  = 24
)

// disksBelow lists the block devices of a device, the highest first: what is of the kernel's class "block" in its directory. (A
// SCSI disk stands in a directory "block" of its own, an NVMe's below its controller.) It only reads sysfs. whole is false if
// there are more than the bounds allow.
func disksBelow(dir string) (out []disk, whole bool) {
	whole = true
	_ = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.IsDir() && isBlock(path) {
			var all bool
			out, all = addDisk(out, path, 0)
			whole = whole && all
			return filepath.SkipDir
		}
		return nil // a part that is gone has nothing mounted
	})
	sortDisks(out)
	return out, whole
}

// isBlock reports whether a directory of sysfs is a block device's.
func isBlock(dir string) bool {
	to, err := os.Readlink(dir + "/subsystem")
	return err == nil && filepath.Base(to) == "block"
}

func sortDisks(list []disk) {
	slices.SortStableFunc(list, func(a, b disk) int { return b.depth - a.depth })
}

// errTooMany means that there is more on the disk than the bounds allow.
var errTooMany = errors.New("more stands on the disk than is followed")

// addDisk adds a block device and what rests on it.
func addDisk(out []disk, dir string, depth int) (_ []disk, whole bool) {
	if depth > maxDepth || len(out) >= maxDisks {
		return out, false
	}
	b, err := os.ReadFile(dir + "/dev")
	if err != nil {
		return out, true // gone
	}
	d := disk{dev: strings.TrimSpace(string(b)), name: filepath.Base(dir), depth: depth}
	if slices.ContainsFunc(out, func(o disk) bool { return o.dev == d.dev }) {
		return out, true
	}
	holders, _ := filepath.Glob(dir + "/holders/*")
	d.stacked = len(holders) > 0
	out, whole = append(out, d), true
	var all bool
	parts, _ := filepath.Glob(dir + "/*/partition")
	for _, p := range parts {
		out, all = addDisk(out, filepath.Dir(p), depth+1)
		whole = whole && all
	}
	for _, h := range holders {
		if to, err := filepath.EvalSymlinks(h); err == nil {
			out, all = addDisk(out, to, depth+1)
			whole = whole && all
		}
	}
	return out, whole
}

// system are the mount points without which the machine does not run.
var system = []string{"/", "/usr", "/var", "/home", "/boot", "/boot/efi", "/efi"}

// isSystem: people's homes may be file systems of their own.
func isSystem(point string) bool {
	return slices.Contains(system, point) || strings.HasPrefix(point, "/home/")
}

// opaque are file systems that do not say which disks they are on.
var opaque = []string{"zfs", "bcachefs", "overlay", "aufs"}

// Carries names the mount point of the running system that is on a disk of a device, or "". It reads the host's own
// list of mounts and asks no file system.
func Carries(dir string) string {
	disks, _ := disksBelow(dir)
	if len(disks) == 0 {
		return ""
	}
	const unknown = "perhaps a part of the system (the list of mounts cannot be read)"
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return unknown
	}
	defer f.Close()
	mounts, _, err := mountinfo.Parse(f)
	if err != nil {
		return unknown
	}
	hidden := "" // a part of the system that may be on any disk
	for _, m := range mounts {
		switch {
		case !isSystem(m.Point):
		case on(disks, m), onSpread(disks, m), onLoop(disks, mounts, m, 0):
			return m.Point
		case slices.Contains(opaque, m.FS):
			hidden = m.Point + " (" + m.FS + ")"
		}
	}
	if s := swapOn(disks, mounts); s != "" {
		return s
	}
	if hidden != "" && slices.ContainsFunc(disks, disk.used) && !slices.ContainsFunc(mounts, func(m mountinfo.Mount) bool { return on(disks, m) }) {
		return "perhaps " + hidden
	}
	return ""
}

// onSpread reports whether a file system that is spread over several disks (btrfs) has one of these among them.
func onSpread(disks []disk, m mountinfo.Mount) bool {
	if m.FS != "btrfs" {
		return false
	}
	sets, _ := filepath.Glob("/sys/fs/btrfs/*/devices")
	for _, set := range sets {
		list, err := os.ReadDir(set)
		if err != nil {
			continue
		}
		ours, its := false, false
		for _, e := range list {
			b, _ := os.ReadFile(set + "/" + e.Name() + "/dev")
			dev := strings.TrimSpace(string(b))
			ours = ours || slices.ContainsFunc(disks, func(d disk) bool { return d.dev == dev })
			its = its || on([]disk{{dev: dev}}, m)
		}
		if ours && its {
			return true
		}
	}
	return false
}

// onLoop reports whether a mount is of an image file on one of the disks.
func onLoop(disks []disk, mounts []mountinfo.Mount, m mountinfo.Mount, depth int) bool {
	b, err := os.ReadFile("/sys/dev/block/" + m.Dev + "/loop/backing_file")
	if err != nil || depth > maxLevels {
		return false
	}
	below, ok := holding(mounts, strings.TrimSpace(string(b)))
	return ok && (on(disks, below) || onSpread(disks, below) || onLoop(disks, mounts, below, depth+1))
}

// holding is the mount that a path is on, by the list of mounts.
func holding(mounts []mountinfo.Mount, path string) (best mountinfo.Mount, ok bool) {
	for _, m := range mounts { // of two at the same place the later one
		if (m.Point == "/" || path == m.Point || strings.HasPrefix(path, m.Point+"/")) && (!ok || len(m.Point) >= len(best.Point)) {
			best, ok = m, true
		}
	}
	return best, ok
}

// swapOn says that the machine swaps to one of the disks, or "".
func swapOn(disks []disk, mounts []mountinfo.Mount) string {
	b, err := os.ReadFile("/proc/swaps")
	if err != nil {
		return "" // a kernel without swap
	}
	list := strings.Split(string(b), "\n")
	for _, l := range list[1:] {
		name, rest, _ := strings.Cut(l, " ")
		if name = mountinfo.Unescape(name); !strings.HasPrefix(name, "/") {
			continue
		}
		if strings.HasPrefix(strings.TrimSpace(rest), "file") {
			if m, ok := holding(mounts, name); ok && (on(disks, m) || onSpread(disks, m)) {
				return "swap"
			}
			continue
		}
		var st unix.Stat_t
		if unix.Stat(name, &st) == nil && slices.ContainsFunc(disks, func(d disk) bool { n, ok := number(d.dev); return ok && n == st.Rdev }) {
			return "swap"
		}
	}
	return ""
}

// number turns "8:1" into the device number of system calls.
func number(dev string) (uint64, bool) {
	major, minor, ok := strings.Cut(dev, ":")
	a, err1 := strconv.ParseUint(major, 10, 32)
	b, err2 := strconv.ParseUint(minor, 10, 32)
	return unix.Mkdev(uint32(a), uint32(b)), ok && err1 == nil && err2 == nil
}

// open opens a disk's node, after checking that it is the disk's. The kernel makes these nodes, and only root can put
// others there.
func (d disk) open(flags int) (*os.File, error) {
	f, err := os.OpenFile("/dev/"+d.name, flags|unix.O_NONBLOCK|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	err = unix.Fstat(int(f.Fd()), &st)
	if want, ok := number(d.dev); err == nil && (!ok || st.Mode&unix.S_IFMT != unix.S_IFBLK || st.Rdev != want) {
		err = fmt.Errorf("/dev/%s is not block device %s", d.name, d.dev)
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// used reports whether a file system, swap or another block device has claimed a disk. It needs no list of mounts, so
// it covers every namespace.
func (d disk) used() bool {
	f, err := d.open(os.O_RDONLY | unix.O_EXCL)
	if err == nil {
		_ = f.Close()
	}
	return errors.Is(err, unix.EBUSY)
}

// denied reports whether this program may not open a disk at all, so that it cannot tell who uses it.
func (d disk) denied() error {
	f, err := d.open(os.O_RDONLY)
	if err == nil {
		_ = f.Close()
	}
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		return err
	}
	return nil
}

// written sums the sectors written to the disks so far (Documentation/block/stat.rst).
func written(disks []disk) (sectors uint64) {
	for _, d := range disks {
		b, err := os.ReadFile("/sys/dev/block/" + d.dev + "/stat")
		if err != nil {
			continue
		}
		if f := strings.Fields(string(b)); len(f) > 6 {
			n, _ := strconv.ParseUint(f[6], 10, 64)
			sectors += n
		}
	}
	return sectors
}

// unwritten is how many KiB the kernel has buffered for the disks and not written yet; -1 if debugfs cannot be read.
func unwritten(disks []disk) int64 {
	sum := int64(-1)
	for _, d := range disks {
		b, err := os.ReadFile("/sys/kernel/debug/bdi/" + d.dev + "/stats")
		if err != nil {
			continue // partitions share their disk's
		}
		sum = max(sum, 0) + parseBacking(string(b))
	}
	return sum
}

// parseBacking reads the dirty and in-flight amounts of a backing device's statistics.
func parseBacking(text string) (kib int64) {
	for line := range strings.Lines(text) {
		name, rest, _ := strings.Cut(line, ":")
		if f := strings.Fields(rest); len(f) > 0 && (name == "BdiReclaimable" || name == "BdiWriteback") {
			n, _ := strconv.ParseInt(f[0], 10, 64)
			kib += max(n, 0)
		}
	}
	return kib
}
