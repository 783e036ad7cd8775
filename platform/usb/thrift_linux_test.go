package usb

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/enforce/policy"
	enforceusb "github.com/warderd/warder/enforce/usb"
	"github.com/warderd/warder/platform/platformtest"
	"github.com/warderd/warder/platform/uevent"
)

// The few facts that the guard reads of a device that has just arrived decide as all facts would.
func TestThrift(t *testing.T) {
	root := tree(t)
	put := func(path, text string) {
		if err := os.WriteFile(filepath.Join(root, "bus/usb/devices", path), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, hardwired := range []string{"unknown", "fixed", "removable"} {
		put("1-2.3/removable", hardwired+"\n")
		for _, doc := range []string{
			`{"usb":{"allowed":true}}`, `{"usb":{"allowed":false}}`, `{"usb":{"allowed_classes":["hid"]}}`,
			`{"usb":{"allowed_classes":["mass_storage"]}}`,
			`{"usb":{"allowed":false,"whitelist":["46f4:0001:SN"]}}`, `{"usb":{"allowed":false,"whitelist":["46f4:0001:OTHER"]}}`,
			`{"usb":{"whitelist":["46f4:*"]}}`,
			`{"usb":{"allowed":true},"storage":{"external_storage_allowed":false}}`,
			`{"usb":{"allowed":true,"whitelist":["46f4:0001:SN"]},"storage":{"external_storage_allowed":false}}`,
		} {
			for _, excepted := range []string{"", "46f4:0001:SN", "46f4:0001:OTHER"} {
				d, err := policy.Decode([]byte(`{"policy_data":`+doc+`}`), policy.Options{Strict: true})
				if err != nil {
					t.Fatal(err)
				}
				if excepted != "" {
					d = d.Excepted(map[string][]string{"usb": {excepted}})
				}
				rules := enforceusb.Compile(d, &fact.Machine{USB: fact.Is([]fact.USB{}), Inputs: fact.Is(fact.Inputs{Keyboards: 1})})
				for _, name := range []string{"1-1", "1-2.3"} {
					p := &Ports{Root: root}
					whole, err := p.read(name)
					if err != nil {
						t.Fatal(err)
					}
					want := rules.Watch().Judge(&whole)
					g := &Guard{Ports: &Ports{Root: root}}
					j := rules.Watch()
					d, err := g.open(name)
					if err != nil {
						t.Fatal(err)
					}
					part, err := g.look(d, j, true)
					d.close()
					if err != nil {
						t.Fatal(err)
					}
					if got := j.Judge(&part); got != want {
						t.Errorf("%s, excepted %q, %s, hardwired %s: %+v, and with all known %+v", doc, excepted, name,
							hardwired, got, want)
					}
				}
			}
		}
	}
}

// What was read of a device is never used for another one at its port: not after an announcement, and not if the number
// differs.
func TestKnownIsForgotten(t *testing.T) {
	root := tree(t)
	put := func(path, text string) {
		if err := os.WriteFile(filepath.Join(root, "bus/usb/devices", path), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	p := &Ports{Root: root}
	class := func() (uint8, string) {
		u, err := p.readAll("1-2.3")
		if err != nil {
			t.Fatal(err)
		}
		return u.Interfaces[0].Class, u.Serial
	}
	if c, s := class(); c != 8 || s != "SN" {
		t.Fatal(c, s)
	}
	put("1-2.3/descriptors", string(keyboard))
	put("1-2.3/serial", "KB\n")
	if c, s := class(); c != 8 || s != "SN" {
		t.Errorf("the same number is read again: %d %s", c, s)
	}
	put("1-2.3/devnum", "77\n")
	if c, s := class(); c != 3 || s != "KB" {
		t.Errorf("another number is not read: %d %s", c, s)
	}
	g := tell(&Guard{Ports: p}, func(Decision) {})
	for _, action := range []string{"remove", "add"} {
		put("1-2.3/descriptors", string(stick))
		put("1-2.3/serial", action+"\n")
		g.dispatch([]byte(action + "@/devices/x/1-2.3\x00ACTION=" + action +
			"\x00DEVPATH=/devices/x/1-2.3\x00SUBSYSTEM=usb\x00DEVTYPE=usb_device\x00"))
		if c, s := class(); c != 8 || s != action {
			t.Errorf("after %s: %d %s", action, c, s)
		}
		put("1-2.3/descriptors", string(keyboard))
	}
}

// A second reading has everything that the first had: a keyboard that is not recognised would be taken away.
func TestKnownIsWhole(t *testing.T) {
	p := &Ports{Root: tree(t)}
	for _, name := range []string{"1-1", "1-2.3", "usb1"} {
		first, err := p.readAll(name)
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			again, err := p.readAll(name)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(first, again) {
				t.Errorf("%s: %+v, at first %+v", name, again, first)
			}
		}
	}
	if k, _ := p.read("1-1"); !k.Keyboard {
		t.Error("the keyboard is none")
	}
}

// A device that is allowed and works already is not written to, and not reported as written.
func TestNoNeedlessWrite(t *testing.T) {
	g := &platformtest.Gate{}
	var got []Decision
	guard := tell(&Guard{Ports: &Ports{Root: tree(t), Gate: g.Pass}}, func(d Decision) { got = append(got, d) })
	d, err := policy.Decode([]byte(`{"policy_data":{"usb":{"allowed_classes":["hid"]}}}`), policy.Options{})
	if err != nil {
		t.Fatal(err)
	}
	guard.ruling.Store(&Ruling{Judge: enforceusb.Compile(d, nil).Watch(), Act: true})
	guard.handle(came{name: "1-1", at: time.Now()})
	if len(got) != 1 || got[0].Changed || g.Asked != 0 || !got[0].Done.Is("1") || got[0].Device.Serial != "SN" ||
		got[0].Device.Name == "" || !got[0].Verdict.Allow {
		t.Errorf("asked %d times: %+v", g.Asked, got)
	}
}

// Two readers receive each announcement, and one acts.
func TestEachAnnouncementOnce(t *testing.T) {
	var n atomic.Int64
	guard := tell(&Guard{Ports: &Ports{Root: tree(t), Gate: (&platformtest.Gate{}).Pass}}, func(Decision) { n.Add(1) })
	d, err := policy.Decode([]byte(`{"policy_data":{"usb":{"allowed":true}}}`), policy.Options{})
	if err != nil {
		t.Fatal(err)
	}
	guard.ruling.Store(&Ruling{Judge: enforceusb.Compile(d, nil).Watch()})
	add := func(seq int) []byte {
		return []byte(
			fmt.Sprintf(
				"add@/devices/x/1-1\x00ACTION=add\x00DEVPATH=/devices/x/1-1\x00SUBSYSTEM=usb\x00DEVTYPE=usb_device\x00SEQNUM=%d\x00", seq))
	}
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for seq := range 500 {
				if c, ok := guard.dispatch(add(seq + 1)); ok {
					guard.handle(c)
				}
			}
		})
	}
	readers.Wait()
	if n.Load() != 500 {
		t.Errorf("%d decisions on 500 announcements", n.Load())
	}
}

