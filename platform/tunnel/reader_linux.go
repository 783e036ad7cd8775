package tunnel

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/platform/link"
)

// Reader reads tunnels and routes.
type Reader struct {
	log *slog.Logger
	off bool // this process's network is not the machine's

	reading sync.Mutex

	mu    sync.Mutex
	last  fact.Known[fact.Tunnels]
	heard map[string]*hearing // WireGuard's tunnels, by name
	guard *Guard              // is told of every stir, before anything else; nil: there is none
}

// New makes a reader.
func New(log *slog.Logger) *Reader {
	return &Reader{log: log, heard: map[string]*hearing{}}
}

// socketLimit is how long the kernel may take for an answer.
const socketLimit = 5 * time.Second

// Observe fills in the tunnels and routes.
func (r *Reader) Observe(ctx context.Context, m *fact.Machine) error {
	m.Tunnels = r.known(ctx)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last = m.Tunnels
	return nil
}

// State is what was observed last.
func (r *Reader) State() State {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := State{Tunnels: r.last.V, Endpoints: map[string][]string{}}
	if !r.last.OK {
		out.Problem = cmp.Or(r.last.Why, "nothing was read yet")
	}
	for _, t := range r.last.V.List {
		for _, p := range t.Peers {
			if p.Endpoint.IsValid() {
				out.Endpoints[t.Name] = append(out.Endpoints[t.Name], p.Endpoint.String())
			}
		}
	}
	if r.guard != nil {
		out.Switch = r.guard.state()
	}
	return out
}

// changed reports whether what would be read now differs from what was observed last.
func (r *Reader) changed(ctx context.Context) bool {
	now := r.known(ctx)
	r.mu.Lock()
	defer r.mu.Unlock()
	return !reflect.DeepEqual(now, r.last)
}

func (r *Reader) known(ctx context.Context) fact.Known[fact.Tunnels] {
	if r.off {
		return fact.Unread[fact.Tunnels](simulated)
	}
	r.reading.Lock() // others get a reading of their own, one after the other
	defer r.reading.Unlock()
	for try := 0; ; try++ {
		t, err := r.read(ctx)
		if err == nil {
			return fact.Is(t)
		}
		// What changes while it is listed makes the list incomplete; it is begun again.
		again := errors.Is(err, netlink.ErrDumpInterrupted) || errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN)
		if !again || try == readTries || ctx.Err() != nil {
			return fact.Unread[fact.Tunnels](err.Error())
		}
	}
}

// readTries is how often an incomplete list is read again.
const readTries = 20

