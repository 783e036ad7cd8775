//go:build linux

package laptop

import "testing"

// TestLastInput: the last keyboard stays, with the guard named; with a PS/2 one present the USB one is refused; and a
// device that only claims to be a keyboard does not get in.
func TestLastInput(t *testing.T) {
	parallel(t, 3)
	const deny = `{"policy_data":{"usb":{"allowed":false}}}`
	t.Run("without_ps2", func(t *testing.T) {
		r := ready(t, Options{Append: "i8042.noaux i8042.nokbd i8042.nopnp initcall_blacklist=i8042_init"})
		if out := r.try("grep -c isa0060 /proc/bus/input/devices").Out; out != "0" {
			t.Fatalf("the laptop still has PS/2: %s", r.sh("cat /proc/bus/input/devices"))
		}
		r.plug("usb-kbd", "k1", map[string]any{"port": "1"})
		r.authorized("1-1", "1")
		r.wait("its input node", "grep -q 'QEMU USB Keyboard' /proc/bus/input/devices")
		r.sh("sleep 1")
		r.set(deny)
		r.authorized("1-1", "1")
		contains(t, r.finding("usb.allowed"), "guarded")
		contains(t, r.finding("usb.allowed"), "last_input")
		contains(t, r.sh("warder explain usb --port 1-1"), "guard last_input")
		r.told("guarded", "usb 1-1")
		// A second keyboard is refused: there is one.
		r.plug("usb-kbd", "k2", map[string]any{"port": "2"})
		r.wait("the second keyboard is there", "ls -d /sys/bus/usb/devices/1-2")
		r.authorized("1-2", "0")
		r.unplug("k2")
		r.unplug("k1")
		r.gone("1-1")
		r.gone("1-2")
		r.sh("sleep 1")
		// As the only keyboard, a device that is also a disk is refused, and one that is only a keyboard is not.
		r.gadget("trojan", "hid mass_storage")
		dev := r.gadgetDevice()
		r.wait("it was judged", "warder explain usb --port %s", dev)
		r.authorized(dev, "0")
		r.unbound(dev)
		r.ungadget("trojan")
		r.plug("usb-kbd", "k3", map[string]any{"port": "3"})
		r.wait("the new keyboard is there", "ls -d /sys/bus/usb/devices/1-3")
		r.authorized("1-3", "1")
		contains(t, r.sh("warder explain usb --port 1-3"), "guard last_input")
	})
	t.Run("with_ps2", func(t *testing.T) {
		r := ready(t, Options{})
		r.plug("usb-kbd", "k1", map[string]any{"port": "1"})
		r.authorized("1-1", "1")
		r.set(deny)
		r.authorized("1-1", "0")
		contains(t, r.finding("usb.allowed"), "compliant/enforced")
		t.Run("server package", func(t *testing.T) { serverPackage(t, r) })
		t.Run("package", func(t *testing.T) { packageLife(t, r) })
	})
}
