package outgoing

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/warderd/warder/platform"
	"github.com/warderd/warder/platform/paths"
)

// reopen opens a file again: by what the kernel handed over, by its handle, or by its path if that still leads to it.
func (it *item) reopen(how int) (f *os.File, st stat, err error) {
	how |= unix.O_NONBLOCK | unix.O_CLOEXEC
	var fd int
	byPath := it.f == nil && it.path != "" && it.place.app != "" // a folder's files are known by their names there
	if it.f != nil {
		fd, err = unix.Open(fmt.Sprintf("/proc/self/fd/%d", it.f.Fd()), how, 0)
	} else if !byPath {
		fd, err = it.byHandle(how)
	}
	if lost := it.handle == nil || errors.Is(err, unix.ESTALE) || errors.Is(err, unix.EOPNOTSUPP); lost && it.foreign && it.f == nil {
		return nil, st, errNameless
	} else if byPath || err != nil && lost && it.f == nil {
		var dir *os.File
		if dir, err = paths.OpenDir(filepath.Dir(it.path)); err != nil {
			return nil, st, errGone // its place has gone, or it has another name; who opens it is asked about it anew
		}
		defer dir.Close()
		var at int
		if at, err = unix.Openat(int(dir.Fd()), filepath.Base(it.path), unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0); err == nil {
			defer unix.Close(at)
			if x, wrong := statOf(at); wrong != nil || x.id != it.inode || !x.regular() {
				return nil, st, errGone
			}
			fd, err = unix.Open(fmt.Sprintf("/proc/self/fd/%d", at), how, 0)
		}
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ELOOP) {
			return nil, st, errGone
		}
	}
	if err != nil {
		return nil, st, fmt.Errorf("it cannot be opened: %w", err)
	}
	f = os.NewFile(uintptr(fd), "taken") //nolint:gosec // a descriptor
	if st, err = statOf(fd); err != nil || st.id != it.inode || !st.regular() {
		_ = f.Close()
		return nil, st, errGone
	}
	return f, st, nil
}

