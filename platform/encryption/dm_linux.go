package encryption

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Target is one part of a device-mapper device.
type Target struct {
	Type   string // "crypt", "linear"
	Cipher string // of a crypt target, "aes-xts-plain64"
}

// maxTable bounds a table; one of LVM has 70 bytes per segment.
const maxTable = 1 << 20

// dmTables asks the kernel for the active table of a device, "254:1". The table of a crypt target may contain its key
// after the cipher's name, so both our buffer and the kernel's copy are wiped.
func dmTables(dev string) ([]Target, error) {
	var major, minor uint32
	if n, err := fmt.Sscanf(dev, "%d:%d", &major, &minor); n != 2 || err != nil {
		return nil, fmt.Errorf("%q is not a device number", dev)
	}
	control, err := os.OpenFile("/dev/mapper/control", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer control.Close()
	for size := 16 << 10; size <= maxTable; size *= 4 {
		list, full, err := table(control, unix.Mkdev(major, minor), size)
		if err != nil || !full {
			return list, err
		}
	}
	return nil, fmt.Errorf("its table has more than %d bytes", maxTable)
}

// bufferFull is DM_BUFFER_FULL_FLAG (linux/dm-ioctl.h).
const bufferFull = 1 << 8

// table reads a table into a buffer of the given size; full reports that it was too small.
func table(control *os.File, dev uint64, size int) (list []Target, full bool, err error) {
	b := make([]byte, size)
	defer clear(b)
	io := (*unix.DmIoctl)(unsafe.Pointer(&b[0])) //nolint:gosec // the kernel's own layout
	io.Version = [3]uint32{4, 0, 0}
	io.Data_size, io.Data_start = uint32(size), unix.SizeofDmIoctl //nolint:gosec // at most maxTable
	// The kernel expects a number in the format of huge_encode_dev here, which user space uses everywhere.
	io.Dev = dev
	io.Flags = unix.DM_STATUS_TABLE_FLAG | unix.DM_SECURE_DATA_FLAG
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, control.Fd(), unix.DM_TABLE_STATUS, uintptr(unsafe.Pointer(&b[0]))); errno != 0 {
		return nil, false, errno
	}
	if io.Flags&bufferFull != 0 {
		return nil, true, nil
	}
	if int(io.Data_start) > size || int(io.Data_size) > size || io.Data_size < io.Data_start {
		return nil, false, errors.New("the kernel's answer cannot be read")
	}
	list, err = parseTable(b[io.Data_start:io.Data_size], int(io.Target_count))
	return list, false, err
}

// parseTable reads the targets of a table: struct dm_target_spec, then its parameters as text, each ended by a zero;
// "next" counts from the beginning.
func parseTable(b []byte, count int) ([]Target, error) {
	var out []Target
	at := 0
	for i := range count {
		if at < 0 || at+unix.SizeofDmTargetSpec > len(b) {
			return nil, fmt.Errorf("target %d of %d lies outside", i+1, count)
		}
		spec := b[at:]
		next := int(binary.NativeEndian.Uint32(spec[20:]))
		kind, _, _ := bytes.Cut(spec[24:40], []byte{0})
		t := Target{Type: string(kind)}
		if t.Type == "crypt" {
			// Only the first word: the second is the key, or its name.
			text := spec[unix.SizeofDmTargetSpec:]
			if end := bytes.IndexAny(text, " \x00"); end > 0 && end < 256 {
				t.Cipher = strings.Clone(string(text[:end]))
			}
		}
		out = append(out, t)
		if next <= at && i+1 < count {
			return nil, fmt.Errorf("target %d of %d has no next one", i+1, count)
		}
		at = next
	}
	return out, nil
}
