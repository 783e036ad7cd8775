//go:build linux

package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/secret"
	"github.com/warderd/warder/platform/link"
	"github.com/warderd/warder/platform/platformtest"
	"github.com/warderd/warder/platform/service"
	"github.com/warderd/warder/sync/server"
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
	for _, mode := range []string{"monitor", "warn"} {
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
	code := l.admin("POST", "/devices/"+l.status().DeviceID+"/exceptions",
		`{"section":"network","subject":"vpn","reason":"a hotel","minutes":60,"offline":true}`)["code"].(string)
	if err := l.api.Do(context.Background(), "POST", "/v1/exceptions", ExceptionRequest{Code: code}, nil); err != nil {
		t.Fatal(err)
	}
	l.reason("excepted by a code that says nothing else", required, enforce.Compliant, "no VPN is needed")

	w.Up(platformtest.Router4 + ":51820")
	w.Shake()
	var x Explanation
	in := ExplainRequest{Section: "network", Subject: json.RawMessage(`{"address":"` + platformtest.Web4 + `"}`)}
	if err := l.api.Do(context.Background(), "POST", "/v1/explain", in, &x); err != nil || !strings.Contains(x.Now, "leave through wg0 (wireguard)") {
		t.Errorf("%+v %v", x, err)
	}
	w.Down()
}

// capture counts the packets of the machine that arrive at the router, by tcpdump(8) there: those that match, since it began.
type capture struct {
	t    *testing.T
	o    *platformtest.Outside
	file string
	pid  string
}

func (l *lab) capture(o *platformtest.Outside, filter string) *capture {
	l.t.Helper()
	c := &capture{t: l.t, o: o, file: filepath.Join(l.t.TempDir(), "pcap")}
	out, err := o.Run("bash", "-c", "tcpdump --immediate-mode -s 512 -B 32768 -i out0 -nn -U -Z root -w "+c.file+" '"+filter+"' >/dev/null 2>"+c.file+".log & echo $!")
	if err != nil {
		l.t.Fatal(err, out)
	}
	c.pid = strings.TrimSpace(out)
	for range 1500 {
		if b, _ := os.ReadFile(c.file + ".log"); strings.Contains(string(b), "listening on") {
			l.t.Cleanup(func() { _ = exec.Command("kill", c.pid).Run() })
			return c
		}
		time.Sleep(20 * time.Millisecond)
	}
	l.t.Fatal("tcpdump does not start")
	return nil
}

// packets are those that were seen, in words. What the kernel has for tcpdump is waited for: on a busy machine tcpdump may be late.
func (c *capture) packets() []string {
	c.t.Helper()
	time.Sleep(200 * time.Millisecond) // for what is on its way
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		said, read := c.counts()
		if read {
			break
		}
		if time.Now().After(end) {
			c.t.Fatalf("tcpdump has not read what the kernel has for it: %s", said)
		}
	}
	out, err := exec.Command("tcpdump", "-nn", "-r", c.file).Output()
	if err != nil {
		c.t.Fatal(err)
	}
	if s := strings.TrimSpace(string(out)); s != "" {
		return strings.Split(s, "\n")
	}
	return nil
}

var countsOf = regexp.MustCompile(`(\d+) packets? captured, (\d+) packets? received by filter, (\d+) packets? dropped`)

// counts asks tcpdump what it has captured, and whether that is all that the kernel had for it.
func (c *capture) counts() (said string, read bool) {
	c.t.Helper()
	before, _ := os.ReadFile(c.file + ".log")
	if err := exec.Command("kill", "-USR1", c.pid).Run(); err != nil {
		c.t.Fatal("tcpdump has ended: ", string(before))
	}
	for range 3000 {
		all, _ := os.ReadFile(c.file + ".log")
		said = strings.TrimSpace(string(all[len(before):]))
		if n := countsOf.FindStringSubmatch(said); n != nil {
			if n[3] != "0" {
				c.t.Fatalf("tcpdump missed packets: %s", said)
			}
			return said, n[1] == n[2]
		}
		time.Sleep(10 * time.Millisecond)
	}
	return said, false
}

