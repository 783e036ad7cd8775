package uevent

import "testing"

func FuzzUevent(f *testing.F) {
	f.Add([]byte("add@/devices/pci/usb1/1-2\x00ACTION=add\x00DEVPATH=/devices/pci/usb1/1-2\x00SUBSYSTEM=usb\x00DEVTYPE=usb_device\x00"))
	f.Add([]byte("libudev\x00\xfe\xed\xca\xfe"))
	f.Fuzz(func(t *testing.T, in []byte) {
		u, err := Parse(in)
		if err == nil && (u.Action == "" || u.Path == "" || u.Path[0] != '/') {
			t.Fatalf("%+v", u)
		}
	})
}
