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

	// maxConfigs is how many configurations Linux reads (USB_MAXCONFIG); a device that claims more
	// hides some of them.
	maxConfigs    = 8
	maxInterfaces = 1024
	// maxDescriptors is eight configurations of 64 KiB and the device descriptor.
	maxDescriptors = maxConfigs<<16 + lenDevice
)

// ParseDescriptors reads the bytes of sysfs "descriptors": the device descriptor, then each whole
// configuration, in bus byte order. What cannot be followed to its end sets Truncated and leaves
// the interfaces found so far: whoever decides must not take them for all.
func ParseDescriptors(b []byte, u *fact.USB) {
	u.Interfaces, u.Truncated = u.Interfaces[:0], ""
	if len(b) < lenDevice || b[0] < lenDevice || b[1] != typeDevice {
		u.Truncated = fmt.Sprintf("no device descriptor in %d bytes", len(b))
		return
	}
	u.Class = b[4]
	u.Vendor = binary.LittleEndian.Uint16(b[8:])
	u.Product = binary.LittleEndian.Uint16(b[10:])
	configs, rest, read := int(b[17]), b[lenDevice:], 0
	for len(rest) > 0 {
		if len(rest) < lenConfig || rest[0] < lenConfig || rest[1] != typeConfig {
			u.Truncated = fmt.Sprintf("no configuration descriptor at %d bytes before the end", len(rest))
			return
		}
		total := int(binary.LittleEndian.Uint16(rest[2:]))
		if total < int(rest[0]) || total > len(rest) {
			u.Truncated = fmt.Sprintf("a configuration of %d bytes in %d", total, len(rest))
			return
		}
		if !parseConfig(rest[:total], u) {
			return
		}
		rest = rest[total:]
		read++
	}
	if read != configs {
		u.Truncated = fmt.Sprintf("%d of %d configurations could be read", read, configs)
	}
}

func parseConfig(b []byte, u *fact.USB) bool {
	config, claimed := b[5], int(b[4])
	var numbers [4]uint64
	seen := 0
	for i := int(b[0]); i < len(b); {
		if i+2 > len(b) || b[i] < 2 || i+int(b[i]) > len(b) {
			u.Truncated = fmt.Sprintf("a descriptor of configuration %d runs past its end", config)
			return false
		}
		d := b[i : i+int(b[i])]
		i += len(d)
		if d[1] != typeInterface {
			continue
		}
		if len(d) < lenInterface || len(u.Interfaces) == maxInterfaces {
			u.Truncated = fmt.Sprintf("interface %d of configuration %d cannot be read", len(u.Interfaces), config)
			return false
		}
		if n := d[2]; numbers[n>>6]&(1<<(n&63)) == 0 {
			numbers[n>>6] |= 1 << (n & 63)
			seen++
		}
		f := fact.Interface{Config: config, Number: d[2], Alternate: d[3], Class: d[5], SubClass: d[6], Protocol: d[7], Name: d[8]}
		if f.Class == 0x03 && f.SubClass == 1 { // boot interface: 1 keyboard, 2 mouse (HID 1.11, 4.2)
			u.Keyboard = u.Keyboard || f.Protocol == 1
			u.Pointer = u.Pointer || f.Protocol == 2
		}
		if u.Interfaces == nil {
			u.Interfaces = make([]fact.Interface, 0, max(claimed, 2))
		}
		u.Interfaces = append(u.Interfaces, f)
	}
	if seen < claimed {
		u.Truncated = fmt.Sprintf("%d of %d interfaces of configuration %d could be read", seen, claimed, config)
		return false
	}
	return true
}
