package volume

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Release flushes and unmounts everything on the disks below a device's directory in sysfs. It
// returns nil when nothing of them is mounted or used for swap any more.
func Release(ctx context.Context, dir string) error {
	disks, err := disksBelow(dir)
	if err != nil || len(disks) == 0 {
		return err
	}
	loops := addLoops(disks)
	if err := swapOff(disks); err != nil {
		return err
	}
	// Safe is what this is about: every file system read-only and flushed. Where it is, a mount that
	// cannot be taken out of somebody's own namespace holds nothing that could be lost.
	safe := map[string]bool{}
	for _, ns := range namespaces() {
		if err := releaseIn(ctx, ns, disks, safe); err != nil {
			return err
		}
	}
	for _, l := range loops {
		clearLoop(l)
	}
	flushRaw(disks)
	return nil
}

// addLoops adds the loop devices whose file lies on one of the disks' mounts, and names them, the
// last one first.
func addLoops(disks map[string]string) []string {
	var loops []string
	for range 4 { // a loop on a loop on a stick
		mounts, _ := mountsOn(1, disks)
		found := false
		files, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				continue
			}
			name := strings.Split(f, "/")[3]
			for _, m := range mounts {
				if strings.HasPrefix(strings.TrimSpace(string(b)), m.point+"/") && !slices.Contains(loops, name) {
					loops, found = append([]string{name}, loops...), true
					addDisk(disks, "/sys/block/"+name, 0)
				}
			}
		}
		if !found {
			break
		}
	}
	return loops
}

func clearLoop(name string) {
	if f, err := os.Open("/dev/" + name); err == nil {
		_ = unix.IoctlSetInt(int(f.Fd()), unix.LOOP_CLR_FD, 0)
		_ = f.Close()
	}
}

// disksBelow maps "8:1" to "sda1" for each block device of a USB device, with what stands on it:
// partitions, and the holders of each (dm-crypt, LVM, md).
func disksBelow(dir string) (map[string]string, error) {
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // a part that is gone has nothing mounted
		}
		if e.IsDir() && filepath.Base(filepath.Dir(path)) == "block" {
			addDisk(out, path, 0)
		}
		return nil
	})
	return out, err
}

func addDisk(out map[string]string, dir string, depth int) {
	b, err := os.ReadFile(dir + "/dev")
	if err != nil || depth > 8 {
		return
	}
	out[strings.TrimSpace(string(b))] = filepath.Base(dir)
	parts, _ := filepath.Glob(dir + "/*/partition")
	for _, p := range parts {
		addDisk(out, filepath.Dir(p), depth+1)
	}
	holders, _ := filepath.Glob(dir + "/holders/*")
	for _, h := range holders {
		if to, err := filepath.EvalSymlinks(h); err == nil {
			addDisk(out, to, depth+1)
		}
	}
}

func swapOff(disks map[string]string) error {
	b, err := os.ReadFile("/proc/swaps")
	if err != nil {
		return nil //nolint:nilerr // a kernel without swap
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) > 0 && strings.HasPrefix(f[0], "/dev/") && on(disks, "", "swap", f[0]) {
			p, _ := unix.BytePtrFromString(f[0])
			if _, _, e := unix.Syscall(unix.SYS_SWAPOFF, uintptr(unsafe.Pointer(p)), 0, 0); e != 0 {
				return fmt.Errorf("cannot stop swapping to %s: %w", f[0], e)
			}
		}
	}
	return nil
}

// on reports whether a mount is of one of the disks: by its device number, and for file systems that
// mount under a number of their own by its source. The source of any other is only somebody's word.
func on(disks map[string]string, dev, fstype, source string) bool {
	if _, ok := disks[dev]; ok {
		return true
	}
	if fstype != "btrfs" && fstype != "bcachefs" && fstype != "swap" || !strings.HasPrefix(source, "/dev/") {
		return false
	}
	if to, err := filepath.EvalSymlinks(source); err == nil {
		source = to
	}
	for _, name := range disks {
		if filepath.Base(source) == name {
			return true
		}
	}
	return false
}

