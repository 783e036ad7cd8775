package dlp

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/enforce/section"
)

const (
	someZones   = `"zones":{"work":{"users":["svc"],"slices":["work.slice","app-mail-*.scope"],"executables":["/usr/bin/office","/opt/crm@sha256:AB` + "cd" + `"]},"personal":{"users":["guest"],"slices":["work-not.slice"],"executables":["/usr/bin/game"]}}`
	noSharing   = `{"dlp":{"clipboard_sharing":false}}`
	zoned       = `{"dlp":{"clipboard_sharing":false,` + someZones + `}}`
	outOfWork   = `{"dlp":{"clipboard_direction":"personal_to_work",` + someZones + `}}`
	intoWork    = `{"dlp":{"clipboard_direction":"work_to_personal",` + someZones + `}}`
	unzoned     = `{"dlp":{"clipboard_direction":"personal_to_work"}}`
	both        = `{"dlp":{"clipboard_direction":"both","clipboard_sharing":true,` + someZones + `}}`
	noneNoZones = `{"dlp":{"clipboard_direction":"none"}}`
)

func desks(list ...fact.Session) *fact.Machine {
	m := &fact.Machine{Capable: map[string]fact.Capability{}, Sessions: fact.Is(list)}
	for _, s := range []enforce.Setting{settingSharing, settingDirection, settingZones} {
		m.Capable[string(s)] = fact.Capability{Level: fact.Partial, Limit: "a moment"}
	}
	return m
}

var kept, noHelper, wayland = fact.Session{ID: "2", Type: "x11", Clipboard: true}, fact.Session{ID: "3", Type: "x11", Why: "its helper does not run"},
	fact.Session{ID: "4", Type: "wayland", Never: true, Why: "Wayland does not tell"}

