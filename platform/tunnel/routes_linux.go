package tunnel

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/warderd/warder/enforce/fact"
)

// farOf are the addresses at the other end of an interface, in order.
func (s *survey) farOf(index int) []netip.Addr {
	list := s.far[index]
	slices.SortFunc(list, netip.Addr.Compare)
	return slices.Compact(list)
}

// addresses reads the networks in which each interface has an address, and the other ends of point-to-point ones.
func (s *survey) addresses() error {
	list, err := s.h.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("cannot list the addresses: %w", err)
	}
	for _, a := range list {
		if x := addr(a.IP); !x.IsLoopback() {
			s.own = append(s.own, x)
		}
		if p, ok := prefix(a.IPNet); ok && !p.IsSingleIP() {
			s.nets[a.LinkIndex] = append(s.nets[a.LinkIndex], p)
		}
		if a.Peer != nil && a.Peer.IP != nil && !a.Peer.IP.Equal(a.IP) {
			s.far[a.LinkIndex] = append(s.far[a.LinkIndex], addr(a.Peer.IP))
		}
	}
	return nil
}

// prefix is a network of the net package; without one, false.
func prefix(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil || n.IP == nil {
		return netip.Prefix{}, false
	}
	a := addr(n.IP)
	bits, size := n.Mask.Size()
	if !a.IsValid() || size == 0 {
		return netip.Prefix{}, false
	}
	if a.Is4() && size == 128 {
		bits -= 96
	}
	p, err := a.Prefix(bits)
	return p, err == nil
}

func addr(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}

// survey is one reading of the routes.
type survey struct {
	h     *netlink.Handle
	names map[int]string
	nets  map[int][]netip.Prefix
	far   map[int][]netip.Addr
	own   []netip.Addr // this machine's addresses
	// uplinks are the interfaces by which some route leads to other networks than their own.
	uplinks map[int]bool
	sec     *ipsec
}

// spaces are the addresses of other hosts: not loopback, not link-local, not multicast. Those of IPv6 that stand for IPv4
// (64:ff9b::/96 and 64:ff9b:1::/48, RFC 6052 and 8215) are translated somewhere outside.
var spaces = map[int][]netip.Prefix{
	unix.AF_INET: prefixes("1.0.0.0/8", "2.0.0.0/7", "4.0.0.0/6", "8.0.0.0/5", "16.0.0.0/4", "32.0.0.0/3", "64.0.0.0/3", "96.0.0.0/4",
		"112.0.0.0/5", "120.0.0.0/6", "124.0.0.0/7", "126.0.0.0/8", "128.0.0.0/3", "160.0.0.0/5", "168.0.0.0/8", "169.0.0.0/9",
		"169.128.0.0/10", "169.192.0.0/11", "169.224.0.0/12", "169.240.0.0/13", "169.248.0.0/14", "169.252.0.0/15", "169.255.0.0/16",
		"170.0.0.0/7", "172.0.0.0/6", "176.0.0.0/4", "192.0.0.0/4", "208.0.0.0/4"),
	unix.AF_INET6: prefixes("64:ff9b::/96", "64:ff9b:1::/48", "2000::/3", "fc00::/7"),
}

