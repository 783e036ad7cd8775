package network

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/enforce/section"
)

// Parts of snapshots.
var (
	wg0 = fact.Tunnel{Name: "wg0", Kind: fact.TunnelWireGuard, Up: true, Peers: []fact.Peer{{Key: fact.PeerKey("company"),
		Endpoint: netip.MustParseAddrPort("198.51.100.7:51820")}}}
	tun0 = fact.Tunnel{Name: "tun0", Kind: fact.TunnelTun, Up: true, Far: []netip.Addr{netip.MustParseAddr("10.8.0.1")}}
	ppp0 = fact.Tunnel{Name: "ppp0", Kind: fact.TunnelPPP, Up: true}
	lan4 = fact.Way{Interface: "eth0", Family: 4, Link: true, Count: 1}
	out4 = fact.Way{Interface: "eth0", Family: 4, Most: true, Public: true, Count: 3}
	out6 = fact.Way{Interface: "eth0", Family: 6, Most: true, Public: true, Count: 2}
	some = fact.Way{Interface: "eth0", Family: 4, Public: true, Count: 1}
	near = fact.Way{Interface: "eth0", Family: 4, Link: true, Public: true, Count: 1}
)

func by(name string, family int) fact.Way {
	return fact.Way{Interface: name, Family: family, Most: true, Public: true, Count: 3}
}

func host(addrs ...string) fact.Way {
	w := fact.Way{Interface: "eth0", Family: 4, Host: true, Public: true, Count: len(addrs)}
	for _, a := range addrs {
		x := netip.MustParseAddr(a)
		w.Ranges = append(w.Ranges, fact.Range{First: x, Last: x})
	}
	return w
}

func silent(t fact.Tunnel) fact.Tunnel { t.Silent = "its peer does not answer"; return t }

func down(t fact.Tunnel) fact.Tunnel { t.Up = false; return t }

func to(t fact.Tunnel, endpoint string) fact.Tunnel {
	t.Peers = []fact.Peer{{Key: t.Peers[0].Key, Endpoint: netip.MustParseAddrPort(endpoint)}}
	return t
}

