package fanotify

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// EventSize is the size of an event without further information, in bytes.
const EventSize = unix.FAN_EVENT_METADATA_LEN

// Parse reads the first event of what was read from a group, and its size. ok is false if that is none.
func Parse(b []byte) (e unix.FanotifyEventMetadata, size int, ok bool) {
	if len(b) < EventSize {
		return e, 0, false
	}
	n := binary.NativeEndian
	e.Event_len = n.Uint32(b)
	e.Vers = b[4]
	e.Mask = n.Uint64(b[8:])
	e.Fd = int32(n.Uint32(b[16:]))  //nolint:gosec // so it is
	e.Pid = int32(n.Uint32(b[20:])) //nolint:gosec // so it is
	size = int(e.Event_len)
	return e, size, e.Vers == unix.FANOTIFY_METADATA_VERSION && size >= EventSize && size <= len(b)
}

// Answer answers a question (FAN_CLASS_CONTENT): whoever asks waits for it.
func Answer(group int, fd int32, allow bool) error {
	b := make([]byte, 8)
	binary.NativeEndian.PutUint32(b, uint32(fd)) //nolint:gosec // so it is
	answer := uint32(unix.FAN_DENY)
	if allow {
		answer = unix.FAN_ALLOW
	}
	binary.NativeEndian.PutUint32(b[4:], answer)
	_, err := unix.Write(group, b)
	return err
}

// Mark is something that a group watches: a file or directory by its number, or with Ino 0 a whole file system. Dev is the file
// system's number as the kernel has it (12 bits and 20), which on btrfs is not what stat gives.
type Mark struct {
	Dev  uint32
	Ino  uint64
	Mask uint64
}

// Marks lists what a group of this process watches, as the kernel has it.
func Marks(group int) ([]Mark, error) {
	f, err := os.Open(fmt.Sprintf("/proc/self/fdinfo/%d", group))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return parseMarks(f)
}

// parseMarks reads a group's fdinfo (proc(5)): "fanotify ino:4f969 sdev:800011 mflags:0 mask:8 ignored_mask:0". Marks of mounts are
// passed over.
func parseMarks(r io.Reader) (out []Mark, err error) {
	in := bufio.NewScanner(r)
	for in.Scan() {
		f := strings.Fields(in.Text())
		if len(f) < 2 || f[0] != "fanotify" {
			continue
		}
		var m Mark
		file := false
		var errs []error
		for _, x := range f[1:] {
			key, hex, _ := strings.Cut(x, ":")
			if key != "sdev" && key != "ino" && key != "mask" {
				continue
			}
			n, err := strconv.ParseUint(hex, 16, 64)
			errs = append(errs, err)
			switch key {
			case "sdev":
				m.Dev, file = uint32(n), true //nolint:gosec // so it is
			case "ino":
				m.Ino = n
			case "mask":
				m.Mask = n
			}
		}
		if err := errors.Join(errs...); err != nil {
			return nil, fmt.Errorf("a mark of fanotify cannot be read: %w", err)
		}
		if file {
			out = append(out, m)
		}
	}
	return out, in.Err()
}