// What is found in each mode, of each state that sessions can be in.
func TestClipboard(t *testing.T) {
	for _, c := range []struct {
		what, policy string
		mode         enforce.Mode
		except       string
		m            *fact.Machine
		setting      enforce.Setting
		compliance   enforce.Compliance
		enforcement  enforce.Enforcement
		reason       string
		rules        bool
	}{
		{"kept", zoned, enforce.Enforce, "", desks(kept), settingSharing, enforce.Compliant, enforce.Partial, "kept in 1 session(s); partial: a moment", true},
		{"without zones", noSharing, enforce.Enforce, "", desks(kept), settingSharing, enforce.Compliant, enforce.Partial, "kept in 1 session(s), apart from other users; partial: a moment", true},
		{"wayland without zones", noSharing, enforce.Enforce, "", desks(fact.Session{ID: "4", Type: "wayland", Clipboard: true}), settingSharing, enforce.Compliant, enforce.Enforced, "kept in 1 session(s), apart from other users; enforced, with a limit: root's programs", true},
		{"wayland without zones, beside X11", noSharing, enforce.Enforce, "", desks(kept, fact.Session{ID: "4", Type: "wayland", Clipboard: true}), settingSharing, enforce.Compliant, enforce.Partial, "kept in 2 session(s), apart from other users; partial: a moment", true},
		{"wayland without zones, open", noSharing, enforce.Enforce, "", desks(fact.Session{ID: "4", Type: "wayland", Why: "others can reach it"}), settingSharing, enforce.Uncertain, enforce.NotEnforced, "session 4 (wayland): others can reach it", true},
		{"no desktop", zoned, enforce.Enforce, "", desks(), settingSharing, enforce.Compliant, enforce.Enforced, "no desktop session", true},
		{"no helper", zoned, enforce.Enforce, "", desks(kept, noHelper), settingSharing, enforce.Uncertain, enforce.NotEnforced, "session 3 (x11): its helper does not run", true},
		{"wayland", zoned, enforce.Enforce, "", desks(noHelper, wayland, kept), settingSharing, enforce.Uncertain, enforce.Unsupported, "session 4 (wayland): Wayland does not tell", true},
		{"nothing said yet", zoned, enforce.Enforce, "", desks(fact.Session{ID: "5", Type: "x11"}), settingSharing, enforce.Uncertain, enforce.NotEnforced, "session 5 (x11): not kept", true},
		{"unknown", zoned, enforce.Enforce, "", func() *fact.Machine { m := desks(); m.Sessions = fact.Unread[[]fact.Session]("no logind"); return m }(), settingSharing, enforce.Uncertain, enforce.NotEnforced, "no logind", true},
		{"warn", zoned, enforce.Warn, "", desks(noHelper), settingSharing, enforce.Noncompliant, enforce.Observed, "nothing keeps the clipboard of session 3 apart", false},
		{"monitor", zoned, enforce.Monitor, "", desks(kept), settingSharing, enforce.Noncompliant, enforce.Observed, "nothing keeps", false},
		{"monitor, no desktop", zoned, enforce.Monitor, "", desks(), settingSharing, enforce.Compliant, enforce.Observed, "no desktop session", false},
		{"an exception", zoned, enforce.Enforce, "clipboard", desks(noHelper), settingSharing, enforce.Compliant, enforce.Enforced, "allowed by an exception", false},
		{"another exception", zoned, enforce.Enforce, "print", desks(kept), settingSharing, enforce.Compliant, enforce.Partial, "kept", true},
		{"one direction", outOfWork, enforce.Enforce, "", desks(kept), settingDirection, enforce.Compliant, enforce.Partial, "kept in 1 session(s); partial", true},
		{"a direction without zones", unzoned, enforce.Enforce, "", desks(kept), settingDirection, enforce.Uncertain, enforce.Unsupported, "needs dlp.zones", false},
		{"none without zones", noneNoZones, enforce.Enforce, "", desks(kept), settingDirection, enforce.Compliant, enforce.Partial, "apart from other users", true},
		{"both", both, enforce.Enforce, "", desks(noHelper), settingDirection, enforce.Compliant, enforce.Enforced, "", false},
		{"and its sharing", both, enforce.Enforce, "", desks(noHelper), settingSharing, enforce.Compliant, enforce.Enforced, "", false},
		{"zones", zoned, enforce.Enforce, "", desks(noHelper), settingZones, enforce.Compliant, enforce.Partial, "used by dlp.clipboard_sharing; partial: a moment", true},
		{"a direction beside no sharing", `{"dlp":{"clipboard_sharing":false,"clipboard_direction":"work_to_personal"}}`, enforce.Enforce, "", desks(noHelper), settingDirection, enforce.Uncertain, enforce.NotEnforced, "session 3 (x11): its helper does not run", true},
		{"zones of nothing", both, enforce.Monitor, "", desks(), settingZones, enforce.Compliant, enforce.Observed, "no setting uses it", false},
		{"not here", zoned, enforce.Enforce, "", &fact.Machine{}, settingSharing, enforce.Uncertain, enforce.Unsupported, fact.NotCarried, false},
		{"zones not here", zoned, enforce.Enforce, "", &fact.Machine{}, settingZones, enforce.Uncertain, enforce.Unsupported, fact.NotCarried, false},
	} {
		d := document(t, c.policy).Capped(func(enforce.Setting) enforce.Mode { return c.mode }).Excepted(map[string][]string{"dlp": {c.except}})
		k := section.Open([]section.Section{Section}, d, c.m)
		out := decide(k)
		found := false
		for _, f := range out.Findings {
			if f.Setting != c.setting {
				continue
			}
			if found = true; f.Compliance != c.compliance || f.Enforcement != c.enforcement || !strings.Contains(f.Reason, c.reason) || c.reason == "" && f.Reason != "" {
				t.Errorf("%s: %+v", c.what, f)
			}
			if c.setting != settingZones && strings.HasPrefix(c.reason, "kept") && (len(f.Evidence) != len(c.m.Sessions.V) || f.Evidence[0].Value != "kept" || f.Evidence[0].Key != "clipboard/"+c.m.Sessions.V[0].ID) {
				t.Errorf("%s: %+v", c.what, f.Evidence)
			}
		}
		if !found || len(out.Wants) > 0 {
			t.Errorf("%s: %+v", c.what, out)
		}
		if r := rulesOf(k); (r.ForClipboard() != nil) != c.rules || c.rules != r.CanDeny() {
			t.Errorf("%s: rules %s", c.what, r.ForClipboard())
		}
	}
}

