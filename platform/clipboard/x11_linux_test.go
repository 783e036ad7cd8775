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
	"syscall"
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
	Look string   `json:"look"`
	Late bool     `json:"late"`
	By   int      `json:"by"`
}

func (r *byName) Zone(p *fact.Program, self uint32) string {
	if r.Alone() && p.Known && p.UID == self {
		return "work"
	}
	for _, path := range r.Work {
		path, sum, _ := strings.Cut(path, "@")
		if p.Known && p.Is(path, sum) {
			return "work"
		}
	}
	return "personal"
}
func (r *byName) Keeps(zone string) bool { return slices.Contains(r.Kept, zone) }
func (r *byName) Apart() bool            { return len(r.Kept) > 0 }
func (r *byName) Alone() bool            { return r.Apart() && len(r.Work) == 0 }
func (r *byName) Looks() string          { return r.Look }
func (r *byName) LateIsFree() bool       { return r.Late }
func (r *byName) Programs() (files, summed []string) {
	for _, x := range r.Work {
		path, sum, _ := strings.Cut(x, "@")
		if files = append(files, path); sum != "" {
			summed = append(summed, path)
		}
	}
	return files, summed
}
func (r *byName) Refuses(from, to string) bool { return from != to && r.Keeps(from) }
func decoded(b json.RawMessage) (Rules, error) { r := &byName{}; return r, json.Unmarshal(b, r) }
func rulesOf(work string, kept ...string) []byte {
	b, _ := json.Marshal(&byName{Work: []string{work}, Kept: kept})
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
	before  int64        // as many there were before the last copy
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

func onScreen(t testing.TB) *screen { return screenWith(t, nil) }

func screenWith(t testing.TB, look func(context.Context, *Copied) (Judged, error)) *screen {
	t.Helper()
	needs(t, "Xvfb", "xclip", "xsel")
	s := &screen{t: t}
	s.xclip, _ = exec.LookPath("xclip")
	s.start("")
	t.Cleanup(func() { s.kill() })
	s.part = &Part{Decode: decoded, Type: "x11", Display: s.display, Self: uint32(os.Getuid()), Look: look}
	runsPart(t, s.part)
	return s
}

// runsPart runs a helper's part until the test ends.
func runsPart(t testing.TB, p *Part) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { p.Run(ctx, func() {}); close(done) }()
	t.Cleanup(func() { cancel(); <-done })
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
	s.before = before
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

// taken waits until what was copied last is taken over, which is a change of its owner, too.
func (s *screen) taken() {
	s.t.Helper()
	s.until("it is taken over", func() bool { return s.copied.Load() >= s.before+2 })
}

// refused is what a program pastes of what it is to be refused. What was there before and is taken over late, on a busy machine, counts for
// taken as what was copied now: then a paste passes, as one does that comes before it is known, and the next one has to be refused.
func (s *screen) refused(name, sel string) string {
	s.t.Helper()
	got, _ := s.run("", name, "-o", "-selection", sel)
	if got != "" {
		s.until("it is refused", func() bool { again, _ := s.run("", name, "-o", "-selection", sel); return again == "" })
		s.t.Logf("%s was pasted before it was known", sel)
		got, _ = s.run("", name, "-o", "-selection", sel)
	}
	return got
}

// rests waits until what was copied is taken over, or is known not to be: it is somebody's, who does not answer slowly. The tests of what is
// kept ask until it is there.
func (s *screen) rests() {
	time.Sleep(100 * time.Millisecond)
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

// same is how much at the beginning of two texts is the same.
func same(a, b string) (n int) {
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}

// What is copied in a zone that is kept is pasted in it and nowhere else; everything else passes as it did.
func TestPaste(t *testing.T) {
	s := onScreen(t)
	xclip, other := s.xclip, s.elsewhere()
	var all strings.Builder
	for i := range 5 << 20 / 16 {
		fmt.Fprintf(&all, "%015d\n", i)
	}
	big := all.String()
	in := func(sel string) []string { return []string{"-i", "-quiet", "-selection", sel} }
	for _, kept := range [][]string{{"work"}, {"personal"}, {"work", "personal"}} {
		s.rule(rulesOf(s.xclip, kept...))
		s.rests() // what was there is judged by them, too
		for _, sel := range []string{"clipboard", "primary", "secondary"} {
			for _, text := range []string{"ä text\nof two lines", big} {
				// Work copies.
				s.copies(text, xclip, in(sel)...)
				want := text
				if slices.Contains(kept, "work") {
					s.taken()
					want = ""
				}
				paste := func(name string) string {
					if want == "" {
						return s.refused(name, sel)
					}
					got, _ := s.run("", name, "-o", "-selection", sel)
					return got
				}
				if got := paste(other); got != want {
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
				if want == "" {
					s.taken()
				}
				if got := paste(xclip); got != want {
					t.Errorf("%v, %s: work pastes %d bytes of %d from personal", kept, sel, len(got), len(text))
				}
				if got, _ := s.run("", other, "-o", "-selection", sel); got != text {
					t.Errorf("%v, %s: personal pastes %d bytes of %d from personal, the same up to %d", kept, sel, len(got), len(text), same(got, text))
				}
			}
		}
	}
	list := s.said().Refused
	for _, want := range []Refusal{{From: "work", To: "personal", Copied: "xclip", PastedIn: "other"}, {From: "personal", To: "work", Copied: "xsel", PastedIn: "xclip"},
		{From: "personal", To: "work", Copied: "other", PastedIn: "xclip"}} {
		if !slices.ContainsFunc(list, func(r Refusal) bool { want.N = r.N; return r == want && r.N > 0 }) {
			t.Errorf("%+v is not told: %+v", want, list)
		}
	}
	if len(list) != 3 { // each once within a minute
		t.Errorf("%+v", list)
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
	if got := s.said(); got.Kept || got.Why != whyRules {
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
	s.taken()
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
	if got, _ := s.run("", "unshare", "-m", "sh", "-c", "mount --bind "+other+" "+s.xclip+" && echo mounted && xclip -o -selection clipboard"); got != "mounted\n" {
		t.Errorf("another file at that path pastes %q", got)
	}
	// One of another sum.
	s.rule(rulesOf(s.xclip+"@"+strings.Repeat("0", 64), "work", "personal"))
	s.copies("by another sum", "xsel", "-i", "-n", "-b")
	s.taken()
	if got, _ := s.run("", "xclip", "-o", "-selection", "clipboard"); got != "by another sum" {
		t.Errorf("it is as outside work as all others, and pastes %q", got)
	}
	// One that has gone into the background is not known any more: X has the process that had connected.
	s.rule(nil)
	if _, err := s.run("background", "sh", "-c", "xclip -i -selection clipboard >/dev/null 2>&1"); err != nil {
		t.Fatal(err)
	}
	s.rule(rulesOf(s.xclip, "personal"))
	s.until("it is taken over", func() bool { got, _ := s.run("", "xclip", "-o", "-selection", "clipboard"); return got == "" })
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
	for end := time.Now().Add(30 * time.Second); !strings.Contains(string(never.State()), `"`+whyWayland+`"`); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s", never.State())
		}
	}
	<-told

	s := onScreen(t)
	s.rule(rulesOf(s.xclip, "work"))
	s.kill()
	s.until("it says so", func() bool { x := s.said(); return !x.Kept && x.Why == whyDisplay })
	s.start(s.display)
	s.until("it keeps the next one's", func() bool { return s.said().Kept })
	s.copies("again", "xclip", "-i", "-quiet", "-selection", "clipboard")
	s.taken()
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
	// destroys destroys the window that has the clipboard, whosever it is.
	"destroys": func() error {
		c, _, atom, err := client()
		if err != nil {
			return err
		}
		o, err := xproto.GetSelectionOwner(c, atom("CLIPBOARD")).Reply()
		if err != nil {
			return err
		}
		return xproto.DestroyWindowChecked(c, o.Owner).Check()
	},
	// robs says that the window that has the clipboard has it, and answers for it.
	"robs": func() error {
		c, _, atom, err := client()
		if err != nil {
			return err
		}
		board, targets, text := atom("CLIPBOARD"), atom("TARGETS"), atom("UTF8_STRING")
		o, err := xproto.GetSelectionOwner(c, board).Reply()
		if err != nil {
			return err
		}
		xproto.SetSelectionOwner(c, o.Owner, board, 0)
		for {
			e, xerr := c.WaitForEvent()
			if e == nil && xerr == nil {
				return errGone
			}
			if x, is := e.(xproto.SelectionRequestEvent); is {
				if x.Target == targets {
					xproto.ChangeProperty(c, xproto.PropModeReplace, x.Requestor, x.Property, xproto.AtomAtom, 32, 2, words([]xproto.Atom{targets, text}))
				} else {
					xproto.ChangeProperty(c, xproto.PropModeReplace, x.Requestor, x.Property, text, 8, 6, []byte("forged"))
				}
				n := xproto.SelectionNotifyEvent{Time: x.Time, Requestor: x.Requestor, Selection: x.Selection, Target: x.Target, Property: x.Property}
				xproto.SendEvent(c, false, x.Requestor, 0, string(n.Bytes()))
			}
		}
	},
	// late answers what it is asked a tenth of a second later, and looks whether that could be written.
	"late": func() error {
		c, win, atom, err := client()
		if err != nil {
			return err
		}
		targets, text := atom("TARGETS"), atom("UTF8_STRING")
		xproto.SetSelectionOwner(c, win, atom("CLIPBOARD"), 0)
		for {
			e, xerr := c.WaitForEvent()
			if e == nil && xerr == nil {
				return errGone
			}
			x, is := e.(xproto.SelectionRequestEvent)
			if !is {
				continue
			}
			list := []xproto.Atom{targets, text}
			if x.Target != targets {
				fmt.Println("asked")
				time.Sleep(100 * time.Millisecond)
			}
			err := xproto.ChangePropertyChecked(c, xproto.PropModeReplace, x.Requestor, x.Property, xproto.AtomAtom, 32, 2, words(list)).Check()
			if n := (xproto.SelectionNotifyEvent{Time: x.Time, Requestor: x.Requestor, Selection: x.Selection, Target: x.Target, Property: x.Property}); err == nil {
				err = xproto.SendEventChecked(c, false, x.Requestor, 0, string(n.Bytes())).Check()
			}
			if x.Target != targets || err != nil {
				fmt.Println("written:", err)
			}
		}
	},
	// password copies as a password manager does.
	"password": func() error {
		c, win, atom, err := client()
		if err != nil {
			return err
		}
		targets, text, hint := atom("TARGETS"), atom("UTF8_STRING"), atom(secretHint)
		xproto.SetSelectionOwner(c, win, atom("CLIPBOARD"), 0)
		for {
			e, xerr := c.WaitForEvent()
			if e == nil && xerr == nil {
				return errGone
			}
			if x, is := e.(xproto.SelectionRequestEvent); is {
				if x.Target == targets {
					xproto.ChangeProperty(c, xproto.PropModeReplace, x.Requestor, x.Property, xproto.AtomAtom, 32, 3, words([]xproto.Atom{targets, text, hint}))
				} else {
					xproto.ChangeProperty(c, xproto.PropModeReplace, x.Requestor, x.Property, text, 8, 6, []byte("secret"))
				}
				n := xproto.SelectionNotifyEvent{Time: x.Time, Requestor: x.Requestor, Selection: x.Selection, Target: x.Target, Property: x.Property}
				xproto.SendEvent(c, false, x.Requestor, 0, string(n.Bytes()))
			}
		}
	},
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
		// In the first moment after a copy it gets it from the program that has copied
		s.until("what was copied next is kept", func() bool {
			personal, _ := s.run("", "xsel", "-o", "-b")
			got, _ := s.run("", "xclip", "-o", "-selection", "clipboard")
			return got == "still there" && personal == ""
		})
	}
}

// gtk is a program of a toolkit: it copies a text or a picture and goes on, or pastes and says what it got.
const gtk = `
import sys, os, time, gi
gi.require_version("Gtk", "3.0"); gi.require_version("GdkX11", "3.0")
from gi.repository import Gtk, Gdk, GdkPixbuf, GdkX11, GLib
what, text = sys.argv[1], sys.argv[2]
board = Gtk.Clipboard.get(Gdk.SELECTION_CLIPBOARD)
if what == "text":
    board.set_text(text, -1); Gtk.main()
if what == "picture":
    p = GdkPixbuf.Pixbuf.new_from_bytes(GLib.Bytes.new(os.urandom(800*600*3)), GdkPixbuf.Colorspace.RGB, False, 8, 800, 600, 800*3)
    board.set_image(p); Gtk.main()
if what == "busy":
    board.set_text(text, -1)
    GLib.timeout_add(10, lambda: (time.sleep(3), False)[1]); Gtk.main()
if what == "mark":
    w = Gtk.Window(); e = Gtk.Entry(); w.add(e); e.set_text(text); w.show_all(); e.grab_focus(); e.select_region(0, 4)
    def look():
        print(w.get_window().get_xid(), e.get_selection_bounds(), flush=True); return True
    GLib.timeout_add(50, look); Gtk.main()
if what == "refills":
    def changed(b, _):
        if b.wait_for_text() is None and not b.wait_is_target_available(Gdk.Atom.intern("x-kde-passwordManagerHint", False)):
            b.set_text("what was there before", -1)
    board.connect("owner-change", changed); print("ready", flush=True); Gtk.main()
if what == "primary":
    print(Gtk.Clipboard.get(Gdk.SELECTION_PRIMARY).wait_for_text() or ""); sys.exit()
p = board.wait_for_image()
print(p.get_width() if p else 0, board.wait_for_text() or "")
`

// python is Debian's, which has the library, and the same program at another place.
func (s *screen) python() (real, other string) {
	s.t.Helper()
	const python = "/usr/bin/python3"
	if out, err := exec.Command(python, "-c", `import gi; gi.require_version("Gtk", "3.0")`).CombinedOutput(); err != nil {
		if os.Getenv("CI") == "true" {
			s.t.Fatalf("python3-gi and gir1.2-gtk-3.0 are not installed: %s", out)
		}
		s.t.Skipf("python3-gi and gir1.2-gtk-3.0 are not installed: %s", out)
	}
	real, err := filepath.EvalSymlinks(python)
	if err != nil {
		s.t.Fatal(err)
	}
	other = filepath.Join(s.t.TempDir(), "other")
	if b, err := os.ReadFile(real); err != nil || os.WriteFile(other, b, 0o755) != nil {
		s.t.Fatal(err)
	}
	return real, other
}

// shows starts a GTK program that says something, line by line, and returns the newest one.
func (s *screen) shows(who string, args ...string) (last func() string) {
	s.t.Helper()
	c := exec.Command(who, append([]string{"-c", gtk}, args...)...)
	c.Env = append(os.Environ(), "DISPLAY="+s.display)
	out, err := c.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		s.t.Fatal(err)
	}
	var line atomic.Pointer[string]
	done := make(chan struct{})
	go func() {
		defer close(done)
		for in := bufio.NewScanner(out); in.Scan(); {
			line.Store(new(in.Text()))
		}
	}()
	s.t.Cleanup(func() { _ = c.Process.Kill(); <-done; _ = c.Wait() })
	last = func() string {
		if p := line.Load(); p != nil {
			return *p
		}
		return ""
	}
	s.until(args[0]+" runs", func() bool { return last() != "" })
	return last
}

// A program of a toolkit offers the same thing in many forms, large ones among them, and asks for several before it takes one.
func TestGTK(t *testing.T) {
	s := onScreen(t)
	real, other := s.python()
	s.rule(rulesOf(real, "work"))
	pastes := func(who string) string {
		out, err := s.run("", who, "-c", gtk, "paste", "")
		if err != nil {
			t.Errorf("%s: %v", who, err)
		}
		return strings.TrimSpace(out)
	}
	for what, want := range map[string]string{"text": "0 what is secret", "picture": "800", "busy": "0 what is secret"} {
		begun := time.Now()
		s.copies("", real, "-c", gtk, what, "what is secret")
		s.until(what+" is taken over and whole", func() bool { return pastes(real) == want && pastes(other) == "0" })
		t.Logf("%s: whole after %s", what, time.Since(begun).Round(time.Millisecond))
		forms, _ := s.run("", real, "-c", "import gi; gi.require_version('Gtk', '3.0'); from gi.repository import Gtk, Gdk; print(len(Gtk.Clipboard.get(Gdk.SELECTION_CLIPBOARD).wait_for_targets()[1]))")
		if n, _ := strconv.Atoi(strings.TrimSpace(forms)); n < 5 {
			t.Errorf("%s: %s forms are left", what, forms)
		}
		if what == "busy" {
			continue
		}
		s.copies("", other, "-c", gtk, what, "what is secret")
		s.until(what+" from outside, which may", func() bool { return pastes(real) == want })
	}
}

// What is marked stays marked while its program has the keyboard, and is kept from when another one has.
func TestPrimaryMark(t *testing.T) {
	needs(t, "xdotool")
	s := onScreen(t)
	real, other := s.python()
	s.rule(rulesOf(real, "work"))
	marked := s.shows(real, "mark", "text to be marked")
	window, _, _ := strings.Cut(marked(), " ")
	paste := func(who string) string {
		out, _ := s.run("", who, "-c", gtk, "primary", "")
		return strings.TrimSpace(out)
	}
	focus := func(w string) {
		if _, err := s.run("", "xdotool", "windowfocus", w); err != nil {
			t.Fatal(err)
		}
	}
	focus(window)
	again := s.shows(real, "mark", "more of it") // marks, too, without the keyboard: it is taken at once
	s.until("that is taken", func() bool { return paste(real) == "more" && paste(other) == "" })
	w2, _, _ := strings.Cut(again(), " ")
	focus(w2)
	third := s.shows(real, "mark", "what has it")
	w3, _, _ := strings.Cut(third(), " ")
	focus(w3)
	if _, err := s.run("", "xdotool", "key", "ctrl+a"); err != nil {
		t.Fatal(err)
	}
	s.until("it is marked", func() bool { return strings.Contains(third(), "end=11") || strings.Contains(third(), "(0, 11)") })
	time.Sleep(500 * time.Millisecond)
	if got := third(); !strings.Contains(got, "11") {
		t.Errorf("the mark is gone: %s", got)
	}
	focus(window)
	s.until("without the keyboard it is kept", func() bool { return paste(other) == "" && paste(real) == "what has it" })
}

// A clipboard manager that leaves no clipboard empty, and knows the sign of password managers, lets it be.
func TestRefill(t *testing.T) {
	s := onScreen(t)
	real, other := s.python()
	s.rule(rulesOf(real, "work"))
	s.shows(other, "refills", "")
	s.copies("", real, "-c", gtk, "text", "what is secret")
	paste := func(who string) string {
		out, _ := s.run("", who, "-c", gtk, "paste", "")
		return strings.TrimSpace(out)
	}
	s.until("it is kept", func() bool { return paste(real) == "0 what is secret" && paste(other) == "0" })
	time.Sleep(time.Second)
	if a, b := paste(real), paste(other); a != "0 what is secret" || b != "0" {
		t.Errorf("a second later: %q %q", a, b)
	}
}

// An update replaces a program's file while it runs: it is the same program still, and so is the next one.
func TestUpdate(t *testing.T) {
	s := onScreen(t)
	work := s.elsewhere()
	s.rule(rulesOf(work, "work", "personal"))
	s.copies("of the old one", work, "-i", "-quiet", "-selection", "clipboard")
	b, err := os.ReadFile(work)
	if err != nil || os.WriteFile(work+".new", b, 0o755) != nil || os.Rename(work+".new", work) != nil {
		t.Fatal(err)
	}
	s.taken()
	if got, _ := s.run("", work, "-o", "-selection", "clipboard"); got != "of the old one" {
		t.Errorf("the new one pastes %q", got)
	}
	s.copies("of the new one", work, "-i", "-quiet", "-selection", "clipboard")
	s.until("it is kept", func() bool {
		got, _ := s.run("", work, "-o", "-selection", "clipboard")
		return got == "of the new one"
	})
	if got, _ := s.run("", s.xclip, "-o", "-selection", "clipboard"); got != "" {
		t.Errorf("another one pastes %q", got)
	}
}

// admits lets a user connect; with alone, nobody else. Xvfb lets everybody on this machine in; the X servers of desktops let their user in.
func (s *screen) admits(user string, alone bool) {
	s.t.Helper()
	xgbMu.Lock()
	defer xgbMu.Unlock()
	c, err := xgb.NewConnDisplay(s.display)
	if err != nil {
		s.t.Fatal(err)
	}
	defer c.Close()
	r, err := xproto.ListHosts(c).Reply()
	if err != nil {
		s.t.Fatal(err)
	}
	who := "localuser\x00" + user
	if err := xproto.ChangeHostsChecked(c, xproto.HostModeInsert, xproto.FamilyServerInterpreted, uint16(len(who)), []byte(who)).Check(); err != nil {
		s.t.Fatal(err)
	}
	for _, h := range r.Hosts {
		if !alone {
			break
		}
		if err := xproto.ChangeHostsChecked(c, xproto.HostModeDelete, h.Family, h.AddressLen, h.Address).Check(); err != nil {
			s.t.Fatal(err)
		}
	}
}

// Without zones nothing is touched, unless a program of another user is on the screen, or may be.
func TestAlone(t *testing.T) {
	if os.Getuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("needs root, for a program of another user")
		}
		t.Skip("needs root, for a program of another user")
	}
	s := onScreen(t)
	// One that was started without a cookie lets everybody in.
	t.Setenv("XAUTHORITY", filepath.Join(t.TempDir(), "none"))
	s.rule([]byte(`{"kept":["work"]}`))
	s.copies("for everybody", "xclip", "-i", "-quiet", "-selection", "clipboard")
	s.until("it is kept", func() bool {
		own, _ := s.run("", "xsel", "-o", "-b")
		other, _ := s.run("", "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "xsel", "-o", "-b")
		return own == "for everybody" && other == ""
	})
	s.rule(nil)
	s.admits("root", true)
	s.rule([]byte(`{"kept":["work"]}`))
	s.copies("mine", "xclip", "-i", "-quiet", "-selection", "clipboard")
	owner := s.owner(selections...)
	s.rests()
	if s.owner(selections...) != owner {
		t.Error("it was taken over")
	}
	s.admits("nobody", false)
	s.until("it is taken over", func() bool { return s.owner("CLIPBOARD")+"0 0 " != owner })
	s.until("it is there", func() bool { got, _ := s.run("", "xsel", "-o", "-b"); return got == "mine" })
	if got, err := s.run("", "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "xsel", "-o", "-b"); got != "" || err != nil {
		t.Errorf("another user pastes %q: %v", got, err)
	}
}

