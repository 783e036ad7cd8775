package input

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/warderd/warder/enforce/fact"
)

// list is what a laptop in QEMU printed, plus a touchpad on I²C and a Bluetooth keyboard.
const list = `I: Bus=0011 Vendor=0001 Product=0001 Version=ab41
N: Name="AT Translated Set 2 keyboard"
S: Sysfs=/devices/platform/i8042/serio0/input/input0
B: EV=120013
B: KEY=402000002 3803078f800d001 feffffdfffefffff fffffffffffffffe

I: Bus=0019 Vendor=0000 Product=0001 Version=0000
N: Name="Power Button"
S: Sysfs=/devices/LNXSYSTM:00/LNXPWRBN:00/input/input2
B: EV=3
B: KEY=10000000000000 0

I: Bus=0018 Vendor=04f3 Product=0001 Version=0100
S: Sysfs=/devices/pci0000:00/i2c-1/input/input9
B: KEY=6420 10000 0 0 0 0
B: ABS=260800000000003

I: Bus=0005 Vendor=046d Product=b342 Version=0011
S: Sysfs=/devices/virtual/misc/uhid/0005:046D:B342.0003/input/input11
B: KEY=1000000000007 ff9f207ac14057ff febeffdfffefffff fffffffffffffffe

I: Bus=0006 Vendor=0000 Product=0000 Version=0000
S: Sysfs=/devices/virtual/input/input12
B: KEY=402000002 3803078f800d001 feffffdfffefffff fffffffffffffffe

I: Bus=0003 Vendor=0627 Product=0001 Version=0111
S: Sysfs=/devices/pci0000:00/0000:00:04.0/usb1/1-2/1-2.1/1-2.1:1.0/0003:0627:0001.0001/input/input5
B: KEY=1000000000007 ff9f207ac14057ff febeffdfffefffff fffffffffffffffe

`

func TestObserve(t *testing.T) {
	file := filepath.Join(t.TempDir(), "devices")
	if err := os.WriteFile(file, []byte(list), 0o600); err != nil {
		t.Fatal(err)
	}
	m := fact.Machine{USB: fact.Is([]fact.USB{{Path: "usb1", Root: true}, {Path: "1-2"}, {Path: "1-2.1"}, {Path: "1-2.10"}})}
	if err := (Observer{file}).Observe(context.Background(), &m); err != nil {
		t.Fatal(err)
	}
	// PS/2, I²C and Bluetooth count; a power button and a program's virtual keyboard do not.
	if !m.Inputs.OK || m.Inputs.V != (fact.Inputs{Keyboards: 2, Pointers: 1}) {
		t.Errorf("%+v", m.Inputs)
	}
	// The USB keyboard belongs to the device that carries it, not to the hub before it.
	for i, want := range []bool{false, false, true, false} {
		if m.USB.V[i].Keyboard != want {
			t.Errorf("%s: keyboard %v", m.USB.V[i].Path, m.USB.V[i].Keyboard)
		}
	}
	if err := (Observer{file + ".none"}).Observe(context.Background(), &m); err != nil || m.Inputs.OK {
		t.Errorf("a list that cannot be read: %+v", m.Inputs)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(list)
	f.Add("I: Bus=zz\n")
	f.Fuzz(func(t *testing.T, in string) {
		nodes, err := parse(strings.NewReader(in))
		if err == nil && len(nodes) > strings.Count(in, "I: ") {
			t.Fatalf("%d nodes", len(nodes))
		}
	})
}