// said is a test's socket: it returns what is sent, and ends when it is closed.
type said chan []byte

func (s said) Read(b []byte) (int, error) {
	text, open := <-s
	if !open {
		return 0, uevent.ErrEnded
	}
	return copy(b, text), nil
}

// While readers wait for slow devices, another one listens: the last device to arrive is decided before any of those.
func TestSomebodyListens(t *testing.T) {
	root := tree(t)
	devices := []string{"1-4", "1-5", "1-6", "1-7", "1-8"}
	for _, name := range devices {
		if err := os.CopyFS(filepath.Join(root, "bus/usb/devices", name),
			os.DirFS(filepath.Join(root, "bus/usb/devices/1-1"))); err != nil {
			t.Fatal(err)
		}
	}
	last := make(chan struct{}) // closed when the last one asks to be written
	var asked atomic.Int64
	guard := tell(&Guard{Ports: &Ports{Root: root, Gate: func(enforce.Change) error {
		if asked.Add(1) == int64(len(devices)) {
			close(last)
		}
		select {
		case <-last:
			return nil
		case <-time.After(30 * time.Second):
			return errors.New("nobody listened")
		}
	}}}, func(d Decision) {
		if d.Err != nil || !d.Done.Is("0") {
			t.Errorf("%s: %v %v", d.Device.Path, d.Done, d.Err)
		}
	})
	d, err := policy.Decode([]byte(`{"policy_data":{"usb":{"allowed":false}}}`), policy.Options{})
	if err != nil {
		t.Fatal(err)
	}
	guard.ruling.Store(&Ruling{Judge: enforceusb.Compile(d, nil).Watch(), Act: true})
	for _, sockets := range []int{1, 2} {
		last, asked = make(chan struct{}), atomic.Int64{}
		for _, name := range devices {
			if err := os.WriteFile(filepath.Join(root, "bus/usb/devices", name, "authorized"), []byte("1\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		ctx, cancel := context.WithCancel(context.Background())
		l := &listeners{g: guard, ctx: ctx, sockets: int32(sockets), failed: make(chan error, 1)}
		guard.met.last = nil
		var all sync.WaitGroup
		sent := make([]said, sockets)
		for i := range sent {
			sent[i] = make(said, len(devices))
			all.Go(func() { l.listen(sent[i], -1, &all) })
		}
		for i, name := range devices {
			for _, s := range sent {
				s <- []byte(
					fmt.Sprintf(
						"add@/devices/x/%s\x00ACTION=add\x00DEVPATH=/devices/x/%s\x00SUBSYSTEM=usb\x00DEVTYPE=usb_device\x00SEQNUM=%d\x00",
						name, name, i+1))
			}
		}
		<-last
		cancel()
		for _, s := range sent {
			close(s)
		}
		all.Wait()
		if asked.Load() != int64(len(devices)) {
			t.Errorf("%d sockets: %d devices were decided", sockets, asked.Load())
		}
	}
}

// A device is opened by the path and the number in its announcement. If another one is there by then, that one is
// reported under its own number, and as not announced.
func TestMeet(t *testing.T) {
	root := tree(t)
	if err := os.MkdirAll(filepath.Join(root, "devices/usb1"), 0o755); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(root, "devices/usb1/1-2.3")
	if err := os.Rename(filepath.Join(root, "bus/usb/devices/1-2.3"), dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(dir, filepath.Join(root, "bus/usb/devices/1-2.3")); err != nil {
		t.Fatal(err)
	}
	number, err := os.ReadFile(filepath.Join(dir, "devnum"))
	if err != nil {
		t.Fatal(err)
	}
	n, _ := strconv.Atoi(strings.TrimSpace(string(number)))
	var got []Decision
	guard := tell(&Guard{Ports: &Ports{Root: root, Gate: (&platformtest.Gate{}).Pass}}, func(d Decision) { got = append(got, d) })
	d, err := policy.Decode([]byte(`{"policy_data":{"usb":{"allowed":false}}}`), policy.Options{})
	if err != nil {
		t.Fatal(err)
	}
	guard.ruling.Store(&Ruling{Judge: enforceusb.Compile(d, nil).Watch(), Act: true})
	defer guard.hubs.close()
	for _, c := range []struct {
		path   string
		number int
		fresh  bool
	}{
		{"/devices/usb1/1-2.3", n, true}, {"/devices/usb1/1-2.3", n + 1, false}, {"/devices/usb1/1-2.3", 0, true},
		{"/devices/gone/1-2.3", n, true}, {"/devices/usb1/../usb1/1-2.3", n + 1, true},
	} {
		got = nil
		if err := os.WriteFile(filepath.Join(dir, "authorized"), []byte("1\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		in, ok := guard.dispatch(
			[]byte(fmt.Sprintf("add@%s\x00ACTION=add\x00DEVPATH=%s\x00SUBSYSTEM=usb\x00DEVTYPE=usb_device\x00DEVNUM=%03d\x00", c.path,
				c.path, c.number)))
		if !ok {
			t.Fatal(c)
		}
		guard.handle(in)
		if text, _ := os.ReadFile(filepath.Join(dir, "authorized")); text[0] != '0' {
			t.Errorf("%+v: it stays", c)
		}
		if len(got) != 1 || got[0].Device.Number != n || got[0].Plugged != c.fresh || got[0].Changed != c.fresh || !got[0].Done.Is("0") {
			t.Errorf("%+v: %+v", c, got)
		}
	}
}

// A hub that went away and came back, with what is plugged into it, is not mistaken for the one that is open.
func TestHubsThatComeBack(t *testing.T) {
	root := t.TempDir()
	var h hubs
	var used []*hub
	defer h.close()
	inode := func(fd int) uint64 {
		var s unix.Stat_t
		if err := unix.Fstat(fd, &s); err != nil {
			t.Fatal(err)
		}
		return s.Ino
	}
	for round := range 3 {
		at := filepath.Join(root, "hub/1-1")
		if err := os.MkdirAll(at, 0o755); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			hub, fd, err := h.take(root, "/hub/", "1-1", unix.O_RDONLY)
			if err != nil {
				t.Fatal(round, err)
			}
			info, err := os.Stat(at)
			if err != nil || inode(fd) != info.Sys().(*syscall.Stat_t).Ino {
				t.Errorf("round %d: another device's directory (%v)", round, err)
			}
			_ = unix.Close(fd)
			hub.put()
		}
		if err := os.RemoveAll(filepath.Join(root, "hub")); err != nil {
			t.Fatal(err)
		}
		if _, fd, err := h.take(root, "/hub/", "1-1", unix.O_RDONLY); err == nil {
			t.Errorf("round %d: it is gone, and was opened: %d", round, fd)
		}
	}
	for i := range 3 * maxHubs {
		hub := fmt.Sprintf("/hub%d", i)
		if err := os.MkdirAll(filepath.Join(root, hub, "1-1"), 0o755); err != nil {
			t.Fatal(err)
		}
		got, fd, err := h.take(root, hub+"/", "1-1", unix.O_RDONLY)
		if err != nil {
			t.Fatal(err)
		}
		_ = unix.Close(fd)
		if i%2 == 0 {
			got.put()
		} else {
			used = append(used, got)
		}
	}
	if len(h.open) > maxHubs {
		t.Errorf("%d are open", len(h.open))
	}
	for _, u := range used {
		if err := unix.Faccessat(u.fd, "1-1", unix.F_OK, 0); err != nil {
			t.Errorf("one that is in use was closed: %v", err)
		}
		u.put()
	}
}

// What is remembered of a device that went away does not decide about a newer one at its port, even if the announcement
// is the older one's.
func TestNothingRememberedOfTheOneBefore(t *testing.T) {
	root := tree(t)
	dir := filepath.Join(root, "bus/usb/devices/1-2.3")
	put := func(file, text string) {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	ports := &Ports{Root: root, Gate: (&platformtest.Gate{}).Pass}
	guard := tell(&Guard{Ports: ports}, func(Decision) {})
	d, err := policy.Decode([]byte(`{"policy_data":{"usb":{"allowed":false,"whitelist":["46f4:0001:SN"]}}}`), policy.Options{})
	if err != nil {
		t.Fatal(err)
	}
	guard.ruling.Store(&Ruling{Judge: enforceusb.Compile(d, nil).Watch(), Act: true})
	stick, err := ports.readAll("1-2.3")
	if err != nil || stick.Serial != "SN" {
		t.Fatal(stick, err)
	}
	// The stick is remembered; another one with another serial is there by now.
	put("devnum", "77\n")
	put("serial", "OTHER\n")
	put("authorized", "0\n")
	guard.handle(came{name: "1-2.3", path: "/bus/usb/devices/1-2.3", number: stick.Number, at: time.Now()})
	if text, _ := os.ReadFile(filepath.Join(dir, "authorized")); text[0] != '0' {
		t.Error("it is let in on the serial of the one before")
	}
	put("descriptors", string(keyboard))
	guard.handle(came{name: "1-2.3", path: "/bus/usb/devices/1-2.3", number: stick.Number, at: time.Now()})
	if text, _ := os.ReadFile(filepath.Join(dir, "authorized")); text[0] != '0' {
		t.Error("it is let in on the descriptors of the one before")
	}
}

// swapping is a judge that replaces the device during its verdict.
type swapping struct {
	of   enforce.Judge[fact.USB]
	swap func()
}

func (s swapping) Reason(v enforce.Verdict, u *fact.USB) (string, string) { return s.of.Reason(v, u) }

func (s swapping) Judge(u *fact.USB) enforce.Verdict {
	v := s.of.Judge(u)
	s.swap()
	return v
}

// Nor is a verdict applied to the one that arrives at the port meanwhile.
func TestVerdictOfTheOneBefore(t *testing.T) {
	root := tree(t)
	name := filepath.Join(root, "bus/usb/devices/1-2.3")
	for i, number := range []string{"7", "9"} {
		dir := filepath.Join(root, "devices/usb1", fmt.Sprint("at", i))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for file, text := range map[string]string{
			"devnum": number + "\n", "authorized": "0\n", "descriptors": string(keyboard),
		} {
			if i == 1 && file == "descriptors" {
				text = string(stick)
			}
			if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	stands := func(i int) {
		for _, at := range []string{name, filepath.Join(root, "devices/usb1/1-2.3")} {
			if err := os.RemoveAll(at); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(filepath.Join(root, "devices/usb1", fmt.Sprint("at", i)), at); err != nil {
				t.Fatal(err)
			}
		}
	}
	stands(0)
	d, err := policy.Decode([]byte(`{"policy_data":{"usb":{"allowed_classes":["hid"]}}}`), policy.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var got []Decision
	guard := tell(&Guard{Ports: &Ports{Root: root, Gate: (&platformtest.Gate{}).Pass}}, func(d Decision) { got = append(got, d) })
	guard.ruling.Store(&Ruling{Judge: swapping{enforceusb.Compile(d, nil).Watch(), func() { stands(1) }}, Act: true})
	defer guard.hubs.close()
	in, ok := guard.dispatch(
		[]byte(
			"add@/devices/usb1/1-2.3\x00ACTION=add\x00DEVPATH=/devices/usb1/1-2.3\x00SUBSYSTEM=usb\x00DEVTYPE=usb_device\x00DEVNUM=007\x00"))
	if !ok {
		t.Fatal("not dispatched")
	}
	guard.handle(in)
	if text, _ := os.ReadFile(name + "/authorized"); text[0] != '0' {
		t.Error("the stick is let in as the keyboard")
	}
	if len(got) != 1 || got[0].Device.Number != 9 || got[0].Verdict.Allow {
		t.Errorf("%+v", got)
	}
}
