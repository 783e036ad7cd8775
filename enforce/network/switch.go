package network

import (
	"net/netip"
	"slices"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/enforce/policy"
)

// asksFor is what the policy asks of the kill switch in enforce mode; "" if nothing.
func asksFor(d *policy.Document, m *fact.Machine) string {
	n := &d.Network
	enforced := func(s enforce.Setting) bool { return mode(d, m, s) == enforce.Enforce && m.Can(string(s)).Acts() }
	switch {
	case slices.Contains(d.Exceptions["network"], withoutVPN):
		return ""
	case n.VPNAlwaysOn.V && enforced(settingAlways) && len(endpoints(d, m))+m.Tunnels.V.Learnt > 0:
		return fact.SwitchAlways
	case n.VPNRequired.V && !n.SplitTunnel.V && enforced(settingRequired), n.SplitTunnel.Set && !n.SplitTunnel.V && enforced(settingSplit):
		return fact.SwitchUp
	}
	return ""
}

// switchOf is the kill switch's mode. Until the way to the policy server is known by its addresses, there is none: it would cut that off.
func switchOf(d *policy.Document, m *fact.Machine) string {
	if !m.Network.V.Ready {
		return ""
	}
	return asksFor(d, m)
}

// endpoints are the VPN's servers: those of the policy, or, if it names none, those of the VPN programs' own configuration.
func endpoints(d *policy.Document, m *fact.Machine) []string {
	switch {
	case len(d.Network.VPN.V.Endpoints) > 0:
		return d.Network.VPN.V.Endpoints
	case len(m.Tunnels.V.Configured) > 0:
		return m.Tunnels.V.Configured
	}
	return m.Network.V.Configured
}

// Carry is what the kill switch has to know while these are the tunnels; false: there is none.
func (r *Rules) Carry(t *fact.Tunnels) (fact.Carried, bool) {
	c := fact.Carried{Mode: r.kill}
	if r.kill == "" {
		return c, false
	}
	m := *r.machine
	m.Tunnels = fact.Is(*t)
	v, n := tunnels(r.doc, &m), &m.Network.V
	c.Closed = v.closes(r.kill)
	c.Tunnels = append(c.Tunnels, t.Inside...)
	for i := range t.List {
		x := &t.List[i]
		why, _ := counts(&r.doc.Network.VPN.V, x, n.Found)
		if why != "" {
			continue
		}
		if x.Index > 0 {
			c.Tunnels = append(c.Tunnels, x.Index)
		}
		for _, p := range x.Peers {
			if !p.Endpoint.IsValid() {
				continue
			}
			if is, _ := isEndpoint(r.doc.Network.VPN.V.Endpoints, p.Endpoint, n.Found); is || len(r.doc.Network.VPN.V.Endpoints) == 0 {
				c.Doors = append(c.Doors, fact.Door{Address: p.Endpoint.Addr().Unmap(), Port: p.Endpoint.Port()})
			}
		}
	}
	open := func(host string, port uint16, look bool) {
		if a, err := netip.ParseAddr(host); err == nil {
			c.Doors = append(c.Doors, fact.Door{Address: a.Unmap(), Port: port})
			return
		}
		for _, a := range n.Found[host] {
			c.Doors = append(c.Doors, fact.Door{Address: a, Port: port})
		}
		if look && host != "" {
			c.Names = append(c.Names, host)
		}
	}
	for _, e := range endpoints(r.doc, &m) {
		host, port := policy.SplitEndpoint(e)
		open(host, port, true)
	}
	for host, port := range map[string]uint16{n.Server: n.ServerPort, n.Proxy: n.ProxyPort} {
		others := c.Doors
		c.Doors = nil
		open(host, port, true)
		c.Doors, c.Own = others, append(c.Own, c.Doors...)
	}
	for _, b := range r.doc.Network.VPN.V.BootstrapDomains {
		switch {
		case b.Net.IsValid() && b.Net.IsSingleIP():
			open(b.Net.Addr().String(), 0, false)
		case b.Host != "" && b.Scope != policy.Below:
			open(b.Host, 0, true)
		}
	}
	for _, a := range v.servers {
		c.Doors = append(c.Doors, fact.Door{Address: a})
	}
	c.Servers = slices.Clone(t.Servers)
	if !r.doc.Portal.IsZero() { // a sign-in page: the gateway's own network, and the name servers
		for _, a := range t.Servers {
			c.Brief = append(c.Brief, fact.Door{Address: a.Unmap(), Port: 53})
		}
	}
	if r.kill == fact.SwitchUp {
		for _, p := range onLink {
			c.Local = append(c.Local, fact.Range{First: p.Addr(), Last: fact.Last(p)})
		}
	}
	for _, w := range t.Ways {
		if !w.Link || slices.ContainsFunc(t.List, func(x fact.Tunnel) bool { return x.Name == w.Interface }) {
			continue // a tunnel's own network is not this machine's
		}
		for _, x := range w.Ranges {
			near := !r.doc.Portal.IsZero() && slices.ContainsFunc(t.Gateways, x.Has)
			if x.IsPrivate() && (near || r.kill == fact.SwitchUp) {
				c.Local = append(c.Local, x)
			}
		}
	}
	c.Local = disjoint(c.Local)
	c.Sort()
	return c, true
}

// Seeks reports whether nothing leaves until a tunnel works, while these are the tunnels.
func (r *Rules) Seeks(t *fact.Tunnels) bool {
	if r.kill != fact.SwitchAlways {
		return false
	}
	m := *r.machine
	m.Tunnels = fact.Is(*t)
	v := tunnels(r.doc, &m)
	return v.closes(r.kill) && len(v.on) == 0
}

// closes reports whether the kill switch is closed now.
func (v *vpn) closes(kill string) bool {
	switch kill {
	case fact.SwitchAlways:
		// Without the address of its server a VPN that is up already must not be cut off, and IPsec cannot be told from what is past it.
		return v.open == ""
	case fact.SwitchUp:
		return v.open == "" && (len(v.on) > 0 || v.unsure != "")
	}
	return false
}

// disjoint sorts ranges, and joins those that touch.
func disjoint(list []fact.Range) (out []fact.Range) {
	slices.SortFunc(list, func(a, b fact.Range) int { return a.First.Compare(b.First) })
	for _, r := range list {
		if n := len(out); n > 0 && out[n-1].Last.Is4() == r.First.Is4() && (out[n-1].Last.Next() == r.First || out[n-1].Has(r.First)) {
			if r.Last.Compare(out[n-1].Last) > 0 {
				out[n-1].Last = r.Last
			}
			continue
		}
		out = append(out, r)
	}
	return out
}
