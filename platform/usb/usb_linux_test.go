package usb

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/platform"
	"github.com/warderd/warder/platform/platformtest"
)

// keyboard and stick are descriptors as the kernel showed them for emulated devices.
var keyboard = []byte{
	0x12, 0x01, 0x00, 0x02, 0x00, 0x00, 0x00, 0x40, 0x27, 0x06, 0x01, 0x00, 0x00, 0x00, 0x01, 0x04, 0x0b, 0x01,
	0x09, 0x02, 0x22, 0x00, 0x01, 0x01, 0x08, 0xa0, 0x32, 0x09, 0x04, 0x00, 0x00, 0x01, 0x03, 0x01, 0x01, 0x00,
	0x09, 0x21, 0x11, 0x01, 0x00, 0x01, 0x22, 0x3f, 0x00, 0x07, 0x05, 0x81, 0x03, 0x08, 0x00, 0x07,
}

var stick = []byte{
	0x12, 0x01, 0x00, 0x02, 0x00, 0x00, 0x00, 0x40, 0xf4, 0x46, 0x01, 0x00, 0x00, 0x00, 0x01, 0x02, 0x03, 0x01,
	0x09, 0x02, 0x20, 0x00, 0x01, 0x01, 0x00, 0xc0, 0x00, 0x09, 0x04, 0x00, 0x00, 0x02, 0x08, 0x06, 0x50, 0x00,
	0x07, 0x05, 0x81, 0x02, 0x40, 0x00, 0x00, 0x07, 0x05, 0x02, 0x02, 0x40, 0x00, 0x00,
}