func prefixes(list ...string) (out []netip.Prefix) {
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

// ways asks the kernel where packets of a family go.
func (s *survey) ways(family int) (out []fact.Way, rules []string, err error) {
	edges := map[netip.Addr]bool{}
	edge := func(p netip.Prefix) {
		p = p.Masked()
		edges[p.Addr()] = true
		if next := fact.Last(p).Next(); next.IsValid() {
			edges[next] = true
		}
	}
	for _, a := range s.own { // what goes to this machine itself says nothing about what is beside it
		if a.Is4() == (family == unix.AF_INET) {
			edge(netip.PrefixFrom(a, a.BitLen()))
		}
	}
	for _, p := range append(slices.Clone(spaces[family]), fact.Private...) {
		if p.Addr().Is4() == (family == unix.AF_INET) {
			edge(p)
		}
	}
	n, multi := 0, []netlink.Route(nil)
	err = s.h.RouteListFilteredIter(family, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE, func(r netlink.Route) bool {
		if r.Table == unix.RT_TABLE_LOCAL {
			return true
		}
		n++
		if p, ok := prefix(r.Dst); ok {
			edge(p)
		}
		if r.Gw != nil {
			s.far[r.LinkIndex] = append(s.far[r.LinkIndex], addr(r.Gw))
		}
		s.leads(r)
		if len(r.MultiPath) > 0 {
			multi = append(multi, r)
		}
		return n <= maxRoutes
	})
	if err != nil {
		return nil, nil, fmt.Errorf("cannot list the routes: %w", err)
	}
	list, err := s.h.RuleList(family)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot list the routing rules: %w", err)
	}
	if n > maxRoutes || len(list) > maxRoutes {
		return nil, nil, errTooMany
	}
	for _, r := range list {
		if p, ok := prefix(r.Dst); ok {
			edge(p)
		}
		if w := s.words(r); w != "" && len(rules) < maxRules {
			rules = append(rules, w)
		}
	}
	for _, p := range s.sec.policies {
		if p.dst.Addr().Is4() == (family == unix.AF_INET) {
			edge(p.dst)
		}
	}
	sorted := make([]netip.Addr, 0, len(edges))
	for a := range edges {
		sorted = append(sorted, a)
	}
	slices.SortFunc(sorted, netip.Addr.Compare)
	by := map[way][]fact.Range{}
	for i, from := range sorted {
		if !slices.ContainsFunc(spaces[family], func(p netip.Prefix) bool { return p.Contains(from) }) {
			continue
		}
		to := fact.Last(netip.PrefixFrom(from, 0))
		if i+1 < len(sorted) {
			to = sorted[i+1].Prev()
		}
		keys, err := s.lookUp(from, to, multi)
		if err != nil {
			return nil, nil, err
		}
		for _, k := range keys {
			if k.host = from == to && !k.link; k.host {
				by[k] = append(by[k], fact.Range{First: from, Last: to})
			} else {
				by[k] = fact.Extend(by[k], from, to)
			}
		}
	}
	most, size := way{}, 0.0
	for k, ranges := range by {
		w := fact.Way{Interface: k.name, Family: 4, Link: k.link, Host: k.host, Ranges: ranges, Count: len(ranges), Public: !within(ranges, fact.Private) && !(k.link && usual(ranges))}
		if family == unix.AF_INET6 {
			w.Family = 6
		}
		out = append(out, w)
		if n := count(ranges); n > size || n == size && k.name < most.name {
			most, size = k, n
		}
	}
	for i := range out {
		w := &out[i]
		w.Most = way{w.Interface, w.Link, w.Host} == most
	}
	slices.SortFunc(out, func(a, b fact.Way) int {
		return cmp.Or(strings.Compare(a.Interface, b.Interface), strings.Compare(fmt.Sprint(a.Link, a.Host), fmt.Sprint(b.Link, b.Host)))
	})
	return out, rules, nil
}

// leads remembers the interfaces by which a route leads to other networks than their own, in any table.
func (s *survey) leads(r netlink.Route) {
	p, ok := prefix(r.Dst)
	for _, x := range append([]*netlink.NexthopInfo{{LinkIndex: r.LinkIndex, Gw: r.Gw, Via: r.Via}}, r.MultiPath...) {
		own := ok && x.Gw == nil && x.Via == nil && (p.Addr().IsLinkLocalUnicast() || p.Addr().IsMulticast() ||
			slices.ContainsFunc(s.nets[x.LinkIndex], func(n netip.Prefix) bool { return n.Bits() <= p.Bits() && n.Contains(p.Addr()) }))
		if !own {
			s.uplinks[x.LinkIndex] = true
		}
	}
}

// usual reports whether ranges are IPv6 networks of the usual size, at most: a /64 each.
func usual(ranges []fact.Range) bool {
	return !slices.ContainsFunc(ranges, func(r fact.Range) bool {
		a, b := r.First.As16(), r.Last.As16()
		return r.First.Is4() || !slices.Equal(a[:8], b[:8])
	})
}

// way is by which interface packets leave, whether to a neighbour, and whether to a single address.
type way struct {
	name       string
	link, host bool
}

