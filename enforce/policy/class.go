package policy

import (
	"fmt"
	"strconv"
	"strings"
)

// Class is a USB base class code (usb.org/defined-class-codes).
type Class uint8

// classNames are the USB-IF's base classes that an interface can have, and hub.
var classNames = map[string]Class{
	"audio": 0x01, "cdc": 0x02, "hid": 0x03, "physical": 0x05, "image": 0x06, "printer": 0x07,
	"mass_storage": 0x08, "hub": 0x09, "cdc_data": 0x0a, "smart_card": 0x0b, "content_security": 0x0d,
	"video": 0x0e, "personal_healthcare": 0x0f, "audio_video": 0x10, "billboard": 0x11,
	"usb_c_bridge": 0x12, "diagnostic": 0xdc, "wireless": 0xe0, "miscellaneous": 0xef,
	"application_specific": 0xfe, "vendor_specific": 0xff,
}

var classByCode = func() map[Class]string {
	m := map[Class]string{}
	for n, c := range classNames {
		m[c] = n
	}
	return m
}()

// ParseClass reads a class name in either case ("hid", "HID", "mass storage") or two hex digits.
func ParseClass(s string) (Class, error) {
	name := strings.NewReplacer(" ", "_", "-", "_").Replace(strings.ToLower(s))
	if c, ok := classNames[name]; ok {
		return c, nil
	}
	hex := strings.TrimPrefix(name, "0x")
	if len(hex) == 2 {
		if n, err := strconv.ParseUint(hex, 16, 8); err == nil {
			return Class(n), nil
		}
	}
	return 0, fmt.Errorf("must be a USB class name (hid, audio, mass_storage, video, printer, cdc, …) or two hex digits")
}

// String is the class's name, or two hex digits.
func (c Class) String() string {
	if n, ok := classByCode[c]; ok {
		return n
	}
	return fmt.Sprintf("%02x", uint8(c))
}
