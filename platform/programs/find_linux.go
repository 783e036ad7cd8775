package programs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/warderd/warder/platform/bpf"
	"github.com/warderd/warder/platform/mountinfo"
)

// places are those of installed programs, and how many levels of directories below them.
var places = map[string]int{"/usr/bin": 0, "/usr/local/bin": 0, "/usr/sbin": 0, "/usr/local/sbin": 0, "/usr/local/lib": 2, "/usr/local/libexec": 1, "/usr/share": 1, "/usr/games": 0, "/usr/libexec": 1, "/usr/lib": 2, "/opt": 2}

// answering file systems answer by themselves: a place that does not would keep the agent waiting.
var answering = []string{"ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "bcachefs", "zfs", "overlay", "squashfs", "erofs", "tmpfs"}

// essential programs can never be taken for an app's, whatever somebody has put under an app's name. What is installed under
// another name as well cannot either.
var essential = []string{"/proc/self/exe", "/proc/1/exe", "/bin/sh", "/bin/bash", "/bin/busybox", "/usr/bin/env", "/usr/bin/sudo", "/usr/bin/login"}

// Bounds of what is looked at and found (for the latter, see platform/bpf/c/cloudsync.c).
const (
	maxDirs  = 4096
	maxFound = 500
)

// contents are installed programs of apps, by what they are and by the file.
type contents struct {
	prints map[fingerprint]id
	files  map[known]id
	paths  map[known]string
}

func (contents) empty() contents {
	return contents{map[fingerprint]id{}, map[known]id{}, map[known]string{}}
}

// find finds the installed programs of apps: files of root's that nobody else can change, in directories in which nobody else can
// put one in their place. Whoever could would have us refuse any program, by a copy of it under an app's name.
func (g *group) find(ids []string) (out contents, err error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return out, fmt.Errorf("the list of mounts cannot be read: %w", err)
	}
	defer f.Close()
	mounts, _, err := mountinfo.Parse(f)
	if err != nil {
		return out, fmt.Errorf("the list of mounts cannot be read: %w", err)
	}
	return g.search(ids, places, mounts)
}

func (g *group) search(ids []string, places map[string]int, mounts []mountinfo.Mount) (out contents, err error) {
	found := map[fingerprint][]program{}
	names := map[string]id{}
	for _, s := range ids {
		c, ok := g.apps.ByID(s)
		if !ok {
			continue
		}
		for _, p := range c.Programs {
			if !strings.HasSuffix(p, "*") { // what is called so lies in somebody's home
				names[p] = idOf(c.ID)
			}
		}
	}
	var dirs []string
	for place, levels := range places {
		dirs = below(dirs, place, levels, mounts)
	}
	sizes := map[uint64]bool{} // of what was found
	for _, dir := range dirs {
		var failed error
		if err := each(dir, func(at int, name string) {
			of, is := names[name]
			if !is || len(sizes) >= maxFound {
				return
			}
			p, x, ok, err := look(at, name, of, mounts)
			x.path = filepath.Join(dir, name)
			if err != nil {
				failed = fmt.Errorf("%s cannot be read: %w", filepath.Join(dir, name), err)
			}
			if ok {
				found[p] = append(found[p], x)
				sizes[p.Size] = true
			}
		}); err != nil || failed != nil {
			return out, errors.Join(err, failed)
		}
	}
	if len(found) == 0 {
		return out.empty(), nil
	}
	for _, path := range essential {
		if f, err := os.Open(path); err == nil {
			if p, _, ok := printOf(f); ok {
				delete(found, p)
			}
			_ = f.Close()
		}
	}
	for _, dir := range dirs {
		if err := each(dir, func(at int, name string) {
			if _, is := names[name]; is || !sizes[uint64(sizeAt(at, name))] {
				return
			}
			if f, err := open(at, name); err == nil {
				if p, _, ok := printOf(f); ok {
					delete(found, p)
				}
				_ = f.Close()
			}
		}); err != nil {
			return out, err
		}
	}
	out = out.empty()
	for p, list := range found {
		for _, x := range list {
			out.prints[p], out.files[x.file], out.paths[x.file] = x.of, x.of, x.path
		}
	}
	return out, nil
}

