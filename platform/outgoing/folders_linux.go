package outgoing

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/platform/paths"
)

// user is somebody who has a home directory here.
type user struct {
	uid  uint32
	home string
}

// users are the people of this machine: those of its own list, and whoever has a directory in /home (people of a directory service).
func (g *Guard) users() (out []user) {
	add := func(uid uint32, home string) {
		if uid >= 1000 && uid < 65520 && filepath.IsAbs(home) && len(out) < 1000 && !slices.ContainsFunc(out, func(u user) bool { return u.home == home }) {
			out = append(out, user{uid, filepath.Clean(home)})
		}
	}
	if f, err := os.Open(g.passwd); err == nil {
		defer f.Close()
		in := bufio.NewScanner(io.LimitReader(f, 4<<20))
		for in.Scan() {
			p := strings.Split(in.Text(), ":")
			if len(p) < 7 {
				continue
			}
			if uid, err := strconv.ParseUint(p[2], 10, 32); err == nil {
				add(uint32(uid), p[5])
			}
		}
	}
	list, _ := os.ReadDir(g.homes)
	for _, e := range list {
		home := filepath.Join(g.homes, e.Name())
		var st unix.Stat_t
		if unix.Lstat(home, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR {
			add(st.Uid, home)
		}
	}
	return out
}

// folder is a folder that a client copies.
type folder struct {
	app  *fact.App
	uid  uint32
	path string // without links
	id   inode
}

// folders finds the folders of every user's clients. What a configuration names counts only if it is a directory of the same user: it
// says itself what it names.
func (g *Guard) folders() (out []folder) {
	for _, u := range g.users() {
		for i := range fact.Clients {
			app := &fact.Clients[i]
			for _, from := range app.Folders {
				b, ok := config(u, from.File)
				if !ok {
					continue
				}
				for _, s := range foldersIn(b, from) {
					path, err := filepath.EvalSymlinks(absolute(u.home, s))
					if err != nil {
						continue
					}
					var st unix.Stat_t
					if unix.Lstat(path, &st) != nil || st.Uid != u.uid || st.Mode&unix.S_IFMT != unix.S_IFDIR || path == "/" {
						continue
					}
					if !slices.ContainsFunc(out, func(f folder) bool { return f.path == path }) {
						out = append(out, folder{app, u.uid, path, inode{st.Dev, st.Ino}})
					}
				}
			}
		}
	}
	// The first of each client before the second of any: somebody can have many of one, so that there is no room for another.
	rank := map[*folder]int{}
	of := map[string]int{}
	for i := range out {
		key := fmt.Sprintf("%d %s", out[i].uid, out[i].app.ID)
		rank[&out[i]] = of[key]
		of[key]++
	}
	order := make([]*folder, len(out))
	for i := range out {
		order[i] = &out[i]
	}
	slices.SortStableFunc(order, func(a, b *folder) int { return rank[a] - rank[b] })
	sorted := make([]folder, len(out))
	for i, f := range order {
		sorted[i] = *f
	}
	return sorted
}

// config reads a file of a user's, which may be whatever the user likes, and behind links as they like: it is opened only once it is
// known to be a file, because opening a device can do something.
func config(u user, name string) ([]byte, bool) {
	path, err := filepath.EvalSymlinks(filepath.Join(u.home, name))
	if err != nil {
		return nil, false
	}
	dir, err := paths.OpenDir(filepath.Dir(path))
	if err != nil {
		return nil, false
	}
	defer dir.Close()
	f, _, err := openFile(dir, filepath.Base(path))
	if err != nil {
		return nil, false
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxConfig))
	return b, err == nil
}

// openFile opens what has a name in a directory for reading, if it is a file.
func openFile(dir *os.File, name string) (f *os.File, st unix.Stat_t, err error) {
	at, err := unix.Openat(int(dir.Fd()), name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0) //nolint:gosec // a descriptor
	if err != nil {
		return nil, st, err
	}
	defer unix.Close(at)
	if err := unix.Fstat(at, &st); err != nil {
		return nil, st, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, st, errGone
	}
	fd, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", at), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, st, err
	}
	return os.NewFile(uintptr(fd), name), st, nil //nolint:gosec // a descriptor
}
