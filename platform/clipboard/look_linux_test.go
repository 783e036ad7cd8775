package clipboard

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jezek/xgb/xproto"

	"github.com/warderd/warder/enforce/fact"
)

func init() {
	programsAt["several"] = several
}

// several has a text in several forms, says which it is asked for, and pastes in itself when it is told to.
func several() error {
	c, win, atom, err := client()
	if err != nil {
		return err
	}
	text, board := os.Getenv("WARDER_TEST_TEXT"), atom("CLIPBOARD")
	forms := map[string]string{"UTF8_STRING": text, "text/plain;charset=utf-8": text, "text/html": "<p>" + text + "</p>", "image/png": "\x89PNG", "application/x-whole": "whole", "x-own/secret": "own"}
	if os.Getenv("WARDER_TEST_SECRET") != "" {
		forms[secretHint] = "secret"
	}
	names := map[xproto.Atom]string{}
	list := []xproto.Atom{atom("TARGETS")}
	for n := range forms {
		names[atom(n)] = n
		list = append(list, atom(n))
	}
	xproto.SetSelectionOwner(c, win, board, 0)
	lines := make(chan string)
	go func() {
		for in := bufio.NewScanner(os.Stdin); in.Scan(); {
			lines <- in.Text()
		}
		os.Exit(0)
	}()
	go func() {
		for range lines {
			xproto.ConvertSelection(c, win, board, atom("UTF8_STRING"), atom("PASTED"), 0)
		}
	}()
	for {
		e, xerr := c.WaitForEvent()
		switch x := e.(type) {
		case nil:
			if xerr == nil {
				return errGone
			}
		case xproto.SelectionClearEvent:
			fmt.Println("lost")
		case xproto.SelectionNotifyEvent:
			if x.Property == 0 {
				fmt.Println("pasted nothing")
				continue
			}
			r, err := xproto.GetProperty(c, true, win, x.Property, xproto.GetPropertyTypeAny, 0, 1<<20).Reply()
			if err != nil {
				return err
			}
			fmt.Printf("pasted %s\n", r.Value)
		case xproto.SelectionRequestEvent:
			if names[x.Target] == "" {
				xproto.ChangeProperty(c, xproto.PropModeReplace, x.Requestor, x.Property, xproto.AtomAtom, 32, uint32(len(list)), words(list))
			} else {
				fmt.Println("asked " + names[x.Target])
				v := forms[names[x.Target]]
				xproto.ChangeProperty(c, xproto.PropModeReplace, x.Requestor, x.Property, x.Target, 8, uint32(len(v)), []byte(v))
			}
			n := xproto.SelectionNotifyEvent{Time: x.Time, Requestor: x.Requestor, Selection: x.Selection, Target: x.Target, Property: x.Property}
			xproto.SendEvent(c, false, x.Requestor, 0, string(n.Bytes()))
		}
	}
}

// agent stands for the agent: it refuses what has a word in it, and can be made to wait.
type agent struct {
	mu     sync.Mutex
	asked  []Copied
	word   string
	gate   chan struct{} // nil: it answers at once
	absent bool
}

func (a *agent) look(ctx context.Context, c *Copied) (Judged, error) {
	a.mu.Lock()
	gate, absent := a.gate, a.absent
	a.mu.Unlock()
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			return Judged{}, ctx.Err()
		}
	}
	if absent {
		return Judged{}, errors.New("there is no agent")
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	var out Judged
	kept := Copied{Program: c.Program}
	for _, f := range c.Forms {
		out.Refused = out.Refused || bytes.Contains(f.Data, []byte(a.word))
		kept.Forms = append(kept.Forms, Form{f.Type, bytes.Clone(f.Data)})
	}
	a.asked = append(a.asked, kept)
	return out, nil
}

func (a *agent) set(f func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f()
}

func (a *agent) last() Copied {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.asked) == 0 {
		return Copied{}
	}
	return a.asked[len(a.asked)-1]
}

func (a *agent) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.asked)
}