// tries sends what a program could send past a VPN: over both families, by TCP, UDP, ICMP, multicast, fragments, by an
// interface and by an address of the machine.
func tries(t *testing.T) {
	t.Helper()
	for _, line := range []string{
		"timeout 1 bash -c '</dev/tcp/203.0.113.20/443'", "timeout 1 bash -c '</dev/tcp/2001:db8:20::20/443'",
		"echo x >/dev/udp/203.0.113.20/9", "echo x >/dev/udp/2001:db8:20::20/9", "echo x >/dev/udp/198.51.100.53/53",
		"ping -c1 -W1 203.0.113.20", "ping -6 -c1 -W1 2001:db8:20::20", "ping -c1 -W1 -s 4000 203.0.113.20",
		"echo x >/dev/udp/224.0.0.251/5353", "echo x >/dev/udp/ff02::fb%eth0/5353", "echo x >/dev/udp/::ffff:203.0.113.20/9",
		"curl -m1 -s --interface eth0 http://203.0.113.20:443", "curl -m1 -s --interface 10.77.0.2 http://203.0.113.20:443",
		"curl -m1 -s http://10.77.0.1:80", "su nobody -s /bin/bash -c 'curl -m1 -s --interface eth0 http://203.0.113.20:443'",
	} {
		_ = exec.Command("bash", "-c", line).Run()
	}
}

// past matches what may not arrive at the router while the switch is closed: everything of the machine but neighbours being
// looked for, DHCP, the VPN's own packets, and the policy server's.
const past = "(src host 10.77.0.2 or src net fd77::/64 or src net fe80::/10) and not arp and not (udp dst port 51820) and not " +
	"(icmp6 and (ip6[40] >= 133 and ip6[40] <= 137)) and not ip6 proto 0 and not ether src "

