package volume

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/warderd/warder/platform/mountinfo"
)

// How long one look at one process, or at one loop device, may take. A user can create a process whose memory map is
// locked for ever: it is abandoned, with the thread that waits for it.
const lookLimit = 500 * time.Millisecond

// maxStuck bounds the threads that one child abandons.
const maxStuck = 16

// maxMaps bounds what is read of one process's memory map.
const maxMaps = 16 << 20

// inTime runs f for a moment, and reports whether it ended.
func inTime[T any](f func() T) (T, bool) {
	done := make(chan T, 1)
	go func() { done <- f() }()
	select {
	case v := <-done:
		return v, true
	case <-time.After(lookLimit):
		var none T
		return none, false
	}
}

// writer is a process with a file open for writing, and a descriptor that stays with that process even if its number is
// reused.
type writer struct {
	Program
	pidfd int
	user  bool // every one of its user ids is a person's
}

// writers looks once at every process, for all disks at the same time. It reads the kernel's own /proc and asks no file
// system: a file's attributes are read as the kernel has cached them. A writer that cannot be seen (a descriptor in
// transit in a socket, a process that locks its memory map) is no reason to keep the disk.
func (c *child) writers(devs map[uint64]bool) (out []writer) {
	least := leastUser()
	all, _ := os.ReadDir("/proc")
	for _, e := range all {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid <= 1 || pid == os.Getpid() || pid == os.Getppid() {
			continue
		}
		w, ok := inTime(func() *writer { return look(pid, devs, least) })
		if !ok {
			if c.stuck++; c.stuck >= maxStuck {
				break
			}
			continue
		}
		if w != nil {
			out = append(out, *w)
		}
	}
	return out
}

// look returns a process if it writes to one of the devices. The descriptor is opened first: everything read after it
// is about this process or none.
func look(pid int, devs map[uint64]bool, least int) *writer {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil
	}
	if !opened(pid, devs) && !mapped(pid, devs) {
		_ = unix.Close(fd)
		return nil
	}
	w := &writer{pidfd: fd}
	w.PID, w.Start = pid, started(pid)
	w.Name, w.UID, w.user = status(pid, least)
	return w
}

// opened looks for a file open for writing. The permissions of the link in /proc say how it is open (proc_pid_fd(5)),
// and its target's attributes are read from the kernel's cache.
func opened(pid int, devs map[uint64]bool) bool {
	dir, err := os.Open(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		return false
	}
	defer dir.Close()
	for {
		names, err := dir.Readdirnames(256)
		for _, n := range names {
			var st unix.Stat_t
			if unix.Fstatat(int(dir.Fd()), n, &st, unix.AT_SYMLINK_NOFOLLOW) != nil || st.Mode&0o200 == 0 {
				continue
			}
			var x unix.Statx_t
			if unix.Statx(int(dir.Fd()), n, unix.AT_STATX_DONT_SYNC|unix.AT_NO_AUTOMOUNT, unix.STATX_TYPE, &x) != nil {
				continue
			}
			if devs[unix.Mkdev(x.Dev_major, x.Dev_minor)] || x.Mode&unix.S_IFMT == unix.S_IFBLK &&
				devs[unix.Mkdev(x.Rdev_major, x.Rdev_minor)] {
				return true
			}
		}
		if err != nil {
			return false
		}
	}
}

// mapped looks for a shared writable mapping of a file.
func mapped(pid int, devs map[uint64]bool) bool {
	f, err := os.Open(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return false
	}
	defer f.Close()
	return parseMaps(f, devs)
}

// parseMaps reads a memory map (proc_pid_maps(5)), which prints device numbers in hex.
func parseMaps(r io.Reader, devs map[uint64]bool) bool {
	lines := bufio.NewScanner(io.LimitReader(r, maxMaps))
	lines.Buffer(nil, mountinfo.MaxLine)
	for lines.Scan() {
		p := bytes.Fields(lines.Bytes())
		if len(p) < 5 || len(p[1]) != 4 || p[1][1] != 'w' || p[1][3] != 's' {
			continue
		}
		major, minor, _ := strings.Cut(string(p[3]), ":")
		a, err1 := strconv.ParseUint(major, 16, 32)
		b, err2 := strconv.ParseUint(minor, 16, 32)
		if err1 == nil && err2 == nil && devs[unix.Mkdev(uint32(a), uint32(b))] {
			return true
		}
	}
	return false
}

// status returns a process's name and owner, and whether all of its user ids (real, effective, saved, file system) are
// people's: a program that acquired root's rights is no longer a user's.
func status(pid, least int) (name string, uid int, user bool) {
	b, err := readSome(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return "?", 0, false
	}
	for line := range strings.Lines(string(b)) {
		key, v, _ := strings.Cut(line, ":")
		switch key {
		case "Name":
			name = strings.TrimSpace(v)
		case "Uid":
			f := strings.Fields(v)
			user = len(f) == 4
			for i, s := range f {
				n, err := strconv.Atoi(s)
				user = user && err == nil && n >= least && (n < firstService || n > lastService)
				if i == 0 {
					uid = n
				}
			}
		}
	}
	return name, uid, user
}

// started is field 22 of /proc/PID/stat: a process's start time, which differs if the number was reused.
func started(pid int) uint64 {
	b, err := readSome(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	i := bytes.LastIndexByte(b, ')') // the name may contain anything
	if i < 0 {
		return 0
	}
	f := strings.Fields(string(b[i+1:]))
	if len(f) < 20 {
		return 0
	}
	n, _ := strconv.ParseUint(f[19], 10, 64)
	return n
}

// readSome reads a file of /proc up to maxMaps bytes.
func readSome(path string) ([]byte, error) {
	f, err := os.Open(filepath.Clean(path))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, 64<<10))
}

// Ids above people's that are services': systemd's DynamicUser= takes 61184 to 65519, and nobody is 65534.
const (
	firstService = 61184
	lastService  = 65535
)

// defaultLeast is where people's user ids begin if /etc/login.defs does not say (login.defs(5)).
const defaultLeast = 1000

// leastUser is the lowest user id of a person.
func leastUser() int {
	b, err := readSome("/etc/login.defs")
	if err != nil {
		return defaultLeast
	}
	return parseLeast(string(b))
}

// parseLeast reads UID_MIN from the text of login.defs.
func parseLeast(text string) int {
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == "UID_MIN" {
			if n, err := strconv.Atoi(f[1]); err == nil && n > 0 {
				return n
			}
		}
	}
	return defaultLeast
}

// signal sends a signal to the process that was looked at, and no other.
func (w writer) signal(s unix.Signal) { _ = unix.PidfdSendSignal(w.pidfd, s, nil, 0) }

// resume resumes a stopped program, after checking that it is still the same one.
func resume(p Program) {
	fd, err := unix.PidfdOpen(p.PID, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	if started(p.PID) == p.Start {
		_ = unix.PidfdSendSignal(fd, unix.SIGCONT, nil, 0)
	}
}