// lookUp asks where packets to the addresses of a range go, all of which are routed alike. None: nowhere.
func (s *survey) lookUp(from, to netip.Addr, multi []netlink.Route) (out []way, err error) {
	found, err := s.h.RouteGetWithOptions(from.AsSlice(), nil)
	if err != nil {
		if isNone(err) {
			return nil, nil
		}
		return nil, fmt.Errorf("cannot look up a route: %w", err)
	}
	for _, r := range found {
		if r.Type == unix.RTN_LOCAL {
			continue
		}
		if via := s.sec.takes(addr(r.Src), from); via {
			out = append(out, way{name: fact.TunnelIPsec})
			continue
		}
		out = append(out, s.by(r.LinkIndex, r.Gw == nil && r.Via == nil, from, to))
		// Of several routers the kernel names one for this address.
		for _, m := range multi {
			if p, ok := prefix(m.Dst); !ok || p.Contains(from) {
				if slices.ContainsFunc(m.MultiPath, func(x *netlink.NexthopInfo) bool { return x.LinkIndex == r.LinkIndex }) {
					for _, x := range m.MultiPath {
						out = append(out, s.by(x.LinkIndex, x.Gw == nil && x.Via == nil, from, to))
					}
				}
			}
		}
	}
	slices.SortFunc(out, func(a, b way) int { return strings.Compare(a.name, b.name) })
	return slices.Compact(out), nil
}

// by is the way by an interface.
func (s *survey) by(index int, direct bool, from, to netip.Addr) way {
	name := s.names[index]
	if name == "" {
		name = fmt.Sprintf("interface %d", index)
	}
	return way{name: name, link: direct && slices.ContainsFunc(s.nets[index], func(p netip.Prefix) bool { return p.Contains(from) && p.Contains(to) })}
}

// isNone reports whether an error of a look-up means that there is no route.
func isNone(err error) bool {
	e, ok := err.(unix.Errno) //nolint:errorlint // the library returns it as it is
	return ok && slices.Contains([]unix.Errno{unix.ENETUNREACH, unix.EHOSTUNREACH, unix.EACCES, unix.EINVAL, unix.EADDRNOTAVAIL, unix.ENETDOWN}, e)
}

// maxRules bounds the rules that are named.
const maxRules = 16

// words describes a rule that sends only some packets elsewhere: by their user, protocol, port or own address, which any
// program can choose. Rules about marks and about packets from outside concern root and the machine as a router.
func (s *survey) words(r netlink.Rule) string {
	if r.IifName != "" && r.IifName != "lo" {
		return ""
	}
	var b []string
	add := func(format string, args ...any) { b = append(b, fmt.Sprintf(format, args...)) }
	if u := r.UIDRange; u != nil {
		add("uidrange %d-%d", u.Start, u.End)
	}
	if p := r.Sport; p != nil {
		add("sport %d-%d", p.Start, p.End)
	}
	if p := r.Dport; p != nil {
		add("dport %d-%d", p.Start, p.End)
	}
	if r.IPProto > 0 {
		add("ipproto %d", r.IPProto)
	}
	if r.Tos != 0 {
		add("tos %d", r.Tos)
	}
	if n, _ := prefix(r.Src); n.IsValid() && n.Bits() > 0 && slices.ContainsFunc(s.own, n.Contains) {
		add("from an address of this machine")
	}
	if len(b) == 0 {
		return ""
	}
	return fmt.Sprintf("%d: %s lookup %d", r.Priority, strings.Join(b, " "), r.Table)
}

// within reports whether every range is in one of the networks.
func within(ranges []fact.Range, in []netip.Prefix) bool {
	return !slices.ContainsFunc(ranges, func(r fact.Range) bool {
		// A range may be made of neighbouring private networks: each part was an edge, but parts are joined.
		for a := r.First; ; {
			i := slices.IndexFunc(in, func(p netip.Prefix) bool { return p.Contains(a) })
			if i < 0 {
				return true
			}
			end := fact.Last(in[i])
			if end.Compare(r.Last) >= 0 {
				return false
			}
			a = end.Next()
		}
	})
}

// count is how many addresses there are, about.
func count(ranges []fact.Range) (n float64) {
	for _, r := range ranges {
		a, b := r.First.As16(), r.Last.As16()
		v := 0.0
		for i := range a {
			v = v*256 + float64(b[i]) - float64(a[i])
		}
		n += v + 1
	}
	return n
}