// The truth table of policy.md, as far as it is observed, and which tunnels count.
func TestVPN(t *testing.T) {
	full := []fact.Way{lan4, by("wg0", 4), by("wg0", 6)}
	required, optional := `{"vpn_required":true}`, `{"split_tunnel":false}`
	split := `{"vpn_required":true,"split_tunnel":true}`
	pin := func(vpn string) string { return `{"vpn_required":true,"vpn":` + vpn + `}` }
	for _, x := range []struct {
		name, policy string
		list         []fact.Tunnel
		ways         []fact.Way
		rules        []string
		want, says   string
	}{
		{"required and whole", required, []fact.Tunnel{wg0}, full, nil, "compliant", "everything goes through wg0 (wireguard), except to the machine's own networks (eth0)"},
		{"required, none", required, nil, []fact.Way{lan4, out4}, nil, "noncompliant", "no VPN is up"},
		{"IPv4 alone, and there is no IPv6", required, []fact.Tunnel{wg0}, []fact.Way{lan4, by("wg0", 4)}, nil, "compliant", ""},
		{"IPv6 past it", required, []fact.Tunnel{wg0}, []fact.Way{lan4, by("wg0", 4), out6}, nil, "noncompliant", "most of IPv6 by eth0"},
		{"a network past it", required, []fact.Tunnel{wg0}, append([]fact.Way{some}, full...), nil, "noncompliant", "1 IPv4 network(s) by eth0"},
		{"neighbours with public addresses", required, []fact.Tunnel{wg0}, append([]fact.Way{near}, full...), nil, "noncompliant", "neighbours with public"},
		{"a rule", required, []fact.Tunnel{wg0}, full, []string{"5: uidrange 1-2 lookup 254"}, "unknown", "uidrange 1-2"},
		{"no route", required, []fact.Tunnel{wg0}, []fact.Way{lan4, out4}, nil, "noncompliant", "nothing is routed through it"},
		{"its own network alone", required, []fact.Tunnel{wg0}, []fact.Way{{Interface: "wg0", Family: 4, Link: true}, out4}, nil, "noncompliant", "nothing is routed"},
		{"silent", required, []fact.Tunnel{silent(wg0)}, full, nil, "noncompliant", "its peer does not answer"},
		{"down", required, []fact.Tunnel{down(tun0)}, []fact.Way{out4}, nil, "noncompliant", "it is down"},
		{"two, each one family", required, []fact.Tunnel{tun0, wg0}, []fact.Way{by("tun0", 4), by("wg0", 6)}, nil, "compliant", "tun0 (tun) and wg0"},

		{"split: the default route through it", split, []fact.Tunnel{wg0}, append([]fact.Way{some}, full...), nil, "compliant", "allowed beside it: 1 IPv4"},
		{"split: the default route past it", split, []fact.Tunnel{wg0}, []fact.Way{out4, {Interface: "wg0", Family: 4, Count: 1}}, nil, "noncompliant", "most IPv4 addresses are reached past it"},
		{"split: none", split, nil, []fact.Way{out4}, nil, "noncompliant", "no VPN is up"},
		{"optional, none", optional, nil, []fact.Way{out4}, nil, "compliant", "no VPN is up, so"},
		{"optional, whole", optional, []fact.Tunnel{wg0}, full, nil, "compliant", ""},
		{"optional, a network past it", optional, []fact.Tunnel{wg0}, append([]fact.Way{some}, full...), nil, "noncompliant", ""},
		{"split allowed", `{"split_tunnel":true}`, []fact.Tunnel{wg0}, append([]fact.Way{some}, full...), nil, "compliant", ""},
		{"not required", `{"vpn_required":false}`, nil, []fact.Way{out4}, nil, "compliant", "no VPN is required"},

		{"a server's route, which must be OpenVPN's", required, []fact.Tunnel{tun0}, []fact.Way{by("tun0", 4), host("198.51.100.7")}, nil, "compliant", "taken for its server"},
		{"two such routes", required, []fact.Tunnel{tun0}, []fact.Way{by("tun0", 4), host("198.51.100.7", "203.0.113.9")}, nil, "noncompliant", "2 single IPv4"},
		{"WireGuard's own", required, []fact.Tunnel{wg0}, append([]fact.Way{host("198.51.100.7")}, full...), nil, "compliant", ""},
		{"another's", required, []fact.Tunnel{wg0}, append([]fact.Way{host("203.0.113.9")}, full...), nil, "noncompliant", "1 single IPv4"},
		{"an endpoint's", pin(`{"interface":"tun*","endpoints":["198.51.100.7:1194"]}`), []fact.Tunnel{tun0}, []fact.Way{by("tun0", 4), host("198.51.100.7")}, nil, "compliant", ""},
		{"past the endpoints", pin(`{"interface":"tun*","endpoints":["198.51.100.8"]}`), []fact.Tunnel{tun0}, []fact.Way{by("tun0", 4), host("198.51.100.7")}, nil, "noncompliant", ""},
		{"a named endpoint's", pin(`{"interface":"tun*","endpoints":["vpn.example.com"]}`), []fact.Tunnel{tun0}, []fact.Way{by("tun0", 4), host("192.0.2.44")}, nil, "compliant", ""},

		{"pinned peer", pin(`{"peer":"company"}`), []fact.Tunnel{wg0}, full, nil, "compliant", ""},
		{"another peer", pin(`{"peer":"mine"}`), []fact.Tunnel{wg0}, full, nil, "noncompliant", "its only peer is not that of network.vpn"},
		{"a second peer", pin(`{"peer":"company"}`), []fact.Tunnel{{Name: "wg0", Kind: fact.TunnelWireGuard, Up: true, Peers: append(wg0.Peers, fact.Peer{Key: "x"})}}, full, nil, "noncompliant", "its only peer"},
		{"a tun called like it", pin(`{"interface":"wg0","peer":"company"}`), []fact.Tunnel{{Name: "wg0", Kind: fact.TunnelTun, Up: true}}, full, nil, "noncompliant", "its only peer"},
		{"another name", pin(`{"interface":"corp*"}`), []fact.Tunnel{wg0}, full, nil, "noncompliant", "its name is not corp*"},
		{"a pattern", pin(`{"interface":"wg?"}`), []fact.Tunnel{wg0}, full, nil, "compliant", ""},
		{"a broken pattern", pin(`{"interface":"wg["}`), []fact.Tunnel{{Name: "wg[", Kind: fact.TunnelTun, Up: true}}, []fact.Way{by("wg[", 4)}, nil, "compliant", ""},
		{"gateway", pin(`{"gateway":"10.8.0.1"}`), []fact.Tunnel{tun0}, []fact.Way{by("tun0", 4)}, nil, "compliant", ""},
		{"another gateway", pin(`{"gateway":"10.8.0.9"}`), []fact.Tunnel{tun0}, []fact.Way{by("tun0", 4)}, nil, "noncompliant", "its other end is not 10.8.0.9"},
		{"endpoint", pin(`{"endpoints":["198.51.100.7:51820"]}`), []fact.Tunnel{wg0}, full, nil, "compliant", ""},
		{"another port", pin(`{"endpoints":["198.51.100.7:51821"]}`), []fact.Tunnel{wg0}, full, nil, "noncompliant", "none of the endpoints"},
		{"a name", pin(`{"endpoints":["vpn.example.com:51820"]}`), []fact.Tunnel{to(wg0, "192.0.2.44:51820")}, full, nil, "compliant", ""},
		{"a name that is not known", pin(`{"endpoints":["vpn2.example.com"]}`), []fact.Tunnel{wg0}, full, nil, "unknown", "could not be looked up"},
		{"endpoints of a tun", pin(`{"endpoints":["198.51.100.7"]}`), []fact.Tunnel{tun0}, []fact.Way{by("tun0", 4)}, nil, "unknown", "cannot be read"},
		{"a plain PPP line", required, []fact.Tunnel{ppp0}, []fact.Way{by("ppp0", 4)}, nil, "noncompliant", "the way to the network itself"},
		{"a named PPP line", pin(`{"interface":"ppp0"}`), []fact.Tunnel{ppp0}, []fact.Way{by("ppp0", 4)}, nil, "compliant", ""},
		{"a decoy beside it", pin(`{"peer":"company"}`), []fact.Tunnel{tun0, wg0}, []fact.Way{by("wg0", 4), {Interface: "tun0", Family: 4, Count: 1}}, nil, "noncompliant", "by tun0"},
	} {
		t.Run(strings.ReplaceAll(x.name, " ", "_"), func(t *testing.T) {
			for mode, level := range map[string]string{"enforce": fact.DetectOnly, "monitor": fact.DetectOnly, "": fact.Unsupported} {
				m := can()
				m.Capable["network"] = fact.Capability{Level: level, Limit: "the limit"}
				m.Network.V.Found = map[string][]netip.Addr{"vpn.example.com": {netip.MustParseAddr("192.0.2.44")}}
				m.Tunnels = fact.Is(fact.Tunnels{List: x.list, Ways: x.ways, Rules: x.rules})
				d := decode(t, `{"compliance":"`+max(mode, "enforce")+`","policy_data":{"network":`+x.policy+`}}`)
				s := settingRequired
				if !d.Network.VPNRequired.Set {
					s = settingSplit
				}
				f := findingOf(t, section.Open(sections(), d, m), s)
				switch {
				case level == fact.Unsupported:
					if f.Enforcement != enforce.Unsupported || f.Compliance != enforce.Uncertain {
						t.Errorf("unsupported: %+v", f)
					}
				case string(f.Compliance) != x.want || !strings.Contains(f.Reason, x.says) || f.Enforcement != enforce.DetectOnly:
					t.Errorf("%s: %s/%s: %s", mode, f.Compliance, f.Enforcement, f.Reason)
				case !strings.Contains(f.Reason, "the limit"):
					t.Errorf("without the limit: %s", f.Reason)
				}
			}
		})
	}
}

