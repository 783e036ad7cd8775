//go:build linux

// Command bus makes and changes a simulated USB bus for demonstrations: a directory of files as in sysfs, and
// announcements as the kernel sends them. An agent built with the tag "simulate" uses it as the machine's bus.
//
//	bus init DIR
//	bus plug DIR PORT VID:PID CLASS SERIAL NAME
//	bus unplug DIR PORT
package main

import (
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bus:", err)
		os.Exit(1)
	}
}

// run carries out one command.
func run(args []string) error {
	switch {
	case len(args) == 2 && args[0] == "init":
		return start(args[1])
	case len(args) == 7 && args[0] == "plug":
		return plug(args[1], args[2], args[3], args[4], args[5], args[6])
	case len(args) == 3 && args[0] == "unplug":
		if err := os.RemoveAll(filepath.Join(args[1], devices, args[2])); err != nil {
			return err
		}
		return announce(args[1], "remove", args[2])
	}
	return fmt.Errorf("usage: bus init DIR | plug DIR PORT VID:PID CLASS SERIAL NAME | unplug DIR PORT")
}

const devices = "bus/usb/devices"

// write replaces a file in one step, as the kernel's files change.
func write(path string, content []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(path+".new", content, 0o644); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// files writes a device's files: the descriptors as read from the device (USB 2.0, 9.6), and the others with one line
// each.
func files(dir string, descriptors []byte, lines map[string]string) error {
	for name, line := range lines {
		if err := write(filepath.Join(dir, name), []byte(line+"\n")); err != nil {
			return err
		}
	}
	return write(filepath.Join(dir, "descriptors"), descriptors)
}

// descriptors are those of a device with one interface of a class.
func descriptors(vendor, product uint16, class, sub, protocol byte) []byte {
	return []byte{
		18, 1, 0, 2, 0, 0, 0, 64, byte(vendor), byte(vendor >> 8), byte(product), byte(product >> 8), 0, 1, 1, 2, 3, 1,
		9, 2, 32, 0, 1, 1, 0, 0x80, 50, // the configuration: 32 bytes in all
		9, 4, 0, 0, 2, class, sub, protocol, 0,
		7, 5, 0x81, 2, 64, 0, 0,
		7, 5, 0x02, 2, 64, 0, 0,
	}
}

// start makes an empty bus with one root hub.
func start(dir string) error {
	if err := write(filepath.Join(dir, "module/usbcore/parameters/authorized_default"), []byte("-1\n")); err != nil {
		return err
	}
	return files(filepath.Join(dir, devices, "usb1"), descriptors(0x1d6b, 0x0002, 9, 0, 0), map[string]string{
		"authorized": "1", "authorized_default": "1", "devnum": "1", "busnum": "1", "speed": "480", "manufacturer": "SIMULATED",
		"product": "host controller",
	})
}

// plug adds a device to the bus and announces it.
func plug(dir, port, id, class, serial, name string) error {
	var vendor, product uint16
	if _, err := fmt.Sscanf(id, "%04x:%04x", &vendor, &product); err != nil {
		return fmt.Errorf("%q must be VID:PID in hex", id)
	}
	c, err := hex.DecodeString(class)
	if err != nil || len(c) != 1 {
		return fmt.Errorf("class %q must be two hex digits", class)
	}
	sub, protocol := byte(0), byte(0)
	if c[0] == 8 {
		sub, protocol = 6, 0x50 // SCSI, bulk only: a stick
	}
	// A new device is used as the bus's default says, until somebody decides otherwise.
	standing, err := os.ReadFile(filepath.Join(dir, devices, "usb1", "authorized_default"))
	if err != nil {
		return err
	}
	if err := files(filepath.Join(dir, devices, port), descriptors(vendor, product, c[0], sub, protocol), map[string]string{
		"authorized": strings.TrimSpace(string(standing)), "devnum": "2", "busnum": "1", "speed": "480", "manufacturer": "SIMULATED",
		"product": name, "serial": serial,
	}); err != nil {
		return err
	}
	return announce(dir, "add", port)
}

// announce sends what the kernel would (lib/kobject_uevent.c).
func announce(dir, action, port string) error {
	conn, err := net.Dial("unixgram", filepath.Join(dir, "uevents"))
	if err != nil {
		return fmt.Errorf("no agent listens to this bus: %w", err)
	}
	defer conn.Close()
	path := "/" + devices + "/" + port
	text := []string{action + "@" + path, "ACTION=" + action, "DEVPATH=" + path, "SUBSYSTEM=usb", "DEVTYPE=usb_device", "DEVNUM=002",
		fmt.Sprintf("SEQNUM=%d", time.Now().UnixNano()), ""}
	_, err = conn.Write([]byte(strings.Join(text, "\x00")))
	return err
}
