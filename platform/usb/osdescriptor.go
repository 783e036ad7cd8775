package usb

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"unicode/utf16"
)

// decodeString reads a string descriptor (USB 2.0, 9.6.7).
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

// osVendorCode reads the string 0xee of Microsoft OS descriptors 1.0: "MSFT100", and the request that returns the rest.
func osVendorCode(b []byte) (code uint8, ok bool) {
	if len(b) < 17 || b[1] != 3 {
		return 0, false
	}
	for i, c := range []byte("MSFT100") {
		if b[2+2*i] != c || b[3+2*i] != 0 {
			return 0, false
		}
	}
	return b[16], true
}

// compatibleMTP reads extended compatible ids (OS descriptors 1.0, index 4): a header of 16 bytes, then 24 per
// function, of which bytes 2 to 9 are its id.
func compatibleMTP(b []byte) bool {
	const head, function = 16, 24
	for at := head; at+10 <= len(b); at += function {
		if isMTP(b[at+2 : at+10]) {
			return true
		}
	}
	return false
}

// isMTP reports whether a compatible id is one for which Windows loads its driver for media devices.
func isMTP(id []byte) bool {
	id = bytes.TrimRight(id, "\x00 ")
	return bytes.EqualFold(id, []byte("MTP")) || bytes.EqualFold(id, []byte("PTP"))
}

// os2 is the platform capability of Microsoft OS descriptors 2.0, D8DD60DF-4589-4CC7-9CD2-659D9E648A9F, in the byte
// order of the bus.
var os2 = []byte{0xdf, 0x60, 0xdd, 0xd8, 0x89, 0x45, 0xc7, 0x4c, 0x9c, 0xd2, 0x65, 0x9d, 0x9e, 0x64, 0x8a, 0x9f}

// os2Capability finds that capability in a BOS descriptor (USB 3.2, 9.6.2): the request that returns the set, and its
// length.
func os2Capability(b []byte) (code uint8, length uint16, ok bool) {
	if len(b) < 5 || b[1] != 0x0f {
		return 0, 0, false
	}
	for at := int(b[0]); at >= 5 && at+3 <= len(b); at += int(b[at]) {
		if b[at] < 3 || at+int(b[at]) > len(b) {
			return 0, 0, false
		}
		d := b[at : at+int(b[at])]
		// 4 bytes of header, the UUID, then 8 bytes for each version of Windows; the first is enough.
		if d[1] == 0x10 && d[2] == 5 && len(d) >= 28 && bytes.Equal(d[4:20], os2) {
			return d[26], binary.LittleEndian.Uint16(d[24:]), true
		}
	}
	return 0, 0, false
}

// os2MTP looks in a set of OS descriptors 2.0 for a compatible id (type 3).
func os2MTP(b []byte) bool {
	for at := 0; at+4 <= len(b); {
		n, kind := int(binary.LittleEndian.Uint16(b[at:])), binary.LittleEndian.Uint16(b[at+2:])
		if n < 4 || at+n > len(b) {
			return false
		}
		if kind == 3 && n >= 12 && isMTP(b[at+4:at+12]) {
			return true
		}
		at += n
	}
	return false
}
