//go:build linux

package laptop

import (
	"fmt"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// tunnel makes a WireGuard peer outside, and the configuration of wg-quick(8) on the laptop. It returns the peer's key.
func (r *rig) tunnel() string {
	r.t.Helper()
	return strings.TrimSpace(r.sh(`umask 077; cd /etc/wireguard; wg genkey >theirs; wg genkey >mine
ip -n outside link add wgo type wireguard
ip netns exec outside wg set wgo listen-port 51820 private-key theirs peer $(wg pubkey <mine) allowed-ips 10.99.0.2/32,fd99::2/128
ip -n outside addr add 10.99.0.1/24 dev wgo; ip -n outside addr add fd99::1/64 dev wgo nodad; ip -n outside link set wgo up
printf '[Interface]\nPrivateKey = %s\nAddress = 10.99.0.2/32, fd99::2/128\n[Peer]\nPublicKey = %s\nEndpoint = 10.77.0.1:51820\nAllowedIPs = 0.0.0.0/0, ::/0\n' \
  $(cat mine) $(wg pubkey <theirs) >wg0.conf
wg pubkey <theirs`, "%s", "%s"))
}

// routed is what must be as before in the end.
const routed = "nft -s list ruleset; ip rule; ip -6 rule; ip route; ip -6 route"

// The kernel's own WireGuard, brought up by wg-quick; OpenVPN, IPsec by an interface and by its policies: what a policy asks
// of them, and each way past them, is seen; and what the kill switch holds is put back when another program changes it.
func TestVPN(t *testing.T) {
	parallel(t, 5)
	r := ready(t, Options{})
	r.network()
	r.sh("ip -n outside addr add fd77::1/64 dev out0 nodad")
	peer := r.tunnel()
	r.sh(`warder status --json | sed -n 's/.*"device_id": "\(.*\)".*/\1/p' >/root/device`)
	const required, always = "network.vpn_required", "network.vpn_always_on"
	policy := func(mode, settings string) string {
		return `{"compliance":"` + mode + `","policy_data":` + strings.ReplaceAll(settings, "PEER", peer) + `}`
	}
	says := func(r *rig, what, words string) {
		t.Helper()
		r.wait(what, `warder status --json | tr -d '\n' | tr '{' '\n' | grep '"network.vpn_required"' | grep -q '%s'`, words)
	}
	before := r.sh(routed)
	resident := func(when string) { // once it has given back what it only needed for work
		t.Log(when + ": " + strings.TrimSpace(r.sh(`f=/proc/$(systemctl show -P MainPID warder)/status
for i in $(seq 9); do a=$(grep VmRSS $f); sleep 7; b=$(grep VmRSS $f); [ "$a" = "$b" ] && break; done; echo "$b"`)))
	}
	resident("the agent without a policy about VPNs")
	r.set(policy("warn", tunneled))
	contains(t, r.finding(required), "noncompliant/observed: no VPN is up")
	up := "everything goes through wg0 (wireguard)"
	r.sh("wg-quick up wg0; " + shake)
	says(r, "up", up)
	t.Log(r.finding(required))
	for _, s := range Sabotages {
		if !s.Seen || !s.Network {
			continue
		}
		t.Run(strings.ReplaceAll(s.Name, " ", "_"), func(t *testing.T) {
			r := &rig{r.Laptop, t, r.dir, r.policy}
			r.seen(s, required)
			contains(t, r.finding(required), "noncompliant/observed")
			r.sh("( %s ) >/tmp/undo.log 2>&1 || { cat /tmp/undo.log; exit 1; }", s.Undo)
			says(r, "undone", up)
		})
	}
	for _, s := range Sabotages {
		if !s.VPN {
			continue
		}
		t.Run(strings.ReplaceAll(s.Name, " ", "_"), func(t *testing.T) {
			r := &rig{r.Laptop, t, r.dir, r.policy}
			r.set(policy("enforce", s.Policy))
			r.wait("it is in force", s.Mended)
			mended, told := r.sabotage(s, true)
			t.Logf("mended after %s, told on the server after %s", mended, told)
			contains(t, r.sh("warder events --last 20 --json | grep '\"kind\":\"drift\"' | tail -n 1"), "nft (pid ")
		})
	}
	const capture = `ip netns exec outside tcpdump --immediate-mode -s 512 -B 32768 -i out0 -nn -U -w /root/past.pcap 'src host 10.77.0.2 and not arp and not udp dst port 51820' ` +
		`>/dev/null 2>/root/dump.log & echo $! >/root/dump; sleep 1`
	captured := func(r *rig) string {
		r.t.Helper()
		seen := strings.TrimSpace(r.sh("sleep 1; kill $(cat /root/dump); tail --pid=$(cat /root/dump) -f /dev/null; tcpdump -nn -r /root/past.pcap 2>/dev/null"))
		contains(r.t, r.sh("cat /root/dump.log"), "\n0 packets dropped by kernel") // it missed none
		return seen
	}
	t.Run("falls", func(t *testing.T) {
		r := &rig{r.Laptop, t, r.dir, r.policy}
		r.set(policy("enforce", alwaysOn))
		r.wait("it is in force", pastVPN)
		r.sh(capture)
		out := r.sh(`(while :; do echo x >/dev/udp/203.0.113.20/9; sleep 0.02; done) >/dev/null 2>&1 & p=$!
for i in $(seq 5); do
  ip link show wg0 >/dev/null 2>&1 || { wg-quick up wg0; %s; } >/dev/null 2>&1
  for n in $(seq 600); do mapfile -d '' s </run/warder/status.json; [[ $s == *'leave through wg0'* ]] && break; sleep 0.05; done
  sleep 1; ip link del wg0; t=$(date +%%s%%N)
  for n in $(seq 3000); do mapfile -d '' s </run/warder/status.json; [[ $s == *'the VPN is down, and nothing leaves'* ]] && break; sleep 0.01; done
  echo $(( ($(date +%%s%%N) - t) / 1000000 )); wg-quick down wg0 >/dev/null 2>&1; ip rule del table 51820; ip -6 rule del table 51820; ip rule del table main suppress_prefixlength 0; ip -6 rule del table main suppress_prefixlength 0
done 2>/dev/null; kill $p; wg-quick up wg0 >/dev/null 2>&1; %s`, shake, shake)
		var took []int
		for _, w := range strings.Fields(out) {
			if n, err := strconv.Atoi(w); err == nil {
				took = append(took, n)
			}
		}
		slices.Sort(took)
		if len(took) != 5 || took[4] >= 30_000 {
			t.Fatalf("%v\n%s", took, out)
		}
		t.Logf("a tunnel that fell is read back, tried and told after %d ms (median of %v)", took[2], took)
		resident("the agent with a kill switch and a tunnel")
		if out := captured(r); out != "" {
			t.Errorf("there got past the switch:\n%s", out)
		}
	})
	t.Run("kills", func(t *testing.T) {
		r := &rig{r.Laptop, t, r.dir, r.policy}
		r.set(policy("enforce", alwaysOn))
		r.wait("it is in force", pastVPN)
		r.sh(capture)
		kills := kills(4)
		for i := range kills {
			if i%3 == 0 { // while the tunnel comes and goes
				r.sh("(wg-quick down wg0; sleep 0.%d; wg-quick up wg0) >/dev/null 2>&1 &", rand.IntN(9)+1)
			}
			r.sh(`(for n in $(seq 40); do echo x >/dev/udp/203.0.113.20/9; curl -m1 -s -o /dev/null --interface eth0 http://203.0.113.20:443; sleep 0.02; done) >/dev/null 2>&1 &
sleep 0.%d; systemctl kill -s KILL warder; wait`, rand.IntN(9)+1)
			r.wait("the agent is back", "systemctl is-active warder && warder status --json | grep -q '\"agent\": \"running\"'")
		}
		r.wait("the tunnel works", `curl -m2 -s -o /dev/null http://10.99.0.1:9; ping -c1 -W1 10.99.0.1 2>/dev/null || bash -c 'echo x >/dev/udp/10.99.0.1/9' && `+
			`test "$(wg show wg0 latest-handshakes | cut -f2)" != 0`)
		if out := captured(r); out != "" {
			t.Errorf("in %d kills there got past the switch:\n%s", kills, out)
		}
		t.Logf("%d kills, and nothing got past the switch", kills)
	})
	t.Run("clock", func(t *testing.T) {
		r := &rig{r.Laptop, t, r.dir, r.policy}
		r.sh("wg-quick down wg0; date -s '+26 hours'")
		r.wait("closed", pastVPN)
		r.sh("date -s '26 hours ago'; nft list table inet warder_switch")
		r.wait("closed", pastVPN)
		r.sh("wg-quick up wg0; " + shake)
		r.wait("up", `warder status --json | tr -d '\n' | tr '{' '\n' | grep '"`+always+`"' | grep -q 'leave through wg0'`)
		r.sh("wg-quick down wg0")
	})

	r.sh("! ip link show wg0 >/dev/null 2>&1 || wg-quick down wg0") // where not all of the above was asked for
	r.set(policy("monitor", requiredVPN))
	r.set(policy("monitor", `{"network":{"vpn_required":true}}`))
	r.sh(`openvpn --genkey secret /root/k; ip netns exec outside openvpn --daemon --dev tuno --dev-type tun --secret /root/k --cipher AES-256-CBC --ifconfig 10.98.0.1 10.98.0.2 --lport 1194
openvpn --daemon --writepid /run/o.pid --dev tunc --dev-type tun --secret /root/k --cipher AES-256-CBC --ifconfig 10.98.0.2 10.98.0.1 --remote 10.77.0.1 1194 --nobind --redirect-gateway def1`)
	// Its server is at the address that wg-quick is configured with, so no other is taken for it.
	says(r, "OpenVPN", "everything goes through tunc (tun)")
	r.sh("kill $(cat /run/o.pid)")
	says(r, "OpenVPN is down", "no VPN is up")

	const sa = `ip xfrm state add src 10.77.0.2 dst 10.77.0.1 proto esp spi 0x100 reqid 1 mode tunnel aead 'rfc4106(gcm(aes))' 0x000102030405060708090a0b0c0d0e0f10111213 128`
	r.sh("ip xfrm policy add dir out src 10.77.0.2/32 dst 0.0.0.0/0 tmpl src 10.77.0.2 dst 10.77.0.1 proto esp reqid 1 mode tunnel")
	says(r, "IPsec without a connection", "its policies ask for a connection that is not there")
	r.sh(sa)
	says(r, "IPsec", "everything goes through ipsec (ipsec)")
	r.sh("ip xfrm state flush; ip xfrm policy flush")
	says(r, "IPsec is down", "no VPN is up")
	r.sh("ip link add ipsec0 type xfrm dev eth0 if_id 7; ip addr add 10.97.0.2/32 dev ipsec0; ip link set ipsec0 up; ip route add 0.0.0.0/1 dev ipsec0; ip route add 128.0.0.0/1 dev ipsec0")
	says(r, "an interface without a connection", "no IPsec connection belongs to it")
	r.sh(sa + " if_id 7; ip xfrm policy add dir out if_id 7 src 0.0.0.0/0 dst 0.0.0.0/0 tmpl src 10.77.0.2 dst 10.77.0.1 proto esp reqid 1 mode tunnel")
	says(r, "IPsec by an interface", "everything goes through ipsec0 (xfrm)")
	r.sh("ip link del ipsec0; ip xfrm state flush; ip xfrm policy flush")
	says(r, "IPsec is down again", "no VPN is up")
	r.sh("ip link add vti9 type vti local 10.77.0.2 remote 10.77.0.1 key 9; ip addr add 10.95.0.2/32 dev vti9; ip link set vti9 up; ip route add 0.0.0.0/1 dev vti9; ip route add 128.0.0.0/1 dev vti9")
	says(r, "a VTI without a connection", "no IPsec connection belongs to it")
	r.sh(sa + " mark 9; ip xfrm policy add dir out mark 9 src 0.0.0.0/0 dst 0.0.0.0/0 tmpl src 10.77.0.2 dst 10.77.0.1 proto esp reqid 1 mode tunnel")
	says(r, "IPsec by a VTI", "everything goes through vti9 (vti)")
	r.sh("ip link del vti9; ip xfrm state flush; ip xfrm policy flush")
	says(r, "the VTI is down", "no VPN is up")

	// PPP counts where the policy names it. Both ends are pppd(8), joined by a pseudo terminal.
	r.set(policy("monitor", `{"network":{"vpn_required":true,"vpn":{"interface":"ppp*"}}}`))
	r.sh(`pppd nodetach noauth local noipdefault nodefaultroute 10.94.0.2:10.94.0.1 pty 'ip netns exec outside pppd notty noauth local nodefaultroute 10.94.0.1:10.94.0.2' ` +
		`>/run/pppd.log 2>&1 & echo $! >/run/pppd.pid`)
	r.wait("PPP", "ip addr show dev ppp0 up | grep -q 10.94.0.2 || { cat /run/pppd.log; false; }")
	r.sh("ip route add 0.0.0.0/1 dev ppp0; ip route add 128.0.0.0/1 dev ppp0")
	says(r, "PPP", "everything goes through ppp0 (ppp)")
	r.sh("kill $(cat /run/pppd.pid)")
	says(r, "PPP is down", "no VPN is up")
	r.set(policy("monitor", `{}`))
	if after := r.sh(routed); after != before {
		t.Errorf("the machine after it:\n%s\nbefore:\n%s", after, before)
	}
}

// From power-on: a laptop whose kill switch is closed sends nothing by its network card but what brings the VPN up. What it sends is
// captured outside of it, by the emulator.
func TestSwitchBoot(t *testing.T) {
	parallel(t, 5)
	image, _ := need(t)
	o := overlay(t, image)
	card := func(file string) []string {
		return []string{"-netdev", "user,id=n0,restrict=on", "-device", "virtio-net-pci,netdev=n0", "-object", "filter-dump,id=d0,netdev=n0,file=" + file}
	}
	dir := t.TempDir()
	first, second := filepath.Join(dir, "first"), filepath.Join(dir, "second")
	o.Args = card(first)
	r := lasting(t, o)
	// A program that sends as soon as there is a card.
	r.sh(`cat >/root/leak.sh <<'S'
while [ ! -e /sys/class/net/eth0 ]; do sleep 0.1; done; ip link set eth0 up
ip addr add 10.0.2.15/24 dev eth0; ip route replace default via 10.0.2.2
ip -6 addr add fec0::15/64 dev eth0 nodad; ip -6 route replace default via fec0::2
while :; do echo x >/dev/udp/203.0.113.77/9; echo x >/dev/udp/2001:db8::77/9; echo x >/dev/udp/198.51.100.7/51820; sleep 0.1; done
S
cat >/etc/systemd/system/leak.service <<'U'
[Unit]
DefaultDependencies=no
[Service]
ExecStart=/bin/bash /root/leak.sh
[Install]
WantedBy=sysinit.target
U
systemctl daemon-reload; systemctl enable -q --now leak; sleep 2`)
	const leaks = "(ip or ip6) and not port 51820 and not (icmp6 and ip6[40] >= 133 and ip6[40] <= 137) and not (ip6[6] = 0) and not src host 10.0.2.2 and not src host fec0::2 and not src net fe80::/10"
	seen(t, first, leaks)
	r.set(`{"compliance":"enforce","policy_data":{"network":{"vpn_always_on":true,"vpn":{"endpoints":["198.51.100.7:51820"]}}}}`)
	r.wait("closed", `test "$(warder status --json | tr -d '\n' | tr '{' '\n' | grep '"network.vpn_always_on"' | grep -c 'the VPN is down, and nothing leaves')" -ge 1`)
	r.wait("the early start's file is there", "test -s /etc/warder/early")
	t.Log(r.finding("network.vpn_always_on"))
	policy := r.policy
	r.shutDown()

	o.Args = card(second)
	r = start(t, o)
	r.policy = policy
	r.reached()
	t.Log(r.sh("journalctl -b -u warder-early -u warder -u leak -o short-monotonic --no-pager | head -n 30; nft list table inet warder_switch | head -n 40"))
	r.sh("rtcwake -m mem -s 4; sleep 2")
	seen(t, second, "udp and dst host 198.51.100.7")
	if n := count(t, second, leaks); n > 0 {
		out, _ := exec.Command("tcpdump", "-nn", "-r", second, leaks).Output()
		t.Errorf("%d packets left, since it was switched on:\n%.2000s", n, out)
	}
	r.wait("the server is reached after the suspend", "warder check-in")
	r.settled()
	r.set(`{"compliance":"monitor","policy_data":{"network":{"vpn_always_on":true}}}`)
	if out := r.sh("nft list ruleset"); out != "" {
		t.Errorf("after it:\n%s", out)
	}
	r.wait("the early start's file is gone", "test ! -e /etc/warder/early")
}

// seen waits until twenty packets of a capture match.
func seen(t *testing.T, file, filter string) {
	t.Helper()
	n := 0
	for end := time.Now().Add(minute); time.Now().Before(end); time.Sleep(second) {
		if n = count(t, file, filter); n >= 20 {
			return
		}
	}
	t.Fatalf("only %d packets that are %q were seen", n, filter)
}

// count is how many packets of a capture match.
func count(t *testing.T, file, filter string) int {
	t.Helper()
	out, err := exec.Command("tcpdump", "-nn", "-r", file, filter).Output()
	if err != nil {
		t.Fatal(fmt.Errorf("tcpdump: %w", err))
	}
	return strings.Count(string(out), "\n")
}
