package clipboard

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jezek/xgb"
	"github.com/jezek/xgb/xfixes"
	"github.com/jezek/xgb/xproto"
)

// waitsForCopies pastes the moment that it learns of a copy, and says what it got.
func waitsForCopies() error {
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
	board, text, at := atom("CLIPBOARD"), atom("UTF8_STRING"), atom("PLACE")
	xfixes.SelectSelectionInput(c, win, board, xfixes.SelectionEventMaskSetSelectionOwner)
	fmt.Println("ready")
	for {
		e, xerr := c.WaitForEvent()
		switch x := e.(type) {
		case nil:
			if xerr == nil {
				return errors.New("the connection has ended")
			}
		case xfixes.SelectionNotifyEvent:
			xproto.ConvertSelection(c, win, board, text, at, x.SelectionTimestamp)
		case xproto.SelectionNotifyEvent:
			got := ""
			if x.Property != 0 {
				if r, err := xproto.GetProperty(c, true, win, at, 0, 0, 1000).Reply(); err == nil {
					got = string(r.Value)
				}
			}
			fmt.Println("got", got)
		}
	}
}

// owner is a program of the tests itself that copies, so that the moment is known.
type copier struct {
	c     *xgb.Conn
	win   xproto.Window
	atom  func(string) xproto.Atom
	board xproto.Atom
	lost  chan time.Time
	text  string
}

func (s *screen) copier() *copier {
	s.t.Helper()
	xgbMu.Lock()
	defer xgbMu.Unlock()
	c, err := xgb.NewConnDisplay(s.display)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(c.Close)
	o := &copier{c: c, lost: make(chan time.Time, 100), text: "secret"}
	if o.win, err = xproto.NewWindowId(c); err != nil {
		s.t.Fatal(err)
	}
	xproto.CreateWindow(c, 0, o.win, xproto.Setup(c).DefaultScreen(c).Root, 0, 0, 1, 1, 0, xproto.WindowClassInputOnly, 0, 0, nil)
	o.atom = func(n string) xproto.Atom {
		r, err := xproto.InternAtom(c, false, uint16(len(n)), n).Reply()
		if err != nil {
			s.t.Fatal(err)
		}
		return r.Atom
	}
	o.board = o.atom("CLIPBOARD")
	targets, text := o.atom("TARGETS"), o.atom("UTF8_STRING")
	go func() {
		for {
			e, err := c.WaitForEvent()
			switch x := e.(type) {
			case nil:
				if err == nil {
					return
				}
			case xproto.SelectionClearEvent:
				select {
				case o.lost <- time.Now():
				default:
				}
			case xproto.SelectionRequestEvent:
				if x.Target == targets {
					xproto.ChangeProperty(c, xproto.PropModeReplace, x.Requestor, x.Property, xproto.AtomAtom, 32, 2, words([]xproto.Atom{targets, text}))
				} else {
					xproto.ChangeProperty(c, xproto.PropModeReplace, x.Requestor, x.Property, text, 8, uint32(len(o.text)), []byte(o.text))
				}
				n := xproto.SelectionNotifyEvent{Time: x.Time, Requestor: x.Requestor, Selection: x.Selection, Target: x.Target, Property: x.Property}
				xproto.SendEvent(c, false, x.Requestor, 0, string(n.Bytes()))
			}
		}
	}()
	return o
}

// copies copies, and returns how long it took until that was taken over.
func (o *copier) copies(t testing.TB) time.Duration {
	for len(o.lost) > 0 {
		<-o.lost
	}
	began := time.Now()
	xproto.SetSelectionOwner(o.c, o.win, o.board, 0)
	select {
	case at := <-o.lost:
		return at.Sub(began)
	case <-time.After(30 * time.Second):
		t.Fatal("it is not taken over")
		return 0
	}
}

// TestRace measures what the finding says: how many pastes in the very moment of a copy pass. A program of another zone that begins to
// paste at a random moment around the copy, and one that waits for copies.
func TestRace(t *testing.T) {
	s := onScreen(t)
	s.rule(rulesOf(s.xclip, "work", "personal")) // this program is outside work, and xclip in it
	o := s.copier()
	const tries = 120
	leaked, took := 0, []time.Duration{}
	for range tries {
		paste := exec.Command(s.xclip, "-o", "-selection", "clipboard")
		paste.Env = []string{"DISPLAY=" + s.display, "PATH=/usr/bin:/bin"}
		out, err := paste.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := paste.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(rand.IntN(8000)) * time.Microsecond) // xclip asks after some milliseconds
		took = append(took, o.copies(t))
		b, _ := io.ReadAll(out)
		_ = paste.Wait()
		if string(b) == o.text {
			leaked++
		} else if len(b) != 0 {
			t.Fatalf("%q", b)
		}
	}
	slices.Sort(took)
	t.Logf("taken over after %s (p50), %s (p99); %d of %d pastes around the moment of the copy passed", took[len(took)/2], took[len(took)*99/100], leaked, tries)

	// One that waits for copies, as a clipboard manager does: this program copies in work now, and the other one, by its own path, is
	// outside.
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	s.rule(rulesOf(self, "work", "personal"))
	waits := s.begin("waits")
	waits.Path = filepath.Join(t.TempDir(), "waits")
	if b, err := os.ReadFile(self); err != nil || os.WriteFile(waits.Path, b, 0o755) != nil {
		t.Fatal(err)
	}
	out, err := waits.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := waits.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = waits.Process.Kill(); _ = waits.Wait() }()
	defer time.AfterFunc(2*time.Minute, func() { _ = waits.Process.Kill() }).Stop()
	lines := bufio.NewScanner(out)
	if lines.Scan(); lines.Text() != "ready" {
		t.Fatal(lines.Text())
	}
	var passed atomic.Int64
	go func() {
		for lines.Scan() {
			if lines.Text() == "got "+o.text {
				passed.Add(1)
			}
		}
	}()
	for range tries {
		o.copies(t)
		time.Sleep(10 * time.Millisecond) // it asks for what was copied, and again for what was taken over
	}
	t.Logf("a program that waits for copies got %d of %d", passed.Load(), tries)
	// Once it is taken over, nothing passes at all.
	s.rests()
	s.until("it is taken over", func() bool { got, _ := s.run("", "xsel", "-o", "-b"); return got == "" })
	for range 50 {
		if got, _ := s.run("", "xsel", "-o", "-b"); got != "" {
			t.Fatalf("after the copy was taken over: %q", got)
		}
	}
}

// BenchmarkTaken is the time from a copy until it is taken over.
func BenchmarkTaken(b *testing.B) {
	s := onScreen(b)
	s.rule(rulesOf(s.xclip, "work", "personal"))
	o := s.copier()
	took := make([]time.Duration, 0, b.N)
	for b.Loop() {
		took = append(took, o.copies(b))
		time.Sleep(10 * time.Millisecond) // nobody copies more often
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Nanoseconds()), "p50-ns")
	b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds()), "p99-ns")
}