// The kill switch with a real WireGuard: nothing of the machine arrives past it, whether the tunnel is up, falls, or the agent is
// killed; the tunnel can always come up; and everything is as before when the policy ends.
func TestSwitch(t *testing.T) {
	if !platformtest.InNetwork(t) {
		return
	}
	l, o := online(t)
	w := platformtest.NewWireGuard(t, o, "wg0")
	o.Web(platformtest.Server4+":80", platformtest.Router4+":80")
	mac, err := o.Run("bash", "-c", `ip -o link show out0 | sed 's/.*ether \([^ ]*\).*/\1/'`)
	if err != nil {
		t.Fatal(err)
	}
	rules := func() string {
		out, _ := exec.Command("bash", "-c", "nft -s list ruleset; ip rule; ip -6 rule; ip route; ip -6 route; cat /etc/resolv.conf").Output()
		return string(out)
	}
	before := rules()
	control := l.capture(o, past+strings.TrimSpace(mac))
	tries(t)
	if got := control.packets(); len(got) < 8 {
		t.Fatalf("without a switch only this arrives: %q", got)
	}
	const path, always = "/policies/policy-default", enforce.Setting("network.vpn_always_on")
	policy := `{"vpn_always_on":true,"vpn":{"peer":"` + w.Peer + `","endpoints":["` + platformtest.Router4 + `:51820"]}}`

	old, err := net.Dial("tcp", platformtest.Other4+":443") // a connection from before
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	l.admin("PUT", path, network("enforce", policy))
	l.reason("closed", always, enforce.Compliant, "the VPN is down, and nothing leaves")
	closed := l.capture(o, past+strings.TrimSpace(mac))
	tries(t)
	none := func(when string) {
		t.Helper()
		if got := closed.packets(); len(got) > 0 {
			t.Errorf("%s: %d packets got past the switch: %q", when, len(got), got)
		}
	}
	_, _ = old.Write([]byte("more"))
	none("while the tunnel is down")
	l.until("it is confirmed", func(s Status) bool { return version(2)(s) && s.Policy.State == "active" })
	for i := range 3 {
		w.Up(platformtest.Router4 + ":51820")
		becomes(t, "through the tunnel", "ok", func() string { return connects(platformtest.Server4 + ":80") })
		w.Shake()
		tries(t)
		none("while it is up")
		if i == 1 {
			l.reason("up", always, enforce.Compliant, "packets leave through wg0 (wireguard) alone")
		}
		w.Down()
		tries(t)
		none("after it fell")
	}
	if got := connects(platformtest.Other4 + ":443"); got != "refused" {
		t.Errorf("while it is down a connection is not refused: %s", got)
	}

	// Another tunnel of its name does not open it, and a flushed table is written anew.
	if out, err := exec.Command("bash", "-ec", "ip tuntap add dev wg0 mode tun; ip addr add 10.8.0.2/32 dev wg0; ip link set wg0 up").CombinedOutput(); err != nil {
		t.Fatal(err, string(out))
	}
	time.Sleep(500 * time.Millisecond)
	tries(t)
	none("with a decoy")
	_ = exec.Command("ip", "link", "del", "wg0").Run()
	begun := time.Now()
	_ = exec.Command("nft", "delete", "table", "inet", "warder_switch").Run()
	becomes(t, "the deleted table", "refused", func() string { return connects(platformtest.Other4 + ":443") })
	t.Logf("it was back after %s", time.Since(begun).Round(time.Millisecond))
	l.until("it is told", func(s Status) bool {
		for _, e := range l.newest() {
			if e.Kind == enforce.Drift && e.Subject == "switch/vpn" && strings.Contains(e.Reason, "nft (pid ") {
				return true
			}
		}
		return false
	})

	// The agent is away: it stays closed, and the next one takes it over.
	l.ending = service.Restarting
	l.stop()
	closed = l.capture(o, past+strings.TrimSpace(mac))
	tries(t)
	none("without an agent")
	l.start()
	w.Up(platformtest.Router4 + ":51820")
	becomes(t, "through the tunnel again", "ok", func() string { return connects(platformtest.Server4 + ":80") })
	tries(t)
	none("with the next agent")

	// Lowered, excepted, ended: nothing is left.
	l.ending = service.Stopped
	l.admin("PUT", path, network("monitor", policy))
	becomes(t, "in monitor mode", "ok", func() string { return connects(platformtest.Router4 + ":80") })
	w.Down()
	l.until("nothing is left", func(Status) bool { return rules() == before })
	l.admin("PUT", path, network("enforce", policy))
	becomes(t, "closed again", "refused", func() string { return connects(platformtest.Other4 + ":443") })
	id := l.admin("POST", "/devices/"+l.status().DeviceID+"/exceptions", `{"section":"network","subject":"vpn","reason":"a hotel","minutes":60}`)["id"].(string)
	becomes(t, "excepted", "ok", func() string { return connects(platformtest.Other4 + ":443") })
	l.admin("DELETE", "/devices/"+l.status().DeviceID+"/exceptions/"+id, "")
	becomes(t, "no longer", "refused", func() string { return connects(platformtest.Other4 + ":443") })
	l.stop()
	if after := rules(); after != before {
		t.Errorf("after the agent's end:\n%s\nbefore:\n%s", after, before)
	}
}

