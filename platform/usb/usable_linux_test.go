package usb

import (
	"errors"
	"os"
	"testing"
	"time"

	"github.com/warderd/warder/enforce"
)

// The time for which a refused device could be used is counted from its plug, or from when it was last refused; what
// the kernel does not say is not reported.
func TestUsable(t *testing.T) {
	root := tree(t)
	p := &Ports{Root: root, Gate: func(enforce.Change) error { return nil }}
	file := p.dir("1-1") + "/power/connected_duration"
	if err := os.MkdirAll(p.dir("1-1")+"/power", 0o755); err != nil {
		t.Fatal(err)
	}
	is := func(what, text string, low, high time.Duration) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		d, err := p.open("1-1")
		if err != nil {
			t.Fatal(err)
		}
		defer d.close()
		if got := p.usable(d); got < low || got > high {
			t.Errorf("%s: %s", what, got)
		}
	}
	at := func(v enforce.Value) { p.saw("1-1", enforce.Reading{Value: v, State: enforce.Present}) }
	is("since its plug", "13240\n", 13240*time.Millisecond, 13240*time.Millisecond)
	for _, text := range []string{"", "-5\n", "x\n", "99999999999999999999\n", "9223372036854775807\n"} {
		is("nonsense "+text, text, 0, 0)
	}
	at("0")
	at("1")
	is("let in a moment ago", "13240\n", 0, 10*time.Second)
	p.forget("1-1")
	is("plugged anew", "250\n", 250*time.Millisecond, 250*time.Millisecond)

	// What was written is what is reported, until something else is there.
	b := Backend{p}
	if err := os.WriteFile(file, []byte("4000\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	refuse := enforce.Change{Key: enforce.Key{Kind: kindDevice, ID: "1-1@2"}, To: enforce.Reading{Value: "0", State: enforce.Present}}
	if failed := b.Apply(t.Context(), []enforce.Change{refuse}); len(failed) > 0 {
		t.Fatal(failed)
	}
	if got := p.wasUsable("1-1"); got < 4*time.Second || got > 14*time.Second {
		t.Errorf("refused after %s", got)
	}
	p.forget("1-1")
	if got := p.wasUsable("1-1"); got != 0 {
		t.Errorf("another one: %s", got)
	}
}

// A write that fails refuses nothing: the time continues.
func TestUsableAfterAFailedWrite(t *testing.T) {
	root, fails := tree(t), true
	p := &Ports{Root: root, Gate: func(enforce.Change) error {
		if fails {
			return errors.New("no")
		}
		return nil
	}}
	if err := os.MkdirAll(p.dir("1-1")+"/power", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p.dir("1-1")+"/power/connected_duration", []byte("3600000\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	key := enforce.Key{Kind: kindDevice, ID: "1-1@2"}
	refuse := []enforce.Change{{Key: key, To: enforce.Reading{Value: "0", State: enforce.Present}}}
	if failed := (Backend{p}).Apply(t.Context(), refuse); len(failed) != 1 {
		t.Fatal(failed)
	}
	fails = false
	if failed := (Backend{p}).Apply(t.Context(), refuse); len(failed) > 0 {
		t.Fatal(failed)
	}
	if got := p.wasUsable("1-1"); got < time.Hour {
		t.Errorf("it could be used for %s", got)
	}
}

// An announcement that a program asked for is not a plug: what is known of the device stays, and it is reported as one
// that was there.
func TestSynthetic(t *testing.T) {
	p := &Ports{Root: tree(t), Gate: func(enforce.Change) error { return nil }}
	g := tell(&Guard{Ports: p}, func(Decision) {})
	event := func(more string) []byte {
		return []byte(
			"add@/devices/pci0000:00/usb1/1-1\x00ACTION=add\x00DEVPATH=/devices/pci0000:00/usb1/1-1\x00SUBSYSTEM=usb\x00DEVTYPE=usb_device\x00DEVNUM=002\x00" + more)
	}
	p.saw("1-1", enforce.Reading{Value: "0", State: enforce.Present})
	c, ok := g.dispatch(event("SYNTH_UUID=0\x00"))
	if !ok || c.name != "1-1" || !c.at.IsZero() || c.number != 0 {
		t.Errorf("%+v %v", c, ok)
	}
	if _, known := p.idle["1-1"]; !known {
		t.Error("what was known of it is forgotten")
	}
	if c, ok := g.dispatch(event("")); !ok || c.at.IsZero() || c.number != 2 {
		t.Errorf("a plug: %+v %v", c, ok)
	}
	if _, known := p.idle["1-1"]; known {
		t.Error("of another plug")
	}
}
