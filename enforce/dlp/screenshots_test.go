package dlp

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/enforce/section"
)

const noShots = `{"dlp":{"screenshot_allowed":false}}`

func screens(list ...fact.Session) *fact.Machine {
	m := &fact.Machine{Capable: map[string]fact.Capability{string(settingShots): {Level: fact.Partial, Limit: "what escapes"}}, Sessions: fact.Is(list),
		Tools: fact.Is([]fact.Running{}), Browsers: fact.Is([]fact.Browser{})}
	m.Desktops = fact.Is(fact.Desktops{Files: []fact.DesktopFile{{ID: "gnome", Name: "GNOME"}, {ID: "kde", Name: "KDE Plasma", Taken: "a file is somebody else's"}}})
	return m
}

// What is found and wanted in each mode, of each state that sessions can be in.
func TestScreenshots(t *testing.T) {
	x11, wl := fact.Session{ID: "2", Type: "x11", Clipboard: true}, fact.Session{ID: "4", Type: "wayland", Never: true}
	with := func(m *fact.Machine, change func(*fact.Machine)) *fact.Machine { change(m); return m }
	for _, c := range []struct {
		what, policy, except string
		mode                 enforce.Mode
		m                    *fact.Machine
		wants, unsure        int
		compliance           enforce.Compliance
		enforcement          enforce.Enforcement
		reason               string
	}{
		{"wayland", noShots, "", enforce.Enforce, screens(wl), 2, 0, enforce.Compliant, enforce.Partial, "refused in 1 session(s); partial: what escapes; settings of KDE Plasma: a file is somebody else's"},
		{"x11", noShots, "", enforce.Enforce, screens(wl, x11), 2, 0, enforce.Uncertain, enforce.Unsupported, "session 2 (x11): on X11 every program can read the screen"},
		{"no desktop", noShots, "", enforce.Enforce, screens(), 2, 0, enforce.Compliant, enforce.Enforced, "no desktop session"},
		{"a program runs", noShots, "", enforce.Enforce, with(screens(wl), func(m *fact.Machine) { m.Tools = fact.Is([]fact.Running{{App: "grim", Program: "grim", Processes: 2}}) }), 2, 0,
			enforce.Noncompliant, enforce.Enforced, "grim runs (program grim, 2 process(es))"},
		{"from the next login on", noShots, "", enforce.Enforce, with(screens(wl), func(m *fact.Machine) {
			m.Desktops.V.Pending = []string{"GNOME: gnome-shell of user 1000 was started before"}
		}), 2, 0,
			enforce.Noncompliant, enforce.PendingRelogin, "GNOME: gnome-shell of user 1000 was started before; the settings hold from the next login on"},
		{"sessions unknown", noShots, "", enforce.Enforce, with(screens(), func(m *fact.Machine) { m.Sessions = fact.Unread[[]fact.Session]("no logind") }), 2, 0, enforce.Uncertain, enforce.NotEnforced, "no logind"},
		{"processes unknown", noShots, "", enforce.Enforce, with(screens(wl), func(m *fact.Machine) { m.Tools = fact.Unread[[]fact.Running]("no list") }), 2, 0, enforce.Uncertain, enforce.NotEnforced, "no list"},
		{"settings unknown", noShots, "", enforce.Enforce, with(screens(wl), func(m *fact.Machine) { m.Desktops = fact.Unread[fact.Desktops]("no files") }), 1, 1, enforce.Uncertain, enforce.NotEnforced, "no files"},
		{"browsers unknown", noShots, "", enforce.Enforce, with(screens(wl), func(m *fact.Machine) { m.Browsers = fact.Unread[[]fact.Browser]("no list") }), 2, 1, enforce.Uncertain, enforce.NotEnforced, "no list"},
		{"somebody else's browser", noShots, "", enforce.Enforce, with(screens(wl), func(m *fact.Machine) {
			m.Browsers = fact.Is([]fact.Browser{{ID: "firefox", Name: "Firefox", Taken: true}})
		}), 2, 0,
			enforce.Compliant, enforce.Partial, "; the policies of Firefox are somebody else's, so that screenshots and sharing are still offered there"},
		{"warn", noShots, "", enforce.Warn, screens(wl), 2, 0, enforce.Noncompliant, enforce.Observed, "pictures of the screen can be taken in session 4"},
		{"monitor, x11", noShots, "", enforce.Monitor, screens(x11), 2, 0, enforce.Noncompliant, enforce.Observed, "pictures of the screen can be taken in session 2"},
		{"monitor, no desktop", noShots, "", enforce.Monitor, screens(), 2, 0, enforce.Compliant, enforce.Observed, "no desktop session"},
		{"an exception", noShots, "screenshot", enforce.Enforce, screens(x11), 0, 0, enforce.Compliant, enforce.Enforced, "allowed by an exception"},
		{"another exception", noShots, "print", enforce.Enforce, screens(wl), 2, 0, enforce.Compliant, enforce.Partial, "refused in 1"},
		{"allowed", `{"dlp":{"screenshot_allowed":true}}`, "", enforce.Enforce, screens(x11), 0, 0, enforce.Compliant, enforce.Enforced, ""},
		{"not here", noShots, "", enforce.Enforce, with(screens(x11), func(m *fact.Machine) { m.Capable = nil }), 0, 0, enforce.Uncertain, enforce.Unsupported, fact.NotCarried},
	} {
		d := document(t, c.policy).Capped(func(enforce.Setting) enforce.Mode { return c.mode })
		if c.except != "" {
			d = d.Excepted(map[string][]string{"dlp": {c.except}})
		}
		out := decide(section.Open([]section.Section{Section}, d, c.m))
		if len(out.Findings) != 1 || len(out.Wants) != c.wants || len(out.Unsure) != c.unsure {
			t.Fatalf("%s: %+v", c.what, out)
		}
		if f := out.Findings[0]; f.Compliance != c.compliance || f.Enforcement != c.enforcement || !strings.Contains(f.Reason, c.reason) || c.reason == "" && f.Reason != "" {
			t.Errorf("%s: %+v", c.what, f)
		}
		for _, w := range out.Wants {
			if w.Mode != c.mode || w.By[0] != settingShots || w.Key != toolsKey && (w.Key.Kind != KindDesktop || w.Value != fact.NoScreenshots) {
				t.Errorf("%s: %+v", c.what, w)
			}
		}
	}
}

