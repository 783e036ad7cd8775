package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/warderd/warder/agent/localapi"
	"github.com/warderd/warder/agent/session"
	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/enforce/section"
	"github.com/warderd/warder/platform"
	"github.com/warderd/warder/platform/notify"
	"github.com/warderd/warder/platform/seat"
)

// hall is a set of helpers with a clock of its own, and the sessions 2 (of user 1000) and 3 (of user 1001).
func hall() (hs *helpers, later func(time.Duration)) {
	var mu sync.Mutex
	now := time.Now()
	hs = newHelpers(func() time.Time { mu.Lock(); defer mu.Unlock(); return now }, func() []seat.Login {
		return []seat.Login{{ID: "2", UID: 1000, User: "ann", Type: "wayland", Active: true}, {ID: "3", UID: 1001, User: "bob", Type: "x11", Active: true}}
	}, func() {})
	return hs, func(d time.Duration) { mu.Lock(); defer mu.Unlock(); now = now.Add(d) }
}

// asks has a helper ask, and returns what it is answered, when it is.
func (hs *helpers) asks(t *testing.T, uid uint32, id string, s session.State) (answer chan session.Answer, hangUp func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	answer = make(chan session.Answer, 1)
	go func() {
		a, _ := hs.turn(ctx, uid, id, session.Turn{State: s, Shown: []uint64{1, 2, 3, 4, 5}})
		answer <- a
	}()
	for range 30000 {
		hs.mu.Lock()
		h := hs.by[id]
		asks := h != nil && h.asks && h.uid == uid
		hs.mu.Unlock()
		if asks || len(answer) > 0 { // or it has been answered already
			return answer, cancel
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatal("it does not ask")
	return nil, nil
}

var shows = session.State{Shows: true, Type: "wayland"}

// People are told in their own session, and in no other; who cannot be told is not counted as told.
func TestTell(t *testing.T) {
	hs, later := hall()
	if told := hs.tell(session.Notice{Subject: "a"}, []uint32{1000}); told != nil {
		t.Errorf("without a helper: %v", told)
	}
	ann, _ := hs.asks(t, 1000, "2", shows)
	bob, _ := hs.asks(t, 1001, "3", shows)
	if told := hs.tell(session.Notice{Subject: "a"}, []uint32{1000}); !slices.Equal(told, []notify.Told{{UID: 1000, Where: "user 1000 in session 2"}}) {
		t.Errorf("%v", told)
	}
	if a := <-ann; len(a.Notices) != 1 || a.Notices[0].Subject != "a" || a.Notices[0].ID == 0 {
		t.Errorf("%+v", a)
	}
	if told := hs.tell(session.Notice{Subject: "b"}, nil); told != nil {
		t.Errorf("with nobody at the machine: %v", told)
	}
	// While it shows one, the next waits for it; then it hangs.
	if told := hs.tell(session.Notice{Subject: "c"}, []uint32{1000, 1001}); len(told) != 2 {
		t.Errorf("%v", told)
	}
	if a := <-bob; len(a.Notices) != 1 || a.Notices[0].Subject != "c" {
		t.Errorf("%+v", a)
	}
	later(turnRest)
	if told := hs.tell(session.Notice{Subject: "d"}, []uint32{1000}); told != nil {
		t.Errorf("a helper that hangs: %v", told)
	}
	// One that is killed is gone at once.
	bob, hangUp := hs.asks(t, 1001, "3", shows)
	hangUp()
	<-bob
	if told := hs.tell(session.Notice{Subject: "e"}, []uint32{1001}); told != nil {
		t.Errorf("a helper that was killed: %v", told)
	}
	// One that can show nothing is not told; what it says is bounded.
	if a := hs.asksOnce(t, "2", session.Turn{Shown: []uint64{2}, State: session.State{Why: "no \x1b[31mbus" + strings.Repeat("x", 1000)}}); len(a.Notices) != 1 {
		t.Errorf("%+v", a)
	}
	if told := hs.tell(session.Notice{Subject: "f"}, []uint32{1000}); told != nil {
		t.Errorf("%v", told)
	}
	for said, is := range map[string]string{"locked": "locked", "unlocked": "unlocked", "": "", "open\x1b": ""} {
		_ = hs.asksOnce(t, "2", session.Turn{State: session.State{Lock: said}})
		if got := hs.sessions(true, 0)[0].Lock; got != is {
			t.Errorf("the lock is %q, and it says %q", got, said)
		}
	}
	_ = hs.asksOnce(t, "2", session.Turn{State: session.State{Why: "no \x1b[31mbus" + strings.Repeat("x", 1000)}})
	list := hs.sessions(true, 0)
	if len(list) != 2 || !list[0].Helper || list[0].Shows || strings.Contains(list[0].Why, "\x1b") || len(list[0].Why) > maxSaid+3 || list[1].Helper || list[1].Why != noHelper {
		t.Errorf("%+v", list)
	}
	if list := hs.sessions(false, 1001); len(list) != 1 || list[0].ID != "3" {
		t.Errorf("bob sees %+v", list)
	}
}

// asksOnce has ann's helper ask when it is answered at once.
func (hs *helpers) asksOnce(t *testing.T, id string, turn session.Turn) session.Answer {
	t.Helper()
	a, err := hs.turn(t.Context(), 1000, id, turn)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// Who is not in front of the screen is not told, whoever runs there; nor by a session of theirs that is elsewhere.
func TestTellFront(t *testing.T) {
	hs, _ := hall()
	front := hs.logins()
	front[1].Active = false
	front = append(front, seat.Login{ID: "9", UID: 1000, User: "ann", Type: "x11"})
	hs.logins = func() []seat.Login { return front }
	_, _ = hs.asks(t, 1001, "3", shows)
	_, _ = hs.asks(t, 1000, "9", shows)
	if told := hs.tell(session.Notice{}, []uint32{1000, 1001}); told != nil {
		t.Errorf("%v", told)
	}
}

// What a helper was given and does not name comes again: it was killed with it, or the answer was lost. Not for ever.
func TestGivenAgain(t *testing.T) {
	hs, later := hall()
	given := func(turn session.Turn) (out string) {
		t.Helper()
		hs.tell(session.Notice{Subject: "new"}, []uint32{1000}) // so that it is answered at once
		for _, n := range hs.asksOnce(t, "2", turn).Notices {
			out += fmt.Sprint(n.ID, " ")
		}
		return out
	}
	ann, _ := hs.asks(t, 1000, "2", shows)
	hs.tell(session.Notice{Subject: "a"}, []uint32{1000})
	if a := <-ann; len(a.Notices) != 1 || a.Notices[0].ID != 1 {
		t.Fatalf("%+v", a)
	}
	if got := given(session.Turn{State: shows}); got != "1 2 " {
		t.Error("nothing named: ", got)
	}
	if got := given(session.Turn{State: shows, Shown: []uint64{1}}); got != "2 3 " {
		t.Error("one named: ", got)
	}
	if got := given(session.Turn{State: shows, Shown: []uint64{2}, Failed: []uint64{3, 77}}); got != "4 " || hs.by["2"].failed != 1 {
		t.Error("all named: ", got, hs.by["2"].failed)
	}
	later(turnRest / 2)
	hs.by["2"].at = hs.now()
	later(noticeGood)
	hs.by["2"].at = hs.now()
	if got := given(session.Turn{State: shows}); got != "5 " {
		t.Error("a minute later: ", got)
	}
}

// A helper says nothing about another user's session, however it got there.
func TestLiar(t *testing.T) {
	hs, _ := hall()
	ann, _ := hs.asks(t, 1000, "2", shows)
	_, _ = hs.asks(t, 1001, "2", session.State{Shows: true, Desktop: "mine"}) // a number that is used again
	if told := hs.tell(session.Notice{}, []uint32{1000}); told != nil {
		t.Errorf("%v", told)
	}
	for _, s := range hs.sessions(true, 0) {
		if s.ID == "2" && (s.Helper || s.Desktop != "") {
			t.Errorf("%+v", s)
		}
	}
	select {
	case a := <-ann:
		t.Errorf("%+v", a)
	default:
	}
}

// Only the helper of a session is answered what its parts ask, and for that session.
func TestHelperAsks(t *testing.T) {
	hs, later := hall()
	var about []platform.Desk
	hs.Answer("board", func(_ context.Context, d platform.Desk, kind string, body io.Reader) (any, error) {
		about = append(about, d)
		if kind == "wrong" {
			return nil, fmt.Errorf("so wrong: %w", platform.ErrQuestion)
		}
		b, err := io.ReadAll(body)
		return kind + " " + string(b), err
	})
	ask := func(uid uint32, id, run, part string) string {
		v, err := hs.ask(t.Context(), uid, id, run, part, "a/b", strings.NewReader("what"))
		if err != nil {
			return err.Error()
		}
		return v.(string)
	}
	if got := ask(1001, "3", "r1", "board"); got != errNotHelper.Message {
		t.Error("before its first turn: ", got)
	}
	_, _, err := hs.asked(1001, "3", &session.Turn{State: shows, Said: session.Said{Run: "r1", Seq: 1}})
	if err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string][2]string{
		"its own":          {ask(1001, "3", "r1", "board"), "a/b what"},
		"another name":     {ask(1001, "3", "r2", "board"), errNotHelper.Message},
		"no name":          {ask(1001, "3", "", "board"), errNotHelper.Message},
		"another user":     {ask(1000, "3", "r1", "board"), errNotHelper.Message},
		"another session":  {ask(1001, "2", "r1", "board"), errNotHelper.Message},
		"nothing of that":  {ask(1001, "3", "r1", "b\x1b"+strings.Repeat("x", 1000)), "nothing of a session is called"},
		"an empty session": {ask(1001, "", "r1", "board"), errNotHelper.Message},
	} {
		if !strings.HasPrefix(c[0], c[1]) || len(c[0]) > 300 || strings.Contains(c[0], "\x1b") {
			t.Errorf("%s: %q", what, c[0])
		}
	}
	var e *localapi.Error
	if _, err := hs.ask(t.Context(), 1001, "3", "r1", "board", "wrong", strings.NewReader("")); !errors.As(err, &e) || e.Status != 400 {
		t.Errorf("a wrong question: %v", err)
	}
	if about = about[:1]; about[0].ID != "3" || about[0].UID != 1001 || about[0].Type != "x11" {
		t.Errorf("%+v", about)
	}
	hs.mu.Lock()
	hs.by["3"].asks = false
	hs.mu.Unlock()
	later(turnRest)
	if got := ask(1001, "3", "r1", "board"); got != errNotHelper.Message {
		t.Error("when it hangs: ", got)
	}
}

// Neither sessions nor notices grow without bound.
func TestHelperBounds(t *testing.T) {
	hs, later := hall()
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for i := range 3 * maxHelpers {
		_, _ = hs.turn(gone, 1000, fmt.Sprint("c", i), session.Turn{State: shows})
	}
	if len(hs.by) > maxHelpers {
		t.Errorf("%d helpers", len(hs.by))
	}
	a, _ := hs.asks(t, 1000, "2", shows)
	hs.tell(session.Notice{}, []uint32{1000})
	<-a
	told := 0
	for range 3 * maxNotices {
		told += len(hs.tell(session.Notice{}, []uint32{1000}))
	}
	if told != maxNotices {
		t.Errorf("%d notices wait", told)
	}
	came := 0
	hs.came = func() { came++ }
	for range 10 { // one that comes and goes
		_, _ = hs.turn(gone, 1000, "3", session.Turn{State: shows})
	}
	if came != 1 {
		t.Errorf("it came %d times", came)
	}
	if x := hs.asksOnce(t, "2", session.Turn{State: shows, Shown: []uint64{1}}); len(x.Notices) != maxNotices {
		t.Errorf("%d", len(x.Notices))
	}
	later(time.Hour)
	if told := hs.tell(session.Notice{}, []uint32{1000}); told != nil {
		t.Errorf("an hour later: %v", told)
	}
}

// A session that is told nothing is a warning once it has had time to start its helper.
func TestUntold(t *testing.T) {
	hs, later := hall()
	if why := hs.untold(); why != "" {
		t.Errorf("just logged in: %s", why)
	}
	later(muteFor)
	if why := hs.untold(); why != "session 2: "+noHelper {
		t.Error(why)
	}
	_, _ = hs.asks(t, 1000, "2", shows)
	if why := hs.untold(); why != "session 3: "+noHelper {
		t.Error(why)
	}
	hs.logins = func() []seat.Login { return nil }
	if why := hs.untold(); why != "" || len(hs.mute) != 0 {
		t.Errorf("a machine without a desktop: %s", why)
	}
}

// In warn mode people are told of what lasts, too: once, and again only after an hour.
func TestWarn(t *testing.T) {
	l := newLab(t)
	l.logins = func() []seat.Login {
		return []seat.Login{{ID: "2", UID: 1000, Active: true}, {ID: "3", UID: 1001, Active: true}}
	}
	l.sections = []section.Section{{Name: "storage", Settings: policy.Section("storage"), Decide: func(c *section.Case) (out section.Outcome) {
		for _, s := range c.Document.Managed("storage") {
			out.Findings = append(out.Findings, enforce.Finding{Setting: s, Mode: c.Document.Mode(s), Compliance: enforce.Noncompliant, Enforcement: enforce.Observed,
				Reason: "vda1 is not encrypted"})
		}
		return out
	}, Single: func(s enforce.Setting) bool { return s == "storage.cloud_sync_allowed" }}}
	l.start()
	defer l.stop()
	l.sits(1000)
	l.enroll()
	answer, _ := l.agent.helpers.asks(t, 1000, "2", shows)
	l.admin("PUT", "/policies/policy-default", `{"compliance":"warn","policy_data":{"storage":{"encryption_required":true,"cloud_sync_allowed":false}}}`)
	select {
	case a := <-answer:
		if len(a.Notices) != 1 || a.Notices[0].Setting != "storage.encryption_required" || a.Notices[0].Subject != "" {
			t.Errorf("%+v", a)
		}
	case <-time.After(30 * time.Second):
		t.Fatalf("nobody is told: %+v", l.status().Findings)
	}
	var list []enforce.Event
	l.until("it is recorded", func(Status) bool { list = l.events("warned"); return len(list) > 0 })
	if len(list) != 1 || list[0].Told != "user 1000 in session 2" || list[0].Mode != enforce.Warn || list[0].Setting != "storage.encryption_required" {
		t.Errorf("%+v", list)
	}
	// Somebody who logs in later is told, too.
	l.sits(1001)
	answer, _ = l.agent.helpers.asks(t, 1001, "3", shows)
	select {
	case a := <-answer:
		if len(a.Notices) != 1 || a.Notices[0].Setting != "storage.encryption_required" {
			t.Errorf("%+v", a)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("who comes later is not told")
	}
	l.until("that is recorded, too", func(Status) bool { list = l.events("warned"); return len(list) > 1 })
	if len(list) != 2 || !slices.ContainsFunc(list, func(e enforce.Event) bool { return e.Told == "user 1001 in session 3" }) {
		t.Errorf("%+v", list)
	}
}

// told is a set of notices with a clock, and people of whom 1002 cannot be told.
type told struct {
	*notices
	at    time.Time
	users []uint32
	shown []uint32
	text  string // on terminals
}

func newTold() *told {
	x := &told{at: time.Now(), users: []uint32{1000}}
	x.notices = newNotices(&Options{Now: func() time.Time { return x.at }, Seat: func() []uint32 { return x.users },
		Tell: func(text string, _ []uint32) []notify.Told { x.text = text; return nil }},
		func(_ session.Notice, to []uint32) (out []notify.Told) {
			for _, uid := range to {
				if uid != 1002 {
					out, x.shown = append(out, notify.Told{UID: uid, Where: fmt.Sprint(uid)}), append(x.shown, uid)
				}
			}
			return out
		})
	return x
}

// What lasts is told once as long as it lasts, to each who can be told; what ends and comes back, after an hour.
func TestWarnLasts(t *testing.T) {
	x := newTold()
	begun := x.at
	var list []enforce.Event
	j := &journal{now: x.now, seat: x.seat, notices: x.notices, untold: map[enforce.Setting]time.Time{}, health: newHealth(time.Now),
		store: eventsOnly(func(e enforce.Event) { list = append(list, e) }), report: func() {}}
	f := enforce.Finding{Setting: "storage.encryption_required", Mode: enforce.Warn}
	for i, step := range []struct {
		after, since time.Duration
		users, shown []uint32
		events       int
	}{{0, 0, []uint32{1000}, []uint32{1000}, 1}, {time.Minute, 0, []uint32{1000}, nil, 1}, {3 * time.Hour, 0, []uint32{1000}, nil, 1},
		{0, 0, []uint32{1000, 1001}, []uint32{1001}, 2}, {0, 0, []uint32{1002}, nil, 3}, {2 * time.Hour, 0, []uint32{1002}, nil, 3}, {0, 0, nil, nil, 3},
		{0, 4 * time.Hour, []uint32{1000, 1001}, []uint32{1000, 1001}, 4}, {time.Minute, 5 * time.Hour, []uint32{1000}, nil, 4}} {
		x.at, x.users, x.shown, f.Since = x.at.Add(step.after), step.users, nil, begun.Add(step.since)
		j.warn(&f)
		if !slices.Equal(x.shown, step.shown) || len(list) != step.events {
			t.Errorf("%d: shown to %v, %d events", i, x.shown, len(list))
		}
	}
}

// Whose file was taken away is told so, in enforce mode too; of what is refused there otherwise nobody is.
func TestTakenIsTold(t *testing.T) {
	x := newTold()
	x.users = []uint32{1000}
	var list []enforce.Event
	j := &journal{now: x.now, seat: x.seat, notices: x.notices, store: eventsOnly(func(e enforce.Event) { list = append(list, e) }), report: func() {}, health: newHealth(time.Now)}
	for i, taken := range []bool{false, true} {
		j.write(&platform.Decision{Section: "dlp", Key: enforce.Key{Kind: "outgoing.file", ID: fmt.Sprint(i)}, Subject: "a file on a stick", Taken: taken,
			Verdict: enforce.Verdict{Rule: enforce.Rule{Setting: "dlp.patterns", Line: 11}}, Reason: func() (string, string) { return "it has a card", "" }})
	}
	if len(list) != 2 || list[0].Told != "" || list[1].Told != "1000" || len(x.shown) != 1 {
		t.Errorf("%+v %v", list, x.shown)
	}
}

// A thing is told once an hour to each; nobody counts as told who was not; and nobody is flooded.
func TestNotices(t *testing.T) {
	x := newTold()
	for i, step := range []struct {
		after   time.Duration
		subject string
		users   []uint32
		told    string
	}{{0, "a stick", []uint32{1002}, toldNobody}, {0, "a stick", []uint32{1000}, "1000"}, {time.Minute, "a stick", []uint32{1000}, toldBefore}, {0, "another", []uint32{1000}, "1000"},
		{0, "a stick", []uint32{1000, 1001}, "1001"}, {0, "a stick", nil, toldNobody}, {time.Hour, "a stick", []uint32{1000}, "1000"}} {
		x.at, x.users = x.at.Add(step.after), step.users
		if got := x.about("usb.allowed", step.subject, "why"); got != step.told {
			t.Errorf("%d: %q, not %q", i, got, step.told)
		}
	}
	x.at, x.shown = x.at.Add(time.Hour), nil
	for i := range 3 * maxTold {
		x.about("network.blocked_domains", fmt.Sprint("name ", i), "why")
	}
	if len(x.shown) != bucketSize || len(x.told) > maxTold {
		t.Errorf("%d are shown, and %d remembered", len(x.shown), len(x.told))
	}
	x.at = x.at.Add(bucketTime)
	if got := x.about("network.blocked_domains", "one more", "why"); got != "1000" {
		t.Errorf("a minute later: %s", got)
	}
	if got := x.about("network.blocked_domains", "and another", "why"); got != toldEnough {
		t.Errorf("then: %s", got)
	}
	// What goes to a terminal has nothing in it that a terminal would obey.
	x.at = x.at.Add(time.Hour)
	x.about("network.blocked_domains", "\x1b]0;x\x07\r\nWarder: call us"+strings.Repeat("x", 5000), "https://ann:secret@example.com")
	if strings.ContainsAny(x.text, "\x1b\x07\r\n") || strings.Contains(x.text, "secret") || len(x.text) > maxSubject+3 {
		t.Errorf("%q", x.text)
	}
}

// eventsOnly is a store of events alone.
type eventsOnly func(enforce.Event)

func (f eventsOnly) Append(e enforce.Event) (uint64, error) { f(e); return 1, nil }
func (eventsOnly) Fold() error                              { return nil }
func (eventsOnly) Seen(string, string, string) bool         { return false }
func (eventsOnly) Remember(string, string, string)          {}