// namespaces gives one process of each mount namespace, the host's (process 1) first.
func namespaces() []int {
	out := []int{1}
	first, err := os.Readlink("/proc/1/ns/mnt")
	if err != nil {
		// Without the right to look, our own is all that can be seen.
		return []int{os.Getpid()}
	}
	seen := map[string]bool{first: true}
	for _, pid := range processes() {
		if ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", pid)); err == nil && !seen[ns] {
			seen[ns] = true
			out = append(out, pid)
		}
	}
	return out
}

func processes() []int {
	var out []int
	all, _ := os.ReadDir("/proc")
	for _, e := range all {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			out = append(out, pid)
		}
	}
	return out
}

func mountsOn(pid int, disks map[string]string) ([]mount, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/mountinfo", pid))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the mounts of process %d: %w", pid, err)
	}
	defer f.Close()
	all, err := parseMounts(f)
	if pid != 1 && (errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ESRCH)) {
		return nil, nil // it ended meanwhile
	}
	if err != nil {
		return nil, err
	}
	var out []mount
	for _, m := range all {
		if on(disks, m.dev, m.fstype, m.source) {
			out = append(out, m)
		}
	}
	// What was mounted last, and deepest, goes first.
	sort.SliceStable(out, func(i, j int) bool { return out[i].id > out[j].id })
	return out, nil
}

// attempts bounds how often writers that keep coming are stopped.
const attempts = 5

func releaseIn(ctx context.Context, pid int, disks map[string]string, safe map[string]bool) error {
	mounts, err := mountsOn(pid, disks)
	if err != nil || len(mounts) == 0 {
		return err
	}
	for try := 0; ; try++ {
		if err := stopWriters(ctx, mounts, disks); err != nil {
			return err
		}
		err := within(pid, func() error {
			for _, m := range mounts {
				if err := settle(m, safe); err != nil {
					return err
				}
			}
			return nil
		})
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EBUSY) || try == attempts {
			return err
		}
	}
	left, err := mountsOn(pid, disks)
	for _, m := range left {
		if !safe[m.dev] {
			return errors.Join(err, fmt.Errorf("%s is still mounted", m.point))
		}
	}
	return err
}

