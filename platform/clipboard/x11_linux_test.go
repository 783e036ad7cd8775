package clipboard

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jezek/xgb"
	"github.com/jezek/xgb/xfixes"
	"github.com/jezek/xgb/xproto"

	"github.com/warderd/warder/enforce/fact"
)

// TestMain lets this program stand in for programs at the clipboard that no package has; see programsAt.
func TestMain(m *testing.M) {
	if what := os.Getenv("WARDER_TEST_CLIENT"); what != "" {
		if err := programsAt[what](); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// needs fails if a program is missing; with CI=true that is never a skip.
func needs(t testing.TB, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatalf("%s is not installed", p)
			}
			t.Skipf("%s is not installed", p)
		}
	}
}

// byName are zones by the name of a program's file.
type byName struct {
	Work []string `json:"work"`
	Kept []string `json:"kept"`
}

func (r *byName) Zone(p *fact.Program, _ uint32) string {
	for _, path := range r.Work {
		path, sum, _ := strings.Cut(path, "@")
		if p.Known && p.Is(path, sum) {
			return "work"
		}
	}
	return "personal"
}
func (r *byName) Keeps(zone string) bool       { return slices.Contains(r.Kept, zone) }
func (r *byName) Refuses(from, to string) bool { return from != to && r.Keeps(from) }
func decoded(b json.RawMessage) (Rules, error) { r := &byName{}; return r, json.Unmarshal(b, r) }
func rulesOf(work string, kept ...string) []byte {
	b, _ := json.Marshal(&byName{[]string{work}, kept})
	return b
}

// screen is a real X server, with a part that keeps its clipboard.
type screen struct {
	t       testing.TB
	display string
	server  *exec.Cmd
	part    *Part
	xclip   string       // where it is
	copied  atomic.Int64 // counts the changes of owners
}

var xvfbMu sync.Mutex // two that start in the same moment take the same display

func (s *screen) start(display string) {
	s.t.Helper()
	xvfbMu.Lock()
	defer xvfbMu.Unlock()
	r, w, err := os.Pipe()
	if err != nil {
		s.t.Fatal(err)
	}
	args := []string{"-displayfd", "3", "-noreset", "-nolisten", "tcp", "-screen", "0", "640x480x24"}
	if display != "" {
		args = append([]string{display}, args[2:]...)
		if err := os.Remove("/tmp/.X" + display[1:] + "-lock"); err != nil && !errors.Is(err, os.ErrNotExist) {
			s.t.Fatal(err)
		}
	}
	s.server = exec.Command("Xvfb", args...)
	s.server.ExtraFiles = []*os.File{w}
	if err := s.server.Start(); err != nil {
		s.t.Fatal(err)
	}
	w.Close()
	if display == "" {
		var all []byte
		for !bytes.HasSuffix(all, []byte("\n")) {
			b := make([]byte, 16)
			n, err := r.Read(b)
			if err != nil {
				s.t.Fatal("Xvfb does not start: ", err)
			}
			all = append(all, b[:n]...)
		}
		s.display = ":" + strings.TrimSpace(string(all))
	}
	r.Close()
	s.until("the X server answers", func() bool { return s.watch() == nil })
}

// watch has a program of its own count who copies, until the server ends: this one has one connection with extensions at a time.
func (s *screen) watch() error {
	c := s.begin("watches")
	out, err := c.StdoutPipe()
	if err != nil {
		return err
	}
	c.Stderr = nil
	if err := c.Start(); err != nil {
		return err
	}
	lines := bufio.NewScanner(out)
	if !lines.Scan() {
		return c.Wait()
	}
	go func() {
		for lines.Scan() {
			s.copied.Add(1)
		}
		_ = c.Wait()
	}()
	return nil
}

func (s *screen) kill() {
	_ = s.server.Process.Kill()
	_ = s.server.Wait()
}

func onScreen(t testing.TB) *screen {
	t.Helper()
	needs(t, "Xvfb", "xclip", "xsel")
	s := &screen{t: t}
	s.xclip, _ = exec.LookPath("xclip")
	s.start("")
	t.Cleanup(func() { s.kill() })
	s.part = &Part{Decode: decoded, Type: "x11", Display: s.display, Self: uint32(os.Getuid())}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { s.part.Run(ctx, func() {}); close(done) }()
	t.Cleanup(func() { cancel(); <-done })
	return s
}

