//go:build linux

// Package owned keeps files of ours in directories that others use as well: directories that were not there before are marked, and go with
// the files.
package owned

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"
)

// MaxText bounds what is read of a file, in bytes: none of ours is as long.
const MaxText = 64 << 10

// made marks a directory that was not there before.
const made = "user.warder.made"

// ErrForeign says that what has a file's name is a link, a directory, a pipe or a device: somebody else's, whatever it leads to.
var ErrForeign = errors.New("it is no regular file")

// Read reads a regular file. absent is true where there is nothing.
func Read(path string) (text []byte, absent bool, err error) {
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil, true, nil
	}
	if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENXIO) { // a link, a socket
		return nil, false, ErrForeign
	}
	if err != nil {
		return nil, false, err
	}
	defer file.Close()
	if st, err := file.Stat(); err != nil || !st.Mode().IsRegular() {
		return nil, false, errors.Join(err, ErrForeign)
	}
	text, err = io.ReadAll(io.LimitReader(file, MaxText))
	return text, false, err
}

// MakeDir makes a directory and those above it, and marks those that were not there.
func MakeDir(dir string) error {
	if st, err := os.Stat(dir); err == nil && st.IsDir() {
		return nil
	}
	if err := MakeDir(filepath.Dir(dir)); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	if err := os.Chmod(dir, 0o755); err != nil { // who reads them runs as a user, whatever the umask is
		return err
	}
	_ = unix.Setxattr(dir, made, []byte("1"), 0) // where that cannot be, it stays, and is empty
	return nil
}

// Made reports whether a directory was made by MakeDir.
func Made(dir string) bool {
	n, err := unix.Getxattr(dir, made, nil)
	return err == nil && n > 0
}

// RemoveDir removes a directory and those above it below root, as far as they were made and nothing is in them.
func RemoveDir(root, dir string) {
	for len(dir) > 1 && dir != filepath.Clean(root) {
		if !Made(dir) || os.Remove(dir) != nil {
			return
		}
		dir = filepath.Dir(dir)
	}
}

// calm lets what has begun to change come to rest.
const calm = 20 * time.Millisecond

// Watch calls look when something has changed in one of the directories, until ctx ends. One that is not there is watched from when again
// comes.
func Watch(ctx context.Context, dirs func() []string, again <-chan struct{}, look func()) error {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return err
	}
	defer w.Close()
	arm := func() {
		for _, d := range dirs() {
			_ = w.Add(d)
		}
	}
	arm()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-again:
			arm()
			continue
		case err := <-w.Errors:
			if !errors.Is(err, fsnotify.ErrEventOverflow) {
				return err
			}
		case _, ok := <-w.Events:
			if !ok {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(calm):
		}
		arm() // one that was removed may have come back
		look()
	}
}
