package media

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/warderd/warder/enforce/fact"
)

func FuzzParseOff(f *testing.F) {
	good, _ := json.Marshal(off{"/sys/devices/pci0/mmc0:aaaa", fact.Medium{Name: "mmcblk0", Serial: "0x1"}})
	f.Add(good)
	if o, ok := parseOff(good, "/sys"); !ok || o.Disk.Serial != "0x1" {
		f.Errorf("%+v %v", o, ok)
	}
	for _, bad := range []string{"", "{}", `{"device":"/etc/passwd","disk":{"name":"x"}}`, `{"device":"/sys/devices/../../etc","disk":{"name":"x"}}`, `{"device":"/sys/devices/x","disk":{"name":"a/b"}}`,
		`{"device":"/sys/devices/x","disk":{"name":""}}`, `{"device":"/sys/devices/x","disk":{"name":"x","serial":"` + strings.Repeat("1", maxText+1) + `"}}`} {
		f.Add([]byte(bad))
		if o, ok := parseOff([]byte(bad), "/sys"); ok {
			f.Errorf("%q is read as %+v", bad, o)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if o, ok := parseOff(b, "/sys"); ok && (!strings.HasPrefix(o.Device, "/sys/devices/") || strings.Contains(o.Device, "..") && filepath.Clean(o.Device) != o.Device) {
			t.Errorf("%q", o.Device)
		}
	})
}

// Notes: of a device that is there without a driver; others are removed.
func TestOffs(t *testing.T) {
	sys, run := t.TempDir(), t.TempDir()
	m := &Media{sys: sys, run: run}
	put := func(name string, driver bool) {
		device := filepath.Join(sys, "devices", name)
		if err := os.MkdirAll(device, 0o755); err != nil {
			t.Fatal(err)
		}
		if driver {
			if err := os.Symlink(sys, device+"/driver"); err != nil {
				t.Fatal(err)
			}
		}
		b, _ := json.Marshal(off{device, fact.Medium{Name: name, External: fact.Is(true), Serial: "of " + name}})
		if err := os.WriteFile(m.notes(device, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put("away", false)
	put("back", true)
	put("gone", false)
	if err := os.Remove(filepath.Join(sys, "devices/gone")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(run, offPrefix+"nonsense"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	list := m.standing([]fact.Medium{{Name: "sda"}})
	if len(list) != 2 || list[1].Name != "away" || list[1].Serial != "of away" || !list[1].Held || !list[1].Refused.V || list[1].Open {
		t.Errorf("%+v", list)
	}
	if left, _ := filepath.Glob(run + "/*"); len(left) != 2 {
		t.Errorf("left: %v", left) // whose driver may be coming off just now
	}
	m.cannot.Store(true)
	if r := m.listOff(); r[external].Value != refused {
		t.Errorf("%+v", r)
	}
	m.cannot.Store(false)
	if r := m.listOff(); !strings.HasPrefix(string(r[external].Value), "changed: ") {
		t.Errorf("the programs are not there: %+v", r)
	}
	if err := m.putBack(func(*fact.Medium) bool { return true }); err == nil {
		t.Error("it has no driver, and nobody says so")
	}
	if left, _ := filepath.Glob(run + "/*"); len(left) != 1 {
		t.Errorf("left: %v", left)
	}
	if list := m.standing([]fact.Medium{{Name: "away"}}); len(list) != 2 {
		t.Errorf("another disk of its name hides it: %+v", list)
	}
}
