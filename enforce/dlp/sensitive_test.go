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

const cards = `{"dlp":{"sensitive_data_patterns":["SECRET"],"patterns":[{"name":"card","regex":"[0-9]{16}","validator":"luhn"}],"scan_timeout":"deny","quarantine_days":7}}`

func scanner(places ...fact.OutPlace) *fact.Machine {
	m := &fact.Machine{Capable: map[string]fact.Capability{}}
	for _, s := range []enforce.Setting{policy.SettingPatterns, policy.SettingNamed, settingTimeout, settingDays} {
		m.Capable[string(s)] = fact.Capability{Level: fact.Partial, Limit: "what escapes"}
	}
	m.Scanning, m.Outgoing = fact.Is(fact.Scanning{Engine: "an engine"}), fact.Is(fact.Outgoing{Places: places})
	m.PrintJobs, m.Sessions = fact.Is(fact.PrintJobs{}), fact.Is([]fact.Session{})
	return m
}

func found(names ...string) *fact.Sensitive {
	x := &fact.Sensitive{Where: fact.InFile, Place: "disk sda", Found: []fact.SensitiveFound{}}
	for _, n := range names {
		s := policy.SettingNamed
		if strings.HasPrefix(n, "dlp.") {
			s = policy.SettingPatterns
		}
		x.Found = append(x.Found, fact.SensitiveFound{Pattern: n, Setting: string(s), Count: 2, Mark: "ab"})
	}
	return x
}

// What follows from what was found, in each mode, and where the modes of the two settings differ.
func TestSensitive(t *testing.T) {
	late := &fact.Sensitive{Where: fact.InFile, Found: []fact.SensitiveFound{}, Late: true}
	for _, c := range []struct {
		what, policy, except string
		x                    *fact.Sensitive
		allow, would         bool
		reason               string
	}{
		{"found", cards, "", found("card"), false, false, "the file has sensitive data: card (2)"},
		{"a plain one", cards, "", found("dlp.sensitive_data_patterns[0]"), false, false, "dlp.sensitive_data_patterns[0] (2)"},
		{"nothing", cards, "", found(), true, false, "nothing that the policy looks for"},
		{"late", cards, "", late, false, false, "dlp.scan_timeout is deny"},
		{"late, and that is free", strings.Replace(cards, "deny", "allow", 1), "", late, true, false, "dlp.scan_timeout is allow"},
		{"excepted", cards, policy.SensitiveSubject, found("card"), true, false, "an exception for sensitive data"},
		{"late and excepted", cards, policy.SensitiveSubject, late, true, false, "an exception for sensitive data"},
	} {
		d := document(t, c.policy)
		if c.except != "" {
			d.Exceptions = map[string][]string{"dlp": {c.except}}
		}
		r := compile(d, scanner())
		v := r.Sensitive(c.x)
		if reason, _ := r.SensitiveReason(v, c.x); v.Allow != c.allow || v.WouldDeny != c.would || !strings.Contains(reason, c.reason) {
			t.Errorf("%s: %+v %s", c.what, v, reason)
		}
	}
	for _, mode := range []string{"monitor", "warn"} {
		d, err := policy.Decode([]byte(`{"compliance":"`+mode+`","policy_data":`+cards+`}`), policy.Options{})
		if err != nil {
			t.Fatal(err)
		}
		r := compile(d, scanner())
		if v := r.Sensitive(found("card")); !v.Allow || !v.WouldDeny || v.WouldMode.String() != mode || r.HoldsSensitive() || !r.LateIsFree() || r.CanDeny() || r.KeepDays() != 0 {
			t.Errorf("%s: %+v", mode, v)
		}
		if p := r.Public().(*Rules); p.SensitiveMode() != enforce.Off {
			t.Errorf("%s is public", mode)
		}
	}
	r := compile(document(t, cards), scanner())
	patterns, called := r.LooksFor()
	if len(called) != 2 || called[0].Pattern != "dlp.sensitive_data_patterns[0]" || called[1].Setting != "dlp.patterns" || !json.Valid(patterns) || r.KeepDays() != 7 || r.LateIsFree() {
		t.Errorf("%s %+v", patterns, called)
	}
	if p, none := compile(document(t, cards), &fact.Machine{}).LooksFor(); p != nil || none != nil {
		t.Errorf("what is not carried out is looked for: %s %v", p, none)
	}
	b, _ := json.Marshal(found("card"))
	if a, ok := r.Replay(enforce.Facts(b)); !ok || a.Answer != "deny" || !strings.Contains(a.Reason, "card (2)") {
		t.Errorf("%+v %v", a, ok)
	}
	job := found("card")
	job.Where, job.Place = fact.InPrintJob, "office"
	b, _ = json.Marshal(job)
	if a, ok := r.Replay(enforce.Facts(b)); !ok || a.Answer != "deny" || a.Subject != "a print job for office" || !strings.HasPrefix(a.Reason, "the print job has sensitive data") {
		t.Errorf("%+v %v", a, ok)
	}
	if a := r.explainSensitive(); a.Answer != "deny" || !strings.Contains(a.Reason, "2 pattern(s) describe: dlp.sensitive_data_patterns[0], card") {
		t.Errorf("%+v", a)
	}
}

