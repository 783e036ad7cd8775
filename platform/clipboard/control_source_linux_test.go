package clipboard

import (
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jezek/xgb/xproto"
	"golang.org/x/sys/unix"

	"github.com/warderd/warder/enforce/fact"
)

// source is a program that copies several forms at once on a Wayland desktop, and serves each on its own, as toolkits do and wl-copy does not.
type source struct {
	t    *testing.T
	conn *net.UnixConn

	mu                      sync.Mutex
	next, seat, man, device uint32
	gives                   map[uint32]map[string]func(*os.File)
}

func word32(list ...uint32) (b []byte) {
	for _, v := range list {
		b = binary.NativeEndian.AppendUint32(b, v)
	}
	return b
}

func text32(s string) []byte {
	return append(append(word32(uint32(len(s)+1)), s...), make([]byte, 4-len(s)%4)...)
}

// send sends a message. The caller has the lock.
func (s *source) send(object, opcode uint32, args ...[]byte) {
	var b []byte
	for _, a := range args {
		b = append(b, a...)
	}
	_, _ = s.conn.Write(append(word32(object, uint32(8+len(b))<<16|opcode), b...))
}

func (s *sway) source() *source {
	s.t.Helper()
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: compositor(), Net: "unix"})
	if err != nil {
		s.t.Fatal(err)
	}
	x := &source{t: s.t, conn: c, next: 4, gives: map[uint32]map[string]func(*os.File){}}
	x.send(1, 1, word32(2)) // get_registry
	x.send(1, 0, word32(3)) // sync
	ready := make(chan struct{})
	go x.listen(ready)
	s.t.Cleanup(func() { _ = c.Close() })
	select {
	case <-ready:
	case <-time.After(30 * time.Second):
		s.t.Fatal("the compositor does not answer")
	}
	return x
}

func (s *source) listen(ready chan struct{}) {
	var in []byte
	var fds []int
	for {
		b, oob := make([]byte, 4096), make([]byte, 512)
		n, on, _, _, err := s.conn.ReadMsgUnix(b, oob)
		if err != nil || n == 0 {
			return
		}
		list, _ := unix.ParseSocketControlMessage(oob[:on])
		for i := range list {
			more, _ := unix.ParseUnixRights(&list[i])
			fds = append(fds, more...)
		}
		for in = append(in, b[:n]...); len(in) >= 8; {
			object, v := binary.NativeEndian.Uint32(in), binary.NativeEndian.Uint32(in[4:])
			if len(in) < int(v>>16) {
				break
			}
			args := in[8 : v>>16]
			in = in[v>>16:]
			s.mu.Lock()
			switch opcode := v & 0xffff; {
			case object == 2 && opcode == 0: // a global: its number, its name, its version
				name := args[8 : 8+binary.NativeEndian.Uint32(args[4:])-1]
				switch string(name) {
				case "wl_seat":
					s.seat = s.bind(args, 1)
				case "zwlr_data_control_manager_v1":
					s.man = s.bind(args, 2)
				}
			case object == 3 && s.device == 0:
				s.device = s.next
				s.next++
				s.send(s.man, 1, word32(s.device, s.seat))
				close(ready)
			case s.gives[object] != nil && opcode == 0 && len(fds) > 0: // send
				f := os.NewFile(uintptr(fds[0]), "pasted")
				fds = fds[1:]
				name := string(args[4 : 4+binary.NativeEndian.Uint32(args)-1])
				if give := s.gives[object][name]; give != nil {
					go func() { defer f.Close(); give(f) }()
				} else {
					_ = f.Close()
				}
			}
			s.mu.Unlock()
		}
	}
}

// bind binds a global. The caller has the lock.
func (s *source) bind(args []byte, version uint32) uint32 {
	id := s.next
	s.next++
	s.send(2, 0, args[:4], args[4:len(args)-4], word32(version, id))
	return id
}

// copy copies something: what each form does with whoever pastes it. Its names are in this order.
func (s *source) copy(primary bool, names []string, forms map[string]func(*os.File)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id := s.next
	s.next++
	s.gives[id] = forms
	s.send(s.man, 0, word32(id))
	for _, n := range names {
		s.send(id, 0, text32(n))
	}
	set := uint32(0)
	if primary {
		set = 2
	}
	s.send(s.device, set, word32(id))
}

func writes(text string, after time.Duration) func(*os.File) {
	return func(f *os.File) { time.Sleep(after); _, _ = f.WriteString(text) }
}

// plain is one text after a while.
func (s *source) plain(primary bool, text string, after time.Duration) {
	s.copy(primary, []string{"text/plain"}, map[string]func(*os.File){"text/plain": writes(text, after)})
}

