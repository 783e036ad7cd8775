package desktop

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// written is the extended attribute that says in which boot a file was written, and how long after it: the clock says nothing of what was
// first.
const written = "user.warder.written"

// bootNow is the present boot, and how long ago it was.
func bootNow() (boot string, since time.Duration) {
	b, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &t)
	return strings.TrimSpace(string(b)), time.Duration(t.Nano())
}

const (
	// maxLate bounds the programs that are named.
	maxLate = 16
	// maxComm is how much of a program's name the kernel keeps.
	maxComm = 15
)

// late names the programs of desktops that run with the settings of before, for people.
func (s *Settings) late(ctx context.Context) (out []string, err error) {
	if s.off || s.desks == nil {
		return nil, nil
	}
	var users []uint32
	for _, d := range s.desks.List(name) {
		users = append(users, d.UID)
	}
	if len(users) == 0 {
		return nil, nil
	}
	list, err := os.ReadDir(s.proc)
	if err != nil {
		return nil, fmt.Errorf("the processes cannot be listed: %w", err)
	}
	for _, p := range s.parts() {
		if value, err := p.read(ctx); err != nil || value == "" { // nothing of ours is there
			continue
		}
		for _, e := range list {
			pid, err := strconv.Atoi(e.Name())
			if err != nil || len(out) >= maxLate {
				continue
			}
			dir := filepath.Join(s.proc, e.Name())
			comm, err := os.ReadFile(dir + "/comm")
			if err != nil {
				continue
			}
			is := slices.IndexFunc(p.programs, func(x string) bool { return x[:min(len(x), maxComm)] == strings.TrimSpace(string(comm)) })
			if is < 0 {
				continue
			}
			var st unix.Stat_t
			if unix.Stat(dir, &st) != nil || !slices.Contains(users, st.Uid) {
				continue // a greeter's
			}
			late, err := p.late(pid)
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
				continue // it has ended
			}
			if err != nil {
				return nil, fmt.Errorf("process %d cannot be read: %w", pid, err)
			}
			if late {
				out = append(out, fmt.Sprintf("%s: %s of user %d was started before", p.name, p.programs[is], st.Uid))
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// maxMaps bounds what is read of a process's memory, in bytes of its list.
const maxMaps = 8 << 20

// maps reports whether a process has a file in its memory that is still there.
func maps(proc string, pid int, path string) (bool, error) {
	f, err := os.Open(filepath.Join(proc, strconv.Itoa(pid), "maps"))
	if err != nil {
		return false, err
	}
	defer f.Close()
	r := bufio.NewScanner(io.LimitReader(f, maxMaps))
	r.Buffer(nil, 64<<10)
	for r.Scan() {
		if strings.HasSuffix(r.Text(), " "+path) {
			return true, nil
		}
	}
	return false, r.Err()
}

// ticks is in what a process's start is counted, for every program (getconf CLK_TCK).
const ticks = time.Second / 100

// before reports whether a process was started before a file was written.
func (s *Settings) before(pid int, path string) (bool, error) {
	b, err := os.ReadFile(filepath.Join(s.proc, strconv.Itoa(pid), "stat"))
	if err != nil {
		return false, err
	}
	_, rest, _ := strings.Cut(string(b[strings.LastIndexByte(string(b), ')')+1:]), " ")
	f := strings.Fields(rest)
	if len(f) < 20 {
		return false, errors.New("its state is not in the kernel's form")
	}
	n, err := strconv.ParseInt(f[19], 10, 64)
	if err != nil {
		return false, err
	}
	var text [128]byte
	size, err := unix.Getxattr(s.at(path), written, text[:])
	if err != nil {
		return true, nil //nolint:nilerr // it is not known, so it was
	}
	boot, at, _ := strings.Cut(string(text[:size]), " ")
	since, bad := time.ParseDuration(at)
	known := bad == nil // a note that cannot be read says nothing either
	if now, _ := s.stamp(); known && boot != now {
		return false, nil // in an earlier boot
	}
	return !known || time.Duration(n)*ticks <= since, nil
}
