//go:build unix

package quarantine

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/warderd/warder/platform/paths"
)

// createAt makes a new file, which is removed again if it cannot be filled.
func createAt(path string, fill func(*os.File) error) error {
	dir, err := paths.OpenDir(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	at, name := int(dir.Fd()), filepath.Base(path) //nolint:gosec // a descriptor
	fd, err := unix.Openat(at, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return &os.PathError{Op: "create", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(fd), path) //nolint:gosec // a descriptor
	defer f.Close()
	err = fill(f)
	// Whose directory it is can remove or replace it meanwhile.
	var is, there unix.Stat_t
	same := unix.Fstat(fd, &is) == nil && unix.Fstatat(at, name, &there, unix.AT_SYMLINK_NOFOLLOW) == nil && is.Dev == there.Dev && is.Ino == there.Ino
	switch {
	case err != nil && same:
		_ = unix.Unlinkat(at, name, 0)
		return err
	case err != nil:
		return err
	case !same:
		return fmt.Errorf("%s was removed or replaced while it was written", path)
	}
	if err := dir.Sync(); err != nil {
		return fmt.Errorf("%s cannot be flushed: %w", filepath.Dir(path), err)
	}
	return nil
}

// give gives a file its owner, group, permissions and time. Bits that give the rights of the owner to whoever starts it do not
// come back.
func give(f *os.File, x *Item) error {
	if os.Geteuid() == 0 {
		// vfat and its kin have no owners.
		if err := f.Chown(int(x.UID), int(x.GID)); err != nil && !errors.Is(err, unix.EPERM) {
			return err
		}
	}
	tv := []unix.Timeval{unix.NsecToTimeval(time.Now().UnixNano()), unix.NsecToTimeval(x.Modified.UnixNano())}
	return errors.Join(f.Chmod(os.FileMode(x.Mode)&os.ModePerm), unix.Futimes(int(f.Fd()), tv)) //nolint:gosec // a descriptor
}

// describe notes whose file it is.
func describe(f *os.File, x *Item) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil { //nolint:gosec // a descriptor
		return err
	}
	x.UID, x.GID, x.Mode = st.Uid, st.Gid, uint32(st.Mode&0o777) //nolint:unconvert // their types differ between systems
	return nil
}
