package network

import (
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strings"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/enforce/section"
)

const (
	settingRequired enforce.Setting = "network.vpn_required"
	settingAlways   enforce.Setting = "network.vpn_always_on"
	settingSplit    enforce.Setting = "network.split_tunnel"
)

// ofVPN are the settings about tunnels.
var ofVPN = []enforce.Setting{settingVPN, settingRequired, settingAlways, settingSplit}

// withoutVPN is the subject of an exception: no VPN is needed while it lasts. No name is called so: it has no dot.
const withoutVPN = "vpn"

// vpn is what a policy asks of a machine's tunnels, on one snapshot.
type vpn struct {
	on     []*fact.Tunnel // those that count and work
	off    []string       // the others, each with the reason
	unsure string         // why it cannot be told whether one counts
	past   []fact.Way     // ways past those that count, without the machine's own networks
	local  []string       // interfaces of those networks
	// servers are single addresses that are left out of past, because the VPN's own server must be one, and by is their interface.
	servers []netip.Addr
	by      string
	rules   []string
	lost    string // why the ways are not known
	closed  bool   // what goes past is refused
	open    string // why the kill switch does not close although a VPN is up
}

// tunnels judges the tunnels of a snapshot.
func tunnels(d *policy.Document, m *fact.Machine) *vpn {
	t := &m.Tunnels.V
	out := &vpn{rules: t.Rules, lost: t.Unrouted}
	for i := range t.List {
		x := &t.List[i]
		why, unsure := counts(&d.Network.VPN.V, x, m.Network.V.Found)
		switch {
		case why == "" && !x.Up:
			why = "it is down"
		case why == "" && x.Silent != "":
			why = x.Silent
		case why == "" && t.Unrouted == "" && !slices.ContainsFunc(t.Ways, func(w fact.Way) bool { return w.Interface == x.Name && !w.Link }):
			why = "nothing is routed through it"
		}
		switch {
		case why != "":
			out.off = append(out.off, fmt.Sprintf("%s (%s) does not count: %s", x.Name, x.Kind, why))
		case unsure != "":
			out.unsure = fmt.Sprintf("%s (%s): %s", x.Name, x.Kind, unsure)
		default:
			out.on = append(out.on, x)
		}
	}
	free, named := out.ends(d, m)
	for _, w := range t.Ways {
		switch {
		case slices.ContainsFunc(out.on, func(x *fact.Tunnel) bool { return x.Name == w.Interface }):
		case w.Link && !w.Public:
			out.local = append(out.local, w.Interface)
		case w.Host:
			rest := slices.DeleteFunc(slices.Clone(w.Ranges), func(r fact.Range) bool { return named[r.First] })
			if len(rest) > 0 && len(rest) <= free {
				free -= len(rest)
				out.by = w.Interface
				for _, r := range rest {
					out.servers = append(out.servers, r.First)
				}
			} else if len(rest) > 0 {
				w.Ranges, w.Count = rest, len(rest)
				out.past = append(out.past, w)
			}
		default:
			out.past = append(out.past, w)
		}
	}
	slices.Sort(out.local)
	out.local = slices.Compact(out.local)
	for _, x := range out.on {
		if x.Kind == fact.TunnelIPsec {
			out.open = "nothing tells the packets of IPsec without an interface from others"
		}
	}
	if free > 0 && out.open == "" {
		out.open = "the address of the VPN's own server is not known; name it in network.vpn.endpoints"
	}
	return out
}

// ends are the addresses to which the tunnels' own packets go, as far as they are known, and how many more there must be: a
// tun device does not tell, and without endpoints in the policy nobody else does.
func (v *vpn) ends(d *policy.Document, m *fact.Machine) (unknown int, known map[netip.Addr]bool) {
	known = map[netip.Addr]bool{}
	for _, t := range v.on {
		for _, p := range t.Peers {
			known[p.Endpoint.Addr()] = true
		}
		if len(t.Peers) == 0 && len(endpoints(d, m)) == 0 {
			unknown++
		}
	}
	for _, e := range endpoints(d, m) {
		host, _ := policy.SplitEndpoint(e)
		if a, err := netip.ParseAddr(host); err == nil {
			known[a.Unmap()] = true
		}
		for _, a := range m.Network.V.Found[host] {
			known[a] = true
		}
	}
	return unknown, known
}

