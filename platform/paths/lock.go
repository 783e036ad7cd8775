package paths

import (
	"errors"
	"io/fs"
	"os"

	"github.com/gofrs/flock"
)

var errLocked = errors.New("another process has it")

// Lock locks a file for this process until unlock is called or the process ends. The lock of a process that was killed
// and is stuck in the kernel is taken over.
func Lock(path string) (unlock func(), err error) {
	for range 10 {
		l := flock.New(path, flock.SetPermissions(0o600))
		ok, err := l.TryLock()
		switch {
		case err != nil:
			return nil, err
		case ok && named(l, path):
			return func() { _ = l.Close() }, nil
		case ok: // the file was replaced meanwhile
			_ = l.Close()
		default:
			_ = l.Close()
			if !inherit(path) {
				return nil, &os.PathError{Op: "lock", Path: path, Err: errLocked}
			}
		}
	}
	return nil, &os.PathError{Op: "lock", Path: path, Err: errLocked}
}

// free reports whether nobody has a lock. It does not create the lock's file.
func free(path string) bool {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return true
	}
	l := flock.New(path, flock.SetFlag(os.O_RDONLY))
	defer l.Close()
	ok, err := l.TryLock()
	return err == nil && ok
}

// named reports whether a lock's file still has its name.
func named(l *flock.Flock, path string) bool {
	a, err1 := l.Stat()
	b, err2 := os.Stat(path)
	return err1 == nil && err2 == nil && os.SameFile(a, b)
}
