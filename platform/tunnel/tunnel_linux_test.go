package tunnel

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/platform/platformtest"
)

func sh(t *testing.T, line string) {
	t.Helper()
	if out, err := exec.Command("bash", "-ec", line).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", line, err, out)
	}
}

// told is what is read, in a form for comparison: "wg0 wireguard up", and the ways: "4 eth0 link", "4 wg0 most 2".
func told(t *testing.T, r *Reader) (tunnels, ways []string, all fact.Tunnels) {
	t.Helper()
	var m fact.Machine
	if err := r.Observe(context.Background(), &m); err != nil || !m.Tunnels.OK {
		t.Fatal(err, m.Tunnels.Why)
	}
	for _, x := range m.Tunnels.V.List {
		s := x.Name + " " + x.Kind
		if x.Up {
			s += " up"
		}
		if x.Silent != "" {
			s += ": " + x.Silent
		}
		tunnels = append(tunnels, s)
	}
	for _, w := range m.Tunnels.V.Ways {
		s := fmt.Sprintf("%d %s", w.Family, w.Interface)
		if w.Link {
			s += " link"
		}
		if w.Host {
			s += " host"
		}
		if w.Most {
			s += " most"
		}
		if w.Public && !w.Most {
			s += " public"
		}
		ways = append(ways, s)
	}
	slices.Sort(ways)
	return tunnels, ways, m.Tunnels.V
}

func same(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: %q, not %q", what, got, want)
	}
}

