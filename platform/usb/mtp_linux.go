package usb

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"
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

// errNoAnswer means that a question was not answered, which proves nothing.
var errNoAnswer = errors.New("the device did not answer in time")

// transfer makes one control transfer from the device and returns how many bytes came. unix.EPIPE is the device's "no"
// (USB 2.0, 8.5.3.4).
type transfer func(requestType, request uint8, value, index uint16, buf []byte) (int, error)

// askMTP asks the vendor-specific interfaces of a device whether they are MTP. The device need not be authorised. It
// reports whether anything new is known.
func (p *Ports) askMTP(d device, u *fact.USB) bool {
	p.details(d, u)
	f, err := os.OpenFile(filepath.Join(p.DevRoot, fmt.Sprintf("bus/usb/%03d/%03d", u.Bus, u.Number)), os.O_RDWR, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	end := now().Add(mtpWait)
	learnt := answerMTP(u, func(requestType, request uint8, value, index uint16, buf []byte) (int, error) {
		left := end.Sub(now())
		if left <= 0 {
			return 0, errNoAnswer
		}
		return control(f, requestType, request, value, index, buf, min(left, mtpAnswer))
	})
	if learnt {
		p.learn(u)
	}
	return learnt
}

// answerMTP fills in which vendor-specific interfaces are MTP. A host finds MTP without the still-image class in three
// ways, and so does this: an interface whose name contains "MTP" (Android), a Microsoft OS descriptor that says so
// (phones with another name, or none), or version 2 of that descriptor in the BOS descriptor. The last two apply to the
// whole device: they do not say which of its interfaces gives access to files.
func answerMTP(u *fact.USB, ask transfer) (learnt bool) {
	device, asked := fact.Known[bool]{}, false
	for i := range u.Interfaces {
		c := &u.Interfaces[i]
		if c.Class != 0xff || c.MTP.OK {
			continue
		}
		named := fact.Is(false)
		if c.Name != 0 {
			named = nameSaysMTP(c.Name, ask)
		}
		if !named.OK || !named.V {
			if !asked {
				device, asked = deviceSaysMTP(ask), true
			}
			if named.OK || device.OK && device.V {
				named = device
			}
		}
		if named.OK {
			c.MTP, learnt = named, true
		}
	}
	return learnt
}

// nameSaysMTP reads an interface's name in US English. A device that has the name only in another language refuses
// that, and hosts do not see it either.
func nameSaysMTP(index uint8, ask transfer) fact.Known[bool] {
	buf := make([]byte, 255)
	n, err := ask(0x80, 6, 3<<8|uint16(index), 0x0409, buf)
	if errors.Is(err, unix.EPIPE) {
		return fact.Is(false)
	}
	if err != nil {
		return fact.Unread[bool]("it did not say its interface's name: " + err.Error())
	}
	name, err := decodeString(buf[:n])
	if err != nil {
		return fact.Is(false) // no host can read it
	}
	return fact.Is(strings.Contains(strings.ToUpper(name), "MTP"))
}

// deviceSaysMTP asks for both versions of the OS descriptor. Few devices without one hang at the question; one that
// answers a later question is alive, and has none.
func deviceSaysMTP(ask transfer) fact.Known[bool] {
	first, err := osDescriptor(ask)
	if err == nil && first {
		return fact.Is(true)
	}
	second, err2 := osDescriptor2(ask)
	if err2 == nil && second {
		return fact.Is(true)
	}
	if err == nil && err2 == nil {
		return fact.Is(false)
	}
	if _, alive := ask(0x80, 6, typeDevice<<8, 0, make([]byte, lenDevice)); alive == nil {
		return fact.Is(false)
	}
	return fact.Unread[bool]("it did not say whether it has an OS descriptor: " + errors.Join(err, err2).Error())
}

// osDescriptor asks for Microsoft OS descriptors 1.0: the string 0xee, then the extended compatible ids.
func osDescriptor(ask transfer) (mtp bool, err error) {
	buf := make([]byte, 18)
	n, err := ask(0x80, 6, 3<<8|0xee, 0, buf)
	if err != nil {
		return false, unlessRefused(err)
	}
	code, ok := osVendorCode(buf[:n])
	if !ok {
		return false, nil
	}
	ids := make([]byte, 1024) // 42 functions; more than any device has
	if n, err = ask(0xc0, code, 0, 4, ids); err != nil {
		return false, unlessRefused(err)
	}
	return compatibleMTP(ids[:n]), nil
}

// osDescriptor2 asks for Microsoft OS descriptors 2.0, which a capability in the BOS descriptor announces.
func osDescriptor2(ask transfer) (mtp bool, err error) {
	bos := make([]byte, 1024)
	n, err := ask(0x80, 6, 0x0f<<8, 0, bos)
	if err != nil {
		return false, unlessRefused(err)
	}
	code, length, ok := os2Capability(bos[:n])
	if !ok {
		return false, nil
	}
	set := make([]byte, min(int(length), 4096))
	if n, err = ask(0xc0, code, 0, 7, set); err != nil {
		return false, unlessRefused(err)
	}
	return os2MTP(set[:n]), nil
}

// unlessRefused drops the error of a device that answered "no" (EPIPE).
func unlessRefused(err error) error {
	if errors.Is(err, unix.EPIPE) {
		return nil
	}
	return err
}

// control makes one control transfer through the device's node.
func control(f *os.File, requestType, request uint8, value, index uint16, buf []byte, wait time.Duration) (int, error) {
	if len(buf) == 0 {
		return 0, nil
	}
	t := controlTransfer{
		requestType: requestType, request: request, value: value, index: index,
		length: uint16(len(buf)), timeout: uint32(max(wait.Milliseconds(), 1)), data: unsafe.Pointer(&buf[0]),
	}
	n, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), ioctlControl, uintptr(unsafe.Pointer(&t)))
	runtime.KeepAlive(buf)
	if errno != 0 {
		return 0, errno
	}
	return min(int(n), len(buf)), nil
}

// Ask asks the devices of a snapshot that may give access to files what they are: those that a policy would treat as
// storage until they have answered. It reports whether it has learnt anything.
func (p *Ports) Ask(_ context.Context, m *fact.Machine) bool {
	var all sync.WaitGroup
	learnt := make([]bool, len(m.USB.V))
	for i := range m.USB.V {
		if u := &m.USB.V[i]; u.MayBeMTP() {
			all.Go(func() {
				d, err := p.open(u.Path)
				if err != nil {
					return
				}
				defer d.close()
				if n, err := d.which(); err != nil || n != u.Number {
					return // another one by now
				}
				learnt[i] = p.askMTP(d, u)
			})
		}
	}
	all.Wait()
	for _, l := range learnt {
		if l {
			return true
		}
	}
	return false
}