func sections() []section.Section { return []section.Section{Section} }

func findingOf(t *testing.T, c *section.Case, s enforce.Setting) enforce.Finding {
	t.Helper()
	for _, f := range section.Decide(sections(), c).Findings {
		if f.Setting == s {
			return f
		}
	}
	t.Fatalf("no finding of %s", s)
	return enforce.Finding{}
}

// An exception ends the need for a VPN; what cannot be read is unknown, and for these settings alone.
func TestVPNUnread(t *testing.T) {
	m := can()
	m.Capable["network.vpn_required"] = fact.Capability{Level: fact.DetectOnly}
	m.Tunnels = fact.Unread[fact.Tunnels]("the kernel says no")
	d := decode(t, `{"policy_data":{"network":{"vpn_required":true,"blocked_domains":["x.example"]}}}`)
	c := section.Open(sections(), d, m)
	if f := findingOf(t, c, settingRequired); f.Compliance != enforce.Uncertain || !strings.Contains(f.Reason, "the kernel says no") {
		t.Errorf("%+v", f)
	}
	if f := findingOf(t, c, settingBlocked); f.Compliance != enforce.Compliant {
		t.Errorf("%+v", f)
	}
	m.Tunnels = fact.Is(fact.Tunnels{})
	if f := findingOf(t, section.Open(sections(), d, m), settingRequired); f.Compliance != enforce.Noncompliant {
		t.Errorf("%+v", f)
	}
	name, err := Section.Except.Parse("vpn")
	if err != nil || len(Section.Except.Names("vpn")) != 1 {
		t.Fatal(name, err)
	}
	c = section.Open(sections(), d.Excepted(map[string][]string{"network": {name}}), m)
	if f := findingOf(t, c, settingRequired); f.Compliance != enforce.Compliant || !strings.Contains(f.Reason, "an exception") {
		t.Errorf("%+v", f)
	}
	if c.Rules("network").(*Rules).isExcepted(&Subject{Name: "vpn"}) {
		t.Error("the exception is for a name")
	}
	if got := Section.Except.Refused(c); len(got) != 1 || got[0] != "vpn" {
		t.Errorf("%q", got)
	}
}