// What is refused is wanted of browsers by each setting in its own mode.
func TestBrowserPolicies(t *testing.T) {
	const both = `{"dlp":{"screenshot_allowed":false,"print_allowed":false}}`
	for _, c := range []struct {
		policy, except string
		print, shots   enforce.Mode
		want           string
	}{
		{both, "", enforce.Enforce, enforce.Enforce, "no printing enforce, no screenshots enforce"},
		{both, "", enforce.Enforce, enforce.Monitor, "no printing enforce, no screenshots monitor"},
		{both, "", enforce.Warn, enforce.Enforce, "no printing warn, no screenshots enforce"},
		{both, "print", enforce.Enforce, enforce.Enforce, "no screenshots enforce"},
		{both, "screenshot", enforce.Enforce, enforce.Enforce, "no printing enforce"},
		{noShots, "", enforce.Enforce, enforce.Enforce, "no screenshots enforce"},
	} {
		m := machine()
		m.Capable[string(settingShots)] = fact.Capability{Level: fact.Partial}
		m.Browsers = fact.Is([]fact.Browser{{ID: "chrome"}, {ID: "firefox", Taken: true}})
		d := document(t, c.policy).Capped(func(s enforce.Setting) enforce.Mode {
			return map[enforce.Setting]enforce.Mode{settingPrint: c.print, settingShots: c.shots}[s]
		})
		if c.except != "" {
			d = d.Excepted(map[string][]string{"dlp": {c.except}})
		}
		var got []string
		for _, w := range decide(section.Open([]section.Section{Section}, d, m)).Wants {
			if w.Key.Kind == KindBrowser {
				got = append(got, fmt.Sprintf("%s %s", w.Value, w.Mode))
			}
		}
		if strings.Join(got, ", ") != c.want {
			t.Errorf("%s, %s and %s: %q, want %q", c.policy, c.print, c.shots, got, c.want)
		}
	}
}