// A large text that is there under all its names, each written at once, is looked into whole.
func TestControlNames(t *testing.T) {
	s := onSway(t)
	s.rule(lookRules(fact.LookHold, false, 1))
	x := s.source()
	names := []string{"text/plain;charset=utf-8", "UTF8_STRING", "text/plain", "STRING", "TEXT"}
	large := strings.Repeat("0123456789abcdef", 4<<16) // five of them are more than is looked into
	for _, text := range []string{large + " guilty", large + " harmless"} {
		forms := map[string]func(*os.File){}
		for _, n := range names {
			forms[n] = writes(text, 0)
		}
		before := s.a.count()
		x.copy(false, names, forms)
		s.until("it is looked into", func() bool { return s.a.count() > before })
		if strings.Contains(text, "guilty") {
			s.goes("guilty")
			continue
		}
		time.Sleep(3 * time.Second)
		if got := s.pastes("-t", "text/plain"); got != text {
			t.Errorf("%d bytes are pasted", len(got))
		}
	}
	// A large form does not take the place of a text that comes after it.
	x.copy(false, []string{"text/html", "text/plain"}, map[string]func(*os.File){"text/html": writes(strings.Repeat(large, 5), 0), "text/plain": writes("guilty", 3*time.Second)})
	s.goes("guilty")
	// What stops in the middle of a form is looked into as far as it has come.
	x.copy(false, []string{"text/plain"}, map[string]func(*os.File){"text/plain": func(f *os.File) { _, _ = f.WriteString("guilty "); time.Sleep(5 * time.Second) }})
	began := time.Now()
	s.goes("guilty", "-t", "none")
	t.Logf("replaced after %v", time.Since(began))
	if got := s.said(); got.Late != 0 {
		t.Errorf("%+v", got)
	}
}

// What is known of one copy is not taken for what is known of another: neither of what is marked beside it, nor of the one after it, nor of
// the same one by other rules.
func TestControlMeanwhile(t *testing.T) {
	s := onSway(t)
	s.a.set(func() { s.a.takes = 200 * time.Millisecond })
	s.rule(lookRules(fact.LookHold, false, 1))
	x := s.source()
	for i := range 4 {
		x.plain(true, fmt.Sprint("guilty ", i), 0)
		time.Sleep(260 * time.Millisecond)
		x.copy(false, []string{"text/plain", "text/html"}, map[string]func(*os.File){"text/plain": writes("harmless", 100*time.Millisecond), "text/html": writes("<p>harmless", time.Second)})
		s.goes("guilty", "-p")
		time.Sleep(1500 * time.Millisecond)
		if got := s.pastes(); got != "harmless" {
			t.Errorf("copied is %q", got)
		}
	}
	// Rules that change while something is being told.
	for i := range 4 {
		x.plain(false, "harmless", 1500*time.Millisecond)
		time.Sleep(200 * time.Millisecond)
		before := s.a.count()
		s.rule(lookRules(fact.LookHold, false, 10+i))
		s.until("it is looked into", func() bool { return s.a.count() > before })
		time.Sleep(500 * time.Millisecond)
		if got := s.pastes(); got != "harmless" {
			t.Errorf("by other rules copied is %q", got)
		}
	}
	// Rules that come and go while something is there.
	for i := range 100 {
		s.part.Load(lookRules(fact.LookHold, false, 100+i))
		time.Sleep(time.Duration(i*15) * time.Microsecond)
		s.part.Load(nil)
	}
	if got := s.said(); got.Late != 0 {
		t.Errorf("%+v", got)
	}
}

// Questions about several things overlap: the first part of a copy, what is marked, and all of the copy.
func TestControlAbout(t *testing.T) {
	copied, marked := spot{4, false}, spot{4, true}
	d := &desktop{spots: map[spot]*there{copied: {first: 5, last: 7}, marked: {first: 6, last: 6}}}
	for range 50 { // the order of a map
		for _, x := range []struct {
			slot   spot
			number uint64
			there  bool
		}{{copied, 5, true}, {marked, 6, true}, {copied, 7, true}, {copied, 4, false}, {marked, 5, false}, {copied, 8, false}, {spot{5, false}, 6, false}} {
			s, got := d.about(looked{slot: x.slot.atom(), number: x.number})
			if x.there != (got != nil) || x.there && (s != x.slot || got != d.spots[x.slot]) {
				t.Fatalf("%+v: %+v", x, s)
			}
		}
	}
	if got := map[xproto.Atom]bool{copied.atom(): true, marked.atom(): true, (spot{5, false}).atom(): true}; len(got) != 3 {
		t.Error("two spots have the same name")
	}
}

// Many copies in a row do not end the connection, and the last one counts.
func TestControlMany(t *testing.T) {
	s := onSway(t)
	s.rule(lookRules(fact.LookHold, false, 1))
	x := s.source()
	var gone sync.Once
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
				if b := s.part.State(); !strings.Contains(string(b), `"looks":true`) {
					gone.Do(func() { t.Errorf("it does not look: %s", b) })
				}
			}
		}
	}()
	before := openFiles(t)
	for round := range 10 {
		for i := range 20 {
			x.plain(i%3 == 0, fmt.Sprint("harmless ", round, i), 0)
			if i%4 == 0 {
				time.Sleep(time.Duration(i) * 200 * time.Microsecond)
			}
		}
		x.plain(false, "guilty", 0)
		x.plain(true, "guilty", 0)
		s.goes("guilty")
		s.goes("guilty", "-p")
	}
	close(stop)
	<-done
	s.until("all descriptors are closed", func() bool { return openFiles(t) <= before+2 })
	if got := s.said(); got.Late != 0 {
		t.Errorf("%+v", got)
	}
}

func openFiles(t *testing.T) int {
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}
