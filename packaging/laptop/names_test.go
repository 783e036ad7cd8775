//go:build linux

package laptop

import (
	"strings"
	"testing"
)

// network joins the laptop to a network outside, in a namespace of its own: a router that is the name server, and two
// servers. The agent's service governs the laptop's own network, with its real sandbox.
func (r *rig) network() {
	r.t.Helper()
	// A unit of its own, so that it is there after a reboot, too. Nothing of it is on /host, which a suspend breaks.
	r.sh(`cp /host/guest /root/outside; cat >/root/outside.sh <<'S'
ip netns add outside
ip link add eth0 type veth peer name out0 netns outside
ip addr add 10.77.0.2/24 dev eth0; ip link set eth0 up
ip -n outside link set lo up; ip -n outside addr add 10.77.0.1/24 dev out0; ip -n outside link set out0 up
for a in 198.51.100.53 203.0.113.10 203.0.113.20; do ip -n outside addr add $a/32 dev lo; done
ip route add default via 10.77.0.1
exec ip netns exec outside /root/outside outside 198.51.100.53 \
  docs.example.com=203.0.113.10 www.blocked.example=203.0.113.20 other.example.net=203.0.113.20
S
cat >/etc/systemd/system/outside.service <<'U'
[Unit]
Before=warder.service
[Service]
ExecStart=/bin/sh /root/outside.sh
[Install]
WantedBy=multi-user.target
U
systemctl daemon-reload; systemctl enable -q --now outside`)
	r.wait("the network outside is up", `bash -c 'exec 3<>/dev/tcp/203.0.113.10/443'`)
}

// Scripts for the guest: what a name resolves to by the system's own resolver, and whether an address can be reached.
const (
	lookUp  = `getent ahostsv4 %s | awk 'NR==1{print $1}'`
	connect = `bash -c 'exec 3<>/dev/tcp/%s/443' 2>&1 && echo ok`
)

