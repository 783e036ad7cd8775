//go:build linux

package laptop

import (
	"testing"
)

// TestUSB: what is refused and allowed, a policy change on a present device, and the modes that write nothing.
func TestUSB(t *testing.T) {
	parallel(t, 6)
	r := ready(t, Options{})
	if got := r.defaults(); got != fresh {
		t.Fatalf("a laptop under monitor mode reads %q", got)
	}
	for _, n := range []string{"a", "b", "c"} {
		r.medium(n, 48)
	}

	t.Run("conformance", func(t *testing.T) {
		r := &rig{r.Laptop, t, r.dir, r.policy}
		// The suite that the fake back end passes, on the real kernel.
		t.Log(r.sh("WARDER_SYSFS=/sys /host/usb.test -test.v -test.run 'TestConformance|TestGuardRunStops' | grep -E '^ *--- |^PASS'"))
		if got := r.defaults(); got != fresh {
			t.Errorf("the suite left %q", got)
		}
	})

	t.Run("refused_and_allowed", func(t *testing.T) {
		r := &rig{r.Laptop, t, r.dir, r.policy}
		r.set(`{"policy_data":{"usb":{"allowed":false,"allowed_classes":["hid"]}}}`)
		r.plug("usb-storage", "s1", map[string]any{"drive": "a", "port": "1", "serial": "SN-1"})
		r.plug("usb-kbd", "k1", map[string]any{"port": "2"})
		r.wait("the stick is there", "ls -d /sys/bus/usb/devices/2-1")
		r.authorized("1-2", "1")
		r.authorized("2-1", "0")
		r.unbound("2-1")
		r.told("denied", "usb 2-1 46f4:0001")
		contains(t, r.sh("warder explain usb --port 2-1"), "DENY")
		contains(t, r.sh("warder usb"), "QEMU USB Keyboard") // through libusb, in the package's build
		contains(t, r.sh("warder version"), "inventory by libusb")
		contains(t, r.sh("warder explain usb --port 2-1"), "mass_storage is not in usb.allowed_classes")
		r.unplug("s1")
		r.gone("2-1")

		r.set(`{"policy_data":{"usb":{"allowed_classes":["hid"],"whitelist":["46f4:0001:SN-1"]},` +
			`"storage":{"external_storage_allowed":false}}}`)
		r.plug("usb-storage", "s1", map[string]any{"drive": "a", "port": "1", "serial": "SN-1"})
		r.plug("usb-storage", "s2", map[string]any{"drive": "b", "port": "3", "serial": "SN-2"})
		r.authorized("2-1", "1")
		// A disk is there a moment before it was judged.
		r.wait("it can be used", "mount /dev/sda /mnt/stick && touch /mnt/stick/ok && unmount /mnt/stick")
		r.wait("the neighbour is there", "ls -d /sys/bus/usb/devices/2-3")
		r.authorized("2-3", "0")
		r.unplug("s1")
		r.unplug("s2")
		r.gone("2-1")
		r.gone("2-3")

		r.set(`{"policy_data":{"usb":{"whitelist":["46f4:*"]}}}`)
		r.authorized("1-2", "0") // the keyboard is not of that vendor, and the laptop has its own
		r.plug("usb-storage", "s1", map[string]any{"drive": "a", "port": "1"})
		r.authorized("2-1", "1")
		r.unplug("s1")
		r.gone("2-1")
		r.unplug("k1")
		r.gone("1-2")
	})

	t.Run("behind_hubs", func(t *testing.T) {
		r := &rig{r.Laptop, t, r.dir, r.policy}
		r.set(`{"policy_data":{"usb":{"allowed_classes":["hid"]}}}`)
		r.plug("usb-hub", "h1", map[string]any{"port": "1"})
		r.authorized("1-1", "1")
		r.plug("usb-storage", "s1", map[string]any{"drive": "a", "port": "1.1"})
		r.plug("usb-kbd", "k1", map[string]any{"port": "1.2"})
		r.authorized("1-1.2", "1")
		r.wait("the stick behind the hub is there", "ls -d /sys/bus/usb/devices/1-1.1")
		r.authorized("1-1.1", "0")
		r.plug("usb-hub", "h2", map[string]any{"port": "1.3"})
		r.authorized("1-1.3", "1")
		r.plug("usb-storage", "s2", map[string]any{"drive": "b", "port": "1.3.1"})
		r.plug("usb-mouse", "m1", map[string]any{"port": "1.3.2"})
		r.authorized("1-1.3.2", "1")
		r.wait("the stick behind two hubs is there", "ls -d /sys/bus/usb/devices/1-1.3.1")
		r.authorized("1-1.3.1", "0")
		r.unbound("1-1.3.1")
		r.unplug("h1")
		r.gone("1-1")
	})

	t.Run("composite", func(t *testing.T) {
		r := &rig{r.Laptop, t, r.dir, r.policy}
		r.set(`{"policy_data":{"usb":{"allowed_classes":["mass_storage"]}}}`)
		r.gadget("hidden", "hid mass_storage")
		dev := r.gadgetDevice()
		r.authorized(dev, "0")
		r.unbound(dev)
		if out := r.sh("dmesg | grep -c 'usb-storage %s' || true", dev); out != "0" {
			t.Errorf("a driver bound to the composite device: %s", r.sh("dmesg | grep %s", dev))
		}
		r.told("denied", "usb "+dev)
		r.ungadget("hidden")
		// The same stick without the hidden keyboard is what the policy allows.
		r.gadget("plain", "mass_storage")
		r.authorized(r.gadgetDevice(), "1")
		r.ungadget("plain")
		r.sh("rmmod dummy_hcd")
	})

	t.Run("phones", func(t *testing.T) { phones(t, r) })
	t.Run("policy_change", func(t *testing.T) { changeUnderWriter(t, r) })
	t.Run("modes_that_write_nothing", func(t *testing.T) { countWrites(t, r) })
	t.Run("another_console", func(t *testing.T) { anotherConsole(t, &rig{r.Laptop, t, r.dir, r.policy}) })

	t.Run("everything_back", func(t *testing.T) {
		r := &rig{r.Laptop, t, r.dir, r.policy}
		r.set(`{"policy_data":{"usb":{"allowed_classes":["hid"]}}}`)
		r.plug("usb-storage", "s1", map[string]any{"drive": "a", "port": "1"})
		r.wait("the stick is there", "ls -d /sys/bus/usb/devices/2-1")
		r.authorized("2-1", "0")
		r.set(`{"compliance":"monitor","policy_data":{"usb":{"allowed_classes":["hid"]}}}`)
		r.authorized("2-1", "1")
		if got := r.defaults(); got != fresh {
			t.Errorf("after enforce → monitor the defaults are %q, fresh they were %q", got, fresh)
		}
		r.unplug("s1")
		r.gone("2-1")
	})
	t.Log(r.try("warder status").Out)
	if f := r.try(`warder status --json | grep -A3 '"writes"'`).Out; f != "" {
		t.Log(f)
	}
}