// Screenshots are explained, as a whole and by program.
func TestExplainScreenshots(t *testing.T) {
	for _, c := range []struct {
		policy, except, program string
		mode                    enforce.Mode
		answer, reason, nearest string
	}{
		{noShots, "", "", enforce.Enforce, section.Deny, "dlp.screenshot_allowed is false", `grant an exception for "screenshot"`},
		{noShots, "", "obs", enforce.Enforce, section.Deny, "dlp.screenshot_allowed is false, and OBS Studio takes pictures of the screen", `grant an exception`},
		{noShots, "", "Obs studio", enforce.Enforce, section.Deny, "OBS Studio", `grant an exception`},
		{noShots, "", "grimshot", enforce.Enforce, section.Deny, "and grim takes pictures", ``},
		{noShots, "", "cat", enforce.Enforce, section.Allow, "none of the programs that are known", ""},
		{noShots, "screenshot", "grim", enforce.Enforce, section.Allow, "an exception for screenshots is in force", ""},
		{noShots, "", "grim", enforce.Warn, "would deny", "would be refused in enforce mode (dlp.screenshot_allowed is in warn mode): dlp.screenshot_allowed is false, and grim", "grant"},
		{`{"dlp":{"print_allowed":false}}`, "", "grim", enforce.Enforce, section.Allow, "no setting in force refuses screenshots", "set dlp.screenshot_allowed to false"},
	} {
		d := document(t, c.policy).Capped(func(enforce.Setting) enforce.Mode { return c.mode })
		if c.except != "" {
			d = d.Excepted(map[string][]string{"dlp": {c.except}})
		}
		r := compile(d, screens())
		b, err := json.Marshal(Subject{Screenshot: true, Program: c.program})
		if err != nil {
			t.Fatal(err)
		}
		a, err := r.Explain(b, nil)
		if err != nil || a.Answer != c.answer || !strings.Contains(a.Reason, c.reason) || !strings.Contains(a.Nearest, c.nearest) {
			t.Errorf("%+v: %+v %v", c, a, err)
		}
	}
	r := compile(document(t, noShots), screens())
	for _, text := range []string{`{}`, `{"screenshot":true,"print":true}`, `{"screenshot":true,"program":"` + strings.Repeat("x", 200) + `"}`} {
		if _, err := r.Explain(json.RawMessage(text), nil); err == nil {
			t.Errorf("%.40s is answered", text)
		}
	}
	if a, ok := r.Replay(`{"client":"grim","program":"grim","processes":1}`); !ok || a.Answer != section.Deny || a.Subject != "grim" {
		t.Errorf("replayed: %+v %t", a, ok)
	}
	if s, err := parseSubject("screenshot"); err != nil || s != "screenshot" {
		t.Error(s, err)
	}
	c := section.Open([]section.Section{Section}, document(t, noShots), screens())
	if got := refusedNow(c); len(got) != 1 || got[0] != "screenshot" {
		t.Error(got)
	}
	if !r.CanDeny() || r.Public().(*Rules).CanStopTools() != true {
		t.Error("it denies nothing")
	}
}

// The table can be carried out: each has an ID of its own that fits, a name, and programs that no other one has, and that are no ordinary
// programs of a desktop.
func TestTools(t *testing.T) {
	ids, of := map[string]bool{}, map[string]string{}
	for i := range fact.Tools {
		x := &fact.Tools[i]
		if x.ID == "" || len(x.ID) > 15 || ids[x.ID] || x.Name == "" || len(x.Programs) == 0 {
			t.Errorf("%+v", x)
		}
		ids[x.ID] = true
		for _, p := range x.Programs {
			if of[p] != "" || len(p) > 31 {
				t.Errorf("%q of %s and %s", p, x.ID, of[p])
			}
			of[p] = x.ID
			if c, _, ok := fact.Clients.ByProgram(p); ok {
				t.Errorf("%q is %s, too", p, c.Name)
			}
		}
	}
	for _, p := range []string{"sh", "python3", "gnome-shell", "kwin_wayland", "sway", "firefox", "chromium", "ffmpeg", "gimp", "import", "peek", "warder", "flameshots"} {
		if x, _, ok := fact.Tools.ByProgram(p); ok {
			t.Errorf("%q is taken for %s", p, x.Name)
		}
	}
}
