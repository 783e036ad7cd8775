package usb

import (
	"bytes"
	"fmt"
	"strconv"
)

// maxUevent is the kernel's UEVENT_BUFFER_SIZE with room for its header.
const maxUevent = 8192

// uevent is the part of a kernel announcement that is used here.
type uevent struct {
	action    string
	path      string // DEVPATH, below /sys
	subsystem string
	devtype   string
	seq       uint64 // of this announcement, over all of them; 0 if it does not say
	number    int    // of the device on its bus; 0 if it does not say
	synthetic bool   // a program asked for it ("udevadm trigger"): nothing came or went
}

// parseUevent reads one message of NETLINK_KOBJECT_UEVENT's kernel group: "action@path", then NAME=value, each ended by
// a zero (lib/kobject_uevent.c).
func parseUevent(b []byte) (uevent, error) {
	if len(b) > maxUevent {
		return uevent{}, fmt.Errorf("uevent of %d bytes is longer than %d", len(b), maxUevent)
	}
	head, rest, ok := bytes.Cut(b, []byte{0})
	if !ok || !bytes.Contains(head, []byte{'@'}) {
		return uevent{}, fmt.Errorf("uevent %q does not begin with action@path", b[:min(len(b), 32)])
	}
	var u uevent
	for len(rest) > 0 {
		var line []byte
		line, rest, _ = bytes.Cut(rest, []byte{0})
		name, value, _ := bytes.Cut(line, []byte{'='})
		switch string(name) {
		case "ACTION":
			u.action = string(value)
		case "DEVPATH":
			u.path = string(value)
		case "SUBSYSTEM":
			u.subsystem = string(value)
		case "DEVTYPE":
			u.devtype = string(value)
		case "DEVNUM":
			if n, err := strconv.ParseUint(string(value), 10, 8); err == nil { // "004"
				u.number = int(n)
			}
		case "SYNTH_UUID": // since Linux 4.13
			u.synthetic = true
		case "SEQNUM":
			u.seq, _ = strconv.ParseUint(string(value), 10, 64)
		}
	}
	if u.action == "" || u.path == "" || u.path[0] != '/' {
		return uevent{}, fmt.Errorf("uevent names no action or device path")
	}
	return u, nil
}

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