// gadget makes a USB device of the guest's own, with dummy_hcd and configfs.
func (r *rig) gadget(name, functions string) {
	r.t.Helper()
	r.sh(`set -e
	modprobe usb_f_mass_storage; modprobe usb_f_hid; modprobe libcomposite; modprobe dummy_hcd
	mountpoint -q /sys/kernel/config || mount -t configfs none /sys/kernel/config
	for i in $(seq 50); do [ -n "$(ls /sys/class/udc)" ] && break; sleep 0.1; done
	g=/sys/kernel/config/usb_gadget/%s; mkdir $g; cd $g
	echo 0x1d6b >idVendor; echo 0x0104 >idProduct; mkdir -p strings/0x409 configs/c.1/strings/0x409
	echo GADGET1 >strings/0x409/serialnumber; echo Test >strings/0x409/manufacturer; echo Gadget >strings/0x409/product
	for f in %s; do
	  mkdir functions/$f.0
	  if [ $f = hid ]; then
	    echo 1 >functions/hid.0/protocol; echo 1 >functions/hid.0/subclass; echo 8 >functions/hid.0/report_length
	    printf '\x05\x01\x09\x06\xa1\x01\x05\x07\x19\xe0\x29\xe7\x15\x00\x25\x01\x75\x01\x95\x08\x81\x02\x95\x01\x75\x08\x81\x03\x95\x06\x75\x08\x15\x00\x25\x65\x05\x07\x19\x00\x29\x65\x81\x00\xc0' >functions/hid.0/report_desc
	  else
	    [ -e /tmp/%s.img ] || truncate -s 8M /tmp/%s.img
	    echo /tmp/%s.img >functions/mass_storage.0/lun.0/file
	  fi
	  ln -s functions/$f.0 configs/c.1/
	done
	ls /sys/class/udc | head -1 >UDC`, name, functions, name, name, name)
}

// gadgetDevice is the kernel's name for the gadget's device on the host side.
func (r *rig) gadgetDevice() string {
	r.t.Helper()
	r.wait("the gadget is there", "grep -l GADGET1 /sys/bus/usb/devices/*/serial")
	return r.sh("basename $(dirname $(grep -l GADGET1 /sys/bus/usb/devices/*/serial))")
}

func (r *rig) ungadget(name string) {
	r.t.Helper()
	r.sh(`cd /sys/kernel/config/usb_gadget/%s && echo "" >UDC; rm -f configs/c.1/*.0; rmdir configs/c.1/strings/0x409 configs/c.1 `+
		`functions/* strings/0x409; cd ..; rmdir %s`, name, name)
	r.wait("the gadget is gone", "! grep -l GADGET1 /sys/bus/usb/devices/*/serial")
}

