package storage

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/enforce/section"
)

const noClients = `{"storage":{"cloud_sync_allowed":false}}`

// The order of decisions about sync clients, each line once.
func TestClients(t *testing.T) {
	for _, c := range []struct {
		what, policy, client string
		except               []string
		answer, reason       string
	}{
		{"refused", noClients, "dropbox", nil, section.Deny, "storage.cloud_sync_allowed is false, and Dropbox"},
		{"allowed", `{"storage":{"cloud_sync_allowed":true}}`, "dropbox", nil, section.Allow, "no setting in force"},
		{"not managed", `{}`, "dropbox", nil, section.Allow, "no setting in force"},
		{"an exception", noClients, "dropbox", []string{"client:dropbox"}, section.Allow, "an exception for this client"},
		{"an exception for another", noClients, "dropbox", []string{"client:rclone", "disk:dropbox"}, section.Deny, "is false"},
		{"unknown", noClients, "gedit", nil, section.Allow, "none of the clients that are known"},
		{"monitor", noClients, "dropbox", nil, section.WouldDeny, "would be refused in enforce mode"},
	} {
		d := document(t, c.policy)
		if c.what == "monitor" {
			d = d.Capped(func(enforce.Setting) enforce.Mode { return enforce.Monitor })
		}
		r := compile(d.Excepted(map[string][]string{"storage": c.except}), nil)
		m := &fact.Running{App: c.client}
		v := r.Clients().Judge(m)
		reason, _ := r.Clients().Reason(v, m)
		if section.Word(v) != c.answer || !strings.Contains(reason, c.reason) {
			t.Errorf("%s: %s, %q", c.what, section.Word(v), reason)
		}
		b, _ := json.Marshal(m)
		if a, ok := r.Replay(enforce.Facts(b)); !ok || a.Answer != c.answer {
			t.Errorf("%s, of an event: %v %v", c.what, a, ok)
		}
		b, _ = json.Marshal(Subject{Client: c.client})
		if a, err := r.Explain(b, nil); err != nil || a.Answer != c.answer {
			t.Errorf("%s, asked: %v %v", c.what, a, err)
		}
	}
	r := compile(document(t, noClients), nil)
	if a, err := r.Explain([]byte(`{"client":"resilio sync"}`), nil); err != nil || a.Answer != section.Deny || a.Subject != "Resilio Sync" {
		t.Errorf("%+v %v", a, err)
	}
	if a, err := r.Explain([]byte(`{"client":"megasync"}`), nil); err != nil || a.Answer != section.Deny || a.Subject != "MEGA" {
		t.Errorf("%+v %v", a, err)
	}
	if _, err := r.Explain([]byte(`{"client":"`+strings.Repeat("x", 256)+`"}`), nil); err == nil || !strings.Contains(err.Error(), "at most 255 bytes") {
		t.Errorf("a client's name of any length: %v", err)
	}
}

// What is wanted, and the finding.
func TestCloudSyncFinding(t *testing.T) {
	can := map[string]fact.Capability{"storage": {Level: fact.Enforced, Limit: "some are not seen"}, "network": {Level: fact.Partial}}
	run := func(policyText, mode string, m fact.Machine, except ...string) (section.Outcome, enforce.Finding) {
		if m.Capable == nil {
			m.Capable = can
		}
		d := document(t, policyText)
		if mode != "" {
			d = d.Capped(func(enforce.Setting) enforce.Mode { return enforce.Monitor })
		}
		c := section.Open([]section.Section{Section}, d.Excepted(map[string][]string{"storage": except}), &m)
		out := decide(c)
		i := slices.IndexFunc(out.Findings, func(f enforce.Finding) bool { return f.Setting == settingCloud })
		if i < 0 {
			t.Fatalf("no finding: %+v", out)
		}
		return out, out.Findings[i]
	}
	quiet, busy := fact.Machine{Clients: fact.Is([]fact.Running{})}, fact.Machine{Clients: fact.Is([]fact.Running{{App: "rclone", Program: "rclone", Processes: 1}})}
	out, f := run(noClients, "", quiet)
	if len(out.Wants) != 1 || out.Wants[0].Key != clientsKey || f.Compliance != enforce.Compliant || f.Enforcement != enforce.Enforced || f.Reason != "enforced, with a limit: some are not seen" {
		t.Errorf("%+v %+v", out.Wants, f)
	}
	if ids, ok := fact.ParseClientsRefused(string(out.Wants[0].Value)); !ok || !slices.Contains(ids, "rclone") || slices.Contains(ids, "box") {
		t.Errorf("%v", ids)
	}
	out, f = run(noClients, "", quiet, "client:rclone")
	if ids, _ := fact.ParseClientsRefused(string(out.Wants[0].Value)); slices.Contains(ids, "rclone") || !strings.HasPrefix(f.Reason, "but for those with an exception: rclone; ") {
		t.Errorf("%v %+v", ids, f)
	}
	if _, f := run(noClients, "", busy); f.Compliance != enforce.Noncompliant || f.Reason != "rclone runs (program rclone, 1 process(es))" || len(f.Evidence) != 1 {
		t.Errorf("%+v", f)
	}
	if _, f := run(noClients, "", busy, "client:rclone"); f.Compliance != enforce.Compliant {
		t.Errorf("%+v", f)
	}
	if _, f := run(noClients, "monitor", busy); f.Compliance != enforce.Noncompliant || f.Enforcement != enforce.Observed {
		t.Errorf("%+v", f)
	}
	if _, f := run(noClients, "", fact.Machine{Capable: map[string]fact.Capability{"storage": {Level: fact.Enforced}}, Clients: quiet.Clients}); f.Reason != "their names are not refused on this machine now" {
		t.Errorf("%+v", f)
	}
	if _, f := run(noClients, "", fact.Machine{}); f.Compliance != enforce.Uncertain {
		t.Errorf("%+v", f)
	}
	out, f = run(noClients, "", fact.Machine{Capable: map[string]fact.Capability{"storage": {Level: fact.Unsupported, Limit: "no programs"}}, Clients: quiet.Clients})
	if len(out.Wants) != 0 || f.Enforcement != enforce.Unsupported || f.Reason != "no programs" {
		t.Errorf("%+v %+v", out.Wants, f)
	}
	unsupported := map[string]fact.Capability{"storage": {Level: fact.Unsupported, Limit: "no programs"}}
	if _, f := run(`{"storage":{"cloud_sync_allowed":true}}`, "", fact.Machine{Capable: unsupported, Clients: quiet.Clients}); f.Enforcement != enforce.Unsupported {
		t.Errorf("allowed, where nothing could refuse it: %+v", f)
	}
	if _, f := run(`{"storage":{"cloud_sync_allowed":true}}`, "monitor", quiet); f.Enforcement != enforce.Observed {
		t.Errorf("allowed, in monitor mode: %+v", f)
	}
	for level, reason := range map[string]string{fact.Partial: "partial: they are stopped when they are seen", fact.Unsupported: "partial: only their names are refused; they are stopped when they are seen"} {
		out, f = run(noClients, "", fact.Machine{Capable: map[string]fact.Capability{"storage": {Level: level, Limit: "they are stopped when they are seen"}, "network": {Level: fact.Partial}}, Clients: quiet.Clients})
		wants := map[string]int{fact.Partial: 1}[level]
		if len(out.Wants) != wants || f.Enforcement != enforce.Partial || f.Compliance != enforce.Compliant || f.Reason != reason {
			t.Errorf("%s: %+v %+v", level, out.Wants, f)
		}
	}
	if out, f := run(`{"storage":{"cloud_sync_allowed":true}}`, "", busy); len(out.Wants) != 0 || f.Compliance != enforce.Compliant {
		t.Errorf("%+v %+v", out.Wants, f)
	}
}