// What is found of the machine.
func TestSensitiveFindings(t *testing.T) {
	disk, folder := fact.OutPlace{Name: "disk sda", Watched: true, Holds: true}, fact.OutPlace{Name: "Dropbox", App: "dropbox", Watched: true, Holds: true}
	for _, c := range []struct {
		what        string
		policy      string
		change      func(*fact.Machine)
		compliance  enforce.Compliance
		enforcement enforce.Enforcement
		reason      string
	}{
		{"all is watched", cards, func(*fact.Machine) {}, enforce.Compliant, enforce.Partial, "1 pattern(s) are looked for in what is written to 1 external disk(s) and 1 sync folder(s), by an engine; partial: what escapes"},
		{"nothing to watch", cards, func(m *fact.Machine) { m.Outgoing.V.Places = nil }, enforce.Compliant, enforce.Partial, "0 external disk(s)"},
		{"one is not", cards, func(m *fact.Machine) {
			m.Outgoing.V.Places[0].Watched = false
			m.Outgoing.V.Places[0].Why = "no answer"
		}, enforce.Noncompliant, enforce.Enforced, "written to disk sda is looked into: no answer"},
		{"one does not hold", cards, func(m *fact.Machine) { m.Outgoing.V.Places[1].Holds = false }, enforce.Noncompliant, enforce.Enforced, "Dropbox is looked into: who opens"},
		{"files are held", cards, func(m *fact.Machine) {
			m.Outgoing.V.Held = 2
			m.Outgoing.V.HeldWhy = "the quarantine has no room for it"
		}, enforce.Noncompliant, enforce.Enforced, "2 file(s) with sensitive data"},
		{"the program cannot look", cards, func(m *fact.Machine) { m.Scanning.V.Why = "it is not installed" }, enforce.Noncompliant, enforce.Enforced, "is not looked for: it is not installed"},
		{"not ready", cards, func(m *fact.Machine) { m.Scanning.V.Engine = "" }, enforce.Uncertain, enforce.Enforced, "makes itself ready"},
		{"behind", cards, func(m *fact.Machine) { m.Outgoing.V.Behind, m.Outgoing.V.Stale = 2, true }, enforce.Uncertain, enforce.Enforced, "2 file(s) or places wait"},
		{"unread", cards, func(m *fact.Machine) { m.Outgoing = fact.Unread[fact.Outgoing]("no kernel") }, enforce.Uncertain, "", "no kernel"},
		{"print jobs are held", cards, func(m *fact.Machine) {
			m.PrintJobs = fact.Is(fact.PrintJobs{Spooler: true, Watched: true, Holds: true, Late: 2})
		}, enforce.Compliant, enforce.Partial, "1 sync folder(s) and in print jobs, by an engine; 2 file(s), print jobs or copies"},
		{"print jobs do not wait", cards, func(m *fact.Machine) { m.PrintJobs = fact.Is(fact.PrintJobs{Spooler: true, Watched: true}) }, enforce.Noncompliant, enforce.Enforced, "what is printed is not looked into: the spooler does not wait"},
		{"print jobs are not watched", cards, func(m *fact.Machine) { m.PrintJobs = fact.Is(fact.PrintJobs{Spooler: true, Why: "no fanotify"}) }, enforce.Noncompliant, enforce.Enforced, "what is printed is not looked into: no fanotify"},
		{"print jobs are unread", cards, func(m *fact.Machine) { m.PrintJobs = fact.Unread[fact.PrintJobs]("no kernel") }, enforce.Uncertain, "", "no kernel"},
		{"what is copied is looked into", cards, func(m *fact.Machine) {
			m.Sessions = fact.Is([]fact.Session{{ID: "2", Type: "x11", Looked: true}, {ID: "4", Type: "wayland", LookedNever: true, LookedWhy: "not on Wayland"}})
		}, enforce.Compliant, enforce.Partial, "1 sync folder(s) and in what is copied in 1 session(s), by an engine; not in what is copied in session 4 (wayland): not on Wayland; partial: what escapes"},
		{"a helper is not there", cards, func(m *fact.Machine) {
			m.Sessions = fact.Is([]fact.Session{{ID: "2", Type: "x11", LookedWhy: "its helper does not run"}})
		}, enforce.Uncertain, enforce.Enforced, "it is not known whether what is copied in session 2 (x11) is looked into: its helper does not run"},
		{"desktops are unread", cards, func(m *fact.Machine) { m.Sessions = fact.Unread[[]fact.Session]("no logind") }, enforce.Uncertain, "", "no logind"},
		{"late ones", cards, func(m *fact.Machine) { m.Outgoing.V.Late = 3 }, enforce.Compliant, enforce.Partial, "3 file(s), print jobs or copies could not be looked into in time"},
		{"a pattern that cannot be", strings.Replace(cards, "[0-9]{16}", "(?:[0-9]{900}){900}", 1), func(*fact.Machine) {}, enforce.Noncompliant, enforce.Enforced, "is not looked for"},
		{"no program", cards, func(m *fact.Machine) { m.Capable = nil }, enforce.Uncertain, enforce.Unsupported, ""},
	} {
		m := scanner(disk, folder)
		c.change(m)
		d, err := policy.Decode([]byte(`{"policy_data":`+c.policy+`}`), policy.Options{})
		if err != nil {
			t.Logf("%s: %v", c.what, err)
			continue
		}
		out := section.Open([]section.Section{Section}, d, m)
		for _, f := range decide(out).Findings {
			if f.Setting != policy.SettingNamed {
				continue
			}
			if f.Compliance != c.compliance || c.enforcement != "" && f.Enforcement != c.enforcement || !strings.Contains(f.Reason, c.reason) {
				t.Errorf("%s: %+v", c.what, f)
			}
		}
	}
	for _, f := range decide(section.Open([]section.Section{Section}, document(t, cards), scanner())).Findings {
		if f.Setting == settingDays && (f.Compliance != enforce.Compliant || !strings.Contains(f.Reason, "7 day(s)")) || f.Setting == settingTimeout && !strings.Contains(f.Reason, "may not be used") {
			t.Errorf("%+v", f)
		}
	}
}