// The system's own way to look up names stays as it was, whatever it is: a plain resolv.conf, systemd-resolved, or
// NetworkManager. In each, a policy about names is enforced, survives a kill of the agent, and leaves no trace.
func TestNames(t *testing.T) {
	parallel(t, 5)
	image, _ := need(t)
	o := overlay(t, image)
	r := lasting(t, o)
	t.Log(r.sh("uname -r; nft --version"))
	r.network()
	ways := []struct{ name, set, unset string }{
		{"resolv.conf", `echo nameserver 198.51.100.53 >/etc/resolv.conf`, `: >/etc/resolv.conf`},
		{"systemd-resolved", `rm -f /etc/systemd/system/systemd-resolved.service; systemctl daemon-reload
systemctl start systemd-resolved; resolvectl dns eth0 198.51.100.53; resolvectl domain eth0 '~.'
rm /etc/resolv.conf; ln -s /run/systemd/resolve/stub-resolv.conf /etc/resolv.conf`,
			`resolvectl revert eth0; systemctl stop systemd-resolved; rm /etc/resolv.conf; : >/etc/resolv.conf`},
		{"NetworkManager", `rm -f /etc/systemd/system/NetworkManager.service; systemctl daemon-reload
mkdir -p /etc/NetworkManager/conf.d; printf '[main]\ndns=default\nrc-manager=file\n[device]\nmatch-device=interface-name:eth0\nmanaged=1\n' >/etc/NetworkManager/conf.d/t.conf
systemctl start NetworkManager
nmcli connection add type ethernet ifname eth0 con-name t ipv4.method manual ipv4.addresses 10.77.0.2/24 ipv4.gateway 10.77.0.1 ipv4.dns 198.51.100.53 ipv6.method disabled
nmcli connection up t`, `nmcli connection down t; systemctl stop NetworkManager
ip addr replace 10.77.0.2/24 dev eth0; ip link set eth0 up; ip route replace default via 10.77.0.1`},
	}
	for _, w := range ways {
		t.Run(w.name, func(t *testing.T) {
			r := &rig{r.Laptop, t, r.dir, r.policy}
			r.sh(w.set)
			defer r.try(w.unset)
			r.wait("names are looked up", `test "$(`+lookUp+`)" = 203.0.113.20`, "www.blocked.example")
			before := r.sh("nft -s list ruleset; ip rule; ip route; sha256sum /etc/resolv.conf; readlink /etc/resolv.conf; true")

			r.set(`{"compliance":"enforce","policy_data":{"network":{"blocked_domains":["blocked.example"]}}}`)
			r.wait("a blocked name is refused", `test -z "$(`+lookUp+`)"`, "www.blocked.example")
			contains(t, r.sh(lookUp, "docs.example.com"), "203.0.113.10")
			contains(t, r.sh("warder status"), "network.blocked_domains")
			contains(t, r.sh("warder explain network www.blocked.example"), "DENY")
			contains(t, r.sh("warder network"), "www.blocked.example")

			r.set(`{"compliance":"enforce","policy_data":{"network":{"allowed_domains":["example.com"]}}}`)
			r.wait("another address is refused", `! timeout 3 `+connect, "203.0.113.20")
			contains(t, r.sh(lookUp, "docs.example.com"), "203.0.113.10")
			contains(t, r.sh(connect, "203.0.113.10"), "ok")
			contains(t, r.sh("warder explain network 203.0.113.10"), "docs.example.com resolved to it")

			// The clock is changed, forward and back: nothing opens, and what is allowed can be reached.
			for _, jump := range []string{"+26 hours", "26 hours ago"} {
				r.sh("date -s '" + jump + "'")
				contains(t, r.try(connect, "203.0.113.20").Out, "refused")
				r.wait("names after the clock's jump", `test "$(`+lookUp+`)" = 203.0.113.10`, "docs.example.com")
				contains(t, r.sh(connect, "203.0.113.10"), "ok")
			}

			// A kill: what was admitted stays, nothing else opens, and the next agent answers again.
			r.sh("systemctl kill -s KILL warder")
			contains(t, r.try(connect, "203.0.113.20").Out, "refused")
			r.wait("the next agent answers", `test "$(`+lookUp+`)" = 203.0.113.10`, "docs.example.com")
			contains(t, r.sh(connect, "203.0.113.10"), "ok")
			if out := r.sh("warder events --last 30 --json | grep '\"kind\":\"drift\"' | grep firewall || true"); out != "" {
				t.Errorf("the agent's own table is another program's change: %s", out)
			}

			r.set(`{"compliance":"monitor","policy_data":{"network":{"allowed_domains":["example.com"]}}}`)
			r.wait("nothing is refused", `test "$(`+lookUp+`)" = 203.0.113.20`, "other.example.net")
			r.wait("what would be refused is told", "warder events --last 20 --json | grep '\"kind\":\"would_deny\"' | grep -q other.example.net")
			if after := r.sh("nft -s list ruleset; ip rule; ip route; sha256sum /etc/resolv.conf; readlink /etc/resolv.conf; true"); after != before {
				t.Errorf("after it:\n%s\nbefore:\n%s", after, before)
			}
		})
	}
	t.Run("sabotage", func(t *testing.T) {
		r := &rig{r.Laptop, t, r.dir, r.policy}
		r.sh(ways[0].set)
		for _, s := range Sabotages {
			if !s.Network || s.Seen || s.VPN {
				continue
			}
			r.set(`{"compliance":"enforce","policy_data":` + s.Policy + `}`)
			r.wait("it is in force", s.Mended)
			mended, told := r.sabotage(s, true)
			t.Logf("%s: mended after %s, told on the server after %s", s.Name, mended, told)
			contains(t, r.sh("warder events --last 20 --json | grep '\"kind\":\"drift\"' | tail -n 1"), "nft (pid ")
		}
	})
	// Switched off and on while names are enforced: the agent enforces them again without its server, and leaves no trace
	// when the policy ends. After that the laptop is another one.
	r.sh(ways[0].set)
	r.set(`{"compliance":"enforce","policy_data":{"network":{"allowed_domains":["example.com"]}}}`)
	const drifts = "warder events --last 100 --json | grep '\"kind\":\"drift\"' | grep -c firewall || true"
	policy, before := r.policy, r.sh(drifts)
	r.shutDown()
	r = start(t, o)
	r.policy = policy
	t.Run("boot", func(t *testing.T) {
		r := &rig{r.Laptop, t, r.dir, r.policy}
		// What was looked up before the table was there was not admitted.
		r.wait("names after the boot, offline", `nft list table inet warder >/dev/null && test "$(`+lookUp+`)" = 203.0.113.10`, "docs.example.com")
		contains(t, r.try(connect, "203.0.113.20").Out, "refused")
		contains(t, r.sh(connect, "203.0.113.10"), "ok")
		r.reached()
		r.settled()
		if after := r.sh(drifts); after != before {
			t.Errorf("the table of the boot is another program's change: %s changes, not %s", after, before)
		}
		r.set(`{"compliance":"monitor","policy_data":{"network":{"allowed_domains":["example.com"]}}}`)
		if out := r.sh("nft list ruleset"); out != "" {
			t.Errorf("after it:\n%s", out)
		}
	})
	t.Run("suspend", func(t *testing.T) {
		r := &rig{r.Laptop, t, r.dir, r.policy}
		r.sh(ways[0].set)
		r.set(`{"compliance":"enforce","policy_data":{"network":{"allowed_domains":["example.com"]}}}`)
		r.wait("names", `test "$(`+lookUp+`)" = 203.0.113.10`, "docs.example.com")
		contains(t, r.sh("rtcwake -m mem -s 5 && dmesg | grep -E 'PM: (suspend entry|suspend exit)' | tail -n 2"), "suspend exit")
		contains(t, r.try(connect, "203.0.113.20").Out, "refused")
		r.wait("names after it", `test "$(`+lookUp+`)" = 203.0.113.10`, "docs.example.com")
		contains(t, r.sh(connect, "203.0.113.10"), "ok")
		r.wait("the server is reached after it", "warder check-in")
	})
	t.Run("last_resort", func(t *testing.T) {
		r := &rig{r.Laptop, t, r.dir, r.policy}
		r.sh(ways[0].set)
		r.set(`{"compliance":"enforce","policy_data":{"network":{"blocked_domains":["blocked.example"]}}}`)
		r.wait("a blocked name is refused", `test -z "$(`+lookUp+`)"`, "www.blocked.example")
		r.sh("mv /usr/bin/warder /usr/bin/warder.away; systemctl kill -s KILL warder")
		r.wait("names are looked up as before", `test "$(`+lookUp+`)" = 203.0.113.20`, "www.blocked.example")
		r.sh("mv /usr/bin/warder.away /usr/bin/warder; systemctl reset-failed warder; systemctl restart warder")
		r.wait("a blocked name is refused again", `test -z "$(`+lookUp+`)"`, "www.blocked.example")
		r.sh("dpkg -r warder")
		if out := r.sh("nft list ruleset"); strings.Contains(out, "warder") {
			t.Errorf("after the removal:\n%s", out)
		}
	})
}
