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

	"github.com/jezek/xgb/xfixes"
	"github.com/jezek/xgb/xproto"

	"github.com/warderd/warder/enforce/fact"
)

func init() {
	programsAt["several"] = several
	programsAt["forges"] = forges
}

// several has a text in several forms, says which it is asked for, and pastes in itself when it is told to.
func several() error {
	c, win, atom, err := client()
	if err != nil {
		return err
	}
	text, board := os.Getenv("WARDER_TEST_TEXT"), atom("CLIPBOARD")
	forms := map[string]string{"UTF8_STRING": text, "text/plain;charset=utf-8": text, "text/html": "<p>" + text + "</p>", "image/png": "\x89PNG", "application/x-whole": "whole", "x-own/secret": "own"}
	if os.Getenv("WARDER_TEST_MANY") != "" {
		delete(forms, "text/plain;charset=utf-8")
		delete(forms, "UTF8_STRING")
		delete(forms, "text/html")
		forms["TEXT"] = text
		for i := range 80 {
			forms[fmt.Sprint("text/x-", i)] = fmt.Sprint("harmless ", i)
		}
	}
	if rtf := os.Getenv("WARDER_TEST_RTF"); rtf != "" {
		forms["text/rtf"] = rtf
	}
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
			if n, wait, _ := strings.Cut(os.Getenv("WARDER_TEST_SLOW"), " "); n != "" && names[x.Target] == n {
				d, err := time.ParseDuration(wait)
				if err != nil {
					return err
				}
				fmt.Println("asked " + n)
				time.AfterFunc(d, func() {
					v := forms[n]
					xproto.ChangeProperty(c, xproto.PropModeReplace, x.Requestor, x.Property, x.Target, 8, uint32(len(v)), []byte(v))
					n := xproto.SelectionNotifyEvent{Time: x.Time, Requestor: x.Requestor, Selection: x.Selection, Target: x.Target, Property: x.Property}
					xproto.SendEvent(c, false, x.Requestor, 0, string(n.Bytes()))
				})
				continue
			}
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

// forges tells whoever has the clipboard that nobody has it.
func forges() error {
	c, _, atom, err := client()
	if err != nil {
		return err
	}
	board := atom("CLIPBOARD")
	o, err := xproto.GetSelectionOwner(c, board).Reply()
	if err != nil {
		return err
	}
	ext, err := xproto.QueryExtension(c, 6, "XFIXES").Reply()
	if err != nil {
		return err
	}
	e := (xfixes.SelectionNotifyEvent{Window: o.Owner, Selection: board}).Bytes()
	e[0] = ext.FirstEvent
	for range 200 {
		if err := xproto.SendEventChecked(c, false, o.Owner, 0, string(e)).Check(); err != nil {
			return err
		}
	}
	return nil
}

// agent stands for the agent: it refuses what has a word in it, and can be made to wait.
type agent struct {
	mu     sync.Mutex
	asked  []Copied
	word   string
	gate   chan struct{} // nil: it answers at once
	takes  time.Duration // so long before it answers
	absent bool
}

func (a *agent) look(ctx context.Context, c *Copied) (Judged, error) {
	a.mu.Lock()
	gate, absent, takes := a.gate, a.absent, a.takes
	a.mu.Unlock()
	time.Sleep(takes)
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

// lookedAt is a screen on which an agent is asked. A copy stays with its program for that long.
func lookedAt(t testing.TB, long time.Duration) (*screen, *agent) {
	t.Helper()
	before := patience
	patience = long
	t.Cleanup(func() { patience = before }) // once all has ended that reads it
	a := &agent{word: "guilty"}
	return screenWith(t, a.look), a
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
	s, a := lookedAt(t, time.Minute)
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

	s.copies("next", s.xclip, "-i", "-quiet", "-selection", "clipboard")
	s.rests()
	if out, err := s.run("", s.xclip, clip...); out != "next" || err != nil {
		t.Errorf("after that, pasted %q, %v", out, err)
	}
	// Among many forms, the one that everybody pastes is looked into.
	x = s.talks("guilty among many", "WARDER_TEST_MANY=1")
	s.until("it is taken", func() bool { return x.has("lost") })
	if out, _ := s.run("", s.xclip, "-o", "-selection", "clipboard", "-t", "TEXT"); out != "" {
		t.Errorf("pasted %q", out)
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
	s, a := lookedAt(t, takeWait)
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
	s.rests()
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
	s, a := lookedAt(t, takeWait)
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
	// That it does not answer is said, until it does, whether anything is copied or not.
	if said := s.said(); !said.Blind || said.Late != 2 || !said.Looks {
		t.Errorf("%+v", said)
	}
	a.set(func() { a.absent = false })
	s.until("it is known to answer", func() bool { return !s.said().Blind })
	a.set(func() { a.absent = true })
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
	s, a := lookedAt(t, time.Minute)
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
	s, a := lookedAt(t, time.Minute)
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
	s, a := lookedAt(t, time.Minute)
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
	s, a := lookedAt(t, time.Minute)
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

// A toolkit's programs: harmless text and pictures stay what they are, and a clipboard manager does not put back what was refused.
func TestLookedGTK(t *testing.T) {
	s, _ := lookedAt(t, time.Minute)
	real, other := s.python()
	s.rule(lookRules(fact.LookHold, true, 1))
	pastes := func(who string) string {
		out, err := s.run("", who, "-c", gtk, "paste", "")
		if err != nil {
			t.Errorf("%s: %v", who, err)
		}
		return strings.TrimSpace(out)
	}
	for what, want := range map[string]string{"text": "0 what is harmless", "picture": "800", "busy": "0 what is harmless"} {
		s.copies("", real, "-c", gtk, what, "what is harmless")
		s.until(what+" is pasted whole", func() bool { return pastes(other) == want })
	}
	s.shows(other, "refills", "")
	s.copies("", real, "-c", gtk, "text", "what is guilty")
	s.until("it is refused", func() bool { return pastes(other) == "0" })
	time.Sleep(time.Second)
	if got := pastes(other); got != "0" {
		t.Errorf("a second later: %q", got)
	}
}

// What is marked is looked into when its program loses the keyboard; harmless, it stays marked.
func TestLookedMark(t *testing.T) {
	needs(t, "xdotool")
	s, a := lookedAt(t, time.Minute)
	real, other := s.python()
	s.rule(lookRules(fact.LookHold, true, 1))
	paste := func(who string) string {
		out, _ := s.run("", who, "-c", gtk, "primary", "")
		return strings.TrimSpace(out)
	}
	focus := func(w string) {
		if _, err := s.run("", "xdotool", "windowfocus", w); err != nil {
			t.Fatal(err)
		}
	}
	beside := s.shows(other, "mark", "")
	elsewhere, _, _ := strings.Cut(beside(), " ")
	for text, want := range map[string]string{"what is harmless": "what is harmless", "what is guilty": ""} {
		marked := s.shows(real, "mark", text)
		window, _, _ := strings.Cut(marked(), " ")
		focus(window)
		before := a.count()
		if _, err := s.run("", "xdotool", "key", "ctrl+a"); err != nil {
			t.Fatal(err)
		}
		all := fmt.Sprintf("0, %d)", len(text))
		s.until("it is marked", func() bool {
			return strings.Contains(marked(), all) || strings.Contains(marked(), fmt.Sprintf("end=%d", len(text)))
		})
		before = max(before, a.count())
		focus(elsewhere)
		s.until("it is looked into", func() bool { return a.count() > before })
		s.until(text+" is pasted or not", func() bool { return paste(other) == want })
		if want != "" && !strings.Contains(marked(), fmt.Sprint(len(text))) {
			t.Errorf("the mark is gone: %s", marked())
		}
	}
}

// A form that takes its program long keeps nothing open: neither what is known to be guilty, nor what has not been looked into.
func TestLookedSlowForms(t *testing.T) {
	s, _ := lookedAt(t, 50*time.Millisecond)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	never := func(what string, x *talker) {
		t.Helper()
		for end := time.Now().Add(2 * time.Second); time.Now().Before(end); {
			if out, _ := s.run("", s.xclip, clip...); out != "" {
				t.Fatalf("%s: pasted %q; its program: %s", what, out, x.all())
			}
		}
	}
	// A picture that comes late, beside zones that let the paste pass.
	zones := func(by int) []byte {
		b, _ := json.Marshal(&byName{Work: []string{self, s.xclip}, Kept: []string{"work"}, Look: fact.LookHold, Late: true, By: by})
		return b
	}
	s.rule(zones(1))
	x := s.talks("it is guilty", "WARDER_TEST_SLOW=image/png 4s")
	s.until("it is taken", func() bool { return x.has("lost") })
	never("in its zone", x)
	// And one that is refused already, when other rules come.
	s.rule(lookRules(fact.LookHold, true, 2))
	x = s.talks("guilty, again", "WARDER_TEST_SLOW=image/png 6s")
	s.until("it is taken", func() bool { return x.has("lost") })
	s.rule(lookRules(fact.LookHold, true, 3))
	never("with other rules", x)
	// A text that comes late: what is there is looked into meanwhile.
	x = s.talks("guilty in plain", "WARDER_TEST_RTF=harmless", "WARDER_TEST_SLOW=text/rtf 20s")
	s.until("it is taken", func() bool { return x.has("lost") })
	never("a slow text", x)
	x = s.talks("harmless in plain", "WARDER_TEST_RTF=guilty", "WARDER_TEST_SLOW=text/rtf 3s")
	s.until("a text that comes late and is guilty has it taken", func() bool { return x.has("lost") })
	never("a late guilty text", x)
	x = s.talks("harmless in all", "WARDER_TEST_RTF=harmless", "WARDER_TEST_SLOW=text/rtf 3s")
	s.until("it is pasted", func() bool { out, _ := s.run("", s.xclip, clip...); return out == "harmless in all" })
	time.Sleep(4 * time.Second)
	if out, err := s.run("", s.xclip, clip...); out != "harmless in all" || err != nil {
		t.Errorf("pasted %q, %v; %s", out, err, x.all())
	}
}

// A question that hangs keeps no newer copy waiting, and what fills one selection leaves room to look into another.
func TestLookedBeside(t *testing.T) {
	s, a := lookedAt(t, takeWait)
	s.rule(lookRules(fact.LookHold, false, 1))
	gate := make(chan struct{})
	defer close(gate)
	a.set(func() { a.gate = gate })
	x := s.talks("harmless, but slow")
	s.until("it is taken", func() bool { return x.has("lost") })
	a.set(func() { a.gate = nil })
	begun := time.Now()
	s.copies("harmless", s.xclip, "-i", "-quiet", "-selection", "clipboard")
	s.until("the newer one is looked into", func() bool { return a.last().Forms != nil && string(a.last().Forms[0].Data) == "harmless" })
	if out, err := s.run("", s.xclip, clip...); out != "harmless" || err != nil {
		t.Errorf("pasted %q, %v", out, err)
	}
	t.Logf("after %s", time.Since(begun).Round(time.Millisecond))

	b, _ := json.Marshal(&byName{Work: []string{s.xclip}, Kept: []string{"work"}, Look: fact.LookHold, Late: true})
	s.rule(b)
	s.copies(strings.Repeat("0123456789abcde\n", 2<<20-1)+"01234567", s.xclip, "-i", "-quiet", "-selection", "clipboard")
	s.until("it is looked into", func() bool { return len(a.last().Forms) == 1 && len(a.last().Forms[0].Data) == lookHead })
	if out, err := s.run("", s.xclip, clip...); len(out) != 32<<20-8 || err != nil {
		t.Fatalf("%d bytes are held, %v", len(out), err)
	}
	y := s.elsewhere()
	s.copies("a long text, of which the end is guilty", y, "-i", "-quiet", "-selection", "primary")
	s.until("it is refused", func() bool { out, _ := s.run("", "xsel", "-p", "-o"); return out == "" })
}

// An agent that does not run is waited for, and not for as long where what is late is free; one that says never is not asked again.
func TestLookedAway(t *testing.T) {
	for why, free := range map[error]bool{ErrAway: true, ErrNever: false} {
		n := 0
		i := &inspector{ask: func(context.Context, *Copied) (Judged, error) { n++; return Judged{}, why }}
		ctx, cancel := context.WithTimeout(t.Context(), lookWait)
		out := i.question(ctx, &copied{free: free})
		if ctx.Err() != nil || !out.failed || (why == ErrNever) != (n == 1) {
			t.Errorf("%v: %+v, asked %d times, %v", why, out, n, ctx.Err())
		}
		cancel()
	}
}

// What anybody tells the helper of who owns something is not believed.
func TestLookedForged(t *testing.T) {
	s, a := lookedAt(t, takeWait)
	s.rule(lookRules(fact.LookHold, true, 1))
	gate := make(chan struct{})
	a.set(func() { a.gate = gate })
	x := s.talks("harmless")
	s.until("it is taken", func() bool { return x.has("lost") })
	close(gate)
	s.until("it passes", func() bool { out, _ := s.run("", s.xclip, clip...); return out == "harmless" })
	before := s.owner("CLIPBOARD")
	if out, err := s.begin("forges").Output(); err != nil {
		t.Fatalf("%s, %v", out, err)
	}
	if out, err := s.run("", s.xclip, clip...); out != "harmless" || err != nil || s.owner("CLIPBOARD") != before {
		t.Errorf("pasted %q, %v; owned by %s after %s", out, err, s.owner("CLIPBOARD"), before)
	}
}

// A text that comes while others are being asked about is looked into, too, wherever the copy is by then.
func TestLookedMeanwhile(t *testing.T) {
	for _, seized := range []bool{false, true} {
		long := 600 * time.Millisecond
		s, a := lookedAt(t, long)
		s.rule(lookRules(fact.LookHold, true, 1))
		gate := make(chan struct{})
		a.set(func() { a.gate = gate })
		x := s.talks("harmless in plain", "WARDER_TEST_RTF=guilty", "WARDER_TEST_SLOW=text/rtf 1s")
		s.until("all is asked for", func() bool { return x.has("asked text/rtf") })
		if seized {
			s.until("it is taken", func() bool { return x.has("lost") })
		} else {
			time.Sleep(1100 * time.Millisecond)
		}
		close(gate)
		s.until("it is taken", func() bool { return x.has("lost") })
		for range 20 {
			for _, kind := range []string{"UTF8_STRING", "text/rtf"} {
				if out, _ := s.run("", s.xclip, "-o", "-selection", "clipboard", "-t", kind); out != "" && a.count() > 1 {
					t.Fatalf("seized: %t, %s: pasted %q, asked %d times", seized, kind, out, a.count())
				}
			}
		}
		if a.count() < 2 {
			t.Errorf("seized: %t: asked %d times", seized, a.count())
		}
	}
}

// Nothing is due that has been.
func TestNothingDue(t *testing.T) {
	b := &board{busy: time.Now().Add(-time.Hour)}
	if at := b.next(); !at.IsZero() {
		t.Error(at)
	}
	b.busy = time.Now().Add(time.Hour)
	if at := b.next(); !at.Equal(b.busy) {
		t.Error(at)
	}
}
