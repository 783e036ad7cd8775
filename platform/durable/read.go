package durable

import (
	"errors"
	"fmt"
	"io"
	"os"
)

// ErrNoFile means that something other than a regular file has the name.
var ErrNoFile = errors.New("it is not a regular file")

// Read reads a whole file of at most the given size. A pipe with that name does not block it.
func Read(path string, most int64) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|nonblock, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, &os.PathError{Op: "read", Path: path, Err: ErrNoFile}
	}
	b, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(b)) > most {
		err = &os.PathError{Op: "read", Path: path, Err: fmt.Errorf("it has more than %d bytes", most)}
	}
	return b, err
}