func (s *screen) until(what string, is func() bool) {
	s.t.Helper()
	for end := time.Now().Add(30 * time.Second); !is(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			s.t.Fatalf("waited in vain: %s; it says %s", what, s.part.State())
		}
	}
}

func (s *screen) said() (out Said) {
	s.t.Helper()
	if err := json.Unmarshal(s.part.State(), &out); err != nil {
		s.t.Fatal(err)
	}
	return out
}

// rule has the part keep what programs at a path copy, or what others do.
func (s *screen) rule(b []byte) {
	s.t.Helper()
	s.part.Load(b)
	if b != nil {
		s.until("it keeps the clipboard", func() bool { return s.said().Kept })
	}
}

// run runs a program at the screen, as the same user.
func (s *screen) run(in string, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	c := exec.CommandContext(ctx, name, args...)
	c.Env = append(os.Environ(), "DISPLAY="+s.display)
	c.Stdin = strings.NewReader(in)
	out, err := c.Output()
	return string(out), err
}

// copies has a program copy a text, and serve it until the test ends. It does not run in the background, so that it is known.
func (s *screen) copies(text string, name string, args ...string) *exec.Cmd {
	s.t.Helper()
	before := s.copied.Load()
	c := exec.Command(name, args...)
	c.Env = append(os.Environ(), "DISPLAY="+s.display)
	c.Stdin = strings.NewReader(text)
	if err := c.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
	s.until(name+" has copied", func() bool { return s.copied.Load() > before })
	return c
}

// owner is who has selections.
func (s *screen) owner(names ...string) (out string) {
	xgbMu.Lock()
	defer xgbMu.Unlock()
	c, err := xgb.NewConnDisplay(s.display)
	if err != nil {
		return ""
	}
	defer c.Close()
	for _, n := range names {
		a, err := xproto.InternAtom(c, false, uint16(len(n)), n).Reply()
		if err != nil {
			return ""
		}
		o, err := xproto.GetSelectionOwner(c, a.Atom).Reply()
		if err != nil {
			return ""
		}
		out += fmt.Sprint(o.Owner, " ")
	}
	return out
}

// rests waits until what was copied is taken over, or is known not to be.
func (s *screen) rests() {
	time.Sleep(50 * time.Millisecond)
	s.until("all is taken over", func() bool {
		before := s.owner(selections...)
		time.Sleep(20 * time.Millisecond)
		return s.owner(selections...) == before
	})
}

// elsewhere is xclip at another place: another program.
func (s *screen) elsewhere() string {
	s.t.Helper()
	b, err := os.ReadFile(s.xclip)
	if err != nil {
		s.t.Fatal(err)
	}
	path := filepath.Join(s.t.TempDir(), "other")
	if err := os.WriteFile(path, b, 0o755); err != nil {
		s.t.Fatal(err)
	}
	return path
}

var xselOf = map[string]string{"clipboard": "-b", "primary": "-p", "secondary": "-s"}

// What is copied in a zone that is kept is pasted in it and nowhere else; everything else passes as it did.
func TestPaste(t *testing.T) {
	s := onScreen(t)
	xclip, other := s.xclip, s.elsewhere()
	big := strings.Repeat("0123456789abcdef", 5<<20/16)
	in := func(sel string) []string { return []string{"-i", "-quiet", "-selection", sel} }
	for _, kept := range [][]string{{"work"}, {"personal"}, {"work", "personal"}} {
		s.rule(rulesOf(s.xclip, kept...))
		for _, sel := range []string{"clipboard", "primary", "secondary"} {
			for _, text := range []string{"ä text\nof two lines", big} {
				// Work copies.
				s.copies(text, xclip, in(sel)...)
				s.rests()
				want := text
				if slices.Contains(kept, "work") {
					want = ""
				}
				if got, _ := s.run("", other, "-o", "-selection", sel); got != want {
					t.Errorf("%v, %s: personal pastes %d bytes of %d from work", kept, sel, len(got), len(text))
				}
				if got, err := s.run("", xclip, "-o", "-selection", sel); got != text {
					t.Errorf("%v, %s: work pastes %d bytes of %d from work: %v", kept, sel, len(got), len(text), err)
				}
				// Somebody else does. (xsel ends with what it had not handed out yet when it loses the selection.)
				if want = text; slices.Contains(kept, "personal") {
					want = ""
				}
				if text == big {
					s.copies(text, other, in(sel)...)
				} else {
					s.copies(text, "xsel", "-i", "-n", xselOf[sel])
				}
				s.rests()
				if got, _ := s.run("", xclip, "-o", "-selection", sel); got != want {
					t.Errorf("%v, %s: work pastes %d bytes of %d from personal", kept, sel, len(got), len(text))
				}
				if got, _ := s.run("", other, "-o", "-selection", sel); got != text {
					t.Errorf("%v, %s: personal pastes %d bytes of %d from personal", kept, sel, len(got), len(text))
				}
			}
		}
	}
	list := s.said().Refused
	if len(list) != maxRefused || list[maxRefused-1].N <= maxRefused {
		t.Fatalf("%d refusals are told: %+v", len(list), list)
	}
	if r := list[maxRefused-1]; r.From != "personal" || r.To != "work" || r.Copied != "other" || r.PastedIn != "xclip" {
		t.Errorf("%+v", r)
	}
}

