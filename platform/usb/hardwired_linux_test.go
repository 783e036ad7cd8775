package usb

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A hub's own statement about its ports is not the firmware's.
func TestHardwired(t *testing.T) {
	const dev = "devices/pci0000:00/0000:00:14.0/usb1/"
	for name, c := range map[string]struct {
		files map[string]string
		is    string // yes, no, unknown
	}{
		"the firmware says so": {map[string]string{"1-2/port/connect_type": "hardwired",
			"1-2/removable": "fixed"}, "yes"},
		"the firmware says so, without the other file": {map[string]string{"1-2/port/connect_type": "hardwired"}, "yes"},
		"a port of the machine is pluggable": {map[string]string{"1-2/port/connect_type": "hotplug",
			"1-2/removable": "removable"}, "no"},
		"fixed, on a port that the firmware knows not": {map[string]string{"1-2/removable": "fixed",
			"1-2/port/connect_type": "unknown"}, "yes"},
		"nobody knows":   {map[string]string{"1-2/removable": "unknown", "1-2/port/connect_type": "unknown"}, "unknown"},
		"no port at all": {nil, "unknown"},

		"a hub that was plugged in says fixed": {map[string]string{"1-2.3/removable": "fixed", "1-2.3/port/connect_type": "unknown",
			"1-2/removable": "removable", "1-2/port/connect_type": "hotplug"}, "no"},
		"a hub at a port that nobody knows says fixed": {map[string]string{"1-2.3/removable": "fixed", "1-2/removable": "unknown",
			"1-2/port/connect_type": "unknown"}, "unknown"},
		"a hub within a hub says fixed, and the first one too": {map[string]string{"1-2.3.4/removable": "fixed", "1-2.3/removable": "fixed",
			"1-2/removable": "unknown"}, "unknown"},
		"fixed all the way up": {map[string]string{"1-2.3.4/removable": "fixed", "1-2.3/removable": "fixed",
			"1-2/removable": "fixed", "1-2/port/connect_type": "hardwired"}, "yes"},
		"a built-in hub with a pluggable port": {map[string]string{"1-2.3/removable": "removable", "1-2/removable": "fixed",
			"1-2/port/connect_type": "hardwired"}, "no"},
		"hard-wired, in something that unplugs": {map[string]string{"1-2.3/port/connect_type": "hardwired",
			"1-2/port/connect_type": "hotplug"}, "no"},
		"fixed, with a hub between that says not": {map[string]string{"1-2.3.4/removable": "fixed", "1-2.3/removable": "removable",
			"1-2/removable": "fixed"}, "no"},
		"hard-wired in a dock over Thunderbolt": {map[string]string{"1-2/port/connect_type": "hardwired", "1-2/removable": "fixed",
			"../removable": "removable"}, "no"},
	} {
		root, deepest := t.TempDir(), "1-2"
		put := func(path, text string) {
			if err := os.MkdirAll(filepath.Dir(filepath.Join(root, path)), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(root, path), []byte(text+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		put(dev+"authorized_default", "1")
		put("bus/usb/devices/.keep", "")
		if err := os.Symlink("../../../"+dev, filepath.Join(root, "bus/usb/devices/usb1")); err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Join(root, "bus/usb/devices/1-2"), 0o755); err != nil {
			t.Fatal(err)
		}
		for f, v := range c.files {
			if f == "../removable" {
				put(filepath.Join(dev, f), v)
				continue
			}
			put("bus/usb/devices/"+f, v)
			if name, _, _ := strings.Cut(f, "/"); len(name) > len(deepest) {
				deepest = name
			}
		}
		p := &Ports{Root: root}
		d, err := p.open(deepest)
		if err != nil {
			t.Fatal(err)
		}
		h := d.hardwired()
		d.close()
		got := "unknown"
		if h.OK {
			got = map[bool]string{true: "yes", false: "no"}[h.V]
		}
		if got != c.is {
			t.Errorf("%s: %s is hardwired: %s (%s), want %s", name, deepest, got, h.Why, c.is)
		}
	}
}