// settle makes a mount's file system read-only, which flushes it, and unmounts it. Programs that
// still read from it keep their open files until the disk goes.
func settle(m mount, safe map[string]bool) error {
	if !safe[m.dev] {
		err := readOnly(m)
		switch {
		case err == nil:
			safe[m.dev] = true
		case errors.Is(err, errMoved):
			return nil // not there any more; what is there now is looked at again
		case errors.Is(err, unix.EBUSY):
			return err
		default:
			// A file system that cannot be remounted: only a full unmount will do.
			if uerr := unix.Unmount(m.point, unix.UMOUNT_NOFOLLOW); uerr != nil {
				return errors.Join(err, fmt.Errorf("cannot unmount %s: %w", m.point, uerr))
			}
			return nil
		}
	}
	if unix.Unmount(m.point, unix.UMOUNT_NOFOLLOW) != nil {
		// Locked in somebody's own namespace, or read from: it is safe by now.
		_ = unix.Unmount(m.point, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	}
	return nil
}

var errMoved = errors.New("another mount stands there now")

// readOnly acts on the very mount that was listed, by a descriptor: a path may lead elsewhere by
// now. The restrictive flags are given with it, because a remount drops those that are not.
func readOnly(m mount) error {
	fd, err := unix.Open(m.point, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return errMoved
	}
	defer unix.Close(fd)
	info, err := os.ReadFile(fmt.Sprintf("/proc/thread-self/fdinfo/%d", fd))
	if err != nil || !strings.Contains(string(info), fmt.Sprintf("mnt_id:\t%d\n", m.id)) {
		return errMoved
	}
	self := fmt.Sprintf("/proc/thread-self/fd/%d", fd)
	const flags = unix.MS_REMOUNT | unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if err := unix.Mount("", self, "", flags, ""); err != nil {
		return fmt.Errorf("cannot make %s read-only: %w", m.point, err)
	}
	f, err := os.Open(self)
	if err != nil {
		return nil //nolint:nilerr // read-only is flushed; this is once more
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return fmt.Errorf("cannot flush %s: %w", m.point, err)
	}
	return nil
}

// within runs f in the mount namespace of a process.
func within(pid int, f func() error) error {
	mine, _ := os.Readlink("/proc/thread-self/ns/mnt")
	theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", pid))
	if err != nil || mine == theirs {
		return f()
	}
	done := make(chan error)
	go func() {
		// The thread is never unlocked: it ends with the goroutine, and its namespace with it.
		runtime.LockOSThread()
		fd, err := unix.Open(fmt.Sprintf("/proc/%d/ns/mnt", pid), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			defer unix.Close(fd)
			if err = unix.Unshare(unix.CLONE_FS); err == nil {
				err = unix.Setns(fd, unix.CLONE_NEWNS)
			}
		}
		if err != nil {
			done <- fmt.Errorf("cannot enter the mount namespace of process %d: %w", pid, err)
			return
		}
		done <- f()
	}()
	return <-done
}

// stopWriters ends the programs that have a file of these mounts open for writing: first asked,
// then killed. A mount that is written to cannot be unmounted, and a write that is acknowledged
// after the flush would be lost with the device.
func stopWriters(ctx context.Context, mounts []mount, disks map[string]string) error {
	ids := map[int]bool{}
	for _, m := range mounts {
		ids[m.id] = true
	}
	for _, step := range []struct {
		signal unix.Signal
		wait   time.Duration
	}{{unix.SIGTERM, askWait}, {unix.SIGKILL, killWait}} {
		pids := writers(ids, disks)
		if len(pids) == 0 {
			return nil
		}
		for _, pid := range pids {
			_ = unix.Kill(pid, step.signal)
			_ = unix.Kill(pid, unix.SIGCONT) // a stopped program cannot answer
		}
		end := time.Now().Add(step.wait)
		for len(writers(ids, disks)) > 0 && time.Now().Before(end) {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
	if pids := writers(ids, disks); len(pids) > 0 {
		return fmt.Errorf("process %d still writes to %s", pids[0], mounts[0].point)
	}
	return nil
}

// writers lists the processes with a file open for writing, or mapped so, on the mounts. It reads
// /proc alone and never touches the file system itself, which may hang.
func writers(ids map[int]bool, disks map[string]string) []int {
	var out []int
	self := os.Getpid()
	for _, pid := range processes() {
		if pid > 1 && pid != self && (opened(pid, ids) || mapped(pid, disks)) {
			out = append(out, pid)
		}
	}
	return out
}

func opened(pid int, ids map[int]bool) bool {
	infos, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", pid))
	for _, f := range infos {
		b, err := os.ReadFile(f)
		if err != nil {
			continue
		}
		flags, id := uint64(0), 0
		for line := range strings.Lines(string(b)) {
			name, v, _ := strings.Cut(line, ":")
			switch v = strings.TrimSpace(v); name {
			case "flags":
				flags, _ = strconv.ParseUint(v, 8, 64)
			case "mnt_id":
				id, _ = strconv.Atoi(v)
			}
		}
		if ids[id] && flags&unix.O_ACCMODE != unix.O_RDONLY && flags&unix.O_PATH == 0 {
			return true
		}
	}
	return false
}

// mapped looks for shared writable mappings of a file on the disks; maps prints device numbers in hex.
func mapped(pid int, disks map[string]string) bool {
	f, err := os.Open(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return false
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		p := strings.Fields(lines.Text())
		if len(p) < 5 || len(p[1]) != 4 || p[1][1] != 'w' || p[1][3] != 's' {
			continue
		}
		major, minor, _ := strings.Cut(p[3], ":")
		a, err1 := strconv.ParseUint(major, 16, 32)
		b, err2 := strconv.ParseUint(minor, 16, 32)
		if _, ok := disks[fmt.Sprintf("%d:%d", a, b)]; ok && err1 == nil && err2 == nil {
			return true
		}
	}
	return false
}

// flushRaw writes out what programs wrote to the disks without a file system.
func flushRaw(disks map[string]string) {
	for _, name := range disks {
		f, err := os.Open("/dev/" + name)
		if err != nil {
			continue
		}
		_ = unix.Fsync(int(f.Fd()))
		_ = f.Close()
	}
}
