package durable

import (
	"errors"
	"os"
	"path/filepath"
)

// nonblock is not needed here, because pipes are not files.
const nonblock = 0

// write: renameio does not build here, and a rename replaces (MoveFileEx).
func write(path string, b []byte, mode os.FileMode, at func(string)) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close(), os.Chmod(f.Name(), mode)); err != nil {
		return err
	}
	at("written")
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	at("renamed")
	return nil
}