// The server's what-if has a snapshot without addresses.
func TestVPNReported(t *testing.T) {
	m := can()
	m.Capable["network.vpn_required"] = fact.Capability{Level: fact.DetectOnly}
	m.Tunnels = fact.Is(fact.Tunnels{List: []fact.Tunnel{{Name: "wg0", Kind: fact.TunnelWireGuard, Up: true, Peers: []fact.Peer{{Key: fact.PeerKey("company")}}}},
		Ways: []fact.Way{by("wg0", 4), {Interface: "eth0", Family: 4, Host: true, Count: 1}}})
	for policy, want := range map[string]enforce.Compliance{`{"vpn_required":true}`: enforce.Compliant, `{"vpn_required":true,"vpn":{"peer":"company"}}`: enforce.Compliant,
		`{"vpn_required":true,"vpn":{"peer":"other"}}`: enforce.Noncompliant, `{"vpn_required":true,"vpn":{"endpoints":["198.51.100.7"]}}`: enforce.Uncertain} {
		if f := findingOf(t, section.Open(sections(), decode(t, `{"policy_data":{"network":`+policy+`}}`), m), settingRequired); f.Compliance != want {
			t.Errorf("%s: %s: %s", policy, f.Compliance, f.Reason)
		}
	}
}

// What the kill switch is told, and what the findings say meanwhile: the truth table of policy.md in enforce mode.
func TestCarry(t *testing.T) {
	full := []fact.Way{lan4, by("wg0", 4), by("wg0", 6)}
	wg := func(x fact.Tunnel) fact.Tunnel { x.Index = 7; return x }
	tun := tun0
	tun.Index = 8
	sec := fact.Tunnel{Name: fact.TunnelIPsec, Kind: fact.TunnelIPsec, Up: true, Peers: []fact.Peer{{Endpoint: netip.MustParseAddrPort("198.51.100.9:0")}}}
	home := lan4
	home.Ranges = []fact.Range{{First: netip.MustParseAddr("192.168.1.0"), Last: netip.MustParseAddr("192.168.1.255")}}
	inner := fact.Way{Interface: "wg0", Family: 4, Link: true, Count: 1, Ranges: []fact.Range{{First: netip.MustParseAddr("10.0.0.0"), Last: netip.MustParseAddr("10.255.255.255")}}}
	const always, ends = `"vpn_always_on":true`, `"vpn":{"endpoints":["198.51.100.7:51820"]}`
	for _, x := range []struct {
		name, policy string
		list         []fact.Tunnel
		ways         []fact.Way
		state        string // "closed 7", "open", "off"
		want, says   string
	}{
		{"always, down", `{` + always + `,` + ends + `}`, nil, []fact.Way{home, out4}, "closed", "compliant", "nothing leaves but what brings it up"},
		{"always, up", `{` + always + `,` + ends + `}`, []fact.Tunnel{wg(wg0)}, full, "closed 7", "compliant", "leave through wg0 (wireguard) alone"},
		{"always, silent", `{` + always + `,` + ends + `}`, []fact.Tunnel{wg(silent(wg0))}, full, "closed 7", "compliant", "does not answer"},
		{"always, required false", `{"vpn_required":false,` + always + `,` + ends + `}`, nil, []fact.Way{home, out4}, "closed", "compliant", ""},
		{"always, split", `{"split_tunnel":true,` + always + `,` + ends + `}`, nil, []fact.Way{home, out4}, "closed", "compliant", ""},
		{"always, another tunnel", `{` + always + `,"vpn":{"peer":"other","endpoints":["198.51.100.7"]}}`, []fact.Tunnel{wg(wg0)}, full, "closed", "compliant", "its only peer"},
		{"always, no endpoint", `{` + always + `}`, []fact.Tunnel{wg(wg0)}, full, "off", "unknown", "no endpoint"},
		{"always, IPsec without an interface", `{` + always + `,"vpn":{"endpoints":["198.51.100.9"]}}`, []fact.Tunnel{sec}, []fact.Way{{Interface: "ipsec", Family: 4, Count: 1}, out4, out6}, "open", "noncompliant", "the kill switch does not close: nothing tells the packets of IPsec"},
		{"always, IPsec down", `{` + always + `,"vpn":{"endpoints":["198.51.100.9"]}}`, []fact.Tunnel{silent(sec)}, []fact.Way{out4}, "closed", "compliant", ""},
		{"always, false", `{"vpn_always_on":false}`, nil, []fact.Way{out4}, "off", "compliant", "the kill switch is off"},
		{"required, down", `{"vpn_required":true}`, nil, []fact.Way{home, out4}, "open", "noncompliant", "no VPN is up"},
		{"required, up", `{"vpn_required":true}`, []fact.Tunnel{wg(wg0)}, append([]fact.Way{out6}, full[:2]...), "closed 7", "compliant", "refused is what is routed past it: most of IPv6 by eth0"},
		{"required, unsure", `{"vpn_required":true,"vpn":{"endpoints":["198.51.100.7"]}}`, []fact.Tunnel{tun}, []fact.Way{by("tun0", 4)}, "closed 8", "unknown", "cannot be read"},
		{"required, split", `{"vpn_required":true,"split_tunnel":true}`, []fact.Tunnel{wg(wg0)}, full, "off", "compliant", ""},
		{"optional, up", `{"split_tunnel":false}`, []fact.Tunnel{wg(wg0)}, full, "closed 7", "compliant", ""},
		{"optional, down", `{"split_tunnel":false}`, nil, []fact.Way{home, out4}, "open", "compliant", "no VPN is up, so"},
		{"a tun whose server is known", `{"vpn_required":true}`, []fact.Tunnel{tun}, []fact.Way{by("tun0", 4), host("198.51.100.7")}, "closed 8", "compliant", ""},
		{"a tun whose server is not known", `{"vpn_required":true}`, []fact.Tunnel{tun}, []fact.Way{by("tun0", 4), out6}, "open", "noncompliant", "the address of the VPN's own server is not known"},
		{"a tun with a second address beside it", `{"vpn_required":true}`, []fact.Tunnel{tun}, []fact.Way{by("tun0", 4), host("198.51.100.7", "203.0.113.99")}, "open", "noncompliant", "2 single IPv4 address(es) by eth0"},
	} {
		t.Run(strings.ReplaceAll(x.name, " ", "_"), func(t *testing.T) {
			m := can()
			m.Network.V.Ready = true
			m.Network.V.Found = map[string][]netip.Addr{"policy.example.com": {netip.MustParseAddr("192.0.2.80")}}
			m.Network.V.ServerPort = 8443
			m.Capable["network"] = fact.Capability{Level: fact.Partial, Limit: "the limit"}
			m.Tunnels = fact.Is(fact.Tunnels{List: x.list, Ways: append(x.ways, inner)})
			if !strings.Contains(x.state, "7") {
				m.Tunnels.V.Ways = x.ways
			}
			d := decode(t, `{"policy_data":{"network":`+x.policy+`}}`)
			c := section.Open(sections(), d, m)
			r := c.Rules("network").(*Rules)
			got, on := r.Carry(&m.Tunnels.V)
			state := "off"
			if on {
				state = "open"
			}
			if got.Closed {
				state = strings.TrimSpace("closed " + strings.Trim(fmt.Sprint(got.Tunnels), "[]"))
			}
			if state != x.state {
				t.Errorf("%s, not %s", state, x.state)
			}
			none := state == "closed" || strings.Contains(x.name, "silent")
			if seeks := r.Seeks(&m.Tunnels.V); seeks != (none && got.Mode == fact.SwitchAlways) {
				t.Errorf("it seeks a tunnel: %v", seeks)
			}
			if on && (len(got.Own) != 1 || got.Own[0].Port != 8443 || slices.Contains(got.Names, "x")) {
				t.Errorf("%+v", got)
			}
			for _, l := range got.Local {
				if l.Has(netip.MustParseAddr("10.1.1.1")) || got.Mode == fact.SwitchAlways {
					t.Errorf("the own network has %s", l)
				}
			}
			for _, s := range []enforce.Setting{settingAlways, settingRequired, settingSplit} {
				if d.Mode(s) == enforce.Off {
					continue
				}
				f := findingOf(t, c, s)
				if string(f.Compliance) != x.want || !strings.Contains(f.Reason, x.says) {
					t.Errorf("%s: %s/%s: %s", s, f.Compliance, f.Enforcement, f.Reason)
				}
				break
			}
			wanted := false
			for _, w := range section.Decide(sections(), c).Wants {
				wanted = wanted || w.Key == killSwitch
			}
			if wanted != on {
				t.Errorf("wanted: %v, on: %v", wanted, on)
			}
			// What cannot be read leaves the switch as it is; what is not known of the way to the server, off.
			m.Tunnels = fact.Unread[fact.Tunnels]("no")
			if o := section.Decide(sections(), section.Open(sections(), d, m)); !slices.Contains(o.Unsure, killSwitch.Kind) {
				t.Errorf("while the tunnels cannot be read: %+v", o)
			}
			m.Tunnels = fact.Is(fact.Tunnels{List: x.list, Ways: x.ways})
			m.Network.V.Ready = false
			o := section.Decide(sections(), section.Open(sections(), d, m))
			if slices.ContainsFunc(o.Wants, func(w enforce.Want) bool { return w.Key == killSwitch }) {
				t.Error("wanted without a way to the server")
			}
			if said := slices.ContainsFunc(o.Findings, func(f enforce.Finding) bool { return strings.Contains(f.Reason, "are not known yet") }); said != (x.state != "off") {
				t.Errorf("said: %v: %+v", said, o.Findings)
			}
		})
	}
}