// tree is a sysfs made of files: it stores what is written, and nothing more.
func tree(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	put := func(path, text string) {
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	put("module/usbcore/parameters/authorized_default", "-1\n")
	for _, hub := range []string{"usb1", "usb2"} {
		put("bus/usb/devices/"+hub+"/authorized_default", "1\n")
		put("bus/usb/devices/"+hub+"/authorized", "1\n")
		put("bus/usb/devices/"+hub+"/devnum", "1\n")
		put("bus/usb/devices/"+hub+"/descriptors", string(keyboard))
	}
	for i, d := range []struct {
		name string
		desc []byte
	}{{"1-1", keyboard}, {"1-2.3", stick}} {
		dir := "bus/usb/devices/" + d.name
		put(dir+"/descriptors", string(d.desc))
		put(dir+"/devnum", fmt.Sprintf("%d\n", i+2))
		put(dir+"/authorized", "1\n")
		put(dir+"/serial", "SN\n")
		put(dir+"/product", "Thing\n")
		put(dir+"/removable", "unknown\n")
	}
	put("bus/usb/devices/1-1:1.0/bInterfaceClass", "03\n")
	return root
}

// TestConformance runs on a tree of files, and with WARDER_SYSFS=/sys on a real kernel, which the
// laptop does.
func TestConformance(t *testing.T) {
	root := os.Getenv("WARDER_SYSFS")
	platformtest.Conformance(t, func(t *testing.T) platformtest.Subject {
		dir := root
		if dir == "" {
			dir = tree(t)
		}
		g := &platformtest.Gate{}
		s := platformtest.Subject{Backend: Backend{&Ports{Root: dir, Gate: g.Pass}}, Key: enforce.Key{Kind: kindDefault, ID: "usb1"},
			Other: "0", Gate: g}
		if root != "" {
			s.Elsewhere = func(t *testing.T, v enforce.Value) {
				if out, err := exec.Command("sh", "-c", "echo "+string(v)+" >"+root+
					"/bus/usb/devices/usb1/authorized_default").CombinedOutput(); err != nil {
					t.Fatalf("%v: %s", err, out)
				}
			}
		}
		return s
	})
}

func TestObserve(t *testing.T) {
	p := &Ports{Root: tree(t)}
	var m fact.Machine
	if err := p.Observe(context.Background(), &m); err != nil {
		t.Fatal(err)
	}
	if !m.USB.OK || len(m.USB.V) != 4 || strings.Join(m.Controllers.V, " ") != "usb1 usb2" {
		t.Fatalf("%+v", m)
	}
	k, s := m.USB.V[2], m.USB.V[3]
	if k.Path != "1-1" || k.ID() != "0627:0001" || !k.Keyboard || k.Interfaces[0].Class != 3 || k.Hardwired.OK || !k.Authorized.V {
		t.Errorf("keyboard %+v", k)
	}
	if s.Key() != "1-2.3@3" || s.Serial != "SN" || s.Interfaces[0].Class != 8 || s.Truncated != "" {
		t.Errorf("stick %+v", s)
	}
	// A machine without USB has no devices; one whose sysfs cannot be read has unknown ones.
	if err := (&Ports{Root: t.TempDir()}).Observe(context.Background(), &m); err != nil || !m.USB.OK || len(m.USB.V) != 0 {
		t.Errorf("no bus: %+v %v", m.USB, err)
	}
}

type judge func(*fact.USB) enforce.Verdict

func (j judge) Judge(u *fact.USB) enforce.Verdict { return j(u) }

func (j judge) Reason(enforce.Verdict, *fact.USB) (string, string) { return "", "" }

// tell makes a guard call f with its decisions.
func tell(g *Guard, f func(Decision)) *Guard {
	g.told.Store(&told{hand: f})
	return g
}

// The guard applies its verdict to each device, reads it back, and without Act writes nothing.
func TestGuard(t *testing.T) {
	root := tree(t)
	g := &platformtest.Gate{}
	var mu sync.Mutex
	got := map[string]Decision{}
	p := &Ports{Root: root, Gate: g.Pass}
	guard := tell(&Guard{Ports: p}, func(d Decision) { mu.Lock(); got[d.Device.Path] = d; mu.Unlock() })
	j := judge(func(u *fact.USB) enforce.Verdict {
		return enforce.Verdict{Allow: u.Interfaces[0].Class == 3, Rule: enforce.Rule{Setting: "usb.allowed_classes", Line: 4}}
	})
	guard.Load(Ruling{Judge: j})
	if g.Asked != 0 || len(got) != 2 {
		t.Errorf("without Act: asked %d times, %d decisions", g.Asked, len(got))
	}
	guard.Load(Ruling{Judge: j, Act: true})
	if d := got["1-2.3"]; !d.Done.Is("0") || !d.Changed || d.Err != nil {
		t.Errorf("stick: %+v", d)
	}
	if d := got["1-1"]; !d.Done.Is("1") || d.Changed {
		t.Errorf("keyboard: %+v", d)
	}
	// A driver that is still bound means that the verdict is not in effect.
	if err := os.MkdirAll(root+"/bus/usb/drivers/usb-storage", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(root+"/bus/usb/devices/1-2.3/1-2.3:1.0", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(root+"/bus/usb/drivers/usb-storage", root+"/bus/usb/devices/1-2.3/1-2.3:1.0/driver"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(root+"/bus/usb/devices/1-2.3/authorized", []byte("1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	guard.Rescan()
	if d := got["1-2.3"]; d.Err == nil || !strings.Contains(d.Err.Error(), "usb-storage is still bound") {
		t.Errorf("bound: %+v", d)
	}
}

// The disk that the system runs from is not taken away, and that is reported.
func TestGuardKeepsTheSystem(t *testing.T) {
	root, gate := tree(t), &platformtest.Gate{}
	if err := os.MkdirAll(root+"/bus/usb/devices/1-2.3/1-2.3:1.0/host0/block/sda", 0o755); err != nil {
		t.Fatal(err)
	}
	p := &Ports{Root: root, Gate: gate.Pass, Carries: func(string) string { return "/home" },
		Release: func(context.Context, string, func(string)) (platform.Released, func()) {
			t.Error("it is emptied")
			return platform.Released{}, func() {}
		}}
	var got Decision
	guard := tell(&Guard{Ports: p}, func(d Decision) {
		if d.Device.Path == "1-2.3" {
			got = d
		}
	})
	keyboards := judge(func(u *fact.USB) enforce.Verdict { return enforce.Verdict{Allow: u.Interfaces[0].Class == 3} })
	guard.Load(Ruling{Judge: keyboards, Act: true})
	if got.Err == nil || !strings.Contains(got.Err.Error(), "/home is on its disk") || !got.Done.Is("1") || len(p.Releases()) != 0 {
		t.Errorf("%+v", got)
	}
}

// What a plan takes away before the first rules are loaded stays away.
func TestReleasedBeforeTheRules(t *testing.T) {
	root, gate := tree(t), &platformtest.Gate{}
	if err := os.MkdirAll(root+"/bus/usb/devices/1-2.3/1-2.3:1.0/host0/block/sda", 0o755); err != nil {
		t.Fatal(err)
	}
	p := &Ports{Root: root, Gate: gate.Pass, Release: func(context.Context, string, func(string)) (platform.Released, func()) {
		return platform.Released{}, func() {}
	}}
	guard := &Guard{Ports: p}
	guard.Watch()
	key := enforce.Key{Kind: kindDevice, ID: "1-2.3@3"}
	err := Backend{p}.Apply(t.Context(), []enforce.Change{{Key: key, To: enforce.Reading{Value: "0", State: enforce.Present},
		Mode: enforce.Enforce}})[key]
	var under *Releasing
	if !errors.As(err, &under) {
		t.Fatal(err)
	}
	p.running.Wait()
	if r := reading(p.auth("1-2.3")); !r.Is("0") {
		t.Errorf("it reads %v", r)
	}
	if writes := gate.Asked; writes != 2 { // before it is emptied, and before it goes
		t.Errorf("the gate was asked %d times", writes)
	}
}

// A device with a disk is emptied in the background: nobody waits for it, it is still there meanwhile, and in the end
// it goes, whatever happened.
func TestGuardReleases(t *testing.T) {
	for _, c := range []struct {
		name    string
		out     platform.Released
		turn    bool // the policy allows it before the release ends
		stop    bool // the agent stops before it ends
		want    string
		decided bool
	}{
		{name: "clean", want: "0", decided: true},
		{name: "forced", out: platform.Released{Forced: true, Note: "forced: x"}, want: "0", decided: true},
		{name: "allowed meanwhile", turn: true, want: "1"},
		{name: "forced, and allowed meanwhile", out: platform.Released{Forced: true, Note: "forced: x"}, turn: true, want: "1"},
		{name: "stopped meanwhile", stop: true, want: "1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			root, gate := tree(t), &platformtest.Gate{}
			if err := os.MkdirAll(root+"/bus/usb/devices/1-2.3/1-2.3:1.0/host0/block/sda", 0o755); err != nil {
				t.Fatal(err)
			}
			block, finished := make(chan struct{}), make(chan struct{})
			p := &Ports{Root: root, Gate: gate.Pass, Release: func(ctx context.Context, dir string,
				step func(string)) (platform.Released, func()) {
				if !strings.HasSuffix(dir, "1-2.3") {
					t.Errorf("%s is released", dir)
				}
				step("flushing sda")
				select {
				case <-block:
				case <-ctx.Done():
				}
				return c.out, func() { close(finished) }
			}}
			var mu sync.Mutex
			var got []Decision
			guard := tell(&Guard{Ports: p}, func(d Decision) {
				if d.Device.Path == "1-2.3" {
					mu.Lock()
					got = append(got, d)
					mu.Unlock()
				}
			})
			guard.Watch()
			allow := func(yes bool) judge {
				return func(u *fact.USB) enforce.Verdict {
					return enforce.Verdict{Allow: yes || u.Interfaces[0].Class == 3,
						Rule: enforce.Rule{Setting: "usb.allowed_classes", Line: 4}}
				}
			}
			guard.Load(Ruling{Judge: allow(false), Act: true})
			guard.Load(Ruling{Judge: allow(false), Act: true}) // one release, however often it is asked for
			b := Backend{p}
			key := enforce.Key{Kind: kindDevice, ID: "1-2.3@3"}
			err := b.Apply(context.Background(), []enforce.Change{{Key: key, To: enforce.Reading{Value: "0", State: enforce.Present},
				Mode: enforce.Enforce}})[key]
			var under *Releasing
			if !errors.As(err, &under) || under.Name != "1-2.3" {
				t.Errorf("while it is emptied: %v", err)
			}
			if r := reading(p.auth("1-2.3")); !r.Is("1") || len(got) != 0 || len(p.Releases()) != 1 {
				t.Errorf("meanwhile it reads %v, with %d decisions and %v", r, len(got), p.Releases())
			}
			if c.turn {
				guard.Load(Ruling{Judge: allow(true), Act: true})
			}
			if c.stop {
				p.Stop()
			} else {
				close(block)
				p.running.Wait()
			}
			<-finished
			if r := reading(p.auth("1-2.3")); !r.Is(enforce.Value(c.want)) {
				t.Errorf("in the end it reads %v, want %s", r, c.want)
			}
			if c.decided && (len(got) != 1 || !got[0].Done.Is("0") || !got[0].Changed || got[0].Released == nil ||
				*got[0].Released != c.out) {
				t.Errorf("decisions %+v", got)
			}
			if c.turn && c.out.Forced {
				if len(got) == 0 || got[0].Released == nil || !got[0].Released.Forced {
					t.Errorf("what was forced is not told: %+v", got)
				}
			}
			if len(p.Releases()) != 0 {
				t.Errorf("left: %v", p.Releases())
			}
			if writes := gate.Asked; c.stop && writes != 1 {
				t.Errorf("asked the gate %d times", writes)
			}
		})
	}
}

func TestBaselines(t *testing.T) {
	b := Backend{&Ports{Root: tree(t)}}
	changed := func(base map[enforce.Key]enforce.Value) func(enforce.Key) (enforce.Reading, bool) {
		return func(k enforce.Key) (enforce.Reading, bool) {
			v, ok := base[k]
			return enforce.Reading{Value: v, State: enforce.Present}, ok
		}
	}
	param, hub := enforce.Key{Kind: kindParam, ID: "authorized_default"}, enforce.Key{Kind: kindDefault, ID: "usb1"}
	zero := enforce.Reading{Value: "0", State: enforce.Present}
	for _, c := range []struct {
		name string
		got  enforce.Reading
		want enforce.Value
	}{
		{"a hub born under our parameter", b.hubBaseline(hub, zero, changed(map[enforce.Key]enforce.Value{param: "-1"})), "1"},
		{"a hub of an administrator's", b.hubBaseline(hub, zero, changed(nil)), "0"},
		{"a device refused by our default", b.deviceBaseline(enforce.Key{Kind: kindDevice, ID: "1-1@2"}, zero,
			changed(map[enforce.Key]enforce.Value{hub: "1"})), "1"},
		{"a device whose hub was shut before us", b.deviceBaseline(enforce.Key{Kind: kindDevice, ID: "1-1@2"}, zero,
			changed(map[enforce.Key]enforce.Value{hub: "0"})), "0"},
		{"an external device, internal ones only", b.deviceBaseline(enforce.Key{Kind: kindDevice, ID: "1-1@2"}, zero,
			changed(map[enforce.Key]enforce.Value{hub: "2"})), "0"},
		{"a device refused by somebody else", b.deviceBaseline(enforce.Key{Kind: kindDevice, ID: "1-1@2"}, zero, changed(nil)), "0"},
	} {
		if !c.got.Is(c.want) {
			t.Errorf("%s: %v, want %s", c.name, c.got, c.want)
		}
	}
}

// The real socket, which every Linux machine has, stops with its context.
func TestGuardRunStops(t *testing.T) {
	for range 20 {
		ctx, cancel := context.WithCancel(context.Background())
		g := &Guard{Ports: &Ports{Root: t.TempDir()}}
		done := make(chan error)
		go func() { done <- g.Run(ctx) }()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func TestDispatchActsOnAddAlone(t *testing.T) {
	g := &platformtest.Gate{}
	n := 0
	guard := tell(&Guard{Ports: &Ports{Root: tree(t), Gate: g.Pass}}, func(Decision) { n++ })
	guard.ruling.Store(&Ruling{Judge: judge(func(*fact.USB) enforce.Verdict { return enforce.Verdict{Allow: true} }), Act: true})
	for _, action := range []string{"change", "bind", "unbind", "remove", "move", "add"} {
		if c, ok := guard.dispatch([]byte(action + "@/devices/x/1-1\x00ACTION=" + action +
			"\x00DEVPATH=/devices/x/1-1\x00SUBSYSTEM=usb\x00DEVTYPE=usb_device\x00")); ok {
			guard.handle(c)
		}
	}
	if n != 1 {
		t.Errorf("%d decisions on six announcements", n)
	}
}

// What a fresh boot reads: by the command line, the kernel's configuration, or its release. If that is unknown, 0 is
// never given back as the baseline: it locks people out.
func TestFreshParam(t *testing.T) {
	for _, c := range []struct{ line, config, release, want string }{
		{"quiet", "", "6.1.0-40-amd64", "-1"}, {"quiet", "", "6.12.48+deb13-amd64", "1"}, {"", "", "6.10.0", "-1"}, {"", "", "7.0", "1"},
		{"", "", "weird", "-1"},
		{"quiet", "CONFIG_USB=m\nCONFIG_USB_DEFAULT_AUTHORIZATION_MODE=2\nCONFIG_X=y\n", "6.12.0", "2"},
		{"quiet usbcore.authorized_default=2 x", "CONFIG_USB_DEFAULT_AUTHORIZATION_MODE=1\n", "6.12.0", "2"},
		{"usbcore.authorized_default=0", "CONFIG_USB_DEFAULT_AUTHORIZATION_MODE=1\n", "6.12.0", "1"},
		{"usbcore.authorized_default=", "", "6.1.0", "-1"},
	} {
		if got := freshParamOf(c.line, c.config, c.release); string(got) != c.want {
			t.Errorf("%+v: %s", c, got)
		}
	}
}