// looked is a screen on which an agent is asked.
func lookedAt(t testing.TB) (*screen, *agent) {
	t.Helper()
	a := &agent{word: "guilty"}
	s := onScreen(t)
	s.part.Look = a.look
	return s, a
}

func lookRules(mode string, late bool, by int) []byte {
	b, _ := json.Marshal(&byName{Look: mode, Late: late, By: by})
	return b
}

// talker is the program "several".
type talker struct {
	s     *screen
	mu    sync.Mutex
	lines []string
	say   func(string)
}

func (s *screen) talks(text string, env ...string) *talker {
	s.t.Helper()
	c := s.begin("several")
	c.Env = append(append(c.Env, "WARDER_TEST_TEXT="+text), env...)
	in, err := c.StdinPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	s.before = s.copied.Load()
	if err := c.Start(); err != nil {
		s.t.Fatal(err)
	}
	x := &talker{s: s, say: func(line string) { _, _ = fmt.Fprintln(in, line) }}
	s.t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
	go func() {
		for lines := bufio.NewScanner(out); lines.Scan(); {
			x.mu.Lock()
			x.lines = append(x.lines, lines.Text())
			x.mu.Unlock()
		}
	}()
	s.until("it has copied", func() bool { return s.copied.Load() > s.before })
	return x
}

func (x *talker) has(line string) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return slices.Contains(x.lines, line)
}

func (x *talker) all() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return strings.Join(x.lines, "; ")
}

var clip = []string{"-o", "-selection", "clipboard"}

// What is harmless stays with the program that has copied it, which is asked for its texts alone; what is not is given to nobody but it.
func TestLooked(t *testing.T) {
	s, a := lookedAt(t)
	s.rule(lookRules(fact.LookHold, true, 1))
	x := s.talks("harmless")
	s.until("it is looked into", func() bool { return a.count() == 1 })
	got := a.last()
	var types []string
	for _, f := range got.Forms {
		types = append(types, f.Type)
	}
	slices.Sort(types)
	if text := strings.Join(types, " "); text != "UTF8_STRING text/html" && text != "text/html text/plain;charset=utf-8" { // the same once
		t.Errorf("%q", types)
	}
	if !strings.HasSuffix(got.Program, ".test") {
		t.Errorf("copied in %q", got.Program)
	}
	s.rests()
	if out, err := s.run("", s.xclip, clip...); out != "harmless" || err != nil {
		t.Errorf("pasted %q, %v", out, err)
	}
	if x.has("lost") || x.has("asked image/png") || x.has("asked x-own/secret") || x.has("asked application/x-whole") {
		t.Errorf("the program that has copied: %s", x.all())
	}

	x = s.talks("it is guilty")
	s.until("it is taken", func() bool { return x.has("lost") })
	s.rests()
	for _, args := range [][]string{clip, {"-o", "-selection", "clipboard", "-t", "text/html"}, {"-o", "-selection", "clipboard", "-t", "image/png"}, {"-o", "-selection", "clipboard", "-t", "x-own/secret"}} {
		if out, _ := s.run("", s.xclip, args...); out != "" {
			t.Errorf("%q: pasted %q", args, out)
		}
	}
	x.say("paste")
	s.until("its own program pastes it", func() bool { return x.has("pasted it is guilty") })

	// The program that looks the same and is another process is another program.
	y := s.begin("several")
	y.Env = append(y.Env, "WARDER_TEST_TEXT=other")
	s.copies("next", s.xclip, "-i", "-quiet", "-selection", "clipboard")
	s.rests()
	if out, err := s.run("", s.xclip, clip...); out != "next" || err != nil {
		t.Errorf("after that, pasted %q, %v", out, err)
	}
	// xclip ends when it loses what it has; who comes after it, as the same program, gets nothing.
	s.copies("guilty again", s.xclip, "-i", "-quiet", "-selection", "clipboard")
	s.taken()
	if out, _ := s.run("", s.xclip, clip...); out != "" {
		t.Errorf("another xclip pasted %q", out)
	}
	if out, _ := s.run("", "xsel", "-b", "-o"); out != "" {
		t.Errorf("xsel pasted %q", out)
	}
	// Other rules look into what is held anew.
	a.set(func() { a.word = "nothing like that" })
	s.rule(lookRules(fact.LookHold, true, 2))
	s.until("it passes", func() bool { out, _ := s.run("", s.xclip, clip...); return out == "guilty again" })
	a.set(func() { a.word = "guilty" })
	s.rule(lookRules(fact.LookHold, true, 3))
	s.until("it does not", func() bool { out, _ := s.run("", s.xclip, clip...); return out == "" })
	s.part.Load(nil)
	s.until("without rules it passes", func() bool { out, _ := s.run("", s.xclip, clip...); return out == "guilty again" })
}

