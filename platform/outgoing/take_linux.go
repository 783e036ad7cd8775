package outgoing

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/warderd/warder/platform"
	"github.com/warderd/warder/platform/paths"
)

// reopen opens a file again: by what the kernel handed over, or by its path if that still leads to it.
func (it *item) reopen(how int) (f *os.File, st unix.Stat_t, err error) {
	how |= unix.O_NONBLOCK | unix.O_CLOEXEC
	fd := -1
	if it.f != nil {
		fd, err = unix.Open(fmt.Sprintf("/proc/self/fd/%d", it.f.Fd()), how, 0)
	} else if fd, err = it.byHandle(how); err != nil {
		var dir *os.File
		if dir, err = paths.OpenDir(filepath.Dir(it.path)); err != nil {
			return nil, st, errGone // its place has gone, or it has another name; who opens it is asked about it anew
		}
		defer dir.Close()
		fd, err = unix.Openat(int(dir.Fd()), filepath.Base(it.path), how|unix.O_NOFOLLOW, 0) //nolint:gosec // a descriptor
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ELOOP) {
			return nil, st, errGone
		}
	}
	if err != nil {
		return nil, st, fmt.Errorf("it cannot be opened: %w", err)
	}
	f = os.NewFile(uintptr(fd), "taken") //nolint:gosec // a descriptor
	if err := unix.Fstat(fd, &st); err != nil || (inode{st.Dev, st.Ino}) != it.inode || st.Mode&unix.S_IFMT != unix.S_IFREG || st.Nlink == 0 {
		_ = f.Close()
		return nil, st, errGone
	}
	return f, st, nil
}

// byHandle opens a file whatever its name is now.
func (it *item) byHandle(how int) (int, error) {
	if it.handle == nil || it.place == nil {
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
func (w *watch) take(it *item) (id string, err error) {
	f, st, err := it.reopen(unix.O_RDWR)
	if err != nil {
		return "", err
	}
	defer f.Close()
	w.mu.Lock()
	it.shut() // an open file of our own would be in the way of the lease, and keep the disk busy
	w.mu.Unlock()
	fd := int(f.Fd()) //nolint:gosec // a descriptor
	if stampOf(&st) != it.stamp {
		return "", errChanged
	}
	leased, err := lease(fd)
	if err != nil {
		return "", err
	}
	if leased {
		defer func() { _, _ = unix.FcntlInt(uintptr(fd), unix.F_SETLEASE, unix.F_UNLCK) }() //nolint:gosec // a descriptor
	}
	path, elsewhere, err := w.name(it, fd, &st)
	if err != nil {
		return "", err
	}
	same := func() bool {
		var now unix.Stat_t
		if leased {
			how, err := unix.FcntlInt(uintptr(fd), unix.F_GETLEASE, 0) //nolint:gosec // a descriptor
			return err == nil && how == unix.F_WRLCK
		}
		return unix.Fstat(fd, &now) == nil && stampOf(&now) == it.stamp
	}
	reason, _ := it.judge.SensitiveReason(it.judge.Sensitive(&it.fact), &it.fact)
	id, drop, err := w.g.keep(w.ctx, f, func() platform.Kept {
		return platform.Kept{Path: path, Place: it.place.called(), Setting: settingOf(&it.fact), Reason: reason}
	}, same)
	if err != nil && !same() {
		return "", errBusy
	}
	if err != nil {
		return "", err
	}
	if !same() {
		drop()
		return "", errBusy
	}
	if elsewhere {
		err = unlink(path, it.inode)
	} else {
		err = f.Truncate(0)
	}
	if err != nil {
		drop()
		return "", fmt.Errorf("it cannot be taken away: %w", err)
	}
	if err := f.Sync(); err != nil { // the quarantine has the only copy from here on
		w.log.Warn("that a file was emptied may not last", "error", err)
	}
	return id, nil
}

var errNameless = errors.New("its name there is not known, and it has others")

// name is where a file is that is to be taken away, and whether it has a name elsewhere as well, under which it stays. What has left a
// sync folder meanwhile is gone.
func (w *watch) name(it *item, fd int, st *unix.Stat_t) (path string, elsewhere bool, err error) {
	path = pathOf(fd)
	if it.place != nil && it.place.app == "" {
		return path, false, nil
	}
	w.mu.Lock()
	p := w.place(st.Dev, path)
	w.mu.Unlock()
	leads := leadsTo(path, st)
	switch {
	case strings.HasSuffix(path, " (deleted)") && !leads, leads && p == nil:
		return "", false, errGone
	case !leads && st.Nlink > 1:
		return "", false, errNameless
	}
	return path, st.Nlink > 1, nil
}

// lease makes sure that nobody else has a file open. ok is false on file systems without leases.
func lease(fd int) (ok bool, err error) {
	for range leaseTries { // whoever was refused just now has not ended yet
		_, err = unix.FcntlInt(uintptr(fd), unix.F_SETLEASE, unix.F_WRLCK) //nolint:gosec // a descriptor
		if !errors.Is(err, unix.EAGAIN) {
			break
		}
		time.Sleep(leasePause)
	}
	switch {
	case errors.Is(err, unix.EAGAIN):
		return false, errBusy
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EOPNOTSUPP):
		return false, nil
	}
	return err == nil, err
}

// unlink removes one name of a file, and no other file: the name gets another one first, which nobody knows.
func unlink(path string, id inode) error {
	dir, err := paths.OpenDir(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	at, name, aside := int(dir.Fd()), filepath.Base(path), ".warder-"+rand.Text() //nolint:gosec // a descriptor
	if err := unix.Renameat2(at, name, at, aside, unix.RENAME_NOREPLACE); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstatat(at, aside, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil || (inode{st.Dev, st.Ino}) != id {
		return errors.Join(err, errGone, unix.Renameat2(at, aside, at, name, unix.RENAME_NOREPLACE))
	}
	return unix.Unlinkat(at, aside, 0)
}
