//go:build linux

package agent

import (
	"context"
	"encoding/json"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/platform/platformtest"
)

// reason waits until a setting's finding is as wanted, and says how long it took.
func (l *lab) reason(what string, setting enforce.Setting, want enforce.Compliance, says string) {
	l.t.Helper()
	begun := time.Now()
	var f enforce.Finding
	for time.Since(begun) < 30*time.Second {
		f = finding(l.status(), setting)
		if f.Compliance == want && strings.Contains(f.Reason, says) {
			l.t.Logf("%s: %s after %s", what, want, time.Since(begun).Round(time.Millisecond))
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	l.t.Fatalf("%s: %s: %s; wanted %s: %s", what, f.Compliance, f.Reason, want, says)
}

// What a policy asks of VPNs, observed of real ones: up, past, a decoy, silent, down; in each mode; excepted; explained. Nothing of
// the machine is changed.
func TestVPNObserved(t *testing.T) {
	if !platformtest.InNetwork(t) {
		return
	}
	l, o := online(t)
	o.Zone("vpn.example.com. 300 IN A " + platformtest.Router4)
	w := platformtest.NewWireGuard(t, o, "wg0")
	const path, required = "/policies/policy-default", enforce.Setting("network.vpn_required")
	policy := `{"vpn_required":true,"vpn":{"peer":"` + w.Peer + `","endpoints":["vpn.example.com:51820"]}}`
	rules := func() string {
		out, _ := exec.Command("bash", "-c", "nft -s list ruleset; ip rule; ip -6 rule; ip route; ip -6 route; cat /etc/resolv.conf").Output()
		return string(out)
	}
	before := rules()
	for _, mode := range []string{"monitor", "warn", "enforce"} {
		l.admin("PUT", path, network(mode, policy))
		l.reason(mode+": none", required, enforce.Noncompliant, "no VPN is up")
		w.Up(platformtest.Router4 + ":51820")
		w.Shake()
		l.reason(mode+": up", required, enforce.Compliant, "everything goes through wg0 (wireguard)")
		if out, err := exec.Command("ip", "route", "add", "203.0.113.0/25", "via", platformtest.Router4).CombinedOutput(); err != nil {
			t.Fatal(err, string(out))
		}
		l.reason(mode+": a route past it", required, enforce.Noncompliant, "1 IPv4 network(s) by eth0")
		_ = exec.Command("ip", "route", "del", "203.0.113.0/25").Run()
		l.reason(mode+": whole again", required, enforce.Compliant, "")
		w.Down()
		l.reason(mode+": down", required, enforce.Noncompliant, "no VPN is up")
	}
	if out, err := exec.Command("bash", "-ec", "ip tuntap add dev wg0 mode tun; ip addr add 10.8.0.2/32 dev wg0; ip link set wg0 up; "+
		"ip route add 0.0.0.0/1 dev wg0; ip route add 128.0.0.0/1 dev wg0").CombinedOutput(); err != nil {
		t.Fatal(err, string(out))
	}
	l.reason("a decoy", required, enforce.Noncompliant, "its only peer is not that of network.vpn")
	_ = exec.Command("ip", "link", "del", "wg0").Run()
	if after := rules(); after != before {
		t.Errorf("the machine after it:\n%s\nbefore:\n%s", after, before)
	}

	// No VPN needed for a while.
	id := l.admin("POST", "/devices/"+l.status().DeviceID+"/exceptions",
		`{"section":"network","subject":"vpn","reason":"a hotel","minutes":60}`)["id"].(string)
	l.reason("excepted", required, enforce.Compliant, "no VPN is needed")
	l.admin("DELETE", "/devices/"+l.status().DeviceID+"/exceptions/"+id, "")
	l.reason("no longer", required, enforce.Noncompliant, "no VPN is up")

	w.Up(platformtest.Router4 + ":51820")
	w.Shake()
	l.reason("up again", required, enforce.Compliant, "")
	var x Explanation
	in := ExplainRequest{Section: "network", Subject: json.RawMessage(`{"address":"` + platformtest.Web4 + `"}`)}
	if err := l.api.Do(context.Background(), "POST", "/v1/explain", in, &x); err != nil || !strings.Contains(x.Now, "leave through wg0 (wireguard)") {
		t.Errorf("%+v %v", x, err)
	}
	w.Down()
}
