//go:build linux

package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/platform/platformtest"
)

// named is a reference to a list as a policy has it.
func named(list map[string]any) string {
	return fmt.Sprintf(`[{"id":%q,"sha256":%q}]`, list["id"], list["sha256"])
}

// finding is one of the status.
func finding(s Status, setting enforce.Setting) enforce.Finding {
	for _, f := range s.Findings {
		if f.Setting == setting {
			return f
		}
	}
	return enforce.Finding{}
}

// A long list, from the upload to the refusal: fetched once, kept over restarts without a server, fetched again if its file is
// damaged; while a new version cannot be had, the old one stays in force and the setting is unknown.
func TestLongList(t *testing.T) {
	if !platformtest.InNetwork(t) {
		return
	}
	l, o := online(t)
	o.Zone("www.other.example. 300 IN A " + platformtest.Other4)
	const path = "/policies/policy-default"
	blocked := func() string { return resolves("www.blocked.example") }
	other := func() string { return resolves("www.other.example") }
	settings := func(list map[string]any) string { return `{"blocked_lists":` + named(list) + `}` }

	var long strings.Builder
	for i := range 100_000 {
		fmt.Fprintf(&long, "ads%d.tracker.example\n", i)
	}
	list := l.admin("POST", "/lists?name=Ads", long.String()+"blocked.example\n")
	dir := filepath.Join(l.agent.o.Paths.Lists(), list["id"].(string))
	file := filepath.Join(dir, list["sha256"].(string)+".zst")
	l.admin("PUT", path, network("monitor", settings(list)))
	l.until("it is fetched", func(Status) bool { _, err := os.Stat(file); return err == nil })
	l.until("confirmed", func(s Status) bool { return s.Policy.State == "active" && version(2)(s) })

	// Fetched before, 100,000 names are in force soon after the check-in that names them.
	began := time.Now()
	l.admin("PUT", path, network("enforce", settings(list)))
	becomes(t, "a blocked name, after the administrator's change", "NXDOMAIN", blocked)
	t.Logf("100,001 names in force %v after the change", time.Since(began).Round(time.Millisecond))
	s := l.until("confirmed", func(s Status) bool { return s.Policy.State == "active" && version(3)(s) })
	if f := finding(s, "network.blocked_lists"); f.Compliance != enforce.Compliant || f.Enforcement != enforce.Partial {
		t.Errorf("%+v", f)
	}
	var x Explanation
	in := ExplainRequest{Section: "network", Subject: json.RawMessage(`{"name":"www.blocked.example"}`)}
	if err := l.api.Do(context.Background(), "POST", "/v1/explain", in, &x); err != nil || x.Listed == nil || x.Listed.Line != 100_001 ||
		!strings.Contains(x.Reason, "(line 100001 of version ") {
		t.Errorf("%+v %v", x, err)
	}

	// A new version that cannot be stored: the old one stays, and that is said.
	next := l.admin("PUT", "/lists/"+list["id"].(string), "other.example\n")
	if err := os.MkdirAll(filepath.Join(dir, next["sha256"].(string)+".zst", "in the way"), 0o700); err != nil {
		t.Fatal(err)
	}
	l.admin("PUT", path, network("enforce", settings(next)))
	s = l.until("it is said", func(s Status) bool {
		f := finding(s, "network.blocked_lists")
		return f.Compliance == enforce.Uncertain && strings.Contains(f.Reason, "cannot be fetched") && strings.Contains(f.Reason, "is in force meanwhile")
	})
	if got := blocked() + " " + other(); got != "NXDOMAIN "+platformtest.Other4 {
		t.Errorf("the old version: %s; %+v", got, s.Findings)
	}
	if err := os.RemoveAll(filepath.Join(dir, next["sha256"].(string)+".zst")); err != nil {
		t.Fatal(err)
	}
	l.in((*Agent).linked) // another network: at once
	becomes(t, "the new version", "NXDOMAIN", other)
	becomes(t, "what it does not have", platformtest.Other4, blocked)
	l.until("confirmed, and the old version is gone", func(s Status) bool {
		_, err := os.Stat(file)
		return s.Policy.State == "active" && finding(s, "network.blocked_lists").Compliance == enforce.Compliant && os.IsNotExist(err)
	})

	// Without a server: what is here is in force after a restart.
	file = filepath.Join(dir, next["sha256"].(string)+".zst")
	l.stop()
	l.down()
	l.start()
	becomes(t, "after a restart without a server", "NXDOMAIN", other)
	// Damaged: it is not used, nothing opens what the document itself refuses, and it is fetched again.
	l.stop()
	if err := os.WriteFile(file, []byte("nothing of use"), 0o600); err != nil {
		t.Fatal(err)
	}
	l.start()
	l.until("it is not used", func(s Status) bool {
		return finding(s, "network.blocked_lists").Compliance == enforce.Uncertain && other() == platformtest.Other4
	})
	l.serve()
	l.in((*Agent).linked)
	becomes(t, "fetched again", "NXDOMAIN", other)

	l.admin("PUT", path, network("enforce", `{}`))
	becomes(t, "without it", platformtest.Other4, other)
	l.until("its files are gone", func(Status) bool { _, err := os.Stat(dir); return os.IsNotExist(err) })
}
