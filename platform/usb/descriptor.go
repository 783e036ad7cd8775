package usb

import (
	"encoding/binary"
	"fmt"

	"github.com/warderd/warder/enforce/fact"
)

// Sizes and types of standard descriptors (USB 2.0, 9.6).
const (
	typeDevice    = 1
	typeConfig    = 2
	typeInterface = 4

	lenDevice    = 18
	lenConfig    = 9
	lenInterface = 9

	// maxConfigs is how many configurations Linux reads (USB_MAXCONFIG); a device that claims more hides some of them.
	maxConfigs    = 8
	maxInterfaces = 1024
	maxGuess      = 32 // how many interfaces to reserve room for, by the device's own count
	// maxDescriptors is eight configurations of 64 KiB and the device descriptor.
	maxDescriptors = maxConfigs<<16 + lenDevice
)

// ParseDescriptors reads the bytes of sysfs "descriptors": the device descriptor, then each configuration as far as the
// kernel accepted it (usb_get_configuration and usb_parse_configuration in drivers/usb/core/config.c).
//
// Many devices count wrongly, and the kernel accepts them nevertheless. It walks a configuration from descriptor to
// descriptor and stops where none can follow: at excess bytes, at a length of zero, at the end of what was sent. The
// file ends there, whatever length the configuration claims. So these bytes are a sequence of whole descriptors, and a
// walk over all of them finds every interface that a driver can be bound to. The configuration's own counts (total
// length, number of interfaces) are ignored here, as in the kernel. Nor does it matter where one configuration ends and
// the next begins, except for the number shown beside an interface.
//
// The walk finds some more interfaces: those that the kernel skips because another has the same number and setting, or
// because there are 32 already. Which ones depends on where a configuration ends, which a device can blur. They are
// judged like the others.
//
// Bytes that do not form such a sequence are not the whole file: that sets Truncated, and leaves the interfaces found
// so far. A decision must not take them for all of them.
func ParseDescriptors(b []byte, u *fact.USB) {
	u.Interfaces, u.Truncated = u.Interfaces[:0], ""
	if len(b) < lenDevice || b[0] < lenDevice || b[1] != typeDevice {
		u.Truncated = fmt.Sprintf("no device descriptor in %d bytes", len(b))
		return
	}
	u.Class = b[4]
	u.Vendor = binary.LittleEndian.Uint16(b[8:])
	u.Product = binary.LittleEndian.Uint16(b[10:])
	w := walk{u: u, claimed: int(b[17])}
	for at := lenDevice; at < len(b); {
		if at+2 > len(b) || b[at] < 2 || at+int(b[at]) > len(b) {
			u.Truncated = fmt.Sprintf("a descriptor of %d bytes at %d of %d", b[at], at, len(b))
			return
		}
		d := b[at : at+int(b[at])]
		if !w.meet(d, at) {
			return
		}
		at += len(d)
	}
	if w.configs < w.claimed {
		u.Truncated = fmt.Sprintf("%d of %d configurations could be read", w.configs, w.claimed)
	}
}

// walk is a position in a device's descriptors.
type walk struct {
	u       *fact.USB
	claimed int // configurations, as the kernel counted them
	configs int // found so far
	config  uint8
}

// meet processes the descriptor at an offset. It reports false when nothing more is accepted.
func (w *walk) meet(d []byte, at int) bool {
	u := w.u
	if w.configs == 0 && (d[1] != typeConfig || len(d) < lenConfig) {
		u.Truncated = fmt.Sprintf("no configuration descriptor at %d", at)
		return false
	}
	if d[1] == typeConfig && len(d) >= lenConfig && w.configs < w.claimed {
		// The kernel skips a configuration descriptor in the wrong place. This cannot be told apart with certainty, and
		// it only affects this number.
		w.configs++
		w.config = d[5]
		if u.Interfaces == nil {
			u.Interfaces = make([]fact.Interface, 0, min(max(int(d[4]), 2), maxGuess))
		}
		return true
	}
	if d[1] != typeInterface || len(d) < lenInterface {
		return true
	}
	if len(u.Interfaces) == maxInterfaces {
		u.Truncated = fmt.Sprintf("more than %d interfaces", maxInterfaces)
		return false
	}
	f := fact.Interface{Config: w.config, Number: d[2], Alternate: d[3], Class: d[5], SubClass: d[6], Protocol: d[7], Name: d[8]}
	if f.Class == 0x03 && f.SubClass == 1 { // boot interface: 1 keyboard, 2 mouse (HID 1.11, 4.2)
		u.Keyboard = u.Keyboard || f.Protocol == 1
		u.Pointer = u.Pointer || f.Protocol == 2
	}
	u.Interfaces = append(u.Interfaces, f)
	return true
}