// What is read of real tunnels and routes: each case is made with the system's own tools.
func TestTunnels(t *testing.T) {
	if !platformtest.InNetwork(t) {
		return
	}
	o := platformtest.NewOutside(t)
	r := New(slog.New(slog.DiscardHandler))
	tunnels, ways, _ := told(t, r)
	same(t, "no VPN", tunnels)
	same(t, "no VPN", ways, "4 eth0 link", "4 eth0 most", "6 eth0 link", "6 eth0 most")

	w := platformtest.NewWireGuard(t, o, "wg0")
	w.Deafen(true)
	w.Bare(platformtest.Router4 + ":51820")
	tunnels, ways, _ = told(t, r)
	same(t, "without routes", tunnels, "wg0 wireguard up: there was no handshake with its peer yet")
	same(t, "without routes", ways, "4 eth0 link", "4 eth0 most", "6 eth0 link", "6 eth0 most")
	w.Down()
	w.Deafen(false)

	w.Up(platformtest.Router4 + ":51820")
	w.Shake()
	tunnels, ways, all := told(t, r)
	same(t, "WireGuard", tunnels, "wg0 wireguard up")
	same(t, "WireGuard", ways, "4 eth0 link", "4 wg0 most", "6 eth0 link", "6 wg0 most")
	if len(all.Rules) != 0 {
		t.Errorf("rules: %q", all.Rules)
	}
	if len(all.Inside) != 0 {
		t.Errorf("the machine's own way out is an inner one: %v", all.Inside)
	}
	if p := all.List[0].Peers; len(p) != 1 || p[0].Key != fact.PeerKey(w.Peer) || p[0].Endpoint.String() != platformtest.Router4+":51820" {
		t.Errorf("its peers: %+v", p)
	}
	if got := r.now("network", platformtest.Web4); got != "packets to it leave through wg0 (wireguard)" {
		t.Error(got)
	}
	if got := r.now("network", platformtest.Router4+":53"); got != "packets to it leave by eth0, which is no tunnel" {
		t.Error(got)
	}

	// Routes past it, as a DHCP server can hand them out (CVE-2024-3661), and own networks with public addresses.
	for _, x := range []struct{ add, del, way string }{
		{"ip route add 203.0.113.0/25 via " + platformtest.Router4, "ip route del 203.0.113.0/25", "4 eth0 public"},
		{"ip route add 0.0.0.0/1 via " + platformtest.Router4 + "; ip route add 128.0.0.0/1 via " + platformtest.Router4,
			"ip route del 0.0.0.0/1; ip route del 128.0.0.0/1", "4 eth0 most"},
		{"ip -6 route add 2001:db8:10::/48 via " + platformtest.Router6, "ip -6 route del 2001:db8:10::/48", "6 eth0 public"},
		{"ip addr add 198.18.0.7/15 dev eth0", "ip addr del 198.18.0.7/15 dev eth0", "4 eth0 link public"},
		{"ip rule add to 203.0.113.20 lookup main", "ip rule del to 203.0.113.20 lookup main", "4 eth0 host public"},
		{"ip route add 203.0.113.20 table 7 nexthop via " + platformtest.Router4 + " dev eth0 nexthop dev wg0; ip rule add to 203.0.113.20 lookup 7",
			"ip rule del to 203.0.113.20 lookup 7; ip route flush table 7", "4 eth0 host public"},
	} {
		sh(t, x.add)
		if _, ways, _ = told(t, r); !slices.Contains(ways, x.way) {
			t.Errorf("%s: %q", x.add, ways)
		}
		sh(t, x.del)
		_, ways, _ = told(t, r)
		same(t, x.del, ways, "4 eth0 link", "4 wg0 most", "6 eth0 link", "6 wg0 most")
	}
	for _, x := range []string{"uidrange 1000-1999", "sport 5000", "ipproto udp", "from " + platformtest.Machine4} {
		sh(t, "ip rule add "+x+" lookup main")
		if _, _, all = told(t, r); len(all.Rules) != 1 {
			t.Errorf("%s: %q", x, all.Rules)
		}
		sh(t, "ip rule del "+x+" lookup main")
	}
	sh(t, "ip rule add from 172.31.0.0/16 lookup main") // nobody here has such an address
	if _, _, all = told(t, r); len(all.Rules) != 0 {
		t.Errorf("a rule about others: %q", all.Rules)
	}
	sh(t, "ip rule del from 172.31.0.0/16 lookup main")

	// One family alone; none at all.
	sh(t, "ip -6 rule del not fwmark 51820")
	_, ways, _ = told(t, r)
	same(t, "IPv6 past it", ways, "4 eth0 link", "4 wg0 most", "6 eth0 link", "6 eth0 most")
	sh(t, "ip -6 route del default")
	_, ways, _ = told(t, r)
	same(t, "no IPv6", ways, "4 eth0 link", "4 wg0 most", "6 eth0 link most")
	sh(t, "ip -6 route add default via "+platformtest.Router6)
	w.Down()
	_, ways, _ = told(t, r)
	same(t, "down", ways, "4 eth0 link", "4 eth0 most", "6 eth0 link", "6 eth0 most")

	// OpenVPN covers a default route with two halves, and its server's address stays outside.
	v := platformtest.NewOpenVPN(t, o)
	v.Up()
	tunnels, ways, all = told(t, r)
	same(t, "OpenVPN", tunnels, "tunc tun up")
	same(t, "OpenVPN", ways, "4 eth0 host", "4 eth0 link", "4 tunc host", "4 tunc most", "6 eth0 link", "6 eth0 most")
	if !slices.Contains(all.List[0].Far, netip.MustParseAddr(platformtest.Server4)) {
		t.Errorf("its other end: %v", all.List[0].Far)
	}
	v.Down()

	// A decoy that nobody holds, and one that somebody made up.
	sh(t, "ip tuntap add dev tun7 mode tun; ip addr add 10.8.0.2 peer 10.8.0.1 dev tun7; ip link set tun7 up; ip route add 0.0.0.0/1 dev tun7")
	tunnels, _, _ = told(t, r)
	same(t, "nobody holds it", tunnels, "tun7 tun")
	sh(t, "ip link del tun7; ip tuntap add dev tap7 mode tap; ip link set tap7 up")
	tunnels, _, _ = told(t, r)
	same(t, "a tap", tunnels, "tap7 tap")
	sh(t, "ip link del tap7")

	// IPsec without an interface: a policy without a connection, and one that lets some packets past.
	ipsec := "ip xfrm policy add dir out src " + platformtest.Machine4 + "/32 dst %s priority %d %s"
	tmpl := "tmpl src " + platformtest.Machine4 + " dst " + platformtest.Router4 + " proto esp mode tunnel"
	sh(t, fmt.Sprintf(ipsec, "0.0.0.0/0", 1000, tmpl))
	tunnels, ways, _ = told(t, r)
	same(t, "IPsec", tunnels, "ipsec ipsec up: its policies ask for a connection that is not there")
	same(t, "IPsec", ways, "4 ipsec most", "6 eth0 link", "6 eth0 most")
	sh(t, fmt.Sprintf(ipsec, "203.0.113.0/24", 10, "action allow"))
	_, ways, _ = told(t, r)
	same(t, "past it", ways, "4 eth0 public", "4 ipsec most", "6 eth0 link", "6 eth0 most")
	sh(t, "ip xfrm policy flush")
}

