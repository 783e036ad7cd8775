//go:build linux

package agent

import (
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/platform/platformtest"
)

// alwaysOn is a policy of the kill switch, for a VPN whose server is this host.
func alwaysOn(w *platformtest.WireGuard, server string) string {
	return network("enforce", `{"vpn_always_on":true,"vpn":{"peer":"`+w.Peer+`","endpoints":["`+server+`:51820"]}}`)
}

// The VPN's server over IPv6, with new keys, and moved to another address while nothing leaves: the tunnel comes up each time, and
// nothing gets past it.
func TestSwitchMoved(t *testing.T) {
	if !platformtest.InNetwork(t) {
		return
	}
	l, o := online(t)
	o.Zone("vpn.corp.example. 60 IN AAAA " + platformtest.Router6)
	w := platformtest.NewWireGuard(t, o, "wg0")
	o.Web(platformtest.Server4+":80", "["+platformtest.Server6+"]:80")
	const always = enforce.Setting("network.vpn_always_on")
	l.admin("PUT", "/policies/policy-default", alwaysOn(w, "vpn.corp.example"))
	l.reason("closed", always, enforce.Compliant, "the VPN is down, and nothing leaves")
	l.until("confirmed", func(s Status) bool { return s.Policy.State == "active" && version(2)(s) })
	mac, err := o.Run("bash", "-c", `ip -o link show out0 | sed 's/.*ether \([^ ]*\).*/\1/'`)
	if err != nil {
		t.Fatal(err)
	}
	seen := l.capture(o, past+strings.TrimSpace(mac)+" and not udp dst port 53") // the switch's own names are TestSwitchNames'
	works := func(what string) {
		t.Helper()
		becomes(t, what, "ok ok", func() string {
			return connects(platformtest.Server4+":80") + " " + connects("["+platformtest.Server6+"]:80")
		})
		w.Shake()
		tries(t)
		if got := seen.packets(); len(got) > 0 {
			t.Errorf("%s: %d packets got past the switch: %q", what, len(got), got)
		}
		l.reason(what, always, enforce.Compliant, "packets leave through wg0 (wireguard) alone")
	}
	w.Up("[" + platformtest.Router6 + "]:51820")
	works("over IPv6")
	before := w.Handshake()
	w.Rekey()
	becomes(t, "new keys", "true", func() string {
		_ = connects(platformtest.Server4 + ":80")
		if w.Handshake() > before {
			return "true"
		}
		return "false"
	})
	works("with new keys")
	w.Down()

	// It moves, and a minute passes.
	o.Rezone("vpn.corp.example. 60 IN A " + platformtest.Web4)
	if got := connects(platformtest.Web4 + ":51820"); got != "refused" {
		t.Errorf("its next address, before anybody knows it: %s", got)
	}
	e := l.agent.endpoints
	e.mu.Lock()
	e.now = func() time.Time { return time.Now().Add(endpointSoon) }
	e.mu.Unlock()
	w.Up(platformtest.Web4 + ":51820")
	works("where it moved to")
	w.Down()
	tries(t)
	if got := seen.packets(); len(got) > 0 {
		t.Errorf("%d packets got past the switch: %q", len(got), got)
	}
}