// The key of the rules is another one if anything is judged differently, and no other one if they are compiled anew on a machine that has
// changed.
func TestSensitiveKey(t *testing.T) {
	key := func(text string, m *fact.Machine) string { return compile(document(t, text), m).SensitiveKey() }
	want := key(cards, scanner())
	changed := scanner(fact.OutPlace{Name: "disk sda"})
	changed.PrintJobs = fact.Is(fact.PrintJobs{Spooler: true, Late: 7})
	for range 20 {
		if got := key(cards, changed); got != want {
			t.Fatal("it is another one")
		}
	}
	for _, x := range [][2]string{{"[0-9]{16}", "[0-9]{15}"}, {`"card"`, `"cards"`}, {`"luhn"`, `"iban"`}, {`"SECRET"`, `"SECRETS"`}, {`"deny"`, `"allow"`}} {
		if text := strings.Replace(cards, x[0], x[1], 1); text == cards || key(text, scanner()) == want {
			t.Errorf("%s and %s have the same", x[0], x[1])
		}
	}
	d := document(t, cards)
	d.Exceptions = map[string][]string{"dlp": {policy.SensitiveSubject}}
	if compile(d, scanner()).SensitiveKey() == want {
		t.Error("with an exception it is the same")
	}
	d, err := policy.Decode([]byte(`{"compliance":"monitor","policy_data":`+cards+`}`), policy.Options{})
	if err != nil || compile(d, scanner()).SensitiveKey() == want {
		t.Errorf("in monitor mode it is the same (%v)", err)
	}
}