// Each change is noticed, and what changes nothing is not.
func TestWatch(t *testing.T) {
	if !platformtest.InNetwork(t) {
		return
	}
	o := platformtest.NewOutside(t)
	w := platformtest.NewWireGuard(t, o, "wg0")
	r := New(slog.New(slog.DiscardHandler))
	_, _, _ = told(t, r)
	ctx, cancel := context.WithCancel(context.Background())
	changed, ended := make(chan struct{}, 100), make(chan error, 1)
	go func() { ended <- r.Watch(ctx, func() { changed <- struct{}{} }) }()
	time.Sleep(300 * time.Millisecond)
	for _, x := range []struct {
		name string
		do   func()
	}{
		{"up", func() { w.Up(platformtest.Router4 + ":51820") }},
		{"a route past it", func() { sh(t, "ip route add 203.0.113.0/25 via "+platformtest.Router4) }},
		{"a rule", func() { sh(t, "ip rule add uidrange 1000-1999 lookup main") }},
		{"an IPsec policy", func() {
			sh(t, "ip xfrm policy add dir out src "+platformtest.Machine4+"/32 dst 198.51.100.0/24 tmpl src "+platformtest.Machine4+" dst "+
				platformtest.Router4+" proto esp mode tunnel")
		}},
		{"down", w.Down},
	} {
		_, _, _ = told(t, r)
		for len(changed) > 0 {
			<-changed
		}
		begun := time.Now()
		x.do()
		select {
		case <-changed:
			t.Logf("%s: noticed after %s", x.name, time.Since(begun).Round(time.Millisecond))
		case <-time.After(30 * time.Second):
			t.Fatalf("%s: not noticed", x.name)
		}
		time.Sleep(time.Second)
	}
	_, _, _ = told(t, r)
	for len(changed) > 0 {
		<-changed
	}
	sh(t, "ip neigh add 10.77.0.9 lladdr 02:00:00:00:00:09 dev eth0; ip route add 203.0.113.0/26 via "+platformtest.Router4)
	time.Sleep(time.Second)
	if len(changed) > 0 {
		t.Error("a route that changes nothing was told")
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// A WireGuard tunnel is silent if what is sent brings no handshake, and not because nobody sends.
func TestHearing(t *testing.T) {
	base := time.Now()
	at := func(d time.Duration) time.Time { return base.Add(d) }
	shook := base.Round(0).Add(-time.Minute)
	h := &hearing{}
	for i, x := range []struct {
		handshake time.Time
		sent      int64
		now       time.Duration
		silent    string
	}{
		{time.Time{}, 0, 0, "no handshake"},
		{shook, 100, 0, ""},
		{shook, 500, time.Minute, ""},
		{shook, 500, 3 * time.Minute, ""}, // too old, and nothing is sent
		{shook, 500, time.Hour, ""},
		{shook, 600, time.Hour + time.Second, ""}, // something is: the handshake may take a moment
		{shook, 700, time.Hour + 21*time.Second, "does not answer"},
		{shook, 700, 2 * time.Hour, "does not answer"},
		{shook.Add(2 * time.Hour), 800, 2*time.Hour + time.Minute, ""},
		{shook.Add(-26 * time.Hour), 900, 2*time.Hour + 2*time.Minute, ""}, // the clock was set back meanwhile
		{shook.Add(-26 * time.Hour), 900, 2*time.Hour + 9*time.Minute, ""},
	} {
		if got := h.note(x.handshake, x.sent, at(x.now)); x.silent == "" && got != "" || !strings.Contains(got, x.silent) {
			t.Errorf("%d: %q", i, got)
		}
	}
	// An agent that starts later: an old handshake counts from when it was.
	h = &hearing{}
	if got := h.note(base.Round(0).Add(-time.Hour), 100, at(0)); got != "" {
		t.Error(got)
	}
	_ = h.note(base.Round(0).Add(-time.Hour), 200, at(20*time.Second))
	if got := h.note(base.Round(0).Add(-time.Hour), 300, at(40*time.Second)); !strings.Contains(got, "does not answer") {
		t.Errorf("%q", got)
	}
}
