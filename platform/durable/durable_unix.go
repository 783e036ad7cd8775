//go:build !windows

package durable

import (
	"os"
	"path/filepath"
	"syscall"

	"github.com/google/renameio/v2"
)

// nonblock opens a pipe without waiting for its other end.
const nonblock = syscall.O_NONBLOCK

// write writes a temporary file, flushes it, renames it, and flushes the directory.
func write(path string, b []byte, mode os.FileMode, at func(string)) error {
	// The new file has its final mode from the beginning, so that it is never world-readable, not even for a moment.
	f, err := renameio.NewPendingFile(path, renameio.WithTempDir(filepath.Dir(path)), renameio.WithStaticPermissions(mode))
	if err != nil {
		return err
	}
	defer f.Cleanup() //nolint:errcheck // nothing is left after a replacement, and nothing to do about the rest
	if _, err := f.Write(b); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	at("written")
	if err := f.CloseAtomicallyReplace(); err != nil {
		return err
	}
	at("renamed")
	flush(filepath.Dir(path))
	return nil
}
