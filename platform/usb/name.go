package usb

import "bytes"

// deviceName accepts the kernel's names for devices and root hubs: "1-2", "1-2.3.4", "usb1".
func deviceName(s string) (ok, root bool) {
	if len(s) > 3 && s[:3] == "usb" {
		return digits(s[3:]), true
	}
	bus, ports, found := bytes.Cut([]byte(s), []byte{'-'})
	if !found || !digits(string(bus)) {
		return false, false
	}
	for p := range bytes.SplitSeq(ports, []byte{'.'}) {
		if !digits(string(p)) {
			return false, false
		}
	}
	return true, false
}

// digits reports whether a text has only decimal digits.
func digits(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != "" && len(s) <= 4
}