// counts says why a tunnel is not the one that network.vpn describes, or why that cannot be told; both empty: it is.
func counts(p *policy.VPN, t *fact.Tunnel, found map[string][]netip.Addr) (why, unsure string) {
	if p.Interface != "" && p.Interface != t.Name {
		if ok, err := path.Match(p.Interface, t.Name); err != nil || !ok {
			return fmt.Sprintf("its name is not %s", p.Interface), ""
		}
	}
	if p.Peer != "" && (t.Kind != fact.TunnelWireGuard || len(t.Peers) != 1 || t.Peers[0].Key != fact.PeerKey(p.Peer)) {
		return "its only peer is not that of network.vpn", ""
	}
	if p.Gateway.IsValid() && !slices.Contains(t.Far, p.Gateway.Unmap()) {
		return fmt.Sprintf("its other end is not %s", p.Gateway), ""
	}
	if t.Kind == fact.TunnelPPP && p.Interface == "" && !p.Gateway.IsValid() {
		return "a PPP link may be the way to the network itself, so network.vpn must name its interface or gateway", ""
	}
	if len(p.Endpoints) == 0 {
		return "", ""
	}
	pinned := p.Interface != "" || p.Peer != "" || p.Gateway.IsValid()
	if len(t.Peers) == 0 || slices.ContainsFunc(t.Peers, func(x fact.Peer) bool { return !x.Endpoint.IsValid() }) {
		if pinned || t.Silent != "" {
			return "", ""
		}
		return "", "where its packets go cannot be read, so network.vpn must name its interface or gateway, too"
	}
	for _, x := range t.Peers {
		is, known := isEndpoint(p.Endpoints, x.Endpoint, found)
		switch {
		case !is && known:
			return "its packets go to none of the endpoints of network.vpn", ""
		case !is:
			return "", "an endpoint of network.vpn could not be looked up"
		}
	}
	return "", ""
}

// isEndpoint reports whether an address is one of the policy's endpoints, and whether all of those are known.
func isEndpoint(list []string, a netip.AddrPort, found map[string][]netip.Addr) (is, known bool) {
	known = true
	for _, e := range list {
		host, port := policy.SplitEndpoint(e)
		addrs := found[host]
		if x, err := netip.ParseAddr(host); err == nil {
			addrs = []netip.Addr{x.Unmap()}
		} else if len(addrs) == 0 {
			known = false
		}
		if slices.Contains(addrs, a.Addr().Unmap()) && (a.Port() == 0 || port == 0 || port == a.Port()) {
			return true, true
		}
	}
	return false, known
}

// decideVPN answers for one setting about tunnels.
func decideVPN(c *section.Case, s enforce.Setting) enforce.Finding {
	d := c.Document
	if c.Can(s).Level == fact.Unsupported {
		return section.NotYet(c, s)
	}
	if why, unread := c.Machine.Unread(fact.PartTunnels); unread {
		return section.Unread(c, s, why)
	}
	f := enforce.Finding{Setting: s, Mode: d.Mode(s), Compliance: enforce.Compliant, Enforcement: enforce.DetectOnly}
	can, limit := c.Can(s), ""
	if can.Acts() {
		f.Enforcement = enforce.Observed
		if f.Mode == enforce.Enforce {
			f.Enforcement, limit = enforce.Partial, "partial: "+can.Limit
		}
	}
	v := tunnels(d, c.Machine)
	f.Evidence = v.evidence(c.Machine)
	r, _ := c.Rules("network").(*Rules)
	v.closed = r != nil && f.Mode == enforce.Enforce && v.closes(r.kill)
	n := &d.Network
	switch {
	case s == settingVPN:
		f.Reason = "it says which tunnel counts; now " + v.which()
	case slices.Contains(d.Exceptions["network"], withoutVPN):
		f.Reason, limit = "an exception is in force: no VPN is needed", ""
	case f.Mode == enforce.Enforce && can.Acts() && !c.Machine.Network.V.Ready && asksFor(d, c.Machine) != "" && v.asks(s, n):
		f.Compliance, f.Enforcement = enforce.Uncertain, enforce.NotEnforced
		f.Reason, limit = "the addresses on the way to the policy server are not known yet; without them the kill switch would cut this machine off", ""
	case s == settingRequired && !n.VPNRequired.V:
		f.Reason, limit = "no VPN is required", ""
	case s == settingRequired:
		f.Compliance, f.Reason = v.required(n.SplitTunnel.V)
	case s == settingAlways && !n.VPNAlwaysOn.V:
		f.Reason, limit = "the kill switch is off", ""
	case s == settingAlways && len(endpoints(d, c.Machine))+c.Machine.Tunnels.V.Learnt == 0:
		f.Compliance, f.Enforcement = enforce.Uncertain, enforce.Unsupported
		f.Reason, limit = "no endpoint: neither network.vpn.endpoints nor this machine's own VPN configuration names one, so the kill switch is off", ""
	case s == settingAlways:
		f.Compliance, f.Reason = v.always()
	case n.SplitTunnel.V && r != nil && r.kill == fact.SwitchAlways:
		f.Reason = "routes beside the tunnel are allowed, and closed by network.vpn_always_on"
	case n.SplitTunnel.V:
		f.Reason, limit = "routes beside the tunnel are allowed", ""
	case len(v.on) == 0 && v.unsure == "":
		f.Reason = "no VPN is up, so nothing can go past it"
	default:
		f.Compliance, f.Reason = v.whole()
	}
	if limit != "" {
		f.Reason += "; " + limit
	}
	return f
}