// While a VPN is only required, everything is open until it is up, and then nothing goes past it but to the own network. With a real
// OpenVPN, whose server nobody names.
func TestSwitchWhileUp(t *testing.T) {
	if !platformtest.InNetwork(t) {
		return
	}
	l, o := online(t)
	v := platformtest.NewOpenVPN(t, o)
	o.Web(platformtest.Router4+":80", platformtest.Server4+":80")
	const path, required = "/policies/policy-default", enforce.Setting("network.vpn_required")
	l.admin("PUT", path, network("enforce", `{"vpn_required":true}`))
	l.reason("down", required, enforce.Noncompliant, "no VPN is up")
	reach := func(want string) {
		t.Helper()
		becomes(t, "the internet, the own network", want, func() string {
			return connects(platformtest.Other4+":443") + " " + connects(platformtest.Router4+":80")
		})
	}
	reach("ok ok")
	v.Up()
	l.reason("up", required, enforce.Compliant, "packets leave through tunc (tun) alone; refused is what is routed past it: most of IPv6 by eth0")
	becomes(t, "through the tunnel", "ok", func() string { return connects(platformtest.Server4 + ":80") })
	becomes(t, "IPv6 past it", "refused", func() string { return connects("[" + platformtest.Other6 + "]:443") })
	by := func() string {
		out, _ := exec.Command("bash", "-c", "curl -m2 -s -o /dev/null --interface eth0 http://203.0.113.20:443; echo -n $?").Output()
		return string(out)
	}
	becomes(t, "by the interface", "7", by) // refused at once
	if got := connects(platformtest.Router4 + ":80"); got != "ok" {
		t.Errorf("the own network: %s", got)
	}
	v.Down()
	l.reason("down again", required, enforce.Noncompliant, "no VPN is up")
	reach("ok ok")

	// vpn_always_on without an endpoint is not carried out, and one in the VPN's own configuration is enough.
	l.admin("PUT", path, network("enforce", `{"vpn_always_on":true}`))
	l.until("no endpoint", func(s Status) bool {
		f := finding(s, "network.vpn_always_on")
		return f.Enforcement == enforce.Unsupported && strings.HasPrefix(f.Reason, "no endpoint")
	})
	reach("ok ok")
	if out, err := exec.Command("bash", "-ec", "mkdir -p /etc/openvpn/client; mount -t tmpfs none /etc/openvpn/client; echo 'remote "+
		platformtest.Router4+" 1194' >/etc/openvpn/client/work.conf").CombinedOutput(); err != nil {
		t.Fatal(err, string(out))
	}
	_ = l.api.Do(context.Background(), "POST", "/v1/check-in", nil, nil)
	l.until("it is learnt", func(s Status) bool {
		_ = exec.Command("bash", "-c", "ip route add 203.0.113.99 via "+platformtest.Router4+"; ip route del 203.0.113.99").Run()
		return finding(s, "network.vpn_always_on").Compliance == enforce.Compliant
	})
	reach("refused refused")
	v.Up()
	becomes(t, "through the tunnel", "ok", func() string { return connects(platformtest.Server4 + ":80") })
	v.Down()
}

