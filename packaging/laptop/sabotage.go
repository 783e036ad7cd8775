//go:build linux

package laptop

import "github.com/warderd/warder/enforce"

// Sabotage is one way to break, behind the agent's back, what a capability claims to hold. The house's own test
// wants one for each claim, and the laptop's does all of them: in enforce what was broken is mended and told, in
// warn and monitor it is told and left.
type Sabotage struct {
	Name    string
	Claims  []enforce.Setting
	Policy  string // policy_data
	Plug    string // a QEMU device on port 1; "" for none
	Breaks  string // a script; it runs as root
	Mended  string // passes while the machine holds what the policy asks
	Subject string // of the event, as a pattern of grep; "" where nothing is to be told: it changes nothing
	// Silent breaks give no signal: the look that comes round finds them, and a check-in looks, too.
	Silent bool
}

const (
	stickIsOff = `test "$(cat /sys/bus/usb/devices/2-1/authorized)" = 0 && ! ls -d /sys/bus/usb/devices/2-1:*/driver 2>/dev/null`
	device     = `usb.device/2-1@`
	// elsewhere runs a command with the sysfs of a network namespace of its own.
	elsewhere = `unshare -n -m sh -c 'mount -t sysfs none /sys && `
)

// Sabotages is the table.
var Sabotages = []Sabotage{
	{Name: "a refused stick is authorised", Claims: []enforce.Setting{"usb.allowed"}, Policy: `{"usb":{"allowed":false}}`, Plug: "usb-storage",
		Breaks: "echo 1 >/sys/bus/usb/devices/2-1/authorized", Mended: stickIsOff, Subject: device},
	{Name: "a stick that is not listed is authorised from another network namespace", Claims: []enforce.Setting{"usb.whitelist"},
		Policy: `{"usb":{"whitelist":["0627:0001"]}}`, Plug: "usb-storage", Breaks: elsewhere + "echo 1 >/sys/bus/usb/devices/2-1/authorized'",
		Mended: stickIsOff, Subject: device},
	{Name: "a root hub's default", Claims: []enforce.Setting{"usb.allowed_classes"}, Policy: `{"usb":{"allowed_classes":["hid"]}}`, Plug: "usb-storage",
		Breaks: "echo 1 >/sys/bus/usb/devices/usb2/authorized_default", Mended: `test "$(cat /sys/bus/usb/devices/usb2/authorized_default)" = 0`, Subject: "usb.default/usb2"},
	{Name: "the module's parameter", Claims: []enforce.Setting{"storage.external_storage_allowed"}, Policy: `{"storage":{"external_storage_allowed":false}}`, Plug: "usb-storage",
		Breaks: "echo 1 >/sys/module/usbcore/parameters/authorized_default", Mended: `test "$(cat /sys/module/usbcore/parameters/authorized_default)" = 0`, Subject: "usb.param/authorized_default"},
	{Name: "a root hub's default, from another network namespace", Claims: []enforce.Setting{"usb.allowed"}, Policy: `{"usb":{"allowed":false}}`, Silent: true,
		Breaks: elsewhere + "echo 1 >/sys/bus/usb/devices/usb1/authorized_default'", Mended: `test "$(cat /sys/bus/usb/devices/usb1/authorized_default)" = 0`, Subject: "usb.default/usb1"},
	{Name: "a configuration, an interface and a driver are forced upon a refused stick", Claims: []enforce.Setting{"usb.allowed_classes"},
		Policy: `{"usb":{"allowed_classes":["hid"]}}`, Plug: "usb-storage",
		Breaks: `cd /sys/bus/usb; echo 1 >devices/2-1/bConfigurationValue; echo 2-1:1.0 >drivers_probe; echo 2-1 >drivers/usb/bind; echo 2-1:1.0 >drivers/usb-storage/bind; echo 1 >devices/usb2/interface_authorized_default; true`,
		Mended: stickIsOff},
	{Name: "a refused stick is authorised and comes back as another device", Claims: []enforce.Setting{"storage.external_storage_allowed"},
		Policy: `{"storage":{"external_storage_allowed":false}}`, Plug: "usb-storage",
		Breaks: `cd /sys/bus/usb/devices; echo 1 >2-1/authorized; echo 1 >usb2/2-0:1.0/usb2-port1/disable 2>/dev/null; sleep 0.2; echo 0 >usb2/2-0:1.0/usb2-port1/disable 2>/dev/null; true`,
		Mended: stickIsOff},
}
