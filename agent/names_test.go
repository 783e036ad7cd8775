//go:build linux

package agent

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/platform/platformtest"
	"github.com/warderd/warder/platform/service"
	"github.com/warderd/warder/sync/server"
)

// online is a lab with a network outside, which it may govern.
func online(t *testing.T) (*lab, *platformtest.Outside) {
	o := platformtest.NewOutside(t)
	o.Zone("docs.example.com. 300 IN A "+platformtest.Web4, "www.blocked.example. 300 IN A "+platformtest.Other4)
	o.Names(platformtest.DNS4)
	o.Web(platformtest.Web4+":443", platformtest.Other4+":443")
	l := labWith(t, server.Options{HTTP: true})
	l.network = true
	l.start()
	l.enroll()
	return l, o
}

// resolves asks for an address, and returns it or the error's name.
func resolves(name string) string {
	m := new(dns.Msg)
	m.SetQuestion(name+".", dns.TypeA)
	a, _, err := (&dns.Client{Timeout: 3 * time.Second}).Exchange(m, platformtest.DNS4+":53")
	switch {
	case err != nil:
		return err.Error()
	case a.Rcode != dns.RcodeSuccess:
		return dns.RcodeToString[a.Rcode]
	case len(a.Answer) == 0:
		return "nothing"
	}
	return strings.TrimPrefix(a.Answer[0].String(), a.Answer[0].Header().String())
}

// connects tries to connect, and says how it went.
func connects(addr string) string {
	c, err := net.DialTimeout("tcp", addr, 3*time.Second)
	if err != nil {
		if strings.Contains(err.Error(), "refused") {
			return "refused"
		}
		return err.Error()
	}
	_ = c.Close()
	return "ok"
}

