package usb

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"
	"unicode/utf16"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/warderd/warder/enforce/fact"
)

// controlTransfer is struct usbdevfs_ctrltransfer (include/uapi/linux/usbdevice_fs.h).
type controlTransfer struct {
	requestType, request uint8
	value, index, length uint16
	timeout              uint32 // ms
	data                 unsafe.Pointer
}

// ioctlControl is USBDEVFS_CONTROL: _IOWR('U', 0, struct usbdevfs_ctrltransfer).
const ioctlControl = 3<<30 | unsafe.Sizeof(controlTransfer{})<<16 | 'U'<<8

// askMTP asks the vendor-specific interfaces of a device that is not authorised what they call
// themselves. Microsoft's and Android's convention for MTP without the still-image class is an
// interface string that holds "MTP". It reports whether anything new is known.
func (p *Ports) askMTP(d device, u *fact.USB) bool {
	p.details(d, u)
	f, err := os.OpenFile(filepath.Join(p.DevRoot, fmt.Sprintf("bus/usb/%03d/%03d", u.Bus, u.Number)), os.O_RDWR, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	end, learnt := now().Add(mtpWait), false
	for i := range u.Interfaces {
		c := &u.Interfaces[i]
		if c.Class != 0xff || c.Name == 0 || c.MTP.OK {
			continue
		}
		left := end.Sub(now())
		if left <= 0 {
			break
		}
		if name, err := stringDescriptor(f, c.Name, left); err == nil {
			c.MTP, learnt = fact.Is(strings.Contains(strings.ToUpper(name), "MTP")), true
		}
	}
	if learnt {
		p.learn(u)
	}
	return learnt
}

// stringDescriptor reads one string in US English (USB 2.0, 9.6.7).
func stringDescriptor(f *os.File, index uint8, wait time.Duration) (string, error) {
	buf := make([]byte, 255)
	t := controlTransfer{
		requestType: 0x80, request: 6, value: 3<<8 | uint16(index), index: 0x0409,
		length: uint16(len(buf)), timeout: uint32(max(wait.Milliseconds(), 1)), data: unsafe.Pointer(&buf[0]),
	}
	n, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), ioctlControl, uintptr(unsafe.Pointer(&t)))
	runtime.KeepAlive(buf)
	if errno != 0 {
		return "", errno
	}
	return decodeString(buf[:n])
}

func decodeString(b []byte) (string, error) {
	if len(b) < 2 || b[1] != 3 || int(b[0]) > len(b) || b[0]%2 != 0 {
		return "", fmt.Errorf("%d bytes are no string descriptor", len(b))
	}
	b = b[2:max(int(b[0]), 2)]
	units := make([]uint16, 0, len(b)/2)
	for i := 0; i+1 < len(b); i += 2 {
		units = append(units, uint16(b[i])|uint16(b[i+1])<<8)
	}
	return string(utf16.Decode(units)), nil
}
