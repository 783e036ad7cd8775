package session

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/warderd/warder/agent/localapi"
	"github.com/warderd/warder/enforce/policy"
)

// Every setting has words in every language, and no two languages the same.
func TestWords(t *testing.T) {
	known := 0
	for _, name := range policy.Sections() {
		for _, s := range policy.Section(name) {
			known++
			seen := map[string]string{}
			for code, w := range languages {
				title, body := w.Notice(Notice{Setting: s.Name, Subject: "a thing"})
				if w.rules[s.Name] == "" || title == "" || !strings.Contains(body, w.about+"a thing") || !strings.HasSuffix(body, w.free) {
					t.Errorf("%s in %s: %q %q", s.Name, code, title, body)
				}
				if other := seen[body]; other != "" {
					t.Errorf("%s: %s says it as %s does", s.Name, code, other)
				}
				seen[body] = code
			}
		}
	}
	for code, w := range languages {
		if len(w.rules) != known {
			t.Errorf("%s has words for %d settings, of %d", code, len(w.rules), known)
		}
		if _, body := w.Notice(Notice{Setting: "new.setting"}); !strings.Contains(body, "new.setting") || strings.Contains(body, w.about) {
			t.Errorf("%s, a setting of a newer agent: %q", code, body)
		}
	}
}

func TestLanguage(t *testing.T) {
	for locale, want := range map[string]string{"": "en", "C": "en", "POSIX": "en", "en_GB.UTF-8": "en", "de": "de", "de_AT.UTF-8": "de", "de_DE@euro": "de",
		"DE": "de", "fr_FR.UTF-8": "en", "den": "en"} {
		if got := Language(locale); got.title != languages[want].title {
			t.Errorf("%q: %q", locale, got.title)
		}
	}
	env := func(m map[string]string) func(string) string { return func(k string) string { return m[k] } }
	for want, m := range map[string]map[string]string{"de": {"LANG": "de"}, "fr": {"LANG": "de", "LC_MESSAGES": "fr"}, "it": {"LANG": "de", "LC_MESSAGES": "fr", "LC_ALL": "it"}, "": {}} {
		if got := Locale(env(m)); got != want {
			t.Errorf("%v: %q", m, got)
		}
	}
}

// script answers a helper's turns one after another.
type script struct {
	turns   []Turn
	answers []any // Answer or error
	end     func()
}

func (s *script) Do(_ context.Context, method, path string, in, out any) error {
	if method != "POST" || path != Path {
		return errors.New(method + " " + path)
	}
	s.turns = append(s.turns, in.(Turn))
	if len(s.turns) > len(s.answers) {
		s.end()
		return context.Canceled
	}
	switch x := s.answers[len(s.turns)-1].(type) {
	case Answer:
		if x.Version == "" {
			x.Version = "1"
		}
		*out.(*Answer) = x
		return nil
	case error:
		return x
	}
	panic("no answer")
}

func (s *script) Upload(_ context.Context, path string, header http.Header, body io.Reader, out any) error {
	b, err := io.ReadAll(body)
	if err == nil {
		err = json.Unmarshal([]byte(fmt.Sprintf("%q", path+" "+header.Get(RunHeader)+" "+header.Get("Content-Type")+" "+string(b))), out)
	}
	return err
}

// What a part asks goes to its own path, with the helper's name.
func TestAsk(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s := &script{end: cancel}
	h := Helper{Agent: s, Desktop: &screen{}, Words: Language("en"), Pause: time.Millisecond}
	if err := h.Run(ctx); err != nil {
		t.Error(err)
	}
	var out string
	if err := h.Ask(t.Context(), "board", "a/b", strings.NewReader("what"), &out); err != nil || out != Path+"/board "+h.parts.run+" a/b what" || h.parts.run == "" {
		t.Errorf("%q, %v", out, err)
	}
}

// screen is a desktop.
type screen struct {
	shown []string
	why   error
}

