package bpf

import (
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/warderd/warder/platform/mountinfo"
)

// Number is a device number as the kernel has it, and so our programs.
func Number(major, minor uint32) uint32 { return major<<20 | minor }

// NumberOf reads one as sysfs writes it, "8:1".
func NumberOf(s string) (uint32, bool) {
	a, b, ok := strings.Cut(strings.TrimSpace(s), ":")
	major, err1 := strconv.ParseUint(a, 10, 12)
	minor, err2 := strconv.ParseUint(b, 10, 20)
	return Number(uint32(major), uint32(minor)), ok && err1 == nil && err2 == nil
}

// File is a file's file system and number, as our programs see them. That of the file system is the one of the list of mounts: what
// stat gives is another one on btrfs.
func File(path string) (dev uint32, ino uint64, err error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return 0, 0, err
	}
	defer f.Close()
	mounts, _, err := mountinfo.Parse(f)
	if err != nil {
		return 0, 0, err
	}
	return file(unix.AT_FDCWD, path, 0, mounts)
}

// Opened is the same of an open file, with the list of mounts.
func Opened(f *os.File, mounts []mountinfo.Mount) (dev uint32, ino uint64, err error) {
	return file(int(f.Fd()), "", unix.AT_EMPTY_PATH, mounts)
}

func file(at int, path string, flags int, mounts []mountinfo.Mount) (dev uint32, ino uint64, err error) {
	var st unix.Statx_t
	if err := unix.Statx(at, path, flags, unix.STATX_INO|unix.STATX_MNT_ID, &st); err != nil {
		return 0, 0, &os.PathError{Op: "statx", Path: path, Err: err}
	}
	dev = Number(st.Dev_major, st.Dev_minor)
	if i := slices.IndexFunc(mounts, func(m mountinfo.Mount) bool { return st.Mask&unix.STATX_MNT_ID != 0 && uint64(m.ID) == st.Mnt_id }); i >= 0 {
		if n, ok := NumberOf(mounts[i].Dev); ok {
			dev = n
		}
	}
	return dev, st.Ino, nil
}