// Who is in which zone: what a program is decides before where it runs, and that before whose it is.
func TestZone(t *testing.T) {
	for _, c := range []struct {
		what, policy string
		p            fact.Program
		exe, sum     string
		want         string
	}{
		{"by its file", zoned, fact.Program{Known: true, UID: 1, User: "guest", Units: []string{"work-not.slice"}}, "/usr/bin/office", "", Work},
		{"by another file", zoned, fact.Program{Known: true, UID: 1, User: "svc", Units: []string{"work.slice"}}, "/usr/bin/game", "", Personal},
		{"by its sum", zoned, fact.Program{Known: true, UID: 1}, "/opt/crm", "abcd", Personal}, // no sum at all: the entry matches nothing
		{"by its slice", zoned, fact.Program{Known: true, UID: 1, User: "guest", Units: []string{"user.slice", "work.slice"}}, "/x", "", Work},
		{"by a scope", zoned, fact.Program{Known: true, UID: 1, Units: []string{"app-mail-123.scope"}}, "/x", "", Work},
		{"by a scope of systemd's spelling", `{"dlp":{"clipboard_sharing":false,"zones":{"work":{"slices":["app-gnome-google\\x2dchrome-*.scope"]}}}}`, fact.Program{Known: true, Units: []string{`app-gnome-google\x2dchrome-12.scope`}}, "/x", "", Work},
		{"by two", zoned, fact.Program{Known: true, UID: 1, Units: []string{"work.slice", "work-not.slice"}}, "/x", "", Personal},
		{"by its user", zoned, fact.Program{Known: true, UID: 1, User: "svc"}, "/x", "", Work},
		{"by nothing", zoned, fact.Program{Known: true, UID: 1000, User: "ann"}, "/x", "", Personal},
		{"unknown", zoned, fact.Program{User: "svc"}, "/usr/bin/office", "", Personal},
		{"the session's user", noSharing, fact.Program{Known: true, UID: 1000}, "/x", "", Work},
		{"another user", noSharing, fact.Program{Known: true, UID: 1001}, "/x", "", Personal},
		{"unknown, without zones", noSharing, fact.Program{}, "/x", "", Work},
	} {
		r := compile(document(t, c.policy), desks())
		b := r.ForClipboard()
		got, err := DecodeClipboard(b)
		if err != nil {
			t.Fatal(c.what, err)
		}
		c.p.Is = func(path, sum string) bool { return path == c.exe && (sum == "" || sum == c.sum) }
		if z := got.Zone(&c.p, 1000); z != c.want {
			t.Errorf("%s: %s", c.what, z)
		}
	}
	if _, err := DecodeClipboard(json.RawMessage(`{"kept":7}`)); err == nil {
		t.Error("rules that are none are read")
	}
	for policy, want := range map[string][4]bool{ // work to work, work to personal, personal to work, personal to personal
		zoned: {false, true, true, false}, outOfWork: {false, true, false, false}, intoWork: {false, false, true, false}, noneNoZones: {false, true, true, false},
	} {
		c, err := DecodeClipboard(compile(document(t, policy), desks()).ForClipboard())
		if err != nil {
			t.Fatal(err)
		}
		if got := [4]bool{c.Refuses(Work, Work), c.Refuses(Work, Personal), c.Refuses(Personal, Work), c.Refuses(Personal, Personal)}; got != want {
			t.Errorf("%s: %v", policy, got)
		}
	}
}

func TestExplainClipboard(t *testing.T) {
	for _, c := range []struct {
		policy, except, subject      string
		mode                         enforce.Mode
		answer, reason, nearest, now string
	}{
		{zoned, "", `{"clipboard":true,"from":"work","to":"personal"}`, enforce.Enforce, section.Deny, "dlp.clipboard_sharing is false: nothing is copied from work to personal", "an exception for \"clipboard\"", ""},
		{zoned, "", `{"clipboard":true,"from":"work","to":"work"}`, enforce.Enforce, section.Allow, "both are in the same zone", "", ""},
		{noSharing, "", `{"clipboard":true,"from":"work","to":"personal"}`, enforce.Enforce, section.Deny, "from the session's user to other users", "", ""},
		{outOfWork, "", `{"clipboard":true,"from":"personal","to":"work"}`, enforce.Enforce, section.Allow, "lets copying from personal to work pass", "clipboard_sharing to false", ""},
		{outOfWork, "", `{"clipboard":true}`, enforce.Enforce, section.Depends, "refuses copying from work to personal; the other way it passes", `clipboard_direction to "both"`, ""},
		{intoWork, "", `{"clipboard":true}`, enforce.Enforce, section.Depends, "refuses copying from personal to work; the other way it passes", "", ""},
		{zoned, "", `{"clipboard":true}`, enforce.Enforce, section.Deny, "is false", "", ""},
		{zoned, "clipboard", `{"clipboard":true}`, enforce.Enforce, section.Allow, "an exception for the clipboard", "", ""},
		{zoned, "", `{"clipboard":true}`, enforce.Warn, section.WouldDeny, "would be refused in enforce mode (dlp.clipboard_sharing is in warn mode)", "", ""},
		{unzoned, "", `{"clipboard":true}`, enforce.Enforce, section.Allow, "needs dlp.zones", "set dlp.zones", ""},
		{`{}`, "", `{"clipboard":true}`, enforce.Enforce, section.Allow, "no setting in force", "clipboard_sharing to false", ""},
	} {
		d := document(t, c.policy).Capped(func(enforce.Setting) enforce.Mode { return c.mode }).Excepted(map[string][]string{"dlp": {c.except}})
		m := desks(kept)
		r := compile(d, m)
		a, err := r.Explain([]byte(c.subject), m)
		if err != nil || a.Answer != c.answer || !strings.Contains(a.Reason, c.reason) || !strings.Contains(a.Nearest, c.nearest) || !strings.Contains(a.Now, c.now) {
			t.Errorf("%s %s: %+v %v", c.policy, c.subject, a, err)
		}
		if c.mode < enforce.Enforce {
			if a, _ := r.Public().Explain([]byte(c.subject), m); a.Answer != section.Allow {
				t.Errorf("everybody sees %+v", a)
			}
		}
		if p := r.Present(); len(p) != 1 || p[0].Subject != "the clipboard of session 2" {
			t.Errorf("%+v", p)
		}
	}
	r := compile(document(t, zoned), desks())
	for subject, want := range map[string]string{`{"clipboard":true,"print":true}`: `"print", "clipboard", "screenshot" or "sensitive"`, `{"clipboard":true,"from":"home","to":"work"}`: `from must be "work" or "personal" (received "home")`,
		`{"clipboard":true,"from":"work"}`: `to must be "work" or "personal" (received "")`, `{"clipboard":true,"to":"` + strings.Repeat("x", 200) + `"}`: `from must be`} {
		if _, err := r.Explain([]byte(subject), nil); err == nil || !strings.Contains(err.Error(), want) || len(err.Error()) > 300 {
			t.Errorf("%.60s: %v", subject, err)
		}
	}
	// An event of a refused paste can be judged again.
	if a, ok := r.Replay(`{"clipboard_from":"work","clipboard_to":"personal"}`); !ok || a.Answer != section.Deny {
		t.Errorf("%+v %v", a, ok)
	}
	if _, ok := r.Replay(`{"queue":"office"}`); ok {
		t.Error("the facts of something else are judged")
	}
	if got := refusedNow(section.Open([]section.Section{Section}, document(t, zoned), desks())); len(got) != 1 || got[0] != "clipboard" {
		t.Errorf("%v", got)
	}
}

