//go:build linux

package agent

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/platform/platformtest"
	"github.com/warderd/warder/sync/server"
)

// A policy that refuses sync clients has their names refused, without a list of names: in its own mode, but for a client with an
// exception, and given back. On this machine, which is simulated, that is all there is.
func TestClientNames(t *testing.T) {
	if !platformtest.InNetwork(t) {
		return
	}
	o := platformtest.NewOutside(t)
	o.Zone("docs.example.com. 300 IN A "+platformtest.Web4, "client.dropbox.com. 300 IN A "+platformtest.Other4, "oneclient.sfx.ms. 300 IN A "+platformtest.Other4)
	o.Names(platformtest.DNS4)
	l := labWith(t, server.Options{HTTP: true})
	l.network = true
	l.start()
	l.enroll()
	before, _ := exec.Command("nft", "-s", "list", "ruleset").Output()
	const path = "/policies/policy-default"
	policy := func(mode string) string {
		return `{"compliance":"` + mode + `","policy_data":{"storage":{"cloud_sync_allowed":false}}}`
	}
	dropbox := func() string { return resolves("client.dropbox.com") }
	l.admin("PUT", path, policy("enforce"))
	becomes(t, "a client's name", "NXDOMAIN", dropbox)
	if got := resolves("docs.example.com"); got != platformtest.Web4 {
		t.Errorf("another name: %s", got)
	}
	s := l.until("confirmed", func(s Status) bool { return version(2)(s) && s.Policy.State == "active" })
	found := false
	for _, f := range s.Findings {
		if f.Setting == "storage.cloud_sync_allowed" {
			found = true
			if f.Compliance != enforce.Compliant || f.Enforcement != enforce.Partial || !strings.HasPrefix(f.Reason, "partial: only their names are refused") {
				t.Errorf("%+v", f)
			}
		}
	}
	if !found {
		t.Errorf("no finding: %+v", s.Findings)
	}
	// A policy that has been refuted changes nothing of the network: the names are free again, and with its confirmation refused again.
	refuted := func(is bool) {
		if err := l.agent.call(t.Context(), func() {
			st := l.agent.custody.state
			if st.Refuted = 0; is {
				st.Refuted = st.Policy.Serial
			}
			if err := l.agent.custody.save(st); err != nil {
				t.Error(err)
			}
			l.agent.look()
		}); err != nil {
			t.Fatal(err)
		}
	}
	refuted(true)
	becomes(t, "a client's name after a refutation", platformtest.Other4, dropbox)
	if after, _ := exec.Command("nft", "-s", "list", "ruleset").Output(); string(after) != string(before) {
		t.Errorf("the ruleset after a refutation:\n%s", after)
	}
	l.until("the finding says so", func(s Status) bool {
		for _, f := range s.Findings {
			if f.Setting == "storage.cloud_sync_allowed" {
				return f.Enforcement == enforce.Unsupported
			}
		}
		return false
	})
	refuted(false)
	becomes(t, "a client's name without it", "NXDOMAIN", dropbox)
	device := "/devices/" + l.agent.custody.device().DeviceID
	id := l.admin("POST", device+"/exceptions", `{"section":"storage","subject":"client:dropbox","reason":"a move","minutes":5}`)["id"].(string)
	becomes(t, "a client with an exception", platformtest.Other4, dropbox)
	if got := resolves("oneclient.sfx.ms"); got != "NXDOMAIN" {
		t.Errorf("another client: %s", got)
	}
	l.admin("DELETE", device+"/exceptions/"+id, "")
	becomes(t, "after the exception", "NXDOMAIN", dropbox)
	l.admin("PUT", path, policy("monitor"))
	becomes(t, "in monitor mode", platformtest.Other4, dropbox)
	l.until("it is told", func(Status) bool {
		_ = dropbox()
		for _, e := range l.newest() {
			if e.Kind == enforce.WouldDeny && e.Subject == "client.dropbox.com" {
				return true
			}
		}
		return false
	})
	if after, _ := exec.Command("nft", "-s", "list", "ruleset").Output(); string(after) != string(before) {
		t.Errorf("the ruleset in monitor mode:\n%s", after)
	}
	l.admin("PUT", path, `{"compliance":"enforce","policy_data":{"storage":{"cloud_sync_allowed":true}}}`)
	l.until("nothing is asked", func(s Status) bool { return version(4)(s) && s.Policy.State == "active" })
	if got := dropbox(); got != platformtest.Other4 {
		t.Errorf("allowed: %s", got)
	}
}