// Who pastes waits until it is known.
func TestLookedSlowly(t *testing.T) {
	s, a := lookedAt(t)
	s.rule(lookRules(fact.LookHold, true, 1))
	for text, want := range map[string]string{"harmless": "harmless", "guilty": ""} {
		gate := make(chan struct{})
		a.set(func() { a.gate = gate })
		x := s.talks(text)
		s.until("it is taken", func() bool { return x.has("lost") })
		got := make(chan string)
		go func() { out, _ := s.run("", s.xclip, clip...); got <- out }()
		x.say("paste")
		s.until("its own program does not wait", func() bool { return x.has("pasted " + text) })
		select {
		case out := <-got:
			t.Errorf("it does not wait, and pastes %q", out)
			continue
		case <-time.After(300 * time.Millisecond):
		}
		close(gate)
		if out := <-got; out != want {
			t.Errorf("%s: pasted %q", text, out)
		}
		if out, _ := s.run("", s.xclip, "-o", "-selection", "clipboard", "-t", "image/png"); (out != "") != (want != "") {
			t.Errorf("%s: pasted a picture %q", text, out)
		}
	}
	// Copied again and again: what is there last is what is looked into, and what is pasted.
	gate := make(chan struct{})
	a.set(func() { a.gate = gate })
	for i := range 20 {
		s.copies(fmt.Sprint("harmless ", i), s.xclip, "-i", "-quiet", "-selection", "clipboard")
	}
	before := a.count()
	close(gate)
	s.until("the last is pasted", func() bool { out, _ := s.run("", s.xclip, clip...); return out == "harmless 19" })
	s.until("it is looked into", func() bool { return a.last().Forms != nil && string(a.last().Forms[0].Data) == "harmless 19" })
	if n := a.count() - before; n > 4 {
		t.Errorf("%d are looked into after that", n)
	}
}

// What cannot be looked into in time passes, or not, as the rules say.
func TestLookedTooLate(t *testing.T) {
	s, a := lookedAt(t)
	a.set(func() { a.absent = true })
	for _, free := range []bool{true, false} {
		s.rule(lookRules(fact.LookHold, free, 1))
		want := ""
		if free {
			want = "a text"
		}
		begun := time.Now()
		s.copies("a text", s.xclip, "-i", "-quiet", "-selection", "clipboard")
		s.taken()
		if out, _ := s.run("", s.xclip, clip...); out != want {
			t.Errorf("%t: pasted %q", free, out)
		}
		t.Logf("%t: after %s", free, time.Since(begun).Round(time.Millisecond))
	}
	// An agent that starts anew meanwhile is asked again.
	s.rule(lookRules(fact.LookHold, false, 2))
	s.copies("another", s.xclip, "-i", "-quiet", "-selection", "clipboard")
	s.taken()
	time.AfterFunc(time.Second, func() { a.set(func() { a.absent = false }) })
	if out, err := s.run("", s.xclip, clip...); out != "another" || err != nil {
		t.Errorf("pasted %q, %v", out, err)
	}
}