// asks reports whether a setting asks for the kill switch.
func (v *vpn) asks(s enforce.Setting, n *policy.Network) bool {
	switch s {
	case settingRequired:
		return n.VPNRequired.V && !n.SplitTunnel.V
	case settingAlways:
		return n.VPNAlwaysOn.V
	case settingSplit:
		return !n.SplitTunnel.V
	}
	return false
}

// always judges the kill switch that does not depend on a tunnel being up.
func (v *vpn) always() (enforce.Compliance, string) {
	switch {
	case !v.closed && len(v.on) > 0:
		state, reason := v.whole()
		if v.open != "" && state == enforce.Compliant {
			reason += "; the kill switch does not close meanwhile: " + v.open
		}
		return state, reason
	case !v.closed && v.unsure != "":
		return enforce.Uncertain, "it cannot be told whether the VPN is up: " + v.unsure
	case !v.closed:
		return enforce.Noncompliant, "no VPN is up, and packets leave without it" + v.why()
	case len(v.on) == 0:
		return enforce.Compliant, "the VPN is down, and nothing leaves but what brings it up" + v.why()
	}
	return enforce.Compliant, "packets leave through " + v.which() + " alone"
}

// which names the tunnels that count.
func (v *vpn) which() string {
	var out []string
	for _, t := range v.on {
		out = append(out, fmt.Sprintf("%s (%s)", t.Name, t.Kind))
	}
	switch {
	case len(out) > 0:
		return strings.Join(out, " and ")
	case v.unsure != "":
		return "it cannot be told: " + v.unsure
	}
	return "none" + v.why()
}

// why says why other tunnels do not count.
func (v *vpn) why() string {
	if len(v.off) == 0 {
		return ""
	}
	return "; " + strings.Join(v.off[:min(len(v.off), 4)], "; ")
}

// required judges that a VPN must be up, and everything go through it, or with split what most addresses are reached by.
func (v *vpn) required(split bool) (enforce.Compliance, string) {
	switch {
	case len(v.on) == 0 && v.unsure != "":
		return enforce.Uncertain, "it cannot be told whether the VPN is up: " + v.unsure
	case len(v.on) == 0 && len(v.off) == 0:
		return enforce.Noncompliant, "no VPN is up"
	case len(v.on) == 0:
		return enforce.Noncompliant, "no VPN that counts is up: " + strings.TrimPrefix(v.why(), "; ")
	case !split:
		return v.whole()
	case v.lost != "":
		return enforce.Uncertain, v.which() + " is up, but it cannot be told what goes through it: " + v.lost
	}
	for _, w := range v.past {
		if w.Most {
			return enforce.Noncompliant, fmt.Sprintf("%s is up, but most IPv%d addresses are reached past it, by %s", v.which(), w.Family, w.Interface)
		}
	}
	reason := "the default route goes through " + v.which()
	if len(v.past) > 0 {
		reason += "; allowed beside it: " + v.beside()
	}
	return enforce.Compliant, reason
}