// What any program can put around a question that passes does not pass: stations behind the name server, options, another sender; nor
// more questions than a machine has use for.
func TestSwitchDetours(t *testing.T) {
	if !platformtest.InNetwork(t) {
		return
	}
	l, o := online(t)
	o.Zone("vpn.corp.example. 60 IN A " + platformtest.Router4)
	w := platformtest.NewWireGuard(t, o, "wg0")
	o.Names(platformtest.DNS6)
	o.Use(platformtest.DNS4, platformtest.DNS6)
	question := []byte("\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03vpn\x04corp\x07example\x00\x00\x01\x00\x01")
	count := o.Detours(t)
	send := func() {
		t.Helper()
		platformtest.SendDetours(t, platformtest.DNS4, platformtest.DNS6, platformtest.Other4, platformtest.Other6, 53, question)
		time.Sleep(200 * time.Millisecond)
	}
	send()
	control := count()
	if control < 4 {
		t.Fatalf("without a switch %d of 4 packets arrive", control)
	}
	l.admin("PUT", "/policies/policy-default", alwaysOn(w, "vpn.corp.example"))
	l.reason("closed", "network.vpn_always_on", enforce.Compliant, "the VPN is down, and nothing leaves")
	for _, server := range []string{platformtest.DNS4, "[" + platformtest.DNS6 + "]"} {
		becomes(t, "a plain question to "+server, "answered", func() string { return raw(server, string(question)) })
	}
	send()
	if n := count() - control; n > 0 {
		t.Errorf("%d packets passed", n)
	}
	seen := l.capture(o, "udp dst port 53 and src host 10.77.0.2")
	escaped := ""
	for _, b := range question {
		escaped += fmt.Sprintf(`\x%02x`, b)
	}
	flood := exec.Command("bash", "-c", fmt.Sprintf(`for i in $(seq 400); do printf '%s' >/dev/udp/%s/53; done`,
		escaped, platformtest.DNS4))
	flood.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	// Questions that do not pass use nothing up.
	others := exec.Command("bash", "-c", fmt.Sprintf(`for i in $(seq 400); do printf 'no question' >/dev/udp/%s/53; done`, platformtest.DNS4))
	others.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	_ = others.Run()
	if n := len(seen.packets()); n > 0 {
		t.Errorf("%d packets that are no question passed", n)
	}
	begun := time.Now()
	_ = flood.Run()
	most := 60 + int(20*time.Since(begun).Seconds()) + 20
	if n := len(seen.packets()); n < 60 || n > most {
		t.Errorf("of 400 questions %d passed in %s, wanted 60 to %d", n, time.Since(begun), most)
	}
}

// The kill switch beside the rules of other programs: they stay as they are, and the tunnel works.
func TestSwitchRulesets(t *testing.T) {
	for _, name := range platformtest.Rulesets {
		t.Run(name, func(t *testing.T) {
			if !platformtest.InNetwork(t) {
				return
			}
			l, o := online(t)
			w := platformtest.NewWireGuard(t, o, "wg0")
			o.Web(platformtest.Server4 + ":80")
			before := platformtest.LoadRuleset(t, name)
			rules := func() string {
				out, err := exec.Command("nft", "-s", "list", "ruleset").Output()
				if err != nil {
					t.Fatal(err)
				}
				return string(out)
			}
			others := func() string {
				all := rules()
				i := strings.Index(all, "table inet warder_switch {\n")
				if i < 0 {
					return "no switch"
				}
				return all[:i] + all[i+strings.Index(all[i:], "\n}\n")+len("\n}\n"):]
			}
			becomes(t, "without a switch", "ok", func() string { return connects(platformtest.Other4 + ":443") })
			l.admin("PUT", "/policies/policy-default", alwaysOn(w, platformtest.Router4))
			l.reason("closed", "network.vpn_always_on", enforce.Compliant, "the VPN is down")
			becomes(t, "closed", "refused", func() string { return connects(platformtest.Other4 + ":443") })
			w.Up(platformtest.Router4 + ":51820")
			becomes(t, "through the tunnel", "ok", func() string { return connects(platformtest.Server4 + ":80") })
			if got := others(); got != before {
				t.Errorf("the other rules are\n%s\nand were\n%s", got, before)
			}
			w.Down()
			l.admin("PUT", "/policies/policy-default", network("enforce", `{}`))
			becomes(t, "at the end", "ok", func() string { return connects(platformtest.Other4 + ":443") })
			if after := rules(); after != before {
				t.Errorf("after it:\n%s\nbefore:\n%s", after, before)
			}
		})
	}
}

// A name that is looked up past our own rules is asked for as it is: the network's search domains are not added to it.
func TestLookUpPast(t *testing.T) {
	if !platformtest.InNetwork(t) {
		return
	}
	o := platformtest.NewOutside(t)
	o.Zone("gone.vpn.example.corp.example. 60 IN A "+platformtest.Other4, "vpn.corp.example. 60 IN A "+platformtest.Router4)
	o.Names(platformtest.DNS4)
	o.Use(platformtest.DNS4) // with the search domain corp.example
	if list, err := lookUpPast(t.Context(), "vpn.corp.example", nil); err != nil || len(list) != 1 {
		t.Errorf("%v %v", list, err)
	}
	o.Asked()
	if list, err := lookUpPast(t.Context(), "gone.vpn.example", nil); err == nil {
		t.Errorf("a name that does not exist has %v", list)
	}
	for _, a := range o.Asked() {
		if strings.Contains(a, "corp.example") {
			t.Errorf("asked past our rules: %s", a)
		}
	}
}
