//go:build unix

package paths

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// Lock takes a file for this process alone, until unlock or the end of the process. The lock of a
// process that was killed and is stuck in the kernel is taken over.
func Lock(path string) (unlock func(), err error) {
	for range 10 {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return nil, err
		}
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil && named(f, path) {
			return func() { _ = f.Close() }, nil
		}
		_ = f.Close()
		if err == nil {
			continue // another has taken its place meanwhile
		}
		if !errors.Is(err, unix.EWOULDBLOCK) || !inherit(path) {
			return nil, &os.PathError{Op: "lock", Path: path, Err: err}
		}
	}
	return nil, &os.PathError{Op: "lock", Path: path, Err: unix.EWOULDBLOCK}
}

// named reports whether an open file still has its name.
func named(f *os.File, path string) bool {
	a, err1 := f.Stat()
	b, err2 := os.Stat(path)
	return err1 == nil && err2 == nil && os.SameFile(a, b)
}