// whole judges that nothing goes past the tunnels that count.
func (v *vpn) whole() (enforce.Compliance, string) {
	switch {
	case len(v.on) == 0 && v.closed:
		return enforce.Compliant, "packets leave through the VPN alone, although " + v.unsure
	case len(v.on) == 0:
		return enforce.Uncertain, "it cannot be told whether the VPN is up: " + v.unsure
	case v.lost != "" && v.closed:
		return enforce.Compliant, "packets leave through " + v.which() + " alone"
	case v.lost != "":
		return enforce.Uncertain, v.which() + " is up, but it cannot be told what goes through it: " + v.lost
	case v.closed && len(v.past) > 0:
		return enforce.Compliant, fmt.Sprintf("packets leave through %s alone; refused is what is routed past it: %s", v.which(), v.beside())
	case v.closed && len(v.rules) > 0:
		return enforce.Compliant, fmt.Sprintf("packets leave through %s alone; refused is what a routing rule sends past it", v.which())
	case len(v.past) > 0:
		reason := fmt.Sprintf("%s is up, but not everything goes through it: %s", v.which(), v.beside())
		if v.open != "" {
			reason += "; the kill switch does not close: " + v.open
		}
		return enforce.Noncompliant, reason
	case len(v.rules) > 0:
		return enforce.Uncertain, fmt.Sprintf("%s is up, but a routing rule sends some packets elsewhere (%s)", v.which(), enforce.Plain(v.rules[0]))
	}
	reason := "everything goes through " + v.which()
	if len(v.servers) > 0 {
		reason += ", except to one address by " + v.by + ", which is taken for its server"
	}
	if len(v.local) > 0 {
		reason += ", except to the machine's own networks (" + strings.Join(v.local, ", ") + ")"
	}
	return enforce.Compliant, reason
}

// beside names the ways past the tunnel.
func (v *vpn) beside() string {
	var out []string
	for _, w := range v.past[:min(len(v.past), 4)] {
		what := fmt.Sprintf("%d IPv%d network(s)", w.Count, w.Family)
		switch {
		case w.Most:
			what = fmt.Sprintf("most of IPv%d", w.Family)
		case w.Host:
			what = fmt.Sprintf("%d single IPv%d address(es)", w.Count, w.Family)
		case w.Link:
			what = fmt.Sprintf("IPv%d neighbours with public addresses", w.Family)
		}
		out = append(out, what+" by "+w.Interface)
	}
	return strings.Join(out, ", ")
}

// evidence is each tunnel and each way, without what tells where a person is.
func (v *vpn) evidence(m *fact.Machine) (out []enforce.Evidence) {
	const how = "the kernel's interfaces and routes (rtnetlink, xfrm), WireGuard's peers"
	for _, t := range m.Tunnels.V.List {
		e := enforce.Evidence{Key: "tunnel " + enforce.Plain(t.Name), State: enforce.Present, Value: enforce.Value(t.Kind + ", up"), How: how}
		switch {
		case !t.Up:
			e.Value = enforce.Value(t.Kind + ", down")
		case t.Silent != "":
			e.Value += enforce.Value(": " + t.Silent)
		}
		out = append(out, e)
	}
	for _, w := range m.Tunnels.V.Ways {
		e := enforce.Evidence{Key: fmt.Sprintf("way IPv%d %s", w.Family, enforce.Plain(w.Interface)), State: enforce.Present, How: how,
			Value: enforce.Value(fmt.Sprintf("%d network(s)", w.Count))}
		switch {
		case w.Link:
			e.Key, e.Value = e.Key+" neighbours", "its own network"
		case w.Host:
			e.Key, e.Value = e.Key+" single", enforce.Value(fmt.Sprintf("%d single address(es)", w.Count))
		case w.Most:
			e.Value += ", most addresses"
		}
		out = append(out, e)
	}
	return out[:min(len(out), maxEvidence)]
}

// maxEvidence bounds the evidence of one finding.
const maxEvidence = 32