// What was copied stays when its program ends, when rules come and when they go; and without rules nothing is touched.
func TestRulesChange(t *testing.T) {
	s := onScreen(t)
	paste := func(who string) string {
		if who == "xsel" {
			out, _ := s.run("", "xsel", "-o", "-b")
			return out
		}
		out, _ := s.run("", "xclip", "-o", "-selection", "clipboard")
		return out
	}
	c := s.copies("before", "xclip", "-i", "-quiet", "-selection", "clipboard")
	owner := s.owner(selections...)
	s.rests()
	if s.owner(selections...) != owner || paste("xsel") != "before" {
		t.Error("without rules something was taken over")
	}
	s.rule(rulesOf(s.xclip, "personal"))
	s.rests()
	if s.owner(selections...) != owner || paste("xsel") != "before" {
		t.Error("what is not kept was taken over")
	}
	s.rule(rulesOf(s.xclip, "work")) // what is there is judged by new rules, too
	s.until("it is taken over", func() bool { return s.owner(selections...) != owner })
	s.until("it is kept", func() bool { return paste("xclip") == "before" })
	if got := paste("xsel"); got != "" {
		t.Errorf("personal pastes %q", got)
	}
	_ = c.Process.Kill()
	_ = c.Wait()
	if got := paste("xclip"); got != "before" {
		t.Errorf("after its program has ended: %q", got)
	}
	s.rule(rulesOf(s.xclip, "personal")) // the program is gone, and still is what it was
	s.rests()
	if got := paste("xsel"); got != "before" {
		t.Errorf("after the rules have changed: %q", got)
	}
	s.rule(nil)
	time.Sleep(100 * time.Millisecond)
	if a, b := paste("xsel"), paste("xclip"); a != "before" || b != "before" {
		t.Errorf("without rules: %q %q", a, b)
	}
	s.copies("after", "xsel", "-i", "-n", "-b")
	s.until("it is not kept any more", func() bool { return paste("xclip") == "after" })
	s.part.Load([]byte("["))
	if got := s.said(); got.Kept || !strings.Contains(got.Why, "unexpected end") {
		t.Errorf("rules that cannot be read: %+v", got)
	}
}

// A program is known by its file, and not by its path alone: neither another file at that path in a mount namespace of its own, nor one
// that is not the one of the sum.
func TestProgram(t *testing.T) {
	s := onScreen(t)
	sum, err := exec.Command("sha256sum", s.xclip).Output()
	if err != nil {
		t.Fatal(err)
	}
	hex, _, _ := strings.Cut(string(sum), " ")
	s.rule(rulesOf(s.xclip+"@"+hex, "work", "personal"))
	s.copies("by sum", "xclip", "-i", "-quiet", "-selection", "clipboard")
	s.rests()
	if got, _ := s.run("", "xclip", "-o", "-selection", "clipboard"); got != "by sum" {
		t.Errorf("the program of the sum pastes %q", got)
	}
	if got, _ := s.run("", "xsel", "-o", "-b"); got != "" {
		t.Errorf("another program pastes %q", got)
	}
	// A copy of it elsewhere, and one that somebody has put over it.
	other := s.elsewhere()
	if got, _ := s.run("", other, "-o", "-selection", "clipboard"); got != "" {
		t.Errorf("a copy elsewhere pastes %q", got)
	}
	if got, _ := s.run("", "unshare", "-m", "sh", "-c", "mount --bind "+other+" "+s.xclip+" && xclip -o -selection clipboard"); got != "" {
		t.Errorf("another file at that path pastes %q", got)
	}
	// One of another sum.
	s.rule(rulesOf(s.xclip+"@"+strings.Repeat("0", 64), "work", "personal"))
	s.copies("by another sum", "xsel", "-i", "-n", "-b")
	s.rests()
	if got, _ := s.run("", "xclip", "-o", "-selection", "clipboard"); got != "by another sum" {
		t.Errorf("it is as outside work as all others, and pastes %q", got)
	}
	// One that has gone into the background is not known any more: X has the process that had connected.
	if _, err := s.run("background", "sh", "-c", "xclip -i -selection clipboard >/dev/null"); err != nil {
		t.Fatal(err)
	}
	s.rule(rulesOf(s.xclip, "personal"))
	s.rests()
	if got, _ := s.run("", "xclip", "-o", "-selection", "clipboard"); got != "" {
		t.Errorf("what is not known is outside work; work pastes %q", got)
	}
	_, _ = s.run("", "xsel", "-c", "-b")
}

