package volume

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/warderd/warder/platform/mountinfo"
)

// superblock is a file system in use, opened through a detached mount that nobody else sees. Making it read-only
// affects every mount of it, in every namespace.
type superblock struct {
	disk   disk
	fstype string
	tree   int // the detached mount (fsmount(2))
	root   int // its root directory, for ioctls and syncfs
	ro     bool
}

// errNoFileSystem means that a disk is in use, but not by a file system of the kernel's.
var errNoFileSystem = errors.New("something other than a mounted file system uses the disk")

// fileSystems are the types that need a block device, as the running kernel lists them.
func fileSystems() (out []string) {
	b, _ := os.ReadFile("/proc/filesystems")
	for line := range strings.Lines(string(b)) {
		kind, name, _ := strings.Cut(strings.TrimRight(line, "\n"), "\t")
		// fuseblk needs its daemon's descriptor: it is released through its mounts.
		if kind == "" && name != "" && name != "fuseblk" {
			out = append(out, name)
		}
	}
	return out
}

// grab opens the file system that has claimed a disk. Mounting a block device again returns the existing superblock.
// With the wrong type, it is refused with EBUSY because another one has the disk, and nothing is read from it.
func grab(d disk, types []string) (*superblock, error) {
	node, err := d.open(os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer node.Close()
	for _, t := range types {
		// Read-only first: if the file system has gone meanwhile, the mount made here accepts no writes.
		for _, ro := range []bool{true, false} {
			tree, err := attach(t, fmt.Sprintf("/proc/self/fd/%d", node.Fd()), ro)
			if err != nil {
				continue
			}
			root, err := unix.Openat(tree, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
			if err != nil {
				_ = unix.Close(tree)
				return nil, fmt.Errorf("cannot open the file system on %s: %w", d.name, err)
			}
			return &superblock{disk: d, fstype: t, tree: tree, root: root, ro: ro && t != "btrfs"}, nil
		}
	}
	return nil, errNoFileSystem
}

// attach makes a detached mount of a block device (fsopen, fsconfig, fsmount).
func attach(fstype, source string, ro bool) (int, error) {
	fs, err := unix.Fsopen(fstype, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, err
	}
	defer unix.Close(fs)
	if err := unix.FsconfigSetString(fs, "source", source); err != nil {
		return -1, err
	}
	if ro {
		if err := unix.FsconfigSetFlag(fs, "ro"); err != nil {
			return -1, err
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, err
	}
	return unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
}

// readOnly makes the file system read-only, which flushes it. EBUSY means that somebody writes.
func (s *superblock) readOnly() error {
	if s.ro {
		return nil
	}
	fs, err := unix.Fspick(s.tree, "", unix.FSPICK_CLOEXEC|unix.FSPICK_EMPTY_PATH)
	if err != nil {
		return fmt.Errorf("cannot reconfigure %s on %s: %w", s.fstype, s.disk.name, err)
	}
	defer unix.Close(fs)
	if err := unix.FsconfigSetFlag(fs, "ro"); err != nil {
		return fmt.Errorf("cannot reconfigure %s on %s: %w", s.fstype, s.disk.name, err)
	}
	if err := unix.FsconfigReconfigure(fs); err != nil {
		return fmt.Errorf("cannot make %s on %s read-only: %w", s.fstype, s.disk.name, err)
	}
	s.ro = true
	return s.sync()
}

// sync flushes the file system (syncfs(2)).
func (s *superblock) sync() error {
	if err := unix.Syncfs(s.root); err != nil {
		return fmt.Errorf("cannot flush %s on %s: %w", s.fstype, s.disk.name, err)
	}
	return nil
}

// fsShutdown is FS_IOC_SHUTDOWN, which ext4, exfat, xfs, f2fs and newer btrfs support; each header has its own name for
// it. More file systems support a freeze (FIFREEZE), but if the freezing process dies, writers stay blocked in the
// kernel for ever.
const fsShutdown = 0x8004587d

// cut makes all further writes fail, after flushing what was written before. It reports whether the file system
// supports that: vfat does not.
func (s *superblock) cut() bool {
	flush := uint32(0) // the default mode freezes, and so flushes, before it shuts down
	_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(s.root), fsShutdown, uintptr(unsafe.Pointer(&flush)))
	return e == 0
}

// detach unmounts the disks in the host's own namespace, which is the child's. It checks the mount's id at each mount
// point, because a user may have mounted something else over it.
func detach(disks []disk, step func(string)) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return
	}
	defer f.Close()
	mounts, _, err := mountinfo.Parse(f)
	if err != nil {
		return
	}
	// What was mounted last goes first.
	for i := len(mounts) - 1; i >= 0; i-- {
		if m := mounts[i]; on(disks, m) {
			step("unmounting " + m.Point)
			if err := unmount(m, 0); err != nil {
				_ = unmount(m, unix.MNT_DETACH)
			}
		}
	}
}

