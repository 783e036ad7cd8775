// Package durable replaces files so that after a power cut there is either the whole old file or the whole new one, and
// nothing else. It owns how that is done on each system, and nothing about the contents. Agent and server replace files
// only through it.
package durable

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Write replaces a file as a whole and durably.
func Write(path string, b []byte, mode os.FileMode) error { return WriteAt(path, b, mode, nil) }

// Swap replaces a file as a whole without waiting for the disk, for files that a power cut may lose.
func Swap(path string, b []byte, mode os.FileMode) error {
	sweep(path, old)
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"*")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Close(), os.Chmod(f.Name(), mode)); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}

// Create creates a file, whole and durably. It returns fs.ErrExist if the file exists; of several concurrent calls, one
// succeeds. A file system that can neither link nor rename without replacing is refused.
func Create(path string, mode os.FileMode, fill func(io.Writer) error) error {
	if _, err := os.Lstat(path); err == nil {
		return &fs.PathError{Op: "create", Path: path, Err: fs.ErrExist}
	}
	sweep(path, old)
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	if err := errors.Join(os.Chmod(f.Name(), mode), fill(f), f.Sync(), f.Close()); err != nil {
		return err
	}
	err = os.Link(f.Name(), path)
	if err != nil && !errors.Is(err, fs.ErrExist) { // no hard links, for example on vfat
		if again := renameNew(f.Name(), path); again == nil || errors.Is(again, fs.ErrExist) {
			err = again
		}
	}
	if err != nil {
		return err
	}
	flush(filepath.Dir(path))
	return nil
}

// Move replaces a file by another, whole one of the same directory, durably.
func Move(from, path string) error {
	f, err := os.OpenFile(from, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Sync(), f.Close(), os.Rename(from, path)); err != nil {
		return err
	}
	flush(filepath.Dir(path))
	return nil
}

// flush makes the names in a directory durable. Some systems cannot; the files themselves are flushed.
func flush(dir string) {
	if d, err := os.Open(dir); err == nil {
		_ = d.Sync()
		_ = d.Close()
	}
}

// WriteAt is Write that reports its progress: "written" before the new file replaces the old one, and "renamed"
// afterwards. The function may be nil.
func WriteAt(path string, b []byte, mode os.FileMode, at func(step string)) error {
	if at == nil {
		at = func(string) {}
	}
	sweep(path, old)
	return write(path, b, mode, at)
}

// Remove removes a file, and what interrupted writes of it have left: that may contain the same secret.
func Remove(path string) error {
	sweep(path, 0)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Sweep removes what interrupted writes of a file have left. Nobody may be writing it.
func Sweep(path string) { sweep(path, 0) }

// old is the age from which a temporary file counts as abandoned: no write takes that long.
const old = time.Minute

// sweep removes the temporary files of interrupted writes: ".", the name and a number.
func sweep(path string, age time.Duration) {
	list, _ := filepath.Glob(filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+"[0-9]*"))
	for _, f := range list {
		if strings.Trim(strings.TrimPrefix(filepath.Base(f), "."+filepath.Base(path)), "0123456789") != "" {
			continue
		}
		if info, err := os.Lstat(f); err == nil && info.Mode().IsRegular() && time.Since(info.ModTime()) >= age {
			_ = os.Remove(f)
		}
	}
}
