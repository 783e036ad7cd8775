//go:build unix

package durable

import (
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Free is how many bytes can still be written to the disk that a file is on; false if that is not known.
func Free(path string) (int64, bool) {
	var s unix.Statfs_t
	if unix.Statfs(filepath.Dir(path), &s) != nil {
		return 0, false
	}
	return int64(s.Bavail) * int64(s.Bsize), true //nolint:gosec,unconvert // their types differ between systems
}

// Size is how many bytes the disk has that a file is on; false if that is not known.
func Size(path string) (int64, bool) {
	var s unix.Statfs_t
	if unix.Statfs(filepath.Dir(path), &s) != nil {
		return 0, false
	}
	return int64(s.Blocks) * int64(s.Bsize), true //nolint:gosec,unconvert // their types differ between systems
}
