package usb

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/platform"
)

// Backend handles the standing state: the kernel's defaults, and the devices that are present.
type Backend struct{ *Ports }

// Kinds: the kernel's defaults are reset by a boot; a device's authorized ends when it is unplugged.
func (b Backend) Kinds() []platform.Kind {
	return []platform.Kind{
		{Name: kindParam, Life: platform.Boot, Safe: freshParam(), Ours: "0", Found: true, From: b.paramBaseline},
		{Name: kindDefault, Life: platform.Boot, Safe: "1", Ours: "0", Found: true, From: b.hubBaseline},
		{Name: kindDevice, Life: platform.Present, Safe: "1", Ours: "0", Found: true, From: b.deviceBaseline, Urgent: true},
	}
}

// freshParam is the parameter's value after a boot of this kernel, needed if the ledger is lost.
var freshParam = sync.OnceValue(func() enforce.Value {
	var u unix.Utsname
	_ = unix.Uname(&u)
	release := unix.ByteSliceToString(u.Release[:])
	line, _ := os.ReadFile("/proc/cmdline")
	config, _ := os.ReadFile("/boot/config-" + release)
	return freshParamOf(string(line), string(config), release)
})

// freshParamOf derives it from the kernel's command line, its configuration (since 6.11), or its release: 1 is "all";
// before 6.11, -1 was "all that are wired" (drivers/usb/core/hcd.c).
func freshParamOf(line, config, release string) enforce.Value {
	value := func(s, name string) (string, bool) {
		_, rest, ok := strings.Cut(s, name+"=")
		if !ok {
			return "", false
		}
		v := strings.TrimSpace(rest[:len(rest)-len(strings.TrimLeft(rest, "-0123456789"))])
		n, err := strconv.Atoi(v)
		return v, err == nil && n >= -1 && n <= 2 && n != 0
	}
	if v, ok := value(line, "usbcore.authorized_default"); ok {
		return enforce.Value(v)
	}
	if v, ok := value(config, "CONFIG_USB_DEFAULT_AUTHORIZATION_MODE"); ok {
		return enforce.Value(v)
	}
	var major, minor int
	if n, _ := fmt.Sscanf(release, "%d.%d", &major, &minor); n == 2 && (major > 6 || major == 6 && minor >= 11) {
		return "1"
	}
	return "-1"
}

// paramBaseline: if the initramfs has our option, the 0 that the parameter reads is ours.
func (b Backend) paramBaseline(_ enforce.Key, seen enforce.Reading, _ func(enforce.Key) (enforce.Reading, bool)) enforce.Reading {
	if seen.Is("0") && b.Option.Closed() {
		seen.Value = freshParam()
	}
	return seen
}

// hubBaseline: a root hub that appeared while our parameter was set reads our 0.
func (b Backend) hubBaseline(_ enforce.Key, seen enforce.Reading, changed func(enforce.Key) (enforce.Reading, bool)) enforce.Reading {
	base, ok := changed(enforce.Key{Kind: kindParam, ID: "authorized_default"})
	if !ok && b.Option.Closed() {
		base.Value, ok = freshParam(), true
	}
	if ok && seen.Is("0") {
		seen.Value = base.Value
		if base.Value == "-1" {
			seen.Value = "1"
		}
	}
	return seen
}

// deviceBaseline: a device that arrived while its root hub's default was ours would otherwise have been what that hub's
// own default says.
func (b Backend) deviceBaseline(k enforce.Key, seen enforce.Reading, changed func(enforce.Key) (enforce.Reading, bool)) enforce.Reading {
	name, _, _ := strings.Cut(k.ID, "@")
	bus, _, _ := strings.Cut(name, "-")
	base, ok := changed(enforce.Key{Kind: kindDefault, ID: "usb" + bus})
	if !ok && b.Option.Closed() {
		base.Value, ok = "1", true
	}
	if !ok || seen.State != enforce.Present {
		return seen
	}
	seen.Value = "1"
	if base.Value == "0" {
		seen.Value = "0"
	} else if base.Value == "2" { // internal only
		if !b.inside(name) {
			seen.Value = "0"
		}
	}
	return seen
}

// inside reports whether the firmware says that a device's port is inside the machine.
func (b Backend) inside(name string) bool {
	d, err := b.open(name)
	if err != nil {
		return false
	}
	defer d.close()
	return d.firmware()
}

// List reads every default and every device.
func (b Backend) List(context.Context) (map[enforce.Key]enforce.Reading, error) {
	devices, roots, err := b.names()
	if err != nil {
		return nil, fmt.Errorf("cannot list USB devices: %w", err)
	}
	inodes := map[uint64]enforce.Key{}
	note := func(path string, k enforce.Key) {
		var st unix.Stat_t
		if unix.Stat(path, &st) == nil {
			inodes[st.Ino] = k
		}
	}
	defer func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.inodes = inodes
	}()
	out := map[enforce.Key]enforce.Reading{}
	note(b.param(), enforce.Key{Kind: kindParam, ID: "authorized_default"})
	out[enforce.Key{Kind: kindParam, ID: "authorized_default"}] = reading(b.param())
	for _, n := range roots {
		note(b.dir(n)+"/authorized_default", enforce.Key{Kind: kindDefault, ID: n})
		out[enforce.Key{Kind: kindDefault, ID: n}] = reading(b.dir(n) + "/authorized_default")
	}
	for _, n := range devices {
		d, err := b.open(n)
		if err != nil {
			continue // unplugged meanwhile
		}
		if number, err := d.text("devnum"); err == nil {
			seen := d.reading("authorized")
			b.saw(n, seen)
			note(b.auth(n), enforce.Key{Kind: kindDevice, ID: n + "@" + number})
			out[enforce.Key{Kind: kindDevice, ID: n + "@" + number}] = seen
		}
		d.close()
	}
	return out, nil
}

// Apply writes each change. The defaults come first in a batch, so that they already apply to what is plugged in
// meanwhile.
func (b Backend) Apply(_ context.Context, changes []enforce.Change) map[enforce.Key]error {
	failed := map[enforce.Key]error{}
	for _, c := range changes {
		if err := b.apply(c); err != nil {
			failed[c.Key] = err
		}
	}
	return failed
}

// apply makes one change; a device is written with its lock.
func (b Backend) apply(c enforce.Change) error {
	switch c.Key.Kind {
	case kindParam:
		err := b.writeTo(b.param(), c)
		if err == nil && c.Baseline {
			b.Option.undone()
		}
		return err
	case kindDefault:
		if ok, root := deviceName(c.Key.ID); !ok || !root {
			return fmt.Errorf("%q is no root hub", c.Key.ID)
		}
		return b.writeTo(b.dir(c.Key.ID)+"/authorized_default", c)
	case kindDevice:
		name, number, _ := strings.Cut(c.Key.ID, "@")
		if ok, root := deviceName(name); !ok || root {
			return fmt.Errorf("%q is no device", c.Key.ID)
		}
		if b.releasing(name) {
			return &Releasing{name}
		}
		defer b.lock(name)()
		d, err := b.open(name)
		if err != nil {
			return nil // unplugged meanwhile
		}
		defer d.close()
		if n, err := d.text("devnum"); err != nil || n != number {
			return nil // another device is there now; it is judged separately
		}
		_, _, err = b.authorize(d, c)
		return err
	}
	return fmt.Errorf("no such kind")
}
