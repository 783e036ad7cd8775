package clipboard

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/warderd/warder/enforce/fact"
)

// programs tells what programs are. It is for one goroutine.
type programs struct {
	proc  string
	users map[uint32]string
	// seen are the files that were at a path since the rules came: a program that was updated still runs the one before.
	seen map[string][]file

	mu   sync.Mutex
	sums map[identity]string // of files that were read; "" of one that cannot be
}

// file is a file, whatever is in it.
type file struct{ dev, ino uint64 }

// identity is a file as it was when its sum was made.
type identity struct {
	dev, ino     uint64
	size         int64
	mtime, ctime syscall.Timespec
}

// Bounds: of what is remembered, and of a program whose sum is made.
const (
	maxKnown   = 64
	maxSeen    = 8
	maxProgram = 1 << 30
	maxGroup   = 4 << 10
)

func newPrograms() *programs {
	return &programs{proc: "/proc", sums: map[identity]string{}, users: map[uint32]string{}, seen: map[string][]file{}}
}

// note looks at the files that rules name, and begins to make the sums of those that need one.
func (ps *programs) note(files, summed []string) {
	clear(ps.seen)
	for _, f := range files {
		ps.at(f)
	}
	if len(summed) > 0 {
		go func() {
			for _, f := range summed {
				ps.sum(f, identity{})
			}
		}()
	}
}

// at are the files that are and were at a path.
func (ps *programs) at(path string) []file {
	list := ps.seen[path]
	id, err := look(unix.AT_FDCWD, path)
	if err != nil {
		return list
	}
	if x := (file{id.dev, id.ino}); !slices.Contains(list, x) {
		list = append(list, x)
		if len(list) > maxSeen {
			list = list[1:]
		}
		ps.seen[path] = list
	}
	return list
}

// unknown is a program that cannot be told.
var unknown = program{Program: fact.Program{Is: func(string, string) bool { return false }}}

// program is one, with the name of its file for people.
type program struct {
	fact.Program
	name string
	pid  uint32
	born string // when it was started, as the kernel counts; "": not known
	exe  string // where its file can be read while it runs
	id   identity
	// unsure is set when a sum would have to be made to answer.
	unsure bool
}

// of reads what a process is. It has to have the answers of now: it may end, and be another program by then.
func (ps *programs) of(pid uint32) *program {
	dir := filepath.Join(ps.proc, strconv.FormatUint(uint64(pid), 10))
	status, err := os.ReadFile(filepath.Join(dir, "status"))
	if pid == 0 || err != nil {
		p := unknown
		return &p
	}
	p := &program{Program: fact.Program{Known: true}}
	for line := range strings.Lines(string(status)) {
		// Real, effective, saved and file system's user (proc_pid_status(5)).
		if f := strings.Fields(line); len(f) == 5 && f[0] == "Uid:" {
			uid, err := strconv.ParseUint(f[2], 10, 32)
			p.UID, p.Known = uint32(uid), err == nil
		}
	}
	p.User = ps.user(p.UID)
	p.pid = pid
	if stat, err := os.ReadFile(filepath.Join(dir, "stat")); err == nil {
		// After the program's name, which may have anything in it: the 22nd field (proc_pid_stat(5)).
		if f := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:])); len(f) > 19 {
			p.born = f[19]
		}
	}
	if group, err := os.ReadFile(filepath.Join(dir, "cgroup")); err == nil && len(group) <= maxGroup {
		for line := range strings.Lines(string(group)) {
			if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
				p.Units = slices.DeleteFunc(strings.Split(path, "/"), func(s string) bool { return s == "" })
			}
		}
	}
	// The file that it runs, whatever is at its path by now, or there in a mount namespace of its own.
	exe, errExe := look(unix.AT_FDCWD, filepath.Join(dir, "exe"))
	if to, err := os.Readlink(filepath.Join(dir, "exe")); err == nil {
		p.name = word(filepath.Base(to), maxWord)
	}
	if errExe == nil {
		p.exe, p.id = filepath.Join(dir, "exe"), exe
	}
	p.Is = func(path, sum string) bool {
		if errExe != nil || !slices.Contains(ps.at(path), file{exe.dev, exe.ino}) {
			return false
		}
		if sum == "" {
			return true
		}
		ps.mu.Lock()
		defer ps.mu.Unlock()
		have, ok := ps.sums[p.id]
		if !ok {
			p.unsure = true
		}
		return ok && have == sum
	}
	return p
}

// settle makes the sum of a program's file. It takes as long as the file is read, but not for ever.
func (ps *programs) settle(p *program) {
	p.unsure = false
	done := make(chan struct{})
	go func() {
		ps.sum(p.exe, p.id)
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(sumWait):
		ps.summed(p.id, "") // it does not count as the one that is meant
	}
}

const sumWait = 5 * time.Second

// sum makes the sum of a file, unless it is known; want is which one it has to be, if that matters.
func (ps *programs) sum(path string, want identity) {
	f, err := os.Open(path)
	if err != nil {
		ps.summed(want, "")
		return
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil || !st.Mode().IsRegular() || st.Size() > maxProgram {
		ps.summed(want, "")
		return
	}
	id := identityOf(st)
	if want != (identity{}) && id != want { // the process is another one by now
		ps.summed(want, "")
		return
	}
	ps.mu.Lock()
	_, known := ps.sums[id]
	ps.mu.Unlock()
	if known {
		return
	}
	h := sha256.New()
	_, err = io.Copy(h, io.LimitReader(f, maxProgram))
	if st, errStat := f.Stat(); err != nil || errStat != nil || identityOf(st) != id { // it was written meanwhile
		ps.summed(id, "")
		return
	}
	ps.summed(id, hex.EncodeToString(h.Sum(nil)))
}

func (ps *programs) summed(id identity, sum string) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if id == (identity{}) {
		return
	}
	if len(ps.sums) >= maxKnown {
		clear(ps.sums)
	}
	ps.sums[id] = sum
}

// uid is whose a process is.
func (ps *programs) uid(pid uint32) (uint32, bool) {
	p := ps.of(pid)
	return p.UID, p.Known
}

// look is what is known of a file, without asking a file system that may not answer (FUSE, a network).
func look(dir int, path string) (id identity, err error) {
	var st unix.Statx_t
	if err := unix.Statx(dir, path, unix.AT_STATX_DONT_SYNC, unix.STATX_BASIC_STATS, &st); err != nil {
		return identity{}, err
	}
	at := func(t unix.StatxTimestamp) syscall.Timespec { return syscall.Timespec{Sec: t.Sec, Nsec: int64(t.Nsec)} }
	return identity{dev: unix.Mkdev(st.Dev_major, st.Dev_minor), ino: st.Ino, size: int64(st.Size), mtime: at(st.Mtime), ctime: at(st.Ctime)}, nil
}

func identityOf(st fs.FileInfo) (id identity) {
	if s, ok := st.Sys().(*syscall.Stat_t); ok {
		id = identity{dev: s.Dev, ino: s.Ino, size: s.Size, mtime: s.Mtim, ctime: s.Ctim}
	}
	return id
}

// user is the name of a user, "" if there is none.
func (ps *programs) user(uid uint32) string {
	name, ok := ps.users[uid]
	if !ok {
		if u, err := user.LookupId(strconv.FormatUint(uint64(uid), 10)); err == nil {
			name = u.Username
		} else if uid == uint32(os.Getuid()) {
			name = os.Getenv("USER") // of a directory service that this program cannot ask
		}
		if len(ps.users) >= maxKnown {
			clear(ps.users)
		}
		ps.users[uid] = name
	}
	return name
}
