package desktop

import (
	"bufio"
	"bytes"
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
	// maxAsked bounds those of one user that are asked: a user can start a program as often as they like.
	maxAsked = 32
	// maxComm is how much of a program's name the kernel keeps.
	maxComm = 15
)

// late names the programs of desktops that were started before the settings were written, for people. What a user's processes do keeps
// nobody from the rest: one that cannot be read counts as one of those.
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
		s.mu.Lock()
		ours := s.last[p.id] != ""
		s.mu.Unlock()
		if !ours { // nothing of ours is there
			continue
		}
		asked := map[uint32]int{}
		for _, e := range list {
			pid, err := strconv.Atoi(e.Name())
			if err != nil || len(out) >= maxLate || ctx.Err() != nil {
				continue
			}
			program, uid, ok := s.runs(pid, p.programs)
			if !ok || !slices.Contains(users, uid) || asked[uid] >= maxAsked { // a greeter's reads other settings
				continue
			}
			asked[uid]++
			late, err := p.late(pid)
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
				continue // it has ended
			}
			if late || err != nil {
				out = append(out, fmt.Sprintf("%s: %s of user %d was started before", p.name, program, uid))
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out), ctx.Err()
}

// runs reports which of these programs a process runs, and whose it is. The kernel answers, and no file system.
func (s *Settings) runs(pid int, programs []string) (program string, uid uint32, ok bool) {
	dir := filepath.Join(s.proc, strconv.Itoa(pid))
	comm, err := os.ReadFile(dir + "/comm") // first, because it costs least
	if err != nil || !slices.ContainsFunc(programs, func(x string) bool {
		x = filepath.Base(x)
		return x[:min(len(x), maxComm)] == strings.TrimSpace(string(comm))
	}) {
		return "", 0, false
	}
	exe, err := os.Readlink(dir + "/exe") // one that does not fit is none of them
	exe = strings.TrimSuffix(exe, " (deleted)")
	var st unix.Stat_t
	if err != nil || !slices.Contains(programs, exe) || unix.Stat(dir, &st) != nil {
		return "", 0, false
	}
	return filepath.Base(exe), st.Uid, true
}

// maxMaps bounds what is read of a process's memory, in bytes of its list: some three thousand mappings.
const maxMaps = 4 << 20

// maps reports whether a process has a file in its memory that is still there.
func maps(proc string, pid int, path string) (bool, error) {
	f, err := os.Open(filepath.Join(proc, strconv.Itoa(pid), "maps"))
	if err != nil {
		return false, err
	}
	defer f.Close()
	r := bufio.NewReaderSize(io.LimitReader(f, maxMaps), 16<<10)
	for whole := true; ; {
		line, err := r.ReadSlice('\n')
		if whole && bytes.HasSuffix(line, []byte(" "+path+"\n")) {
			return true, nil
		}
		whole = !errors.Is(err, bufio.ErrBufferFull) // the rest of a long one is none
		if err != nil && whole {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return false, err
		}
	}
}

// ticks is in what a process's start is counted, for every program (getconf CLK_TCK).
const ticks = time.Second / 100

// before reports whether a process was started before a time in a boot.
func (s *Settings) before(pid int, boot string, since time.Duration) (bool, error) {
	if now, _ := s.stamp(); boot != now {
		return false, nil // in an earlier one
	}
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
	return time.Duration(n)*ticks <= since, err
}
