package network

import (
	"slices"
	"strings"
	"testing"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/enforce/section"
)

// What is wanted of the firewall for the names of sync clients: in the mode of that setting, for those without an exception, and no
// more than what this machine can do.
func TestClientNames(t *testing.T) {
	const refuses = `{"name":"p","compliance":"MODE","policy_data":{"storage":{"cloud_sync_allowed":false}}}`
	for _, c := range []struct {
		name, policy string
		except       []string
		level        string
		mode         enforce.Mode
		names        string
	}{
		{"enforce", strings.Replace(refuses, "MODE", "enforce", 1), nil, fact.Enforced, enforce.Enforce, "(lists sync clients)"},
		{"an exception", strings.Replace(refuses, "MODE", "enforce", 1), []string{"client:dropbox"}, fact.Enforced, enforce.Enforce, "(lists sync clients)"},
		{"monitor", strings.Replace(refuses, "MODE", "monitor", 1), nil, fact.Enforced, enforce.Monitor, "(lists sync clients)"},
		{"no names here", strings.Replace(refuses, "MODE", "enforce", 1), nil, fact.Unsupported, enforce.Monitor, "(lists sync clients)"},
		{"an empty list", strings.Replace(strings.Replace(refuses, "MODE", "enforce", 1), `"policy_data":{`, `"policy_data":{"network":{"blocked_domains":[]},`, 1), nil, fact.Enforced, enforce.Enforce, "(lists sync clients)"},
		{"the network is free", strings.Replace(refuses, "MODE", "enforce", 1), nil, fact.Enforced, enforce.Monitor, "(lists sync clients)"},
		{"allowed", `{"name":"p","compliance":"enforce","policy_data":{"storage":{"cloud_sync_allowed":true}}}`, nil, fact.Enforced, enforce.Off, ""},
	} {
		m := can()
		m.Capable = map[string]fact.Capability{"network": {Level: c.level}, "storage": {Level: fact.Enforced}}
		document := decode(t, c.policy)
		if c.name == "the network is free" {
			document = document.WithNetworkFree()
		}
		open := section.Open(sections(), document.Excepted(map[string][]string{"storage": c.except}), m)
		out := decide(open)
		if c.names == "" {
			if len(out.Wants) != 0 || Section.Concerned(open.Document) {
				t.Errorf("%s: %+v", c.name, out.Wants)
			}
			continue
		}
		if len(out.Wants) != 1 || out.Wants[0].Mode != c.mode || !slices.Equal(out.Wants[0].By, []enforce.Setting{settingClients}) ||
			!strings.Contains(string(out.Wants[0].Value), c.names) || !strings.Contains(string(out.Wants[0].Value), "; 0 other resolvers are closed") || !Section.Concerned(open.Document) {
			t.Errorf("%s: %+v", c.name, out.Wants)
		}
		r := open.Rules("network").(*Rules)
		v := r.Judge(&Subject{Name: "client.dropbox.com"})
		if got, want := section.Word(v), map[bool]string{true: section.Allow, false: map[bool]string{true: section.Deny, false: section.WouldDeny}[c.mode == enforce.Enforce]}[len(c.except) > 0]; got != want {
			t.Errorf("%s: %s, want %s", c.name, got, want)
		}
		if v.WouldDeny && v.WouldMode != c.mode {
			t.Errorf("%s: would be refused in %v", c.name, v.WouldMode)
		}
		if r.Judged() != (c.mode == enforce.Enforce) || !r.Looked() {
			t.Errorf("%s: judged %v, looked at %v", c.name, r.Judged(), r.Looked())
		}
		if p := r.Public().(*Rules); c.mode < enforce.Enforce && p.Looked() {
			t.Errorf("%s: others see it", c.name)
		}
	}
}