// Where nothing can be kept, it is said; where the X server has ended, until another one is there.
func TestServer(t *testing.T) {
	never := &Part{Decode: decoded, Type: "wayland"}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	told := make(chan struct{}, 100)
	go never.Run(ctx, func() { told <- struct{}{} })
	never.Load(rulesOf("/bin/x", "work"))
	for end := time.Now().Add(30 * time.Second); !strings.Contains(string(never.State()), whyWayland); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s", never.State())
		}
	}
	<-told

	s := onScreen(t)
	s.rule(rulesOf(s.xclip, "work"))
	s.kill()
	s.until("it says so", func() bool { x := s.said(); return !x.Kept && strings.Contains(x.Why, "the X server does not answer") })
	s.start(s.display)
	s.until("it keeps the next one's", func() bool { return s.said().Kept })
	s.copies("again", "xclip", "-i", "-quiet", "-selection", "clipboard")
	s.rests()
	if got, _ := s.run("", "xsel", "-o", "-b"); got != "" {
		t.Errorf("personal pastes %q", got)
	}
}

// client is a connection of a program of the tests, with a window.
func client() (c *xgb.Conn, win xproto.Window, atom func(string) xproto.Atom, err error) {
	if c, err = xgb.NewConn(); err != nil {
		return
	}
	if win, err = xproto.NewWindowId(c); err != nil {
		return
	}
	xproto.CreateWindow(c, 0, win, xproto.Setup(c).DefaultScreen(c).Root, 0, 0, 1, 1, 0, xproto.WindowClassInputOnly, 0, xproto.CwEventMask,
		[]uint32{xproto.EventMaskPropertyChange})
	return c, win, func(n string) xproto.Atom {
		r, err := xproto.InternAtom(c, false, uint16(len(n)), n).Reply()
		if err != nil {
			return 0
		}
		return r.Atom
	}, nil
}

// offers owns the clipboard, says that it has a text, and gives what give writes when it is asked for that.
func offers(give func(c *xgb.Conn, e *xproto.SelectionRequestEvent, incr xproto.Atom), goOn func(c *xgb.Conn, e *xproto.PropertyNotifyEvent)) error {
	c, win, atom, err := client()
	if err != nil {
		return err
	}
	targets, text, board, incr := atom("TARGETS"), atom("UTF8_STRING"), atom("CLIPBOARD"), atom("INCR")
	xproto.SetSelectionOwner(c, win, board, 0)
	for {
		e, xerr := c.WaitForEvent()
		switch x := e.(type) {
		case nil:
			if xerr == nil {
				return errGone
			}
		case xproto.SelectionRequestEvent:
			if x.Target == targets {
				xproto.ChangeProperty(c, xproto.PropModeReplace, x.Requestor, x.Property, xproto.AtomAtom, 32, 2, words([]xproto.Atom{targets, text}))
			} else {
				give(c, &x, incr)
			}
			n := xproto.SelectionNotifyEvent{Time: x.Time, Requestor: x.Requestor, Selection: x.Selection, Target: x.Target, Property: x.Property}
			xproto.SendEvent(c, false, x.Requestor, 0, string(n.Bytes()))
		case xproto.PropertyNotifyEvent:
			if goOn != nil {
				goOn(c, &x)
			}
		}
	}
}