// Names and the switch together: the resolver's own questions go through the tunnel or nowhere, but for those that bring it up.
func TestSwitchNames(t *testing.T) {
	if !platformtest.InNetwork(t) {
		return
	}
	l, o := online(t)
	o.Zone("vpn.corp.example. 300 IN A " + platformtest.Router4)
	w := platformtest.NewWireGuard(t, o, "wg0")
	o.Names(platformtest.Server4)
	l.admin("PUT", "/policies/policy-default", network("enforce", `{"vpn_always_on":true,"vpn":{"peer":"`+w.Peer+`","endpoints":["vpn.corp.example:51820"]},`+
		`"blocked_domains":["blocked.example"]}`))
	becomes(t, "a blocked name", "NXDOMAIN", func() string { return resolves("www.blocked.example") })
	becomes(t, "the VPN's server", platformtest.Router4, func() string { return resolves("vpn.corp.example") })
	l.reason("closed", "network.vpn_always_on", enforce.Compliant, "the VPN is down")
	if got := resolves("docs.example.com"); got == platformtest.Web4 {
		t.Error("another name is looked up past the VPN")
	}
	for _, a := range o.Asked() {
		if strings.HasPrefix(a, "docs.example.com") {
			t.Errorf("asked past the VPN: %s", a)
		}
	}
	// Nothing else fits into such a question, and no other server is asked.
	sink, err := o.ListenPacket(platformtest.Other4 + ":53")
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Close()
	name := "\x03vpn\x04corp\x07example\x00"
	plain := "\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00" + name + "\x00\x01\x00\x01"
	o.Asked()
	for what, x := range map[string]struct{ to, question string }{
		"another server":     {platformtest.Other4, plain},
		"more behind it":     {platformtest.DNS4, plain + "secret"},
		"another type":       {platformtest.DNS4, strings.Replace(plain, "\x00\x01\x00\x01", "\x00\x10\x00\x01", 1)},
		"another class":      {platformtest.DNS4, plain[:len(plain)-1] + "\x03"},
		"options":            {platformtest.DNS4, strings.Replace(plain, "\x00\x00\x00\x00\x00\x00\x03", "\x00\x00\x00\x00\x00\x01\x03", 1) + "\x00\x00\x29\x04\xd0\x00\x00\x00\x00\x00\x06secret"},
		"an answer":          {platformtest.DNS4, "\x12\x34\x81" + plain[3:]},
		"a name below it":    {platformtest.DNS4, strings.Replace(plain, "\x03vpn", "\x01a\x03vpn", 1)},
		"two questions":      {platformtest.DNS4, "\x12\x34\x01\x00\x00\x02" + plain[6:]},
		"another additional": {platformtest.DNS4, strings.Replace(plain, "\x00\x00\x00\x00\x00\x00\x03", "\x00\x00\x00\x00\x00\x01\x03", 1) + "\x00\x00\x30\x04\xd0\x00\x00\x00\x00\x00\x00"},
	} {
		if got := raw(x.to, x.question); got != "refused" {
			t.Errorf("%s: %s", what, got)
		}
	}
	_ = sink.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
	if n, _, err := sink.ReadFrom(make([]byte, 100)); err == nil {
		t.Errorf("%d bytes arrived", n)
	}
	for what, question := range map[string]string{"plain": plain, "capital letters": strings.Replace(plain, "vpn", "vPn", 1),
		"EDNS": strings.Replace(plain, "\x00\x00\x00\x00\x00\x00\x03", "\x00\x00\x00\x00\x00\x01\x03", 1) + "\x00\x00\x29\x04\xd0\x00\x00\x00\x00\x00\x00"} {
		if got := raw(platformtest.DNS4, question); got != "answered" {
			t.Errorf("%s: %s", what, got)
		}
	}
	w.Up(platformtest.Router4 + ":51820")
	w.Shake()
	o.Use(platformtest.Server4) // as VPN clients do
	becomes(t, "a name through the tunnel", platformtest.Web4, func() string {
		m := new(dns.Msg)
		m.SetQuestion("docs.example.com.", dns.TypeA)
		a, _, err := (&dns.Client{Timeout: 3 * time.Second}).Exchange(m, platformtest.Server4+":53")
		if err != nil || len(a.Answer) == 0 {
			return "nothing"
		}
		return strings.TrimPrefix(a.Answer[0].String(), a.Answer[0].Header().String())
	})
	w.Down()
}

// raw sends a question past our resolver, with the mark of its own, and says what became of it.
func raw(server, question string) string {
	c, err := link.Asks(time.Second).Dial("udp", server+":53")
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	if _, err := c.Write([]byte(question)); err != nil {
		return "refused"
	}
	_ = c.SetReadDeadline(time.Now().Add(time.Second))
	switch _, err := c.Read(make([]byte, 512)); {
	case err == nil:
		return "answered"
	case errors.Is(err, os.ErrDeadlineExceeded):
		return "nothing"
	}
	return "refused"
}