// byHandle opens a file whatever its name is now.
func (it *item) byHandle(how int) (int, error) {
	if it.handle == nil {
		return -1, errGone
	}
	on, err := unix.Open(it.place.root, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(on)
	return unix.OpenByHandleAt(on, *it.handle, how)
}

// take copies a file into the quarantine and takes it away. Who opens it meanwhile is refused already; a lease (fcntl(2), F_SETLEASE)
// says that nobody had it open before. On a disk it is emptied, under all of its names; in a sync folder too, unless it has a name
// elsewhere: then its name there is removed.
func (p *place) take(it *item) (id string, err error) {
	f, st, err := it.reopen(unix.O_RDWR)
	if err != nil {
		return "", err
	}
	defer f.Close()
	p.mu.Lock()
	handed := it.f
	it.f = nil
	p.mu.Unlock()
	if handed != nil {
		_ = handed.Close() // an open file of our own would be in the way of the lease, and keep the disk busy
	}
	fd := int(f.Fd()) //nolint:gosec // a descriptor
	if err := lease(fd); err != nil {
		return "", err
	}
	defer func() { _, _ = unix.FcntlInt(uintptr(fd), unix.F_SETLEASE, unix.F_UNLCK) }() //nolint:gosec // a descriptor
	if st, err = statOf(fd); err != nil {
		return "", err
	}
	if st.stamp.size != it.stamp.size || st.stamp.mtime != it.stamp.mtime {
		return "", errChanged
	}
	it.stamp = st.stamp // it may have got another name
	path := pathOf(fd)
	p.mu.Lock()
	left := p.left(&st, path)
	ours := st.mount == p.mount && !it.foreign || p.app == ""
	p.mu.Unlock()
	switch {
	case st.links == 0: // its owner has removed it. Somebody may hold it in a way that no lease knows (O_PATH), and give it a name
		if err := f.Truncate(0); err != nil {
			return "", err
		}
		return "", errGone
	case left:
		return "", errGone
	case ours && p.app != "" && !leadsTo(path, it.inode): // its name there is gone: it lives elsewhere, or has another one there
		return "", errElsewhere
	case !ours && st.links > 1:
		return "", errNameless
	}
	alone := func() bool {
		how, err := unix.FcntlInt(uintptr(fd), unix.F_GETLEASE, 0) //nolint:gosec // a descriptor
		return err == nil && how == unix.F_WRLCK
	}
	reason, _ := it.judge.SensitiveReason(it.judge.Sensitive(&it.fact), &it.fact)
	id, drop, done, err := p.g.keep(p.ctx, f, func() platform.Kept {
		return platform.Kept{Path: path, Place: p.name, Setting: settingOf(&it.fact), Reason: reason}
	}, alone)
	if err != nil && !alone() {
		return "", errBusy
	}
	if err != nil {
		return "", err
	}
	if !alone() {
		drop()
		return "", errBusy
	}
	// It may have been moved out of the folder meanwhile, or have got another name: both change its times.
	if now, err := statOf(fd); err != nil || now.stamp != it.stamp || now.links != st.links || p.app != "" && pathOf(fd) != path {
		drop()
		return "", errors.Join(err, errMoved)
	}
	if p.app != "" && st.links > 1 {
		err = unlink(path, it.inode)
	} else {
		err = f.Truncate(0)
	}
	if err != nil {
		drop()
		return "", fmt.Errorf("it cannot be taken away: %w", err)
	}
	if err := f.Sync(); err != nil { // the quarantine has the only copy from here on
		p.log.Warn("that a file was emptied may not last", "error", err)
	}
	done()
	if p.app != "" && st.links > 1 {
		p.lost("it may have more names in the folder")
	}
	return id, nil
}

// errElsewhere: its name is gone, and it has others, perhaps in the folder.
var errElsewhere = fmt.Errorf("%w by that name", errGone)

var (
	errMoved    = errors.New("it was given another name meanwhile")
	errNameless = errors.New("its name there is not known, and it has others")
	errLeases   = errors.New("its file system has no leases: it cannot be taken without losing what others write to it meanwhile")
)

// lease makes sure that nobody else has a file open.
func lease(fd int) (err error) {
	for range leaseTries { // whoever was refused just now has not ended yet
		_, err = unix.FcntlInt(uintptr(fd), unix.F_SETLEASE, unix.F_WRLCK) //nolint:gosec // a descriptor
		if !errors.Is(err, unix.EAGAIN) {
			break
		}
		time.Sleep(leasePause)
	}
	switch {
	case errors.Is(err, unix.EAGAIN):
		return errBusy
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EOPNOTSUPP):
		return errLeases
	}
	return err
}

// leadsTo reports whether a file has this name.
func leadsTo(path string, id inode) bool {
	dir, err := paths.OpenDir(filepath.Dir(path))
	if err != nil {
		return false
	}
	defer dir.Close()
	var st unix.Stat_t
	return unix.Fstatat(int(dir.Fd()), filepath.Base(path), &st, unix.AT_SYMLINK_NOFOLLOW) == nil && (inode{st.Dev, st.Ino}) == id //nolint:gosec // a descriptor
}

// asideName begins the name that a file gets before its name is removed. A file that is found under such a name is one that was being
// removed when the agent ended.
const asideName = ".warder-"

// unlink removes one name of a file, and no other file: the name gets another one first, which nobody knows, because the directory is its
// owner's.
func unlink(path string, id inode) error {
	dir, err := paths.OpenDir(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	at, name, aside := int(dir.Fd()), filepath.Base(path), asideName+rand.Text() //nolint:gosec // a descriptor
	if err := unix.Renameat2(at, name, at, aside, unix.RENAME_NOREPLACE); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstatat(at, aside, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil || (inode{st.Dev, st.Ino}) != id {
		return errors.Join(err, errGone, unix.Renameat2(at, aside, at, name, unix.RENAME_NOREPLACE))
	}
	return unix.Unlinkat(at, aside, 0)
}