// On Wayland without zones other users are kept apart by the compositor's socket, and by the X server beside it: it is read who may connect.
func TestWaylandAlone(t *testing.T) {
	needs(t, "Xvfb")
	s := &screen{t: t}
	s.start("")
	t.Cleanup(func() { s.kill() })
	dir := t.TempDir()
	open := func(mode os.FileMode) {
		t.Helper()
		if err := os.Chmod(dir, mode); err != nil {
			t.Fatal(err)
		}
	}
	open(0o700)
	t.Setenv("XDG_RUNTIME_DIR", dir)
	t.Setenv("WAYLAND_DISPLAY", "wayland-1")
	t.Setenv("XAUTHORITY", filepath.Join(dir, "none"))
	p := &Part{Decode: decoded, Type: "wayland", Display: s.display, Self: uint32(os.Getuid())}
	s.part = p
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { p.Run(ctx, func() {}); close(done) }()
	t.Cleanup(func() { cancel(); <-done })
	says := func(what, why string) {
		t.Helper()
		s.until(what, func() bool {
			x := s.said() // which has it look
			return x.Why == why && x.Kept == (why == "")
		})
	}
	p.Load([]byte(`{"kept":["work"]}`))
	says("nobody else gets there", "")
	open(0o755)
	says("others can reach its socket", whyOpen)
	open(0o700)
	says("they cannot any more", "")
	t.Setenv("WAYLAND_DISPLAY", "/tmp/wayland-1")
	says("its socket is elsewhere", whyOpen)
	t.Setenv("WAYLAND_DISPLAY", "../wayland-1")
	says("it is there by another way", whyOpen)
	t.Setenv("WAYLAND_DISPLAY", "wayland-1")
	says("it is not", "")
	beside := exec.Command("/bin/sh", "-c", "cp /bin/sleep Xwayland && exec ./Xwayland 600")
	beside.Dir = t.TempDir()
	if err := beside.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = beside.Process.Kill(); _ = beside.Wait() })
	says("an X server lets everybody in", whyXwayland) // as Xvfb without a cookie does
	s.admits("root", true)
	says("it lets its user in alone", "")
	s.admits("nobody", false)
	says("and another one", whyXwayland)
	s.kill()
	says("it does not answer", whyDisplay)
	p.Load(nil)
	s.until("it has nothing to do", func() bool { x := s.said(); return !x.Kept && x.Why == "" })
	p.Load(rulesOf("/bin/x", "work"))
	says("with zones it cannot", whyWayland)
}