var (
	mebi    = make([]byte, 200<<10)
	sendInc = func(c *xgb.Conn, e *xproto.SelectionRequestEvent, incr xproto.Atom) {
		xproto.ChangeWindowAttributes(c, e.Requestor, xproto.CwEventMask, []uint32{xproto.EventMaskPropertyChange})
		xproto.ChangeProperty(c, xproto.PropModeReplace, e.Requestor, e.Property, incr, 32, 1, words([]int{1 << 30}))
	}
)

// programsAt are programs that do at the clipboard what none should.
var programsAt = map[string]func() error{
	// endless has something that has no end.
	"endless": func() error {
		return offers(sendInc, func(c *xgb.Conn, e *xproto.PropertyNotifyEvent) {
			if e.State == xproto.PropertyDelete {
				xproto.ChangeProperty(c, xproto.PropModeReplace, e.Window, e.Atom, xproto.AtomString, 8, uint32(len(mebi)), mebi)
			}
		})
	},
	// huge has 1 GiB in one property.
	"huge": func() error {
		return offers(func(c *xgb.Conn, e *xproto.SelectionRequestEvent, _ xproto.Atom) {
			for range 1 << 30 / len(mebi) {
				xproto.ChangeProperty(c, xproto.PropModeAppend, e.Requestor, e.Property, xproto.AtomString, 8, uint32(len(mebi)), mebi)
			}
		}, nil)
	},
	// stalls begins and does not go on.
	"stalls": func() error { return offers(sendInc, nil) },
	// mute answers nothing.
	"mute": func() error {
		c, win, atom, err := client()
		if err != nil {
			return err
		}
		xproto.SetSelectionOwner(c, win, atom("CLIPBOARD"), 0)
		for {
			if e, err := c.WaitForEvent(); e == nil && err == nil {
				return errGone
			}
		}
	},
	// copies copies again and again, for some seconds, and then something last.
	"copies": func() error {
		c, win, atom, err := client()
		if err != nil {
			return err
		}
		board, n := atom("CLIPBOARD"), 0
		go func() {
			for {
				if e, err := c.WaitForEvent(); e == nil && err == nil {
					return
				}
			}
		}()
		for end := time.Now().Add(4 * time.Second); time.Now().Before(end); n++ {
			xproto.SetSelectionOwner(c, win, board, 0)
		}
		if _, err := xproto.GetInputFocus(c).Reply(); err != nil {
			return err
		}
		fmt.Println(n)
		return nil
	},
	// asks asks for everything, again and again, and reads nothing.
	"asks": func() error {
		c, win, atom, err := client()
		if err != nil {
			return err
		}
		board, text, many := atom("CLIPBOARD"), atom("UTF8_STRING"), atom("MULTIPLE")
		go func() {
			for {
				if e, err := c.WaitForEvent(); e == nil && err == nil {
					return
				}
			}
		}()
		n := 0
		for end := time.Now().Add(4 * time.Second); time.Now().Before(end); n++ {
			at := atom(fmt.Sprint("PLACE_", n%1000))
			xproto.ChangeProperty(c, xproto.PropModeReplace, win, at, atom("ATOM_PAIR"), 32, 2, words([]xproto.Atom{text, at}))
			xproto.ConvertSelection(c, win, board, many, at, 0)
			xproto.ConvertSelection(c, win, board, text, at, 0)
		}
		fmt.Println(n)
		return nil
	},
	// waits pastes the moment that something was copied, as a clipboard manager does.
	"waits": waitsForCopies,
	// watches says who copies.
	"watches": func() error {
		c, win, atom, err := client()
		if err != nil {
			return err
		}
		if err := xfixes.Init(c); err != nil {
			return err
		}
		if _, err := xfixes.QueryVersion(c, 5, 0).Reply(); err != nil {
			return err
		}
		for _, n := range selections {
			if err := xfixes.SelectSelectionInputChecked(c, win, atom(n), xfixes.SelectionEventMaskSetSelectionOwner).Check(); err != nil {
				return err
			}
		}
		fmt.Println("ready")
		for {
			switch e, err := c.WaitForEvent(); {
			case e == nil && err == nil:
				return nil
			case e != nil:
				fmt.Println("copied")
			}
		}
	},
}

func (s *screen) begin(what string) *exec.Cmd {
	s.t.Helper()
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), "DISPLAY="+s.display, "WARDER_TEST_CLIENT="+what)
	c.Stderr = os.Stderr
	return c
}

