//go:build linux

package laptop

import (
	"strings"
	"testing"
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

// The kernel's own WireGuard, brought up by wg-quick; OpenVPN, IPsec by an interface and by its policies, and PPP: what a policy asks
// of them, and each way past them, is seen.
func TestVPN(t *testing.T) {
	t.Parallel()
	r := ready(t, Options{})
	r.network()
	r.sh("ip -n outside addr add fd77::1/64 dev out0 nodad")
	peer := r.tunnel()
	const required = "network.vpn_required"
	policy := func(settings string) string {
		return `{"compliance":"enforce","policy_data":` + strings.ReplaceAll(settings, "PEER", peer) + `}`
	}
	says := func(r *rig, what, words string) {
		t.Helper()
		r.wait(what, `warder status --json | tr -d '\n' | tr '{' '\n' | grep '"network.vpn_required"' | grep -q '%s'`, words)
	}
	before := r.sh("nft -s list ruleset; ip rule; ip -6 rule; ip route; ip -6 route")
	r.set(policy(tunneled))
	contains(t, r.finding(required), "noncompliant/detect_only: no VPN is up")
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
			contains(t, r.finding(required), "noncompliant/detect_only")
			r.sh("( %s ) >/tmp/undo.log 2>&1 || { cat /tmp/undo.log; exit 1; }", s.Undo)
			says(r, "undone", up)
		})
	}
	r.sh("wg-quick down wg0")

	r.set(policy(`{"network":{"vpn_required":true}}`))
	r.sh(`openvpn --genkey secret /root/k; ip netns exec outside openvpn --daemon --dev tuno --dev-type tun --secret /root/k --cipher AES-256-CBC --ifconfig 10.98.0.1 10.98.0.2 --lport 1194
openvpn --daemon --writepid /run/o.pid --dev tunc --dev-type tun --secret /root/k --cipher AES-256-CBC --ifconfig 10.98.0.2 10.98.0.1 --remote 10.77.0.1 1194 --nobind --redirect-gateway def1`)
	says(r, "OpenVPN", "everything goes through tunc (tun), except to one address by eth0, which is taken for its server")
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
	r.set(policy(`{}`))
	if after := r.sh("nft -s list ruleset; ip rule; ip -6 rule; ip route; ip -6 route"); after != before {
		t.Errorf("the machine after it:\n%s\nbefore:\n%s", after, before)
	}
}
