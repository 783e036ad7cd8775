package encryption

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// opal reports whether a drive encrypts by itself under the TCG's Opal and has its lock switched on
// (IOC_OPAL_GET_STATUS of linux/sed-opal.h, since 5.19).
func opal(node string) bool {
	f, err := os.OpenFile(node, os.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	const (
		getStatus      = 0x800870ec // _IOR('p', 236, struct opal_status)
		lockingEnabled = 1 << 2
	)
	var status struct{ Flags, Reserved uint32 }
	//nolint:gosec // the kernel's own layout
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), getStatus, uintptr(unsafe.Pointer(&status)))
	return errno == 0 && status.Flags&lockingEnabled != 0
}

// encrypts reports whether a file system can have encrypted directories. ext4 says so in its superblock (the feature
// "encrypt"), f2fs in sysfs.
func encrypts(sys, node, format string) bool {
	if format == "f2fs" {
		return strings.Contains(line(sys+"/fs/f2fs/"+filepath.Base(node)+"/features"), "encryption")
	}
	f, err := os.OpenFile(node, os.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	b := make([]byte, 128)
	if _, err := f.ReadAt(b, 1024); err != nil {
		return false
	}
	return hasEncrypt(b)
}

// hasEncrypt reads an ext4 superblock (Documentation/filesystems/ext4/super.rst).
func hasEncrypt(super []byte) bool {
	const magic, incompat, encrypt = 0x38, 0x60, 0x10000
	return len(super) >= incompat+4 && binary.LittleEndian.Uint16(super[magic:]) == 0xef53 &&
		binary.LittleEndian.Uint32(super[incompat:])&encrypt != 0
}
