package text

import (
	"errors"
	"io"

	"golang.org/x/sys/unix"
)

// Data asks the kernel.
func (f *file) Data(at int64) (int64, error) {
	n, err := unix.Seek(int(f.f.Fd()), at, unix.SEEK_DATA) //nolint:gosec // a descriptor
	if errors.Is(err, unix.ENXIO) {
		return 0, io.EOF
	}
	return n, err
}