// becomes waits until something is so.
func becomes(t *testing.T, what, want string, get func() string) {
	t.Helper()
	start := time.Now()
	got := ""
	for time.Since(start) < 30*time.Second {
		if got = get(); got == want {
			t.Logf("%s: %s after %v", what, want, time.Since(start).Round(time.Millisecond))
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("%s: %s, wanted %s", what, got, want)
}

// newest are the newest events of this machine.
func (l *lab) newest() (out []enforce.Event) {
	l.t.Helper()
	if err := l.agent.store.Newest(context.Background(), 50, func(e *enforce.Event) error { out = append(out, *e); return nil }); err != nil {
		l.t.Fatal(err)
	}
	return out
}

func network(mode, settings string) string {
	return `{"compliance":"` + mode + `","policy_data":{"network":` + settings + `}}`
}

// A policy about names, from the administrator to the machine and back: enforced, read back, guarded against others, explained,
// excepted, lowered and given back.
func TestNames(t *testing.T) {
	if !platformtest.InNetwork(t) {
		return
	}
	l, _ := online(t)
	before, _ := exec.Command("nft", "-s", "list", "ruleset").Output()
	const path = "/policies/policy-default"
	blocked := func() string { return resolves("www.blocked.example") }
	l.admin("PUT", path, network("enforce", `{"blocked_domains":["blocked.example"]}`))
	becomes(t, "a blocked name", "NXDOMAIN", blocked)
	if got := resolves("docs.example.com"); got != platformtest.Web4 {
		t.Errorf("another name: %s", got)
	}
	s := l.until("confirmed", func(s Status) bool { return version(2)(s) && s.Policy.State == "active" })
	for _, f := range s.Findings {
		if f.Setting == "network.blocked_domains" &&
			(f.Compliance != enforce.Compliant || f.Enforcement != enforce.Partial || len(f.Evidence) == 0) {
			t.Errorf("%+v", f)
		}
	}
	// An exception for one name, with all below it, and its end.
	device := "/devices/" + l.agent.custody.device().DeviceID
	id := l.admin("POST", device+"/exceptions",
		`{"section":"network","subject":"www.blocked.example","reason":"a fair","minutes":5}`)["id"].(string)
	becomes(t, "an excepted name", platformtest.Other4, blocked)
	l.admin("DELETE", device+"/exceptions/"+id, "")
	becomes(t, "after the exception", "NXDOMAIN", blocked)

	// Drift.
	for _, line := range []string{"delete table inet warder", "flush ruleset", "insert rule inet warder out accept"} {
		if out, err := exec.Command("nft", strings.Fields(line)...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v %s", line, err, out)
		}
		becomes(t, "after "+line, "NXDOMAIN", blocked)
		l.until("it is told", func(s Status) bool {
			for _, e := range l.newest() {
				if e.Kind == enforce.Drift && e.By != nil && e.By.Name == "nft" {
					return true
				}
			}
			return false
		})
	}

	l.admin("PUT", path, network("enforce", `{"allowed_domains":["example.com"]}`))
	becomes(t, "another address", "refused", func() string { return connects(platformtest.Other4 + ":443") })
	if got := connects(platformtest.Web4 + ":443"); got != "refused" {
		t.Errorf("an allowed name's address before it was asked for: %s", got)
	}
	if got := resolves("docs.example.com") + " " + connects(platformtest.Web4+":443"); got != platformtest.Web4+" ok" {
		t.Errorf("an allowed name: %s", got)
	}
	var x Explanation
	ask := func(subject string) Explanation {
		var x Explanation
		in := ExplainRequest{Section: "network", Subject: json.RawMessage(subject)}
		if err := l.api.Do(context.Background(), "POST", "/v1/explain", in, &x); err != nil {
			t.Fatal(err)
		}
		return x
	}
	if x = ask(`{"address":"` + platformtest.Web4 + `"}`); !strings.Contains(x.Now, "docs.example.com") {
		t.Errorf("%+v", x)
	}
	if x = ask(`{"name":"www.blocked.example"}`); x.Answer.Answer != "deny" {
		t.Errorf("%+v", x)
	}
	s = l.until("confirmed", func(s Status) bool { return s.Policy.State == "active" && s.CheckIn.Backlog == 0 })

	// Lowered: nothing of ours is left, and what would be refused is told.
	l.admin("PUT", path, network("monitor", `{"allowed_domains":["example.com"]}`))
	becomes(t, "in monitor mode", platformtest.Other4, blocked)
	if after, _ := exec.Command("nft", "-s", "list", "ruleset").Output(); string(after) != string(before) {
		t.Errorf("the ruleset in monitor mode:\n%s", after)
	}
	l.until("it is told", func(s Status) bool {
		_ = blocked()
		for _, e := range l.newest() {
			if e.Kind == enforce.WouldDeny && e.Subject == "www.blocked.example" {
				return true
			}
		}
		return false
	})
	l.admin("PUT", path, network("enforce", `{"allowed_domains":["example.com"]}`))
	becomes(t, "again", "refused", func() string { return connects(platformtest.Other4 + ":443") })
	l.stop()
	if after, _ := exec.Command("nft", "-s", "list", "ruleset").Output(); string(after) != string(before) {
		t.Errorf("the ruleset after the agent's end:\n%s", after)
	}
}

// The table that 0.8.0 left in force is replaced at the start of this version, and is not told as another program's change. What it
// refuses stays refused meanwhile.
func TestTableOfEarlierVersion(t *testing.T) {
	if !platformtest.InNetwork(t) {
		return
	}
	l, _ := online(t)
	const path = "/policies/policy-default"
	l.admin("PUT", path, network("enforce", `{"blocked_domains":["blocked.example"]}`))
	becomes(t, "a blocked name", "NXDOMAIN", func() string { return resolves("www.blocked.example") })
	l.until("confirmed", func(s Status) bool { return version(2)(s) && s.Policy.State == "active" })
	l.ending = service.Restarting
	l.stop()

	// That version had no rules about port 53 in this chain, and described the table with another digest.
	rules := func() (handles []string) {
		out, err := exec.Command("nft", "-a", "list", "chain", "inet", "warder", "out").Output()
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(out)) {
			if strings.Contains(line, "dport 53 ") {
				f := strings.Fields(line)
				handles = append(handles, f[len(f)-1])
			}
		}
		return handles
	}
	old := rules()
	if len(old) != 2 {
		t.Fatalf("%d rules about port 53", len(old))
	}
	for _, h := range old {
		if out, err := exec.Command("nft", "delete", "rule", "inet", "warder", "out", "handle", h).CombinedOutput(); err != nil {
			t.Fatal(err, string(out))
		}
	}
	db, err := sql.Open("sqlite", filepath.Join(l.agent.o.Paths.State, "ledger.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	r, err := db.Exec(`UPDATE rows SET last = replace(last, ' closed (', ' closed (0') WHERE kind = 'firewall'`)
	if err != nil {
		t.Fatal(err)
	}
	if n, _ := r.RowsAffected(); n != 1 {
		t.Fatalf("%d rows of the ledger were changed", n)
	}
	_ = db.Close()

	done := make(chan struct{})
	opened := make(chan string, 1)
	go func() { // throughout
		for {
			select {
			case <-done:
				close(opened)
				return
			default:
				if got := resolves("www.blocked.example"); got == platformtest.Other4 {
					opened <- got
					close(opened)
					return
				}
			}
		}
	}()
	l.start()
	becomes(t, "the rules about port 53", "2", func() string { return fmt.Sprint(len(rules())) })
	l.until("it is confirmed", func(s Status) bool {
		return finding(s, "network.blocked_domains").Compliance == enforce.Compliant && s.Policy.State == "active"
	})
	close(done)
	if got := <-opened; got != "" {
		t.Errorf("meanwhile the name was answered: %s", got)
	}
	for _, e := range l.newest() {
		if e.Kind == enforce.Drift {
			t.Errorf("told as a change: %+v", e)
		}
	}
	l.ending = service.Stopped
}