func TestMatches(t *testing.T) {
	for _, c := range []struct {
		pattern, s string
		is         bool
	}{{"a.slice", "a.slice", true}, {"a.slice", "a.slice2", false}, {"*", "anything", true}, {"a*", "a", true}, {"a*b", "ab", true}, {"a*b", "axbx", false}, {"a*b*c", "a1b2c", true},
		{"a*b*c", "a1c2b", false}, {"*x*", "axb", true}, {"*x*", "ab", false}, {"a**b", "a-b", true}, {"[a]", "a", false}, {"?", "a", false}, {`a\x2db`, `a\x2db`, true}} {
		if matches(c.pattern, c.s) != c.is {
			t.Errorf("%q and %q: %t", c.pattern, c.s, !c.is)
		}
	}
}

// What helpers are told about looking into what is copied: in each mode, beside zones or alone, and anew if anything is judged differently.
func TestClipboardLooks(t *testing.T) {
	m := scanner()
	for k, v := range desks().Capable {
		m.Capable[k] = v
	}
	mode := enforce.Enforce
	told := func(p, except string) *Clipboard {
		t.Helper()
		d := document(t, p)
		d = d.Capped(func(enforce.Setting) enforce.Mode { return mode })
		if except != "" {
			d.Exceptions = map[string][]string{"dlp": {except}}
		}
		b := compile(d, m).ForClipboard()
		if b == nil {
			return nil
		}
		c, err := DecodeClipboard(b)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	c := told(cards, "")
	if c == nil || c.Looks() != fact.LookHold || c.LateIsFree() || c.Apart() || c.Alone() || c.Mapped || c.By == "" {
		t.Fatalf("%+v", c)
	}
	if again := told(cards, ""); again.By != c.By {
		t.Error("the same rules are told anew")
	}
	if other := told(strings.Replace(cards, "[0-9]{16}", "[0-9]{15}", 1), ""); other.By == c.By {
		t.Error("other rules are not told anew")
	}
	if x := told(cards, policy.SensitiveSubject); x == nil || x.Looks() != fact.LookRead || !x.LateIsFree() {
		t.Errorf("with an exception: %+v", x)
	}
	for _, mode = range []enforce.Mode{enforce.Monitor, enforce.Warn} {
		if x := told(cards, ""); x == nil || x.Looks() != fact.LookRead || !x.LateIsFree() {
			t.Errorf("in mode %s: %+v", mode, x)
		}
	}
	mode = enforce.Enforce
	if x := told(strings.Replace(cards, `"scan`, `"clipboard_sharing":false,"scan`, 1), ""); x == nil || x.Looks() != fact.LookHold || !x.Apart() || !x.Alone() {
		t.Errorf("with sharing: %+v", x)
	}
	if x := told(strings.Replace(cards, `"scan`, `"clipboard_sharing":false,"scan`, 1), policy.ClipboardSubject); x == nil || x.Looks() != fact.LookHold || x.Apart() {
		t.Errorf("with an exception for the clipboard: %+v", x)
	}
	if x := told(`{"dlp":{"scan_timeout":"deny"}}`, ""); x != nil {
		t.Errorf("without patterns: %+v", x)
	}
}
