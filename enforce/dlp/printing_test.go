package dlp

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/enforce/section"
)

const noPrinting = `{"dlp":{"print_allowed":false}}`

func document(t *testing.T, text string) *policy.Document {
	t.Helper()
	d, err := policy.Decode([]byte(`{"policy_data":`+text+`}`), policy.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func machine(queues ...fact.Queue) *fact.Machine {
	m := &fact.Machine{Capable: map[string]fact.Capability{"dlp.print_allowed": {Level: fact.Partial, Limit: "what escapes"}, "network.blocked_domains": {Level: fact.Partial}}}
	m.Printing = fact.Is(fact.Printing{Queues: queues, Local: []uint16{60000}})
	m.Browsers = fact.Is([]fact.Browser{})
	return m
}

// What is wanted, and what is found, of queues in each of their states.
func TestPrinting(t *testing.T) {
	open, waiting := fact.Queue{Name: "open", Accepting: true}, fact.Queue{Name: "waiting", Accepting: true, Stopped: true}
	ending, closed := fact.Queue{Name: "ending"}, fact.Queue{Name: "closed", Stopped: true, Told: true}
	none := func(*fact.Machine) {}
	for _, c := range []struct {
		what, policy string
		except       string
		queues       []fact.Queue
		change       func(*fact.Machine)
		wants        int
		unsure       bool
		compliance   enforce.Compliance
		enforcement  enforce.Enforcement
		reason       string
	}{
		{"one is open", noPrinting, "", []fact.Queue{closed, open}, none, 3, false, enforce.Noncompliant, enforce.Enforced, "queue open takes jobs, prints"},
		{"some are", noPrinting, "", []fact.Queue{waiting, open, ending}, none, 4, false, enforce.Noncompliant, enforce.Enforced, "queue waiting takes jobs, stopped, and 2 more"},
		{"all are closed", noPrinting, "", []fact.Queue{closed}, none, 2, false, enforce.Compliant, enforce.Partial, "1 queue(s) take no jobs; partial: what escapes"},
		{"there is none", noPrinting, "", nil, none, 1, false, enforce.Compliant, enforce.Partial, "the spooler has no queue; partial"},
		{"unknown", noPrinting, "", nil, func(m *fact.Machine) {
			m.Printing = fact.Known[fact.Printing]{Why: "no answer", V: fact.Printing{Local: []uint16{60000}}}
		}, 1, true, enforce.Uncertain, "", "no answer"},
		{"too many", noPrinting, "", []fact.Queue{closed}, func(m *fact.Machine) { m.Printing.V.Odd = 2 }, 2, false, enforce.Noncompliant, enforce.Enforced, "2 queue(s) cannot be closed"},
		{"somebody else closed one", noPrinting, "", []fact.Queue{{Name: "shut", Stopped: true}}, none, 2, false, enforce.Compliant, enforce.Partial, "1 queue(s) take no jobs"},
		{"an exception", noPrinting, "print", []fact.Queue{open}, none, 0, false, enforce.Compliant, enforce.Enforced, "allowed by an exception"},
		{"allowed", `{"dlp":{"print_allowed":true}}`, "", []fact.Queue{open}, none, 0, false, enforce.Compliant, enforce.Enforced, ""},
		{"no packet filter", noPrinting, "", []fact.Queue{closed}, func(m *fact.Machine) {
			m.Capable["network.blocked_domains"] = fact.Capability{Level: fact.Unsupported, Limit: "this kernel has none"}
		}, 1, false, enforce.Compliant, enforce.Partial, "ports of printers in the network are not closed: this kernel has none"},
		{"the spooler does not tell", noPrinting, "", []fact.Queue{closed}, func(m *fact.Machine) { m.Printing.V.Unheard = "too many \x1b[1m" }, 2, false, enforce.Compliant, enforce.Partial, "1 queue(s) take no jobs; partial: the spooler does not tell of new queues, which take jobs for some seconds (too many .[1m); what escapes"},
		{"nor has it another limit", noPrinting, "", []fact.Queue{closed}, func(m *fact.Machine) {
			m.Printing.V.Unheard = "too many"
			m.Capable["dlp.print_allowed"] = fact.Capability{Level: fact.Enforced}
		}, 2, false, enforce.Compliant, enforce.Partial, "for some seconds (too many)"},
		{"not here", noPrinting, "", nil, func(m *fact.Machine) { m.Capable = nil }, 0, false, enforce.Uncertain, enforce.Unsupported, fact.NotCarried},
	} {
		m := machine(c.queues...)
		c.change(m)
		d := document(t, c.policy)
		if c.except != "" {
			d = d.Excepted(map[string][]string{"dlp": {c.except}})
		}
		out := decide(section.Open([]section.Section{Section}, d, m))
		if len(out.Findings) != 1 || len(out.Wants) != c.wants || (len(out.Unsure) > 0) != c.unsure {
			t.Fatalf("%s: %+v", c.what, out)
		}
		if f := out.Findings[0]; f.Compliance != c.compliance || c.enforcement != "" && f.Enforcement != c.enforcement || !strings.Contains(f.Reason, c.reason) {
			t.Errorf("%s: %+v", c.what, f)
		}
		for _, w := range out.Wants {
			if w.Key.Kind == KindQueue && w.Value != fact.QueueClosed || w.Key == ports && w.Value != enforce.Value(fact.PortsClosed([]uint16{60000})) || w.Mode != enforce.Enforce {
				t.Errorf("%s: %+v", c.what, w)
			}
		}
	}
	d := document(t, noPrinting).Capped(func(enforce.Setting) enforce.Mode { return enforce.Monitor })
	out := decide(section.Open([]section.Section{Section}, d, machine(open)))
	if f := out.Findings[0]; f.Compliance != enforce.Noncompliant || f.Enforcement != enforce.Observed || out.Wants[0].Mode != enforce.Monitor {
		t.Errorf("monitor: %+v %+v", f, out.Wants)
	}
}

// Browsers do not offer printing while it is refused, where their policies are not somebody else's.
func TestBrowsers(t *testing.T) {
	for _, c := range []struct {
		what, policy, except string
		mode                 enforce.Mode
		browsers             fact.Known[[]fact.Browser]
		wants, unsure        int
		reason               string
	}{
		{"two, and one that is somebody else's", noPrinting, "", enforce.Enforce, fact.Is([]fact.Browser{{ID: "chrome", Name: "Google Chrome"}, {ID: "firefox", Name: "Firefox", Taken: true}, {ID: "edge"}}), 2, 0,
			"what escapes; the policies of Firefox are somebody else's, so that it offers printing"},
		{"warn", noPrinting, "", enforce.Warn, fact.Is([]fact.Browser{{ID: "chrome"}}), 1, 0, ""},
		{"an exception", noPrinting, "print", enforce.Enforce, fact.Is([]fact.Browser{{ID: "chrome"}}), 0, 0, ""},
		{"allowed", `{"dlp":{"print_allowed":true}}`, "", enforce.Enforce, fact.Is([]fact.Browser{{ID: "chrome"}}), 0, 0, ""},
		{"unknown", noPrinting, "", enforce.Enforce, fact.Unread[[]fact.Browser]("why"), 0, 1, ""},
	} {
		m := machine(fact.Queue{Name: "shut", Stopped: true, Told: true})
		m.Browsers = c.browsers
		d := document(t, c.policy).Capped(func(enforce.Setting) enforce.Mode { return c.mode }).Excepted(map[string][]string{"dlp": {c.except}})
		out := decide(section.Open([]section.Section{Section}, d, m))
		n := 0
		for _, w := range out.Wants {
			if w.Key.Kind != KindBrowser {
				continue
			}
			if n++; w.Value != "no printing" || w.Mode != c.mode || w.Key.ID == "firefox" {
				t.Errorf("%s: %+v", c.what, w)
			}
		}
		if n != c.wants || len(out.Unsure) != c.unsure || !strings.Contains(out.Findings[0].Reason, c.reason) {
			t.Errorf("%s: %+v", c.what, out)
		}
	}
}

func TestExplain(t *testing.T) {
	m := machine(fact.Queue{Name: "office", Stopped: true, Jobs: 2}, fact.Queue{Name: "home", Accepting: true})
	for _, c := range []struct {
		policy, except, subject string
		mode                    enforce.Mode
		answer, reason, now     string
	}{
		{noPrinting, "", `{"print":true}`, enforce.Enforce, section.Deny, "dlp.print_allowed is false", ""},
		{noPrinting, "", `{"print":true,"queue":"office"}`, enforce.Enforce, section.Deny, "is false", "it takes no jobs, stopped; 2 job(s) in it"},
		{noPrinting, "print", `{"print":true}`, enforce.Enforce, section.Allow, "an exception for printing", ""},
		{`{}`, "", `{"print":true,"queue":"home"}`, enforce.Enforce, section.Allow, "no setting in force", "it takes jobs, prints"},
		{noPrinting, "", `{"print":true}`, enforce.Warn, section.WouldDeny, "would be refused in enforce mode (dlp.print_allowed is in warn mode)", ""},
	} {
		d := document(t, c.policy).Capped(func(enforce.Setting) enforce.Mode { return c.mode }).Excepted(map[string][]string{"dlp": {c.except}})
		r := compile(d, m)
		a, err := r.Explain([]byte(c.subject), m)
		if err != nil || a.Answer != c.answer || !strings.Contains(a.Reason, c.reason) || !strings.Contains(a.Now, c.now) {
			t.Errorf("%s %s: %+v %v", c.policy, c.subject, a, err)
		}
		if r.CanDeny() != (c.answer == section.Deny) || len(r.Present()) != 2 || r.Present()[0].Answer != c.answer {
			t.Errorf("%s: %+v", c.policy, r.Present())
		}
		if p := r.Public().Present()[0]; c.mode < enforce.Enforce && p.Answer != section.Allow {
			t.Errorf("everybody sees %+v", p)
		}
	}
	r := compile(document(t, noPrinting), m)
	for subject, want := range map[string]string{`{}`: `must be "print"`, `{"print":true,"queue":"` + strings.Repeat("x", 128) + `"}`: "at most 127 bytes", `[`: "cannot be read"} {
		if _, err := r.Explain([]byte(subject), m); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40s: %v", subject, err)
		}
	}
	if _, err := r.Explain([]byte(`{"print":true,"queue":"none"}`), m); !errors.Is(err, section.ErrAbsent) {
		t.Error(err)
	}
	if _, err := r.Explain([]byte(`{"print":true,"queue":"office"}`), nil); !errors.Is(err, section.ErrPresent) {
		t.Error(err)
	}
	if a, err := r.Explain([]byte(`{"print":true}`), nil); err != nil || a.Answer != section.Deny {
		t.Error(a, err)
	}
}

// What is not reported of a queue is how many jobs are in it: that changes with each.
func TestReported(t *testing.T) {
	m := machine(fact.Queue{Name: "office", Stopped: true, Jobs: 2})
	known, _ := m.Encode()
	var back fact.Machine
	if err := back.Decode(known, nil, json.Unmarshal); err != nil || !back.Printing.OK || back.Printing.V.Queues[0].Name != "office" || back.Printing.V.Queues[0].Jobs != 0 {
		t.Errorf("%s %+v %v", known[fact.PartPrinting], back.Printing, err)
	}
}

func FuzzExplain(f *testing.F) {
	f.Add([]byte(`{"print":true,"queue":"office"}`))
	m := machine(fact.Queue{Name: "office"})
	r := compile(&policy.Document{}, m)
	f.Fuzz(func(t *testing.T, b []byte) {
		if a, err := r.Explain(b, m); err == nil && a.Answer == "" {
			t.Errorf("%q is not answered", b)
		}
	})
}