// The table of clients: names that can be told apart, domains that a policy could name, and exceptions for each.
func TestClientTable(t *testing.T) {
	programs := map[string]string{}
	for i := range fact.Clients {
		c := &fact.Clients[i]
		if got, ok := fact.Clients.ByID(c.ID); !ok || got != c || c.Name == "" || (len(c.Programs) == 0) != (c.Why != "") {
			t.Errorf("%+v", c)
		}
		for _, p := range c.Programs {
			if programs[p] != "" {
				t.Errorf("%s is a program of %s and of %s", p, c.ID, programs[p])
			}
			programs[p] = c.ID
			if got, as, ok := fact.Clients.ByProgram(strings.Replace(p, "*", "-1.2.AppImage", 1)); !ok || got != c || as != p {
				t.Errorf("%s is not found as %s", p, c.ID)
			}
		}
		for _, d := range c.Domains {
			if n, err := policy.ParseName(d); err != nil || n.Host == "" {
				t.Errorf("%s: domain %q: %v", c.ID, d, err)
			}
		}
		if got, err := parseSubject(policy.ClientSubject + c.ID); err != nil || got != policy.ClientSubject+c.ID || !slices.Equal(subjectNames(got), []string{got}) {
			t.Errorf("%q: %v", got, err)
		}
	}
	if _, err := parseSubject("client:gedit"); err == nil || !strings.Contains(err.Error(), `client "gedit" must be one of dropbox, `) {
		t.Errorf("%v", err)
	}
	for _, name := range []string{"Nextcloud", "rclone2", "my-dropbox", "", "sh"} {
		if c, _, ok := fact.Clients.ByProgram(name); ok {
			t.Errorf("%q is taken for %s", name, c.ID)
		}
	}
}

// docs/storage.md has the table of clients. WARDER_UPDATE=1 writes it.
func TestClientDocs(t *testing.T) {
	const path, head = "../../docs/storage.md", "| client | programs | names | what starts it and stays |\n|---|---|---|---|\n"
	code := func(list []string) string {
		if len(list) == 0 {
			return ""
		}
		return "`" + strings.Join(list, "` `") + "`"
	}
	var table strings.Builder
	table.WriteString(head)
	for i := range fact.Clients {
		c := &fact.Clients[i]
		programs := code(c.Programs)
		if programs == "" {
			programs = "none: " + c.Why
		}
		starts := slices.Concat(c.Units, c.Autostart, c.Flatpak)
		for _, s := range c.Snap {
			starts = append(starts, "snap "+s)
		}
		table.WriteString("| `" + c.ID + "` (" + c.Name + ") | " + programs + " | " + code(c.Domains) + " | " + code(starts) + " |\n")
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	from := strings.Index(text, head)
	if from < 0 {
		t.Fatal("docs/storage.md has no table of clients")
	}
	to := from + strings.Index(text[from:], "\n\n") + 1
	if text[from:to] == table.String() {
		return
	}
	if os.Getenv("WARDER_UPDATE") == "" {
		t.Fatal("the table of clients in docs/storage.md is another one than enforce/fact/clients.go: WARDER_UPDATE=1 go test ./enforce/storage")
	}
	if err := os.WriteFile(path, []byte(text[:from]+table.String()+text[to:]), 0o600); err != nil {
		t.Fatal(err)
	}
}