func (s *screen) Ready(context.Context) error { return s.why }

func (s *screen) Show(_ context.Context, _, body string) error {
	if strings.Contains(body, "broken") {
		return errors.New("broken")
	}
	s.shown = append(s.shown, strings.Split(body, "\n")[1])
	return nil
}

// What is shown is acknowledged, also over an agent that is started anew in between; what could not be shown is told.
func TestRun(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s := &script{end: cancel, answers: []any{Answer{Notices: []Notice{{1, "usb.allowed", "one"}, {2, "usb.allowed", "broken"}}}, localapi.ErrNoAgent,
		Answer{}, Answer{Notices: []Notice{{3, "usb.allowed", "three"}}}}}
	d := &screen{}
	h := Helper{Agent: s, Desktop: d, Words: Language("en"), State: State{Version: "1", Type: "x11"}, Pause: time.Millisecond}
	if err := h.Run(ctx); err != nil {
		t.Error(err)
	}
	if !slices.Equal(d.shown, []string{"This is about: one", "This is about: three"}) {
		t.Errorf("%q", d.shown)
	}
	if len(s.turns) != 5 {
		t.Fatalf("%d turns", len(s.turns))
	}
	for i, want := range []struct{ shown, failed []uint64 }{{}, {[]uint64{1}, []uint64{2}}, {[]uint64{1}, []uint64{2}}, {}, {[]uint64{3}, nil}} {
		if got := s.turns[i]; !slices.Equal(got.Shown, want.shown) || !slices.Equal(got.Failed, want.failed) || !got.State.Shows || got.State.Type != "x11" {
			t.Errorf("turn %d: %+v", i, got)
		}
	}
}

// Where nothing shows notices, the agent is told, and why; a session that has a helper needs no other.
func TestRunTaken(t *testing.T) {
	s := &script{answers: []any{Answer{}, &localapi.Error{Status: 429, Message: "taken"}}}
	h := Helper{Agent: s, Desktop: &screen{why: errors.New("nothing shows notices")}, Words: Language("de"), State: State{Version: "1"}}
	if err := h.Run(t.Context()); !errors.Is(err, ErrTaken) {
		t.Error(err)
	}
	if st := s.turns[0].State; st.Shows || st.Why != "nothing shows notices" {
		t.Errorf("%+v", st)
	}
}

// After an upgrade it ends, so that the new one is started; what came with that answer is shown before. Uninstalled, it ends for good.
func TestRunEnds(t *testing.T) {
	d := &screen{}
	h := Helper{Agent: &script{answers: []any{Answer{Version: "2", Notices: []Notice{{1, "usb.allowed", "one"}}}}}, Desktop: d, Words: Language("en"), State: State{Version: "1"}}
	if err := h.Run(t.Context()); !errors.Is(err, ErrOutdated) || len(d.shown) != 1 {
		t.Errorf("%v %q", err, d.shown)
	}
	h.Agent, h.Removed = &script{answers: []any{localapi.ErrNoAgent}}, func() bool { return true }
	if err := h.Run(t.Context()); err != nil {
		t.Error(err)
	}
}

// A session that the agent does not know is over; one that begins may not be known yet.
func TestRunOver(t *testing.T) {
	no := &localapi.Error{Status: 403, Message: "no session"}
	h := Helper{Agent: &script{answers: []any{no, no, Answer{}, no, no, no}}, Desktop: &screen{}, Words: Language("en"), State: State{Version: "1"}}
	if err := h.Run(t.Context()); !errors.Is(err, ErrOver) {
		t.Error(err)
	}
}

// desk is a part that says what it was given.
type desk struct {
	mu      sync.Mutex
	rules   string
	changed func()
	running bool
}

func (d *desk) Run(ctx context.Context, changed func()) {
	d.mu.Lock()
	d.changed, d.running = changed, true
	d.mu.Unlock()
	changed()
	<-ctx.Done()
	d.mu.Lock()
	d.running = false
	d.mu.Unlock()
}

