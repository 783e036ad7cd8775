package usb

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/warderd/warder/enforce"
)

func option(t *testing.T, remake error) Option {
	dir := t.TempDir()
	return Option{File: filepath.Join(dir, "warder-usb.conf"), Boot: filepath.Join(dir, "run", "usb-option"),
		Builtin: filepath.Join(dir, "modules.builtin"), Line: filepath.Join(dir, "cmdline"),
		Remake: func(context.Context, func(string)) error { return remake }}
}

func (o Option) stands(t *testing.T, what string, set, sure, closed bool) {
	t.Helper()
	if o.Set() != set || o.Sure() != sure || o.Closed() != closed {
		t.Errorf("%s: set %v sure %v closed %v", what, o.Set(), o.Sure(), o.Closed())
	}
}

// What the initramfs has closed is known for this boot, whatever happens to the option meanwhile, and is given back
// once.
func TestOption(t *testing.T) {
	o, say := option(t, nil), func(string) {}
	reboot := func() {
		if err := os.RemoveAll(o.Boot); err != nil {
			t.Fatal(err)
		}
	}
	o.stands(t, "without it", false, true, false)
	if err := o.Close(t.Context(), say); err != nil {
		t.Fatal(err)
	}
	o.stands(t, "set in a boot that began open", true, true, false)
	reboot()
	o.stands(t, "after a reboot", true, true, true)
	if err := o.Open(t.Context(), say); err != nil {
		t.Fatal(err)
	}
	o.stands(t, "dropped in a boot that began closed", false, true, true)
	o.undone()
	o.stands(t, "opened just now: something may be on its way", false, true, true)
	if err := o.began(opened + "1000"); err != nil {
		t.Fatal(err)
	}
	o.stands(t, "opened long ago", false, true, false)
	reboot()
	if err := o.Close(t.Context(), say); err != nil {
		t.Fatal(err)
	}
	reboot()
	if err := os.WriteFile(o.Line, []byte("quiet usbcore.authorized_default=1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	o.stands(t, "the kernel's command line has the last word", true, true, false)
}

// An initramfs that could not be built again may still be closed: that is remembered, and can be repeated.
func TestOptionThatFails(t *testing.T) {
	full, say := errors.New("/boot is full"), func(string) {}
	o := option(t, full)
	if err := o.Close(t.Context(), say); !errors.Is(err, full) {
		t.Fatal(err)
	}
	o.stands(t, "not closed", true, false, false)
	good := o
	good.Remake = func(context.Context, func(string)) error { return nil }
	if err := good.Close(t.Context(), say); err != nil {
		t.Fatal(err)
	}
	o.stands(t, "closed", true, true, false)
	cut := o
	cut.Remake = func(context.Context, func(string)) error {
		o.stands(t, "cut off while it is made", true, false, false)
		return nil
	}
	if err := cut.Close(t.Context(), say); err != nil {
		t.Fatal(err)
	}
	if err := o.Open(t.Context(), say); !errors.Is(err, full) {
		t.Fatal(err)
	}
	o.stands(t, "not opened", true, false, false)
	if err := os.RemoveAll(o.Boot); err != nil {
		t.Fatal(err)
	}
	o.stands(t, "after a reboot it may be closed", true, false, true)
	if err := good.Open(t.Context(), say); err != nil {
		t.Fatal(err)
	}
	o.stands(t, "opened", false, true, true)
}

func TestOptionOfABuiltInBus(t *testing.T) {
	o := option(t, nil)
	if err := os.WriteFile(o.Builtin, []byte("kernel/fs/ext4/ext4.ko\nkernel/drivers/usb/core/usbcore.ko\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := o.Close(t.Context(), func(string) {}); !errors.Is(err, ErrBuiltin) || o.Set() {
		t.Errorf("%v", err)
	}
}

// What the option closed is no baseline; what somebody closes later is.
func TestBaselinesUnderTheOption(t *testing.T) {
	root, o := tree(t), option(t, nil)
	b := Backend{&Ports{Root: root, Option: o}}
	nothing := func(enforce.Key) (enforce.Reading, bool) { return enforce.Reading{}, false }
	zero := enforce.Reading{Value: "0", State: enforce.Present}
	param, hub, device := enforce.Key{Kind: kindParam, ID: "authorized_default"}, enforce.Key{Kind: kindDefault, ID: "usb1"},
		enforce.Key{Kind: kindDevice, ID: "1-1@2"}
	is := func(what string, p, h, d enforce.Value) {
		t.Helper()
		if x, y, z := b.paramBaseline(param, zero, nothing).Value, b.hubBaseline(hub, zero, nothing).Value, b.deviceBaseline(device, zero,
			nothing).Value; x != p || y != h || z != d {
			t.Errorf("%s: %s %s %s", what, x, y, z)
		}
	}
	is("without it", "0", "0", "0")
	if err := os.WriteFile(o.File, []byte(optionText), 0o644); err != nil {
		t.Fatal(err)
	}
	is("with it", freshParam(), "1", "1")
	o.undone()
	is("given back, and a device was on its way", freshParam(), "1", "1")
	if err := o.began(opened + "1000"); err != nil {
		t.Fatal(err)
	}
	is("given back long ago, and closed by somebody else", "0", "0", "0")
}
