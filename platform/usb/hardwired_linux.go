package usb

import (
	"path/filepath"
	"strings"

	"github.com/warderd/warder/enforce/fact"
)

// hardwired reports whether a device is built into the machine, by the firmware's word alone. A hub's statements about
// its own ports are not believed if that hub can be plugged in: the kernel fills "removable" from the hub's descriptor
// if the firmware is silent (set_usb_port_removable in drivers/usb/core/hub.c), and a hub can claim anything.
func (d device) hardwired() fact.Known[bool] {
	kind, err := d.text("port/connect_type")
	word, werr := d.text("removable")
	if err != nil && werr != nil {
		return fact.Unread[bool]("the port does not say")
	}
	switch {
	case kind == "hotplug" || word == "removable":
		return fact.Is(false)
	case kind != "hardwired" && word != "fixed":
		return fact.Unread[bool]("the firmware does not know the port")
	}
	// Nothing between the device and the machine may be pluggable, so every port up to the root has to be "fixed".
	for at := parentPort(d.name); at != ""; at = parentPort(at) {
		hub := filepath.Join(filepath.Dir(d.dir), at)
		above, below := line(hub+"/port/connect_type"), line(hub+"/removable")
		switch {
		case above == "hotplug" || below == "removable":
			return fact.Is(false)
		case kind != "hardwired" && above != "hardwired" && below != "fixed":
			return fact.Unread[bool]("a hub says that its port is fixed, but the firmware does not say where that hub is plugged in")
		}
	}
	if d.controllerOutside() {
		return fact.Is(false)
	}
	return fact.Is(true)
}

// firmware reports whether the firmware calls the port hard-wired. The kernel itself uses this if its default is to let
// in what is internal (usb_dev_authorized in drivers/usb/core/hub.c).
func (d device) firmware() bool {
	kind, err := d.text("port/connect_type")
	return err == nil && kind == "hardwired"
}

// controllerOutside reports whether the USB controller itself can be unplugged, for example in a Thunderbolt dock.
func (d device) controllerOutside() bool {
	bus, _, _ := strings.Cut(d.name, "-")
	at, err := filepath.EvalSymlinks(filepath.Join(filepath.Dir(d.dir), "usb"+bus))
	if err != nil {
		return true // it cannot be told
	}
	// A controller is at most a dozen PCI bridges deep; above /sys/devices nothing says anything.
	for range 32 {
		if at = filepath.Dir(at); filepath.Base(at) == "devices" || at == "/" || at == "." {
			return false
		}
		if line(at+"/removable") == "removable" {
			return true
		}
	}
	return true
}

// parentPort is the hub that a device is attached to, "1-2" of "1-2.3"; "" if that is a root hub.
func parentPort(name string) string {
	if i := strings.LastIndexByte(name, '.'); i > 0 {
		return name[:i]
	}
	return ""
}

// line reads a small file without its newline; "" if it cannot be read.
func line(path string) string { return string(reading(path).Value) }