// on reports whether a mount is of one of the disks: by its device number or, for file systems that are mounted under a
// number of their own, by the node that is their source (such as /dev/mapper/name), which only root can set in this
// namespace.
func on(disks []disk, m mountinfo.Mount) bool {
	dev := m.Dev
	if m.FS == "btrfs" || m.FS == "bcachefs" {
		var st unix.Stat_t
		if !strings.HasPrefix(m.Source, "/dev/") || unix.Stat(m.Source, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFBLK {
			return false
		}
		dev = fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
	}
	for _, d := range disks {
		if d.dev == dev {
			return true
		}
	}
	return false
}

// unmount removes one mount, after checking that it is the right one; EBUSY means that it is in use.
func unmount(m mountinfo.Mount, flags int) error {
	fd, err := unix.Open(m.Point, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	// Not statx: a file system that was shut down answers it with an error.
	info, err := readSome(fmt.Sprintf("/proc/thread-self/fdinfo/%d", fd))
	_ = unix.Close(fd)
	if id, ok := parseMountID(string(info)); err != nil || !ok || id != m.ID {
		return errors.Join(err, fmt.Errorf("another mount stands at %s", m.Point))
	}
	return unix.Unmount(m.Point, flags|unix.UMOUNT_NOFOLLOW)
}

// blockFUSE lists the mounts that a daemon serves from one of the disks (ntfs-3g).
func blockFUSE(disks []disk) (out []mountinfo.Mount) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	mounts, _, _ := mountinfo.Parse(bytes.NewReader(b))
	for _, m := range mounts {
		if m.FS == "fuseblk" && on(disks, m) {
			out = append(out, m)
		}
	}
	return out
}

// loopsOn lists the loop devices whose file is on one of the file systems, and what rests on them. told is false if a
// loop device's file does not answer, or is on a layered file system, whose device number says nothing.
func loopsOn(devs map[uint64]bool) (out []disk, told bool) {
	told, stuck := true, 0
	all, _ := os.ReadDir("/sys/block")
	for _, e := range all {
		name := e.Name()
		if !strings.HasPrefix(name, "loop") {
			continue
		}
		if _, err := os.Stat("/sys/block/" + name + "/loop/backing_file"); err != nil {
			continue
		}
		// To answer this, the kernel asks the backing file's own file system, which may be a user's: hence the time
		// limit.
		dev, ok := inTime(func() uint64 { return backing(name) })
		switch {
		case !ok:
			told = false
			if stuck++; stuck >= maxStuckLoops {
				return out, false
			}
		case devs[dev]:
			out, _ = addDisk(out, "/sys/block/"+name, loopDepth)
		case unix.Major(dev) == 0:
			told = false
		}
	}
	return out, told
}

// maxStuckLoops bounds the loop devices that are waited for, half a second each.
const maxStuckLoops = 3

// backing is the device number of the file system with a loop device's file; 0 if it does not answer.
func backing(name string) uint64 {
	f, err := os.OpenFile("/dev/"+name, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return 0
	}
	defer f.Close()
	info, err := unix.IoctlLoopGetStatus64(int(f.Fd()))
	if err != nil {
		return 0
	}
	return info.Device
}

// clearLoop detaches a loop device's file, at once or when its last user closes it.
func clearLoop(d disk) {
	if f, err := d.open(os.O_RDONLY); err == nil {
		_ = unix.IoctlSetInt(int(f.Fd()), unix.LOOP_CLR_FD, 0)
		_ = f.Close()
	}
}

// swapOff ends swapping to the disks.
func swapOff(disks []disk) error {
	b, err := os.ReadFile("/proc/swaps")
	if err != nil {
		return nil //nolint:nilerr // a kernel without swap
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		for _, d := range disks {
			if f[0] != "/dev/"+d.name && f[0] != "/dev/mapper/"+d.name {
				continue
			}
			p, _ := unix.BytePtrFromString(f[0])
			if _, _, e := unix.Syscall(unix.SYS_SWAPOFF, uintptr(unsafe.Pointer(p)), 0, 0); e != 0 {
				return fmt.Errorf("cannot stop swapping to %s: %w", f[0], e)
			}
		}
	}
	return nil
}