// read takes everything from the kernel. What changes meanwhile is announced, and read again.
func (r *Reader) read(ctx context.Context) (out fact.Tunnels, err error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return out, fmt.Errorf("cannot reach the kernel's routing: %w", err)
	}
	defer h.Close()
	if err := h.SetSocketTimeout(socketLimit); err != nil {
		return out, err
	}
	links, err := h.LinkList()
	if err != nil {
		return out, fmt.Errorf("cannot list the interfaces: %w", err)
	}
	if len(links) > maxLinks {
		return out, fmt.Errorf("this machine has %d interfaces, and at most %d are read", len(links), maxLinks)
	}
	sec, err := readIPsec()
	if err != nil {
		return out, err
	}
	s := survey{h: h, names: map[int]string{}, nets: map[int][]netip.Prefix{}, far: map[int][]netip.Addr{}, uplinks: map[int]bool{}, sec: sec}
	for _, l := range links {
		s.names[l.Attrs().Index] = l.Attrs().Name
	}
	if err := s.addresses(); err != nil {
		return out, err
	}
	out.List, out.Ways = []fact.Tunnel{}, []fact.Way{}
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		ways, rules, err := s.ways(family)
		if errors.Is(err, errTooMany) { // whoever runs the network can bring that about; tunnels are known all the same
			out.Ways, out.Rules, out.Unrouted = []fact.Way{}, nil, err.Error()
			break
		}
		if err != nil {
			return out, err
		}
		out.Ways, out.Rules = append(out.Ways, ways...), append(out.Rules, rules...)
	}
	for _, l := range links {
		if t, ok := r.tunnel(ctx, l, &s); ok {
			out.List = append(out.List, t)
		}
	}
	out.Inside = s.inside(links)
	out.Configured, out.Gateways = configured(""), link.Gateways()
	out.Learnt = len(out.Configured)
	r.forget(out.List)
	for _, x := range link.Servers() {
		out.Servers = append(out.Servers, x.Addr().WithZone(""))
	}
	if t, ok := sec.tunnel(); ok {
		out.List = append(out.List, t)
	}
	slices.SortFunc(out.List, func(a, b fact.Tunnel) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

var errTooMany = fmt.Errorf("this machine has more than %d routes or rules, which is the most that are read", maxRoutes)

// maxLinks and maxRoutes bound what is read.
const (
	maxLinks  = 4096
	maxRoutes = 4096
)

// tunnel describes an interface, if it is a tunnel.
func (r *Reader) tunnel(ctx context.Context, l netlink.Link, s *survey) (fact.Tunnel, bool) {
	a := l.Attrs()
	t := fact.Tunnel{Name: a.Name, Index: a.Index, Up: a.RawFlags&unix.IFF_UP != 0 && a.RawFlags&unix.IFF_RUNNING != 0, Far: s.farOf(a.Index)}
	if t.Kind = kindOf(l); t.Kind == "" {
		return t, false
	}
	switch x := l.(type) {
	case *netlink.Xfrmi:
		t.Peers = s.sec.peers(func(p *outbound) bool { return p.ifid == int(x.Ifid) })
	case *netlink.Vti:
		t.Peers = s.sec.peers(func(p *outbound) bool { return p.dst == addr(x.Remote) })
	}
	switch t.Kind {
	case fact.TunnelXFRM, fact.TunnelVTI:
		if len(t.Peers) == 0 {
			t.Silent = "no IPsec connection belongs to it"
		}
	case fact.TunnelWireGuard:
		r.wireguard(ctx, &t)
	}
	return t, true
}

// kindOf is the kind of tunnel that an interface is; "" if it is none.
func kindOf(l netlink.Link) string {
	switch x := l.(type) {
	case *netlink.Wireguard:
		return fact.TunnelWireGuard
	case *netlink.Tuntap:
		switch {
		case x.Mode == netlink.TUNTAP_MODE_TAP:
			return fact.TunnelTap
		case userspace(x.Name):
			return fact.TunnelWireGuard
		}
		return fact.TunnelTun
	case *netlink.Xfrmi:
		return fact.TunnelXFRM
	case *netlink.Vti:
		return fact.TunnelVTI
	}
	if l.Type() == "ppp" || l.Attrs().EncapType == "ppp" {
		return fact.TunnelPPP
	}
	return ""
}

// inside are the interfaces of containers and virtual machines: pairs of virtual interfaces, and bridges that have nothing but those
// and taps. One by which a route leads elsewhere is this machine's own way out, whatever it is made of.
func (s *survey) inside(links []netlink.Link) (out []int) {
	virtual := func(l netlink.Link) bool {
		t, tap := l.(*netlink.Tuntap)
		return l.Type() == "veth" || tap && t.Mode == netlink.TUNTAP_MODE_TAP
	}
	for _, l := range links {
		a := l.Attrs()
		switch l.Type() {
		case "veth":
		case "bridge":
			// Without a port, the next one may be a network card.
			if !slices.ContainsFunc(links, func(p netlink.Link) bool { return p.Attrs().MasterIndex == a.Index }) || slices.ContainsFunc(links, func(p netlink.Link) bool { return p.Attrs().MasterIndex == a.Index && !virtual(p) }) {
				continue
			}
		default:
			continue
		}
		if !s.uplinks[a.Index] {
			out = append(out, a.Index)
		}
	}
	slices.Sort(out)
	return out
}

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

// private are the addresses that no host outside has (RFC 1918, 6598 and 4193).
var private = prefixes("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")

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
		if next := last(p).Next(); next.IsValid() {
			edges[next] = true
		}
	}
	for _, a := range s.own { // what goes to this machine itself says nothing about what is beside it
		if a.Is4() == (family == unix.AF_INET) {
			edge(netip.PrefixFrom(a, a.BitLen()))
		}
	}
	for _, p := range append(slices.Clone(spaces[family]), private...) {
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
		to := last(netip.PrefixFrom(from, 0))
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
				by[k] = extend(by[k], from, to)
			}
		}
	}
	most, size := way{}, 0.0
	for k, ranges := range by {
		w := fact.Way{Interface: k.name, Family: 4, Link: k.link, Host: k.host, Ranges: ranges, Count: len(ranges), Public: !within(ranges, private) && !(k.link && usual(ranges))}
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

// extend adds a range to a sorted list, joined with the last one if they touch.
func extend(list []fact.Range, from, to netip.Addr) []fact.Range {
	if n := len(list); n > 0 && list[n-1].Last.Next() == from {
		list[n-1].Last = to
		return list
	}
	return append(list, fact.Range{First: from, Last: to})
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
			end := last(in[i])
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

// last is the last address of a network.
func last(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < 8*len(b); i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// wayTo says by which interface packets to an address leave, and whether the kill switch refuses them; port 0: at any.
func (r *Reader) wayTo(a netip.Addr, port uint16) string {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return ""
	}
	defer h.Close()
	_ = h.SetSocketTimeout(socketLimit)
	found, err := h.RouteGetWithOptions(a.AsSlice(), nil)
	if err != nil || len(found) == 0 {
		if err != nil && isNone(err) {
			return "no route leads there"
		}
		return ""
	}
	l, err := h.LinkByIndex(found[0].LinkIndex)
	if err != nil {
		return ""
	}
	if sec, err := readIPsec(); err == nil && found[0].Type != unix.RTN_LOCAL && sec.takes(addr(found[0].Src), a) {
		return "packets to it leave through IPsec"
	}
	name, refused := l.Attrs().Name, ""
	if found[0].Type != unix.RTN_LOCAL && r.guard != nil && r.guard.refuses(a, port, found[0].LinkIndex) {
		refused = ", and are refused by the kill switch"
	}
	if kind := kindOf(l); kind != "" {
		return fmt.Sprintf("packets to it leave through %s (%s)%s", name, kind, refused)
	}
	return "packets to it leave by " + name + ", which is no tunnel" + refused
}