// A program that never ends, or has too much, or says nothing, or does a hundred thousand things a second costs what it has copied, and
// nothing else: neither the memory nor the clipboard of others.
func TestHostile(t *testing.T) {
	s := onScreen(t)
	s.rule(rulesOf(s.xclip, "work", "personal"))
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	for _, what := range []string{"endless", "huge", "stalls", "mute", "copies", "asks"} {
		largest := before
		if what == "asks" {
			s.copies(strings.Repeat("x", 1<<20), "xsel", "-i", "-n", "-b")
			s.rests()
		}
		count := s.copied.Load()
		c := s.begin(what)
		out, err := c.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		if what == "copies" || what == "asks" {
			b, _ := io.ReadAll(out)
			n, _ := strconv.Atoi(strings.TrimSpace(string(b)))
			if n < 1000 {
				t.Errorf("%s: %d times only: %q", what, n, b)
			}
			t.Logf("%s: %d times in four seconds", what, n)
		} else {
			s.until(what+" has copied", func() bool { return s.copied.Load() > count })
			for end := time.Now().Add(3 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
				largest = max(largest, heap())
			}
		}
		largest = max(largest, heap())
		t.Logf("%s: the heap has grown by at most %d MiB", what, (largest-before)>>20)
		if largest-before > 4*maxHeld {
			t.Errorf("%s: %d MiB", what, (largest-before)>>20)
		}
		_ = c.Process.Kill()
		_ = c.Wait()
		// All of it works for others.
		s.copies("still there", "xclip", "-i", "-quiet", "-selection", "clipboard")
		s.until("what was copied next is kept", func() bool {
			got, _ := s.run("", "xclip", "-o", "-selection", "clipboard")
			return got == "still there"
		})
		if got, _ := s.run("", "xsel", "-o", "-b"); got != "" {
			t.Errorf("after %s, personal pastes %q", what, got)
		}
	}
}

// gtk is a program of a toolkit: it copies a text or a picture and goes on, or pastes and says what it got.
const gtk = `
import sys, gi
gi.require_version("Gtk", "3.0")
from gi.repository import Gtk, Gdk, GdkPixbuf
what, text = sys.argv[1], sys.argv[2]
board = Gtk.Clipboard.get(Gdk.SELECTION_CLIPBOARD)
if what == "text":
    board.set_text(text, -1); Gtk.main()
if what == "picture":
    p = GdkPixbuf.Pixbuf.new(GdkPixbuf.Colorspace.RGB, False, 8, 1600, 1200); p.fill(0x336699ff)
    board.set_image(p); Gtk.main()
p = board.wait_for_image()
print(p.get_width() if p else 0, board.wait_for_text() or "")
`

// A program of a toolkit offers the same thing in many forms, large ones among them, and asks for several before it takes one.
func TestGTK(t *testing.T) {
	s := onScreen(t)
	const python = "/usr/bin/python3" // Debian's, which has the library
	if out, err := exec.Command(python, "-c", `import gi; gi.require_version("Gtk", "3.0")`).CombinedOutput(); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("python3-gi and gir1.2-gtk-3.0 are not installed: %s", out)
		}
		t.Skipf("python3-gi and gir1.2-gtk-3.0 are not installed: %s", out)
	}
	real, err := filepath.EvalSymlinks(python)
	if err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(t.TempDir(), "other") // the same program at another place
	if b, err := os.ReadFile(real); err != nil || os.WriteFile(other, b, 0o755) != nil {
		t.Fatal(err)
	}
	s.rule(rulesOf(real, "work"))
	pastes := func(who string) string {
		out, err := s.run("", who, "-c", gtk, "paste", "")
		if err != nil {
			t.Errorf("%s: %v", who, err)
		}
		return strings.TrimSpace(out)
	}
	for what, want := range map[string]string{"text": "0 what is secret", "picture": "1600"} {
		s.copies("", real, "-c", gtk, what, "what is secret")
		s.until(what+" is taken over and whole", func() bool { return pastes(real) == want })
		if got := pastes(other); got != "0" {
			t.Errorf("%s: outside work it gets %q", what, got)
		}
		if got := pastes(real); got != want {
			t.Errorf("%s: at work it gets %q", what, got)
		}
		s.copies("", other, "-c", gtk, what, "what is secret")
		s.rests()
		if got := pastes(real); got != want {
			t.Errorf("%s: from outside, which may, it gets %q", what, got)
		}
	}
}