// Forwarded packets pass the switch as the machine's own do; and a sign-in page can be reached for its five minutes.
func TestSwitchForward(t *testing.T) {
	if !platformtest.InNetwork(t) {
		return
	}
	l, o := online(t)
	w := platformtest.NewWireGuard(t, o, "wg0")
	o.Zone("login.hotel.example. 300 IN A " + platformtest.Router4)
	o.Names(platformtest.Router4)
	o.Use(platformtest.Router4) // a hotel's
	o.Web(platformtest.Router4+":80", platformtest.Server4+":443")
	box := exec.Command("unshare", "-n", "sleep", "120")
	if err := box.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = box.Process.Kill(); _ = box.Wait() }()
	pid := strconv.Itoa(box.Process.Pid)
	becomes(t, "the container's network", "other", func() string {
		a, _ := os.Readlink("/proc/self/ns/net")
		if b, _ := os.Readlink("/proc/" + pid + "/ns/net"); b == a || b == "" {
			return "same"
		}
		return "other"
	})
	in := "nsenter -t " + pid + " -n "
	if out, err := exec.Command("bash", "-ec", "ip link add box0 type veth peer name eth0 netns "+pid+"; ip addr add 172.17.0.1/24 dev box0; ip link set box0 up; "+
		in+"ip addr add 172.17.0.2/24 dev eth0; "+in+"ip link set eth0 up; "+in+"ip route add default via 172.17.0.1; sysctl -qw net.ipv4.ip_forward=1; "+
		"nft 'add table ip docker { chain post { type nat hook postrouting priority 100; ip saddr 172.17.0.0/24 oifname != \"box0\" masquerade; }; }'").CombinedOutput(); err != nil {
		t.Fatal(err, string(out))
	}
	inside := func(addr string) string {
		out, _ := exec.Command("bash", "-c", in+"curl -m2 -s -o /dev/null http://"+addr+"; echo -n $?").Output()
		return map[string]string{"7": "refused", "28": "silent", "52": "ok", "0": "ok", "1": "ok"}[string(out)]
	}
	becomes(t, "a container", "ok", func() string { return strings.Replace(inside(platformtest.Other4+":443"), "silent", "ok", 1) })
	l.admin("PUT", "/policies/policy-default", network("enforce", `{"vpn_always_on":true,"vpn":{"peer":"`+w.Peer+`","endpoints":["`+platformtest.Router4+`:51820"]}}`))
	becomes(t, "a container, closed", "refused", func() string { return inside(platformtest.Other4 + ":443") })
	w.Up(platformtest.Router4 + ":51820")
	becomes(t, "through the tunnel", "ok", func() string { return connects(platformtest.Server4 + ":443") })
	w.Down()
	l.until("confirmed", func(s Status) bool { return s.Policy.State == "active" && version(2)(s) })

	page := func() string {
		m := new(dns.Msg)
		m.SetQuestion("login.hotel.example.", dns.TypeA)
		a, _, err := (&dns.Client{Timeout: time.Second}).Exchange(m, platformtest.Router4+":53")
		if err != nil || len(a.Answer) == 0 {
			return "no name"
		}
		return connects(platformtest.Router4 + ":80")
	}
	becomes(t, "the sign-in page", "no name", page)
	l.down()
	var s PortalStatus
	if err := l.api.Do(context.Background(), "POST", "/v1/portal", nil, &s); err != nil {
		t.Fatal(err)
	}
	becomes(t, "the sign-in page, while it is open", "ok", page)
	if got := connects(platformtest.Other4 + ":443"); got != "refused" {
		t.Errorf("beyond the gateway meanwhile: %s", got)
	}
	l.serve()
	becomes(t, "the sign-in page afterwards", "no name", page)
}

