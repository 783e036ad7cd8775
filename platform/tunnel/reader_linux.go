package tunnel

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
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

	reading sync.Mutex // one at a time
	newest  reading
	watched atomic.Bool   // changes are announced
	told    atomic.Uint64 // how many were

	mu    sync.Mutex
	last  fact.Known[fact.Tunnels]
	debt  debt                // for how long the network was read
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
	if r.guard != nil {
		m.Tunnels = r.guard.read(ctx)
	} else {
		m.Tunnels = r.known(ctx)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last = m.Tunnels
	return nil
}

// State is what was observed last.
func (r *Reader) State() State {
	told := ""
	if r.guard != nil { // before our lock: the guard reads under its own
		told = r.guard.state()
	}
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
	out.Switch = told
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
	told := r.told.Load()
	if n := &r.newest; r.watched.Load() && n.was.OK && n.told == told && time.Since(n.at) < fresh {
		return n.was
	}
	begun := time.Now()
	out := r.anew(ctx)
	r.newest = reading{at: begun, told: told, was: out}
	return out
}

// reading is what was read, when that began, and how many changes had been announced by then.
type reading struct {
	at   time.Time
	told uint64
	was  fact.Known[fact.Tunnels]
}

// fresh is how long a reading is good while no change is announced: one look reads several times.
const fresh = 250 * time.Millisecond

// anew reads everything.
func (r *Reader) anew(ctx context.Context) fact.Known[fact.Tunnels] {
	defer func(begun time.Time) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.debt.left += time.Since(begun)
	}(time.Now())
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
		if !t.Up && (a.Name == "ip_vti0" || a.Name == "ip6_vti0") {
			return t, false // the kernel makes these by itself when the first VTI is made, and keeps them
		}
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
