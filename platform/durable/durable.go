// Package durable writes files so that a power cut leaves the old one or the new one, whole. It owns how that
// is done on each system, and nothing of what is in the files; agent and server use it, and nothing else
// writes a file that has to last.
package durable

import (
	"errors"
	"os"
	"path/filepath"
)

// Write replaces a file as a whole and durably.
func Write(path string, b []byte, mode os.FileMode) error { return WriteAt(path, b, mode, nil) }

// Swap replaces a file as a whole and does not wait for the disk: for what a power cut may take.
func Swap(path string, b []byte, mode os.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
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

// WriteAt is Write that says how far it is: "written" before the new file takes the old one's place, and
// "renamed" after; nil: nobody asks.
func WriteAt(path string, b []byte, mode os.FileMode, at func(step string)) error {
	if at == nil {
		at = func(string) {}
	}
	return write(path, b, mode, at)
}
