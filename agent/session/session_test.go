package session

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
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