// Below enforce mode it is looked into, and left where it is; what a password manager has copied is not read.
func TestLookedOnly(t *testing.T) {
	s, a := lookedAt(t)
	s.rule(lookRules(fact.LookRead, true, 1))
	x := s.talks("it is guilty")
	s.until("it is looked into", func() bool { return a.count() == 1 })
	s.rests()
	if out, err := s.run("", s.xclip, clip...); out != "it is guilty" || err != nil {
		t.Errorf("pasted %q, %v", out, err)
	}
	if x.has("lost") || x.has("asked image/png") {
		t.Error(x.all())
	}
	y := s.talks("guilty secret", "WARDER_TEST_SECRET=1")
	s.copies("harmless", s.xclip, "-i", "-quiet", "-selection", "clipboard")
	s.until("what comes after it is looked into", func() bool { return a.count() == 2 })
	if y.has("asked UTF8_STRING") || y.has("asked text/html") {
		t.Error(y.all())
	}
}

// Large things: the first 16 MiB are looked into, and what is harmless comes whole.
func TestLookedLarge(t *testing.T) {
	s, a := lookedAt(t)
	s.rule(lookRules(fact.LookHold, true, 1))
	line := "0123456789abcdef\n"
	for _, size := range []int{20 << 20, 40 << 20} {
		text := strings.Repeat(line, size/len(line))
		before := a.count()
		s.copies(text, s.xclip, "-i", "-quiet", "-selection", "clipboard")
		s.until("it is looked into", func() bool { return a.count() > before })
		total := 0
		for _, f := range a.last().Forms {
			total += len(f.Data)
		}
		if total != 16<<20 {
			t.Errorf("of %d bytes %d are looked into", len(text), total)
		}
		if out, err := s.run("", s.xclip, clip...); out != text || err != nil {
			t.Errorf("of %d bytes %d are pasted: %v", len(text), len(out), err)
		}
	}
	before := s.copied.Load()
	text := strings.Repeat(line, 40<<20/len(line)) + "guilty"
	s.copies("guilty"+text, s.xclip, "-i", "-quiet", "-selection", "clipboard")
	s.until("it is taken", func() bool { return s.copied.Load() >= before+2 })
	if out, _ := s.run("", s.xclip, clip...); out != "" {
		t.Errorf("%d bytes are pasted", len(out))
	}
}

// Beside zones: what passes the one is still looked into for the other.
func TestLookedWithZones(t *testing.T) {
	s, a := lookedAt(t)
	other := s.elsewhere()
	b, _ := json.Marshal(&byName{Work: []string{s.xclip}, Kept: []string{"work"}, Look: fact.LookHold, Late: true})
	s.rule(b)
	s.copies("harmless", s.xclip, "-i", "-quiet", "-selection", "clipboard")
	s.taken()
	s.until("it is looked into", func() bool { return a.count() == 1 })
	if out, err := s.run("", s.xclip, clip...); out != "harmless" || err != nil {
		t.Errorf("in its zone, pasted %q, %v", out, err)
	}
	if out, _ := s.run("", other, clip...); out != "" {
		t.Errorf("outside, pasted %q", out)
	}
	s.copies("guilty", s.xclip, "-i", "-quiet", "-selection", "clipboard")
	s.taken()
	if out, _ := s.run("", s.xclip, clip...); out != "" {
		t.Errorf("in its zone, pasted %q", out)
	}
	s.copies("harmless too", other, "-i", "-quiet", "-selection", "clipboard")
	s.until("what is not kept is looked into", func() bool { return a.count() == 3 })
	s.rests()
	if out, err := s.run("", s.xclip, clip...); out != "harmless too" || err != nil {
		t.Errorf("pasted %q, %v", out, err)
	}
}

// A program may be a picture only.
func TestNothingToLookInto(t *testing.T) {
	s, a := lookedAt(t)
	s.rule(lookRules(fact.LookHold, false, 1))
	s.copies("\x89PNG", s.xclip, "-i", "-quiet", "-selection", "clipboard", "-t", "image/png")
	s.rests()
	if out, err := s.run("", s.xclip, "-o", "-selection", "clipboard", "-t", "image/png"); out != "\x89PNG" || err != nil {
		t.Errorf("pasted %q, %v", out, err)
	}
	if a.count() != 0 {
		t.Errorf("%+v", a.last())
	}
}
