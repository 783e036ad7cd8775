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
}, 0x09, 0x02, 0x1b, 0x00, 0x01, 0x02, 0x00, 0xc0, 0x00, 0x09, 0x04, 0x00, 0x00, 0x00, 0x03, 0x01, 0x01, 0x00, 0x09, 0x04, 0x00, 0x01, 0x00,
	0xff, 0x00, 0x00, 0x05)

// A keyboard hidden in the second configuration, and in an alternate setting, is found.
func TestDescriptors(t *testing.T) {
	var u fact.USB
	ParseDescriptors(descriptors, &u)
	if u.Truncated != "" || len(u.Interfaces) != 3 || u.Interfaces[1].Class != 3 || u.Interfaces[1].Config != 2 ||
		u.Interfaces[2].Alternate != 1 || u.Interfaces[2].Name != 5 || !u.Keyboard {
		t.Errorf("%+v", u)
	}
	// Cut anywhere except between two descriptors of the last configuration, it is incomplete.
	whole := map[int]bool{59: true, 68: true}
	for n := range len(descriptors) {
		var u fact.USB
		ParseDescriptors(descriptors[:n], &u)
		if (u.Truncated == "") != whole[n] {
			t.Errorf("cut at %d bytes: %+v", n, u)
		}
	}
	for name, change := range map[string]func([]byte){
		"a descriptor of no length":    func(b []byte) { b[36] = 0 },
		"a descriptor past the end":    func(b []byte) { b[len(b)-9] = 10 },
		"fewer configurations":         func(b []byte) { b[17] = 3 },
		"no configuration":             func(b []byte) { b[19] = 0x24 },
		"a configuration without room": func(b []byte) { b[18] = 8 },
	} {
		b := bytes.Clone(descriptors)
		change(b)
		ParseDescriptors(b, &u)
		if u.Truncated == "" {
			t.Errorf("%s: taken for whole: %+v", name, u)
		}
	}
}

// What the kernel tolerates, as it passes it on: trimmed to whole descriptors, with the device's own lengths and counts
// unchanged.
func TestTrimmedDescriptors(t *testing.T) {
	device := func(configs byte) []byte {
		return []byte{0x12, 0x01, 0x00, 0x02, 0x00, 0x00, 0x00, 0x40, 0x51, 0x09, 0x66, 0x16, 0x00, 0x01, 0x01, 0x02, 0x03, configs}
	}
	config := func(total, interfaces, number byte) []byte {
		return []byte{9, 2, total, 0, interfaces, number, 0, 0x80, 50}
	}
	iface := func(number, setting, class byte) []byte { return []byte{9, 4, number, setting, 0, class, 0, 0, 0} }
	endpoint := []byte{7, 5, 0x81, 3, 8, 0, 10}
	hid := []byte{9, 0x21, 0x11, 1, 0, 1, 0x22, 0x3f, 0}
	for name, c := range map[string]struct {
		parts   [][]byte
		classes []byte
	}{
		"67 bytes are claimed and 60 came": {[][]byte{device(1), config(67, 1, 1), iface(0, 0, 3), hid, endpoint,
			iface(1, 0, 0xff), iface(1, 1, 0xff), {8, 0x24, 1, 2, 3, 4, 5, 6}}, []byte{3, 0xff, 0xff}},
		"fewer interfaces are claimed": {[][]byte{device(1), config(34, 1, 1), iface(0, 0, 3), iface(1, 0, 8), endpoint},
			[]byte{3, 8}},
		"more interfaces are claimed":        {[][]byte{device(1), config(34, 9, 1), iface(0, 0, 3), endpoint}, []byte{3}},
		"none is claimed, and none is there": {[][]byte{device(1), config(9, 0, 1)}, nil},
		"a total length of zero":             {[][]byte{device(1), config(0, 1, 1)}, nil},
		"interface numbers that nobody would expect": {[][]byte{device(1), config(34, 2, 1), iface(7, 0, 3), iface(200, 0, 8)},
			[]byte{3, 8}},
		"an interface twice, with another class": {[][]byte{device(1), config(27, 1, 1), iface(0, 0, 3), iface(0, 0, 8)},
			[]byte{3, 8}},
		"an interface descriptor that is too short": {[][]byte{device(1), config(27, 1, 1), {5, 4, 0, 0, 8}, iface(1, 0, 3)},
			[]byte{3}},
		"a longer interface descriptor": {[][]byte{device(1), config(27, 1, 1), {10, 4, 0, 0, 0, 8, 6, 80, 0, 0xee}},
			[]byte{8}},
		"a longer configuration descriptor": {[][]byte{device(1), {12, 2, 21, 0, 1, 1, 0, 0x80, 50, 9, 4, 0}, iface(0, 0, 3)},
			[]byte{3}},
		"what looks like a configuration and is none": {[][]byte{device(1), config(45, 2, 1), iface(0, 0, 3), config(9, 0, 9),
			iface(1, 0, 8)}, []byte{3, 8}},
		"what looks like a device and is none": {[][]byte{device(1), config(45, 2, 1), iface(0, 0, 3), device(1), iface(1, 0, 8)},
			[]byte{3, 8}},
		"a configuration too short to be one": {[][]byte{device(1), config(45, 2, 1), iface(0, 0, 3), {4, 2, 0, 0},
			iface(1, 0, 8)}, []byte{3, 8}},
		"the second begins before the first should end": {[][]byte{device(2), config(99, 1, 1), iface(0, 0, 3), config(18, 1, 2),
			iface(0, 0, 8)}, []byte{3, 8}},
		"the first is trimmed to its head": {[][]byte{device(2), config(99, 1, 1), config(18, 1, 2), iface(0, 0, 8)}, []byte{8}},
		"one of two could be read":         {[][]byte{device(1), config(18, 1, 1), iface(0, 0, 3)}, []byte{3}},
	} {
		var u fact.USB
		ParseDescriptors(bytes.Join(c.parts, nil), &u)
		var classes []byte
		for _, i := range u.Interfaces {
			classes = append(classes, i.Class)
		}
		if u.Truncated != "" || !bytes.Equal(classes, c.classes) || u.ID() != "0951:1666" {
			t.Errorf("%s: %q, classes % x, want % x", name, u.Truncated, classes, c.classes)
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
	for name, want := range map[string][2]bool{"usb1": {true, true}, "1-2": {true, false}, "1-2.3.4": {true, false},
		"1-2:1.0": {false, false},
		"usb":     {false, false}, "1-": {false, false}, "../1-2": {false, false}, "1-2..3": {false, false}, "": {false, false}} {
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
		// Anything that follows the whole descriptors makes them incomplete.
		if u.Truncated == "" {
			var v fact.USB
			ParseDescriptors(append(bytes.Clone(in), 0), &v)
			if v.Truncated == "" {
				t.Fatal("trailing bytes are taken for nothing")
			}
		}
	})
}
