package datacontrol

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// compositor stands for one that says what a test has it say; a real one is met in platform/clipboard.
func compositor(t testing.TB, say func(*net.UnixConn)) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "w")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.AcceptUnix()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(io.Discard, c) }()
			say(c)
			_ = c.Close()
		}
	}()
	return path
}

// What the registry, a device and an offer say; the ids are those that Conn gives.
var (
	seatGlobal    = pack(registryID, 0, uint32(1), "wl_seat", uint32(1))
	managerGlobal = pack(registryID, 0, uint32(2), "zwlr_data_control_manager_v1", uint32(2))
	pong          = pack(3, 0, uint32(7))
	// the ping has 3, the seat 4, the manager 5, the device 6.
	newOffer  = pack(6, 0, uint32(firstServer))
	offerText = pack(firstServer, 0, "text/plain")
	selection = pack(6, 1, uint32(firstServer))
)

func begun(more ...[]byte) (out []byte) {
	for _, b := range append([][]byte{seatGlobal, managerGlobal, newOffer, offerText, selection, pong}, more...) {
		out = append(out, b...)
	}
	return out
}

func TestConn(t *testing.T) {
	ended := pack(displayID, 0, uint32(3), uint32(1), "why")
	for _, x := range []struct {
		name, open, next string
		b                []byte
	}{
		{"a selection", "", "text/plain", begun()},
		{"none", ErrNone.Error(), "", append(append([]byte{}, seatGlobal...), pong...)},
		{"an error", `object 3, code 1: "why"`, "", ended},
		{"an error later", "", `text/plain, then the compositor has ended the connection: object 3, code 1: "why"`, begun(ended)},
		{"an odd size", "a message of 6 bytes", "", []byte{1, 0, 0, 0, 0, 0, 6, 0}},
		{"a text without its end", errWire.Error(), "", append(pack(registryID, 0, uint32(1), uint32(4)), []byte{}...)},
		{"it ends", "EOF", "", seatGlobal},
	} {
		t.Run(x.name, func(t *testing.T) {
			c, err := Open(t.Context(), compositor(t, func(c *net.UnixConn) { _, _ = c.Write(x.b); time.Sleep(50 * time.Millisecond) }))
			if x.open != "" {
				if err == nil || !strings.Contains(err.Error(), x.open) {
					t.Errorf("%v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			e, err := c.Next()
			if err != nil || e.Offer == nil || e.Ours || e.Primary {
				t.Fatalf("%+v %v", e, err)
			}
			got := strings.Join(e.Offer.Types, " ")
			if _, err := c.Next(); strings.Contains(x.next, "then") {
				got += ", then " + err.Error()
			}
			if got != x.next {
				t.Errorf("%q", got)
			}
		})
	}
}

// What Replace has put there counts as ours once: whoever sees what it is known by can offer the same.
func TestOurs(t *testing.T) {
	c := &Conn{tokens: map[string]bool{"t": true}}
	if o := (&Offer{Types: []string{"a", "t"}}); !c.ours(o) || c.ours(o) {
		t.Error("it is not ours once")
	}
}

// Names are bounded, and so is what comes without being asked for.
func TestBounds(t *testing.T) {
	o := &Offer{}
	for range 3 * MaxTypes {
		o.add("text/x")
	}
	if len(o.Types) != MaxTypes || !o.More {
		t.Errorf("%d names", len(o.Types))
	}
	if o = new(Offer); true {
		if o.add(strings.Repeat("x", maxType+1)); len(o.Types) != 0 || !o.More {
			t.Errorf("%+v", o)
		}
	}
	before := files(t)
	path := compositor(t, func(c *net.UnixConn) {
		f, err := os.Open("/dev/null")
		if err != nil {
			return
		}
		defer f.Close()
		for range 3 * maxFDs {
			if _, _, err := c.WriteMsgUnix(seatGlobal, unix.UnixRights(int(f.Fd())), nil); err != nil {
				return
			}
		}
		time.Sleep(time.Second)
	})
	if _, err := Open(t.Context(), path); !errors.Is(err, errWire) {
		t.Errorf("%v", err)
	}
	for end := time.Now().Add(10 * time.Second); files(t) > before+3; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d descriptors, and %d before", files(t), before)
		}
	}
}

func files(t *testing.T) int {
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

func FuzzNext(f *testing.F) {
	f.Add(begun())
	f.Add(begun(pack(6, 2), pack(6, 3, uint32(0)), pack(displayID, 1, uint32(3))))
	f.Add([]byte{1, 0, 0, 0, 0, 0, 6, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		var ends [2]*net.UnixConn
		for i, fd := range fds {
			file := os.NewFile(uintptr(fd), "end")
			c, err := net.FileConn(file)
			_ = file.Close()
			if err != nil {
				t.Fatal(err)
			}
			ends[i] = c.(*net.UnixConn)
		}
		go func() { _, _ = io.Copy(io.Discard, ends[0]) }()
		go func() { _, _ = ends[0].Write(b); _ = ends[0].CloseWrite() }()
		c := connOf(ends[1])
		defer ends[0].Close()
		defer c.Close()
		if err := c.begin(); err != nil {
			return
		}
		for range 1000 {
			e, err := c.Next()
			if err != nil {
				return
			}
			if e.Offer != nil && len(e.Offer.Types) > MaxTypes {
				t.Errorf("%d names", len(e.Offer.Types))
			}
		}
	})
}