// program is one file of an app's.
type program struct {
	of   id
	file known
	path string
}

// below lists a directory and those below it, down to a level, without following links and only where something answers.
func below(list []string, dir string, levels int, mounts []mountinfo.Mount) []string {
	if len(list) >= maxDirs || !answers(mounts, dir) {
		return list
	}
	list = append(list, dir)
	if levels == 0 {
		return list
	}
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if e.IsDir() {
			list = below(list, filepath.Join(dir, e.Name()), levels-1, mounts)
		}
	}
	return list
}

// each calls f with the names in a directory of root's in which nobody else can put anything. A directory that is not there, is a link
// or somebody else's is passed over.
func each(dir string, f func(at int, name string)) error {
	at, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
			return nil
		}
		return fmt.Errorf("%s cannot be read: %w", dir, err)
	}
	d := os.NewFile(uintptr(at), dir)
	defer d.Close()
	var st unix.Stat_t
	if err := unix.Fstat(at, &st); err != nil {
		return fmt.Errorf("%s cannot be read: %w", dir, err)
	}
	if st.Uid != 0 || st.Mode&(unix.S_IWGRP|unix.S_IWOTH) != 0 {
		return nil
	}
	names, err := d.Readdirnames(-1)
	if err != nil {
		return fmt.Errorf("%s cannot be read: %w", dir, err)
	}
	for _, n := range names {
		f(at, n)
	}
	return nil
}

// sizeAt is the size of a regular file in a directory; 0 for anything else.
func sizeAt(at int, name string) int64 {
	var st unix.Stat_t
	if unix.Fstatat(at, name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return 0
	}
	return st.Size
}

// answers reports whether a path is on a file system that answers by itself, by the list of mounts.
func answers(mounts []mountinfo.Mount, path string) bool {
	fs, most := "", -1
	for _, m := range mounts {
		if (m.Point == "/" || path == m.Point || strings.HasPrefix(path, m.Point+"/")) && len(m.Point) >= most {
			fs, most = m.FS, len(m.Point)
		}
	}
	return slices.Contains(answering, fs)
}

// look reads a file that is called as an app's program. One with other names is left out: it may be another program as well.
func look(at int, name string, of id, mounts []mountinfo.Mount) (p fingerprint, x program, ok bool, err error) {
	f, err := open(at, name)
	if slices.ContainsFunc([]error{unix.ENOENT, unix.ELOOP, unix.EXDEV, unix.ENXIO}, func(e error) bool { return errors.Is(err, e) }) {
		return p, x, false, nil // gone, a link, a mount, a socket
	}
	if err != nil {
		return p, x, false, err
	}
	defer f.Close()
	p, st, ok := printOf(f)
	if !ok || st.Uid != 0 || st.Mode&(unix.S_IWGRP|unix.S_IWOTH) != 0 || st.Nlink != 1 {
		return p, x, false, nil
	}
	dev, ino, err := bpf.Opened(f, mounts)
	return p, program{of: of, file: known{Ino: ino, Size: p.Size, Dev: dev}}, err == nil, err
}

// open opens a file of a directory that has this name itself: not a link, and not what is mounted over it. (openat2, which could say so,
// is not there for a unit with RestrictSUIDSGID.)
func open(at int, name string) (*os.File, error) {
	fd, err := unix.Openat(at, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), name)
	var st unix.Statx_t
	err = unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_BASIC_STATS, &st)
	if err == nil && (st.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT == 0 || st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0) {
		err = unix.EXDEV
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// printOf reads by what a program is known. A file that is shorter than what is read of it is filled up with zeros, as the kernel does.
func printOf(f *os.File) (p fingerprint, st unix.Stat_t, ok bool) {
	if unix.Fstat(int(f.Fd()), &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size == 0 {
		return p, st, false
	}
	var head [headSize]byte
	if n, err := unix.Pread(int(f.Fd()), head[:], 0); err != nil || n == 0 {
		return p, st, false
	}
	return fingerprint{Size: uint64(st.Size), Head: headSum(&head)}, st, true
}
