package clipboard

import (
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
	"syscall"

	"github.com/warderd/warder/enforce/fact"
)

// programs tells what programs are. It is for one goroutine.
type programs struct {
	proc  string
	sums  map[identity]string // of files that were read
	users map[uint32]string
}

// identity is a file as it was when its sum was made.
type identity struct {
	dev, ino     uint64
	size         int64
	mtime, ctime syscall.Timespec
}

// Bounds: of what is remembered, and of a program whose sum is made.
const (
	maxKnown   = 64
	maxProgram = 1 << 30
	maxGroup   = 4 << 10
)

func newPrograms() *programs {
	return &programs{proc: "/proc", sums: map[identity]string{}, users: map[uint32]string{}}
}

// unknown is a program that cannot be told.
var unknown = program{Program: fact.Program{Is: func(string, string) bool { return false }}}

// program is one, with the name of its file for people.
type program struct {
	fact.Program
	name string
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
	if group, err := os.ReadFile(filepath.Join(dir, "cgroup")); err == nil && len(group) <= maxGroup {
		for line := range strings.Lines(string(group)) {
			if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
				p.Units = slices.DeleteFunc(strings.Split(path, "/"), func(s string) bool { return s == "" })
			}
		}
	}
	// The file that it runs, whatever is at its path by now, or there in a mount namespace of its own.
	exe, errExe := os.Stat(filepath.Join(dir, "exe"))
	if to, err := os.Readlink(filepath.Join(dir, "exe")); err == nil {
		p.name = word(filepath.Base(to), maxWord)
	}
	p.Is = func(path, sum string) bool {
		if errExe != nil {
			return false
		}
		at, err := os.Stat(path)
		if err != nil || !os.SameFile(exe, at) {
			return false
		}
		if sum == "" {
			return true
		}
		have, ok := ps.sums[identityOf(at)]
		if !ok {
			p.unsure = true
		}
		return ok && have == sum
	}
	return p
}

// settle makes the sums of a program's file where its zone depends on it. It can take as long as the file is read.
func (ps *programs) settle(p *program) {
	is := p.Is
	p.Is = func(path, sum string) bool {
		if sum != "" && is(path, "") {
			ps.sum(path)
		}
		return is(path, sum)
	}
	p.unsure = false
}

// sum makes the sum of a file, unless it is known.
func (ps *programs) sum(path string) {
	f, err := os.Open(path)
	if err != nil {
		return
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil || !st.Mode().IsRegular() || st.Size() > maxProgram {
		return
	}
	id := identityOf(st)
	if _, ok := ps.sums[id]; ok {
		return
	}
	h := sha256.New()
	if _, err := io.Copy(h, io.LimitReader(f, maxProgram)); err != nil {
		return
	}
	if st, err = f.Stat(); err != nil || identityOf(st) != id { // it was written meanwhile
		return
	}
	if len(ps.sums) >= maxKnown {
		clear(ps.sums)
	}
	ps.sums[id] = hex.EncodeToString(h.Sum(nil))
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
