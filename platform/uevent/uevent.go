// Package uevent has the kernel's announcements of devices: one message read, and the socket that they come from. Several
// capabilities share it.
package uevent

import (
	"bytes"
	"fmt"
	"strconv"
)

// Max is the kernel's UEVENT_BUFFER_SIZE with room for its header.
const Max = 8192

// Event is the part of a kernel announcement that is used here.
type Event struct {
	Action    string
	Path      string // DEVPATH, below /sys
	Subsystem string
	Devtype   string
	Seq       uint64 // of this announcement, over all of them; 0 if it does not say
	Number    int    // of the device on its bus; 0 if it does not say
	Synthetic bool   // a program asked for it ("udevadm trigger"): nothing came or went
}

// Parse reads one message of NETLINK_KOBJECT_UEVENT's kernel group: "action@path", then NAME=value, each ended by
// a zero (lib/kobject_uevent.c).
func Parse(b []byte) (Event, error) {
	if len(b) > Max {
		return Event{}, fmt.Errorf("uevent of %d bytes is longer than %d", len(b), Max)
	}
	head, rest, ok := bytes.Cut(b, []byte{0})
	if !ok || !bytes.Contains(head, []byte{'@'}) {
		return Event{}, fmt.Errorf("uevent %q does not begin with action@path", b[:min(len(b), 32)])
	}
	var u Event
	for len(rest) > 0 {
		var line []byte
		line, rest, _ = bytes.Cut(rest, []byte{0})
		name, value, _ := bytes.Cut(line, []byte{'='})
		switch string(name) {
		case "ACTION":
			u.Action = string(value)
		case "DEVPATH":
			u.Path = string(value)
		case "SUBSYSTEM":
			u.Subsystem = string(value)
		case "DEVTYPE":
			u.Devtype = string(value)
		case "DEVNUM":
			if n, err := strconv.ParseUint(string(value), 10, 8); err == nil { // "004"
				u.Number = int(n)
			}
		case "SYNTH_UUID": // since Linux 4.13
			u.Synthetic = true
		case "SEQNUM":
			u.Seq, _ = strconv.ParseUint(string(value), 10, 64)
		}
	}
	if u.Action == "" || u.Path == "" || u.Path[0] != '/' {
		return Event{}, fmt.Errorf("uevent names no action or device path")
	}
	return u, nil
}