func (d *desk) Load(rules json.RawMessage) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.rules = string(rules)
	if d.changed != nil {
		d.changed()
	}
}

func (d *desk) State() json.RawMessage {
	d.mu.Lock()
	defer d.mu.Unlock()
	return json.RawMessage(`"has ` + strings.Trim(d.rules, `"`) + `"`)
}

// hall is an agent that answers turns one after another, and keeps what is said in between.
type hall struct {
	script
	mu   sync.Mutex
	said []Said
	next chan struct{}
}

func (h *hall) Do(ctx context.Context, method, path string, in, out any) error {
	if method == "PUT" && path == Path {
		h.mu.Lock()
		h.said = append(h.said, in.(Said))
		h.mu.Unlock()
		return nil
	}
	select {
	case <-h.next:
	case <-ctx.Done():
		return ctx.Err()
	}
	return h.script.Do(ctx, method, path, in, out)
}

func (h *hall) last() (s Said) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.said) > 0 {
		s = h.said[len(h.said)-1]
	}
	return s
}

// Parts have the rules that the agent gives, say what has changed between two turns, lose their rules when the agent is away for
// long, and end with the helper.
func TestParts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		d := &desk{}
		away := localapi.ErrNoAgent
		a := &hall{next: make(chan struct{}), script: script{end: cancel, answers: []any{
			Answer{Given: "g1", Rules: map[string]json.RawMessage{"desk": json.RawMessage(`"one"`), "other": json.RawMessage(`"x"`)}},
			Answer{Given: "g1"}, Answer{Given: "g2", Rules: map[string]json.RawMessage{}}, Answer{Given: "g3", Rules: map[string]json.RawMessage{"desk": json.RawMessage(`"three"`)}},
			away, away, away, away, away, away, away, away, away, away,
		}}}
		h := Helper{Agent: a, Desktop: &screen{}, Words: Language("en"), State: State{Version: "1"}, Pause: time.Second, Parts: map[string]Part{"desk": d}}
		done := make(chan error, 1)
		go func() { done <- h.Run(ctx) }()
		said := func(given, part string) {
			t.Helper()
			synctest.Wait()
			time.Sleep(sayRest)
			synctest.Wait()
			if s := a.last(); s.Given != given || string(s.Parts["desk"]) != part || s.Run == "" {
				t.Errorf("%+v, want %s %s", s, given, part)
			}
		}
		a.next <- struct{}{}
		said("g1", `"has one"`)
		a.next <- struct{}{}
		said("g1", `"has one"`)
		a.next <- struct{}{}
		said("g2", `"has "`)
		a.next <- struct{}{}
		said("g3", `"has three"`)
		before := len(a.said)
		for range 100 { // however often it changes, it is said once a second
			d.Load(json.RawMessage(`"three"`))
		}
		said("g3", `"has three"`)
		if n := len(a.said) - before; n > 2 {
			t.Errorf("it is said %d times", n)
		}
		time.Sleep(10 * time.Minute) // however long it waits for an answer
		for range 4 {                // 1 + 2 + 4 + 8 s
			a.next <- struct{}{}
		}
		said("g3", `"has three"`)
		for range 5 { // 16 + 32 + 60 + 60 s
			a.next <- struct{}{}
		}
		synctest.Wait()
		if d.State(); d.rules != "" {
			t.Errorf("without an agent it still has %s", d.rules)
		}
		seq, turn := uint64(0), 0
		for i, x := range a.turns {
			if x.Seq <= seq || x.Run != h.parts.run {
				t.Errorf("turn %d: %d after %d", i, x.Seq, seq)
			}
			seq, turn = x.Seq, i
		}
		if turn < 10 {
			t.Errorf("%d turns", turn)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if d.running {
			t.Error("a part outlives its helper")
		}
	})
}
