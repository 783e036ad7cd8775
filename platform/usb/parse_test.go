//go:build linux

package usb

import (
	"bytes"
	"testing"

	"github.com/warderd/warder/enforce/fact"
)

var descriptors = append([]byte{
	0x12, 0x01, 0x00, 0x02, 0x00, 0x00, 0x00, 0x40, 0xf4, 0x46, 0x01, 0x00, 0x00, 0x00, 0x01, 0x02, 0x03, 0x02,
	0x09, 0x02, 0x20, 0x00, 0x01, 0x01, 0x00, 0xc0, 0x00, 0x09, 0x04, 0x00, 0x00, 0x02, 0x08, 0x06, 0x50, 0x00,
	0x07, 0x05, 0x81, 0x02, 0x40, 0x00, 0x00, 0x07, 0x05, 0x02, 0x02, 0x40, 0x00, 0x00,
}, 0x09, 0x02, 0x1b, 0x00, 0x01, 0x02, 0x00, 0xc0, 0x00, 0x09, 0x04, 0x00, 0x00, 0x00, 0x03, 0x01, 0x01, 0x00, 0x09, 0x04, 0x00, 0x01, 0x00, 0xff, 0x00, 0x00, 0x05)

// A keyboard hidden in the second configuration, and in an alternate setting, is seen.
func TestDescriptors(t *testing.T) {
	var u fact.USB
	ParseDescriptors(descriptors, &u)
	if u.Truncated != "" || len(u.Interfaces) != 3 || u.Interfaces[1].Class != 3 || u.Interfaces[1].Config != 2 || u.Interfaces[2].Alternate != 1 || u.Interfaces[2].Name != 5 || !u.Keyboard {
		t.Errorf("%+v", u)
	}
	for n := range len(descriptors) {
		var u fact.USB
		ParseDescriptors(descriptors[:n], &u)
		if u.Truncated == "" {
			t.Errorf("cut at %d bytes and taken for whole: %+v", n, u)
		}
	}
	for name, change := range map[string]func([]byte){
		"a configuration that claims more interfaces": func(b []byte) { b[22] = 9 },
		"a configuration longer than it is":           func(b []byte) { b[20] = 0xff },
		"a configuration shorter than its header":     func(b []byte) { b[20] = 3 },
		"a descriptor of no length":                   func(b []byte) { b[36] = 0 },
		"an interface descriptor cut short":           func(b []byte) { b[27] = 5 },
		"more configurations than were read":          func(b []byte) { b[17] = 9 },
	} {
		b := bytes.Clone(descriptors)
		change(b)
		ParseDescriptors(b, &u)
		if u.Truncated == "" {
			t.Errorf("%s: taken for whole: %+v", name, u)
		}
	}
}

func TestDecodeString(t *testing.T) {
	if s, err := decodeString([]byte{8, 3, 'M', 0, 'T', 0, 'P', 0, 9, 9}); err != nil || s != "MTP" {
		t.Errorf("%q %v", s, err)
	}
	for _, b := range [][]byte{nil, {2}, {0, 3}, {9, 3, 'M', 0}, {7, 3, 1, 1, 1, 1, 1}, {4, 4, 'M', 0}} {
		if s, err := decodeString(b); err == nil && s != "" {
			t.Errorf("% x: %q", b, s)
		}
	}
}

func TestDeviceName(t *testing.T) {
	for name, want := range map[string][2]bool{"usb1": {true, true}, "1-2": {true, false}, "1-2.3.4": {true, false}, "1-2:1.0": {false, false},
		"usb": {false, false}, "1-": {false, false}, "../1-2": {false, false}, "1-2..3": {false, false}, "": {false, false}} {
		if ok, root := deviceName(name); ok != want[0] || root != want[1] && ok {
			t.Errorf("%q: %v %v", name, ok, root)
		}
	}
}

func BenchmarkDescriptors(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		var u fact.USB
		ParseDescriptors(descriptors, &u)
	}
}

func FuzzDescriptors(f *testing.F) {
	f.Add(descriptors)
	f.Add(descriptors[:40])
	f.Fuzz(func(t *testing.T, in []byte) {
		var u fact.USB
		ParseDescriptors(in, &u)
		if len(u.Interfaces) > maxInterfaces {
			t.Fatalf("%d interfaces", len(u.Interfaces))
		}
		// Whatever follows whole descriptors makes them no longer whole.
		if u.Truncated == "" {
			var v fact.USB
			ParseDescriptors(append(bytes.Clone(in), 0), &v)
			if v.Truncated == "" {
				t.Fatal("trailing bytes are taken for nothing")
			}
		}
	})
}

func FuzzUevent(f *testing.F) {
	f.Add([]byte("add@/devices/pci/usb1/1-2\x00ACTION=add\x00DEVPATH=/devices/pci/usb1/1-2\x00SUBSYSTEM=usb\x00DEVTYPE=usb_device\x00"))
	f.Add([]byte("libudev\x00\xfe\xed\xca\xfe"))
	f.Fuzz(func(t *testing.T, in []byte) {
		u, err := parseUevent(in)
		if err == nil && (u.action == "" || u.path == "" || u.path[0] != '/') {
			t.Fatalf("%+v", u)
		}
	})
}
