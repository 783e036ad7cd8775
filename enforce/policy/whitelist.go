package policy

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// USBEntry is one entry of usb.whitelist: "046d:c52b", "046d:*" for a whole vendor, or "046d:c52b:SERIAL" for one
// device.
type USBEntry struct {
	Vendor, Product uint16
	AnyProduct      bool
	Serial          string // "" matches any; the kernel's text, compared byte by byte
}

// maxSerial is what a USB string descriptor can contain: 126 UTF-16 units, three bytes each in UTF-8.
const maxSerial = 126 * 3

var errForm = errors.New(`must be "vvvv:pppp", "vvvv:*" or "vvvv:pppp:SERIAL" with four hex digits each`)

// ParseUSBEntry reads one entry; hex digits in either case.
func ParseUSBEntry(s string) (USBEntry, error) {
	vendor, rest, ok := strings.Cut(s, ":")
	if !ok {
		return USBEntry{}, errForm
	}
	product, serial, pinned := strings.Cut(rest, ":")
	v, err := hex4(vendor)
	if err != nil {
		return USBEntry{}, errForm
	}
	e := USBEntry{Vendor: v}
	if product == "*" {
		if pinned {
			return USBEntry{}, fmt.Errorf("must name the product when it pins a serial")
		}
		e.AnyProduct = true
		return e, nil
	}
	if e.Product, err = hex4(product); err != nil {
		return USBEntry{}, errForm
	}
	if pinned {
		if serial == "" || len(serial) > maxSerial {
			return USBEntry{}, fmt.Errorf("must pin a serial of 1 to %d bytes", maxSerial)
		}
		e.Serial = serial
	}
	return e, nil
}

// Never says why an entry can match no device; "" if it can. The kernel shows a serial as UTF-8, from a string
// descriptor of at most 126 UTF-16 units.
func (e USBEntry) Never() string {
	units := 0
	for _, r := range e.Serial {
		if units++; r > 0xffff {
			units++
		}
	}
	switch {
	case strings.ContainsAny(e.Serial, "*?") && strings.Trim(e.Serial, "*?.") == "":
		return fmt.Sprintf("matches nothing: serials are compared literally; to allow every %04x:%04x leave the serial out",
			e.Vendor, e.Product)
	case units > 126:
		return "matches nothing: a USB serial has at most 126 characters"
	case strings.ContainsAny(e.Serial, "\x00\n"):
		return "matches nothing: a USB serial has no line break and no zero in it"
	}
	return ""
}

// hex4 reads exactly four hex digits.
func hex4(s string) (uint16, error) {
	if len(s) != 4 {
		return 0, fmt.Errorf("not four hex digits")
	}
	n, err := strconv.ParseUint(s, 16, 16)
	return uint16(n), err
}

// String is the entry in its canonical form.
func (e USBEntry) String() string {
	switch {
	case e.AnyProduct:
		return fmt.Sprintf("%04x:*", e.Vendor)
	case e.Serial != "":
		return fmt.Sprintf("%04x:%04x:%s", e.Vendor, e.Product, e.Serial)
	}
	return fmt.Sprintf("%04x:%04x", e.Vendor, e.Product)
}