// A password manager's secret does not stay, because it cannot be removed by it any more.
func TestSecret(t *testing.T) {
	before := secretWait
	secretWait = 2 * time.Second
	s := onScreen(t)
	t.Cleanup(func() { secretWait = before })
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	s.rule(rulesOf(self, "work"))
	c := s.begin("password")
	count := s.copied.Load()
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Process.Kill(); _ = c.Wait() }()
	s.until("it is copied and taken", func() bool { return s.copied.Load() >= count+2 })
	s.until("it is gone", func() bool { return s.owner("CLIPBOARD") == "0 " })
}

// An X server that is stopped keeps nobody from ending.
func TestStopped(t *testing.T) {
	s := onScreen(t)
	s.rule(rulesOf(s.xclip, "work"))
	if err := s.server.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	part := &Part{Decode: decoded, Type: "x11", Display: s.display}
	part.Load(rulesOf(s.xclip, "work"))
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	done := make(chan struct{})
	go func() { part.Run(ctx, func() {}); close(done) }()
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		t.Error("it does not end")
	}
	if err := s.server.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	time.Sleep(200 * time.Millisecond) // for the connection that was begun
}

// Anybody on an X server may destroy anybody's window, and may say that one owns something: it is noticed, and kept again.
func TestRobbed(t *testing.T) {
	s := onScreen(t)
	s.rule(rulesOf(s.xclip, "work", "personal"))
	kept := func(text string) {
		t.Helper()
		s.copies(text, "xclip", "-i", "-quiet", "-selection", "clipboard")
		s.until("it is kept", func() bool {
			got, _ := s.run("", "xclip", "-o", "-selection", "clipboard")
			other, _ := s.run("", "xsel", "-o", "-b")
			return got == text && other == ""
		})
	}
	kept("one")
	c := s.begin("destroys")
	if err := c.Run(); err != nil {
		t.Fatal(err)
	}
	s.until("it is kept again", func() bool { return s.owner("CLIPBOARD") == "0 " && s.said().Kept })
	kept("two")
	c = s.begin("robs")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Process.Kill(); _ = c.Wait() }()
	s.until("it has nothing from it", func() bool { return s.owner("CLIPBOARD") == "0 " })
	if got, _ := s.run("", "xclip", "-o", "-selection", "clipboard"); got != "" {
		t.Errorf("work pastes %q from outside", got)
	}
	kept("three")
}

// A program that answers late, when something else was copied, writes into a window that is still there: a plain Xlib program is ended by
// the error that it would get.
func TestLate(t *testing.T) {
	s := onScreen(t)
	s.rule(rulesOf(s.xclip, "work", "personal"))
	c := s.begin("late")
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Process.Kill(); _ = c.Wait() }()
	in := bufio.NewScanner(out)
	if !in.Scan() || in.Text() != "asked" {
		t.Fatal(in.Text())
	}
	s.copies("something else", "xclip", "-i", "-quiet", "-selection", "clipboard")
	if !in.Scan() || in.Text() != "written: <nil>" {
		t.Error(in.Text())
	}
	s.until("what was copied next is kept", func() bool {
		got, _ := s.run("", "xclip", "-o", "-selection", "clipboard")
		other, _ := s.run("", "xsel", "-o", "-b")
		return got == "something else" && other == ""
	})
	s.rule(nil)
}
