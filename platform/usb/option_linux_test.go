package usb

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/warderd/warder/enforce"
)

// What the initramfs has closed is known for this boot, whatever is done with the option meanwhile, and is given back
// once.
func TestOption(t *testing.T) {
	dir := t.TempDir()
	o := Option{File: filepath.Join(dir, "warder-usb.conf"), Boot: filepath.Join(dir, "run", "usb-option")}
	step := func(what string, closed bool) {
		t.Helper()
		if o.Closed() != closed {
			t.Errorf("%s: closed %v", what, o.Closed())
		}
	}
	step("without it", false)
	if err := o.keep(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(o.File, []byte(optionText), 0o644); err != nil {
		t.Fatal(err)
	}
	step("set in a boot that began open", false)
	if err := os.Remove(o.Boot); err != nil {
		t.Fatal(err)
	}
	step("after a reboot", true)
	if err := o.keep(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(o.File); err != nil {
		t.Fatal(err)
	}
	step("dropped in a boot that began closed", true)
	o.undone()
	step("opened since", false)
}

func TestOptionOfABuiltInBus(t *testing.T) {
	dir := t.TempDir()
	o := Option{File: filepath.Join(dir, "x.conf"), Boot: filepath.Join(dir, "b"), Builtin: filepath.Join(dir, "modules.builtin")}
	if err := os.WriteFile(o.Builtin, []byte("kernel/fs/ext4/ext4.ko\nkernel/drivers/usb/core/usbcore.ko\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := o.Close(t.Context(), func(string) {}); !errors.Is(err, ErrBuiltin) || o.Set() {
		t.Errorf("%v", err)
	}
}

// What the option closed is no baseline; what somebody closes later is.
func TestBaselinesUnderTheOption(t *testing.T) {
	root, dir := tree(t), t.TempDir()
	b := Backend{&Ports{Root: root, Option: Option{File: filepath.Join(dir, "f"), Boot: filepath.Join(dir, "b")}}}
	nothing := func(enforce.Key) (enforce.Reading, bool) { return enforce.Reading{}, false }
	zero := enforce.Reading{Value: "0", State: enforce.Present}
	param, hub, device := enforce.Key{Kind: kindParam, ID: "authorized_default"}, enforce.Key{Kind: kindDefault, ID: "usb1"}, enforce.Key{Kind: kindDevice, ID: "1-1@2"}
	for _, f := range []string{b.param(), b.dir("usb1") + "/authorized_default"} {
		if err := os.WriteFile(f, []byte("0\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	read := func() (p, h, d enforce.Value) {
		return b.paramBaseline(param, zero, nothing).Value, b.hubBaseline(hub, zero, nothing).Value, b.deviceBaseline(device, zero, nothing).Value
	}
	if p, h, d := read(); p != "0" || h != "0" || d != "0" {
		t.Errorf("without it: %s %s %s", p, h, d)
	}
	if err := os.WriteFile(b.Option.File, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if p, h, d := read(); p != freshParam() || h != "1" || d != "1" {
		t.Errorf("with it: %s %s %s", p, h, d)
	}
	b.Option.undone()
	if p, h, d := read(); p != "0" || h != "0" || d != "0" {
		t.Errorf("given back, and closed by somebody else: %s %s %s", p, h, d)
	}
}
