package usb

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/platform"
)

// A file's name says what it decides, and a file without a name may be anything.
func TestTouched(t *testing.T) {
	root := tree(t)
	b := Backend{&Ports{Root: root}}
	const dev = "/devices/pci0000:00/0000:00:14.0/usb1/"
	for _, c := range []struct {
		file, want string
		ours       bool
	}{
		{root + dev + "1-1/authorized", "usb.device/1-1@2", true},
		{root + dev + "1-2/1-2.3/authorized", "usb.device/1-2.3@3", true},
		{root + dev + "1-1/bConfigurationValue", "usb.device/1-1@2", true},
		{root + dev + "1-1/1-1:1.0/authorized", "usb.device/1-1@2", true},
		{root + dev + "1-9/authorized", "/", true}, // gone by now
		{root + dev + "authorized_default", "usb.default/usb1", true},
		{root + dev + "interface_authorized_default", "/", true},
		{root + "/module/usbcore/parameters/authorized_default", "usb.param/authorized_default", true},
		{"", "/", true},                          // cannot be opened
		{"/mnt/x/authorized_default", "/", true}, // a bind mount
		{root + "/class/backlight/intel/brightness", "", false},
		{root + dev + "1-1/uevent", "", false},
		{root + dev + "1-1/power/control", "", false},
		{root + "/devices/thunderbolt/0-1/authorized", "", false},
	} {
		got, ours := b.touched(c.file, 0)
		if ours != c.ours || ours && got.Key.String() != c.want {
			t.Errorf("%s: %v %v, want %v %s", c.file, got.Key, ours, c.ours, c.want)
		}
	}
}

// Our own file is recognised under any name.
func TestTouchedByInode(t *testing.T) {
	root := tree(t)
	b := Backend{&Ports{Root: root}}
	if _, err := b.List(t.Context()); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{"/bus/usb/devices/usb1/authorized_default": "usb.default/usb1",
		"/bus/usb/devices/1-2.3/authorized":             "usb.device/1-2.3@3",
		"/module/usbcore/parameters/authorized_default": "usb.param/authorized_default"} {
		var st unix.Stat_t
		if err := unix.Stat(root+path, &st); err != nil {
			t.Fatal(err)
		}
		if got, ok := b.touched(root+"/kernel/uevent_seqnum", st.Ino); !ok || got.Key.String() != want {
			t.Errorf("%s: %v %v", path, got.Key, ok)
		}
	}
	if _, ok := b.touched(root+"/kernel/uevent_seqnum", 1); ok {
		t.Error("another file is taken for ours")
	}
}

// A refused device whose interfaces appear is reported; one that has just arrived, or is allowed, is not.
func TestInterfacesTell(t *testing.T) {
	g := &Guard{Ports: &Ports{Root: tree(t)}}
	var told []string
	f := func(x platform.Touch) { told = append(told, x.Key.String()) }
	g.touch.Store(&f)
	add := []byte(
		"add@/devices/usb1/1-1/1-1:1.0\x00ACTION=add\x00DEVPATH=/devices/usb1/1-1/1-1:1.0\x00SUBSYSTEM=usb\x00DEVTYPE=usb_interface\x00SEQNUM=9\x00")
	g.dispatch(add)
	if len(told) != 0 {
		t.Errorf("a device that nobody has read: %v", told)
	}
	g.saw("1-1", enforce.Reading{Value: "0", State: enforce.Present})
	g.dispatch(add)
	if len(told) != 1 || told[0] != "usb.device/1-1@2" {
		t.Errorf("a refused one: %v", told)
	}
	g.saw("1-1", enforce.Reading{Value: "1", State: enforce.Present})
	g.dispatch(add)
	if len(told) != 1 {
		t.Errorf("an allowed one: %v", told)
	}
}