// phones are vendor-specific devices: one that gives access to files only by its OS descriptor, and one that does not.
// Neither has a name for its interface.
func phones(t *testing.T, r *rig) {
	r = &rig{r.Laptop, t, r.dir, r.policy}
	const noFiles = `{"policy_data":{"usb":{"allowed":true},"storage":{"external_storage_allowed":false}}}`
	r.set(noFiles)
	r.functionFS("phone", true)
	dev := r.gadgetDevice()
	r.authorized(dev, "0")
	r.told("denied", "usb "+dev)
	contains(t, r.sh("warder explain usb --port %s", dev), "vendor-specific MTP")
	r.unFunctionFS("phone")
	r.functionFS("modem", false)
	dev = r.gadgetDevice()
	r.authorized(dev, "1")
	// A phone that was there before the policy is asked before it is judged: it is not taken away for a moment.
	r.set(`{"policy_data":{"usb":{"allowed":true}}}`)
	r.authorized(dev, "1")
	r.sh("systemctl restart warder && dmesg -C")
	r.set(noFiles)
	contains(t, r.sh("warder explain usb --port %s", dev), "ALLOW")
	r.authorized(dev, "1")
	if out := r.sh("dmesg | grep -c 'usb %s: authorized' || true", dev); out != "0" {
		t.Errorf("a present device was taken away and let in again: %s", r.sh("dmesg | grep %s", dev))
	}
	r.unFunctionFS("modem")
	r.sh("rmmod usb_f_fs dummy_hcd || true")
}

// functionFS makes a gadget with one vendor-specific interface; with files, its OS descriptor says MTP.
func (r *rig) functionFS(name string, files bool) {
	r.t.Helper()
	// functionfs_descs_head_v2 (include/uapi/linux/usb/functionfs.h): full and high speed, an interface and two
	// endpoints each; with files, an extended compatible id.
	const speed = `\x09\x04\x00\x00\x02\xff\xff\x00\x00\x07\x05\x81\x02\x40\x00\x00\x07\x05\x02\x02\x40\x00\x00`
	const high = `\x09\x04\x00\x00\x02\xff\xff\x00\x00\x07\x05\x81\x02\x00\x02\x00\x07\x05\x02\x02\x00\x02\x00`
	head, tail := `\x03\x00\x00\x00\x42\x00\x00\x00\x03\x00\x00\x00\x03\x00\x00\x00\x03\x00\x00\x00`, ""
	system := ""
	if files {
		head = `\x03\x00\x00\x00\x69\x00\x00\x00\x0b\x00\x00\x00\x03\x00\x00\x00\x03\x00\x00\x00\x01\x00\x00\x00`
		tail = `\x00\x23\x00\x00\x00\x01\x00\x04\x00\x01\x00` + `\x00\x01MTP\x00\x00\x00\x00\x00` + `\x00\x00\x00\x00\x00\x00\x00\x00` +
			`\x00\x00\x00\x00\x00\x00`
		system = `echo 1 >os_desc/use; echo 0x21 >os_desc/b_vendor_code; echo MSFT100 >os_desc/qw_sign; ln -s configs/c.1 os_desc/`
	}
	r.sh(`set -e
	modprobe usb_f_fs; modprobe libcomposite; modprobe dummy_hcd
	mountpoint -q /sys/kernel/config || mount -t configfs none /sys/kernel/config
	for i in $(seq 50); do [ -n "$(ls /sys/class/udc)" ] && break; sleep 0.1; done
	g=/sys/kernel/config/usb_gadget/%s; mkdir $g; cd $g
	echo 0x1d6b >idVendor; echo 0x0105 >idProduct; mkdir -p strings/0x409 configs/c.1/strings/0x409
	echo GADGET1 >strings/0x409/serialnumber; echo Test >strings/0x409/manufacturer; echo Gadget >strings/0x409/product
	mkdir functions/ffs.%s; ln -s functions/ffs.%s configs/c.1/
	%s
	mkdir -p /run/ffs; mount -t functionfs %s /run/ffs
	setsid bash -c "exec 3<>/run/ffs/ep0; printf '%s' >&3; printf '\\x02\\x00\\x00\\x00\\x10\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00' >&3; echo ok >/run/ffs.ready; exec sleep 600" >/run/ffs.log 2>&1 </dev/null & echo $! >/run/ffs.pid
	for i in $(seq 100); do [ -e /run/ffs.ready ] && break; sleep 0.1; done; rm /run/ffs.ready; cat /run/ffs.log >&2
	ls /sys/class/udc | head -1 >UDC`, name, name, name, system, name, head+speed+high+tail)
}

func (r *rig) unFunctionFS(name string) {
	r.t.Helper()
	r.sh(`cd /sys/kernel/config/usb_gadget/%s && echo "" >UDC; kill $(cat /run/ffs.pid); sleep 0.3; umount /run/ffs
	rm -f os_desc/c.1 configs/c.1/ffs.*; rmdir configs/c.1/strings/0x409 configs/c.1 functions/* strings/0x409; cd ..; rmdir %s`,
		name, name)
	r.wait("the gadget is gone", "! grep -l GADGET1 /sys/bus/usb/devices/*/serial")
}