// What somebody on the network can bring about does not open the switch, and does not cut off a tunnel that works: more routes than are
// read, a route past it, a WireGuard program that hangs.
func TestSwitchHostile(t *testing.T) {
	if !platformtest.InNetwork(t) {
		return
	}
	l, o := online(t)
	w := platformtest.NewWireGuard(t, o, "wg0")
	o.Web(platformtest.Server4 + ":80")
	const path, always = "/policies/policy-default", enforce.Setting("network.vpn_always_on")
	l.admin("PUT", path, network("enforce", `{"vpn_always_on":true,"vpn":{"peer":"`+w.Peer+`","endpoints":["`+platformtest.Router4+`:51820"]}}`))
	l.reason("closed", always, enforce.Compliant, "the VPN is down")
	l.until("confirmed", func(s Status) bool { return s.Policy.State == "active" && version(2)(s) })
	closed := func(when string) {
		t.Helper()
		for range 10 {
			out, _ := exec.Command("bash", "-c", "curl -m2 -s -o /dev/null --interface eth0 http://203.0.113.20:443; echo -n $?").Output()
			if string(out) != "7" {
				t.Fatalf("%s: it was not refused (%s)", when, out)
			}
			time.Sleep(100 * time.Millisecond)
		}
	}
	batch := filepath.Join(t.TempDir(), "routes")
	var lines strings.Builder
	for i := range 4200 {
		fmt.Fprintf(&lines, "route add 2001:db8:%x::/64 via %s\n", 0x1000+i, platformtest.Router6)
	}
	if err := os.WriteFile(batch, []byte(lines.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("ip", "-6", "-batch", batch).CombinedOutput(); err != nil {
		t.Fatal(err, string(out))
	}
	closed("with 4,200 routes")
	w.Up(platformtest.Router4 + ":51820")
	becomes(t, "a tunnel, with 4,200 routes", "ok", func() string { return connects(platformtest.Server4 + ":80") })
	closed("with 4,200 routes and a tunnel")
	l.reason("with 4,200 routes", always, enforce.Compliant, "")
	_ = exec.Command("bash", "-c", "sed s/add/del/ "+batch+" | ip -6 -batch -").Run()

	// Another WireGuard tunnel's program hangs, and then its own.
	stop := func(name string) func() {
		out, err := exec.Command("pgrep", "-x", "-f", "wireguard-go "+name).Output()
		if err != nil {
			return func() {} // the kernel's own
		}
		pid := strings.TrimSpace(string(out))
		_ = exec.Command("kill", "-STOP", pid).Run()
		return func() { _ = exec.Command("kill", "-CONT", pid).Run() }
	}
	other := exec.Command("bash", "-c", "WG_I_PREFER_BUGGY_USERSPACE_TO_POLISHED_KMOD=1 wireguard-go aa9 >/dev/null 2>&1 </dev/null")
	if err := other.Run(); err == nil {
		defer func() { _ = exec.Command("ip", "link", "del", "aa9").Run() }()
		going := stop("aa9")
		defer going()
		_ = exec.Command("ip", "link", "set", "aa9", "up").Run()
		for end := time.Now().Add(6 * time.Second); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
			if got := connects(platformtest.Server4 + ":80"); got != "ok" {
				t.Fatalf("while another tunnel hangs: %s", got)
			}
		}
		closed("while another tunnel hangs")
	}

	// The way to the server is not known after a restart, and what VPN programs were configured with is gone.
	l.ending = service.Restarting
	l.stop()
	if err := os.WriteFile(filepath.Join(l.agent.o.Paths.State, "endpoints.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.Down()
	l.start()
	closed("with a broken file of addresses")
	l.ending = service.Stopped
}

// A kill switch that lives by the servers that VPN programs are configured with stays when somebody removes them.
func TestSwitchLearnt(t *testing.T) {
	if !platformtest.InNetwork(t) {
		return
	}
	l, o := online(t)
	w := platformtest.NewWireGuard(t, o, "wg0")
	o.Web(platformtest.Server4 + ":80")
	config := func(line string) {
		t.Helper()
		if out, err := exec.Command("bash", "-ec", line).CombinedOutput(); err != nil {
			t.Fatal(err, string(out))
		}
	}
	config("mkdir -p /etc/wireguard; mount -t tmpfs none /etc/wireguard; echo 'Endpoint = " + platformtest.Router4 + ":51820' >/etc/wireguard/wg0.conf")
	l.admin("PUT", "/policies/policy-default", network("enforce", `{"vpn_always_on":true}`))
	l.reason("closed", "network.vpn_always_on", enforce.Compliant, "the VPN is down")
	l.until("confirmed", func(s Status) bool { return s.Policy.State == "active" && version(2)(s) })
	config("rm /etc/wireguard/wg0.conf")
	for range 5 {
		config("ip route add 203.0.113.99 via " + platformtest.Router4 + "; ip route del 203.0.113.99")
		time.Sleep(300 * time.Millisecond)
		if got := connects(platformtest.Other4 + ":443"); got != "refused" {
			t.Fatalf("after its configuration was removed: %s", got)
		}
	}
	w.Up(platformtest.Router4 + ":51820")
	becomes(t, "the tunnel all the same", "ok", func() string { return connects(platformtest.Server4 + ":80") })
	w.Down()
}

// The policy server, by its name and beyond the switch: reached through a door of its own, which no user's program can use; found again
// when it has moved; and known after a restart.
func TestSwitchServer(t *testing.T) {
	if !platformtest.InNetwork(t) {
		return
	}
	o := platformtest.NewOutside(t)
	o.Zone("policy.corp.example. 60 IN A " + platformtest.Web4)
	o.Names(platformtest.DNS4)
	o.Web(platformtest.Web4+":443", platformtest.Other4+":443")
	l := labWith(t, server.Options{Names: []string{"policy.corp.example"}})
	l.network = true
	at, err := url.Parse(l.url)
	if err != nil {
		t.Fatal(err)
	}
	relay := func(addr string) (gone func()) {
		t.Helper()
		in, err := o.Listen(addr + ":8443")
		if err != nil {
			t.Fatal(err)
		}
		var open sync.Map
		go func() {
			for {
				c, err := in.Accept()
				if err != nil {
					return
				}
				open.Store(c, true)
				go func() {
					defer c.Close()
					s, err := net.Dial("tcp", at.Host)
					if err != nil {
						return
					}
					defer s.Close()
					go func() { _, _ = io.Copy(s, c); _ = s.Close() }()
					_, _ = io.Copy(c, s)
				}()
			}
		}()
		return func() {
			_ = in.Close()
			open.Range(func(c, _ any) bool { _ = c.(net.Conn).Close(); return true })
		}
	}
	gone := relay(platformtest.Web4)
	w := platformtest.NewWireGuard(t, o, "wg0")
	l.start()
	token := l.admin("POST", "/enrollments", `{}`)["token"].(string)
	if err := l.api.Do(context.Background(), "POST", "/v1/enroll", Enrollment{Server: "https://policy.corp.example:8443", Token: secret.Text(token), CAPin: l.pin},
		nil); err != nil {
		t.Fatal(err)
	}
	l.until("a policy is in force", func(s Status) bool { return s.Policy != nil && s.Policy.State == "active" })
	const always = "network.vpn_always_on"
	l.admin("PUT", "/policies/policy-default", network("enforce", `{"vpn_always_on":true,"vpn":{"peer":"`+w.Peer+`","endpoints":["`+platformtest.Router4+`:51820"]}}`))
	l.reason("closed", always, enforce.Compliant, "the VPN is down")
	l.until("confirmed beyond the switch", func(s Status) bool { return s.Policy.State == "active" && version(2)(s) })
	if got := connects(platformtest.Web4 + ":443"); got != "refused" {
		t.Errorf("another port of the server: %s", got)
	}
	if got := connects(platformtest.Web4 + ":8443"); got != "ok" {
		t.Errorf("the server, as root: %s", got)
	}
	user := exec.Command("bash", "-c", "exec 3<>/dev/tcp/"+platformtest.Web4+"/8443")
	user.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if err := user.Run(); err == nil {
		t.Error("a user's program reached the server")
	}

	// It moves.
	gone()
	relay(platformtest.Other4)
	o.Rezone("policy.corp.example. 60 IN A " + platformtest.Other4)
	l.agent.do(func() { l.agent.checkIn() })
	becomes(t, "the server at its new address", "ok", func() string { return connects(platformtest.Other4 + ":8443") })

	// A tunnel that takes everything and leads nowhere does not keep the next policy away.
	w.Up(platformtest.Router4 + ":51820")
	w.Shake()
	w.Deafen(true)
	beside := l.capture(o, "tcp dst port 8443 and src host 10.77.0.2")
	l.admin("PUT", "/policies/policy-default", network("monitor", `{"vpn_always_on":true}`))
	l.agent.do(func() { l.agent.checkIn() })
	l.until("its next policy", version(3))
	if len(beside.packets()) == 0 {
		t.Error("nothing was seen beside the tunnel")
	}
	w.Down()
	becomes(t, "open", "ok", func() string { return connects(platformtest.Other4 + ":443") })
}
