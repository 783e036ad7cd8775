package resolver

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/platform"
)

// observer listens to questions and answers over UDP, and to the beginnings of TCP connections, for the modes below enforce. It
// changes nothing.
type observer struct {
	rules atomic.Pointer[standing]
	file  *os.File
	done  sync.WaitGroup
	since time.Time

	own    map[netip.Addr]bool // the machine's addresses
	looked time.Time           // when they were read
}

// seen is the socket's filter, on packets that begin with their IP header: UDP to port 53 that leaves this machine, UDP from
// port 53 that comes to it, and TCP that begins a connection from it; over IPv4 if it is not fragmented, or over IPv6
// without extension headers. M[0] is the direction, M[1] the protocol, and X the length of the IP header.
var seen = []bpf.Instruction{
	bpf.LoadExtension{Num: bpf.ExtType}, // 0
	bpf.StoreScratch{Src: bpf.RegA, N: 0},
	bpf.LoadAbsolute{Off: 0, Size: 1},
	bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: 0xf0},
	bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0x60, SkipTrue: 6}, // 4: to 11
	bpf.LoadAbsolute{Off: 9, Size: 1},
	bpf.StoreScratch{Src: bpf.RegA, N: 1},
	bpf.LoadAbsolute{Off: 6, Size: 2},
	bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: 0x1fff, SkipTrue: 21}, // 8: to 30
	bpf.LoadMemShift{Off: 0},
	bpf.Jump{Skip: 3}, // 10: to 14
	bpf.LoadAbsolute{Off: 6, Size: 1},
	bpf.StoreScratch{Src: bpf.RegA, N: 1},
	bpf.LoadConstant{Dst: bpf.RegX, Val: 40},
	bpf.LoadScratch{Dst: bpf.RegA, N: 1},                                    // 14
	bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.IPPROTO_TCP, SkipTrue: 8},     // 15: to 24
	bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_UDP, SkipTrue: 13}, // 16: to 30
	bpf.LoadScratch{Dst: bpf.RegA, N: 0},
	bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.PACKET_OUTGOING, SkipTrue: 3}, // 18: to 22
	bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.PACKET_HOST, SkipTrue: 10}, // 19: to 30
	bpf.LoadIndirect{Off: 0, Size: 2},                                       // 20: where it comes from
	bpf.Jump{Skip: 1},                                                       // 21: to 23
	bpf.LoadIndirect{Off: 2, Size: 2},                                       // 22: where it goes to
	bpf.JumpIf{Cond: bpf.JumpEqual, Val: 53, SkipTrue: 5, SkipFalse: 6},     // 23: to 29 or 30
	bpf.LoadScratch{Dst: bpf.RegA, N: 0},                                    // 24
	bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.PACKET_OUTGOING, SkipTrue: 4},
	bpf.LoadIndirect{Off: 13, Size: 1},                      // 26: the flags
	bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: 0x12},          // SYN and ACK
	bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 2, SkipTrue: 1}, // 28: to 30
	bpf.RetConstant{Val: packet},                            // 29
	bpf.RetConstant{Val: 0},                                 // 30
}

// eavesdrop starts listening.
func (r *Resolver) eavesdrop(s *standing) (*observer, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	raw, err := bpf.Assemble(seen)
	if err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	filter := make([]unix.SockFilter, len(raw))
	for i, x := range raw {
		filter[i] = unix.SockFilter{Code: x.Op, Jt: x.Jt, Jf: x.Jf, K: x.K}
	}
	// The filter first: an open socket without one would take every packet.
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
		&unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}); err != nil { //nolint:gosec // 31 lines
		_ = unix.Close(fd)
		return nil, fmt.Errorf("the filter was refused: %w", err)
	}
	all := binary.NativeEndian.Uint16([]byte{unix.ETH_P_ALL >> 8, unix.ETH_P_ALL & 0xff})
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all}); err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	w := &observer{file: os.NewFile(uintptr(fd), "packets"), since: time.Now()}
	w.rules.Store(s)
	w.done.Go(func() { r.hear(w) })
	return w, nil
}

func (w *observer) close() {
	_ = w.file.Close()
	w.done.Wait()
}

// hear judges what it sees.
func (r *Resolver) hear(w *observer) {
	buf := make([]byte, packet)
	var scratch [256]byte
	for {
		n, err := w.file.Read(buf)
		if err != nil {
			return
		}
		h, ok := parseIP(buf[:n])
		if !ok {
			continue
		}
		s := w.rules.Load()
		switch mine := w.mine(h.from.Addr()); {
		case !mine && h.proto == unix.IPPROTO_UDP && h.from.Port() == 53 && w.mine(h.to.Addr()):
			r.answered(s, h.data)
		case !mine: // it is forwarded for others
		case h.proto == unix.IPPROTO_UDP:
			r.questioned(s, h.data, &scratch)
		case time.Since(w.since) > settle:
			r.connected(s, h.to)
		}
	}
}

// settle is how long connections are not judged at the beginning: which names were resolved before is not known.
var settle = 5 * time.Minute

// questioned judges the name of a question.
func (r *Resolver) questioned(s *standing, p []byte, scratch *[256]byte) {
	var q question
	if rcode, answer := q.parse(p, scratch); !answer || rcode != rcodeOK || q.other {
		return
	}
	d := fact.Destination{Name: string(q.name)}
	if v := r.verdict(s, &d); v.WouldDeny && !r.told.enough(d.Name, true, time.Now()) {
		r.refused(s, d, v, d.Name)
	}
}

// answered remembers what a name that would be allowed has resolved to.
func (r *Resolver) answered(s *standing, p []byte) {
	var m dns.Msg
	if len(p) < headerLen || p[2]&0x80 == 0 || m.Unpack(p) != nil || len(m.Question) != 1 {
		return
	}
	name := lowered(m.Question[0].Name)
	d := fact.Destination{Name: name}
	if v := r.verdict(s, &d); !v.Allow || v.WouldDeny {
		return
	}
	j := judge(&m, name, anything{}, false, func() bool { return true })
	r.remember(j.admit)
}

// connected judges the beginning of a connection. An address passes if a name that would be allowed has resolved to it.
func (r *Resolver) connected(s *standing, to netip.AddrPort) {
	d := fact.Destination{Address: to.Addr(), Port: to.Port()}
	v := s.judge.Judge(&d)
	if !v.WouldDeny || to.Port() == 53 || slices.ContainsFunc(s.reach.Allow, func(x fact.Range) bool { return x.Has(d.Address) }) ||
		r.namedFor(s, d.Address) {
		return
	}
	if at := to.String(); !r.told.enough(at, true, time.Now()) {
		r.passed(s, d, v, at)
	}
}

// namedFor reports whether a name that would be allowed has resolved to an address.
func (r *Resolver) namedFor(s *standing, a netip.Addr) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	x := r.admitted[a]
	return x != nil && slices.ContainsFunc(x.names, func(n string) bool {
		v := s.judge.Judge(&fact.Destination{Name: n})
		return v.Allow && !v.WouldDeny
	})
}

// passed makes an event of a connection that would be refused, if it is one worth telling.
func (r *Resolver) passed(s *standing, d fact.Destination, v enforce.Verdict, at string) {
	why, _ := s.judge.Reason(v, &d)
	if !r.told.add(at, true, why, time.Now()) || r.hand == nil {
		return
	}
	r.hand(platform.Decision{Section: "network", Key: enforce.Key{Kind: "address", ID: at}, Subject: at, Verdict: v, Fact: &d,
		Reason: func() (string, string) { return s.judge.Reason(v, &d) }, Note: "no name that would be allowed was seen to resolve to it",
		Done: enforce.Reading{State: enforce.Present, Value: "connected", How: "the connection's first packet, as it was seen"}})
}

// mine reports whether an address is this machine's. They are read anew when one is not known, every few seconds at most.
func (w *observer) mine(a netip.Addr) bool {
	if !w.own[a] && time.Since(w.looked) > lookAgain {
		w.looked, w.own = time.Now(), map[netip.Addr]bool{}
		list, _ := net.InterfaceAddrs()
		for _, x := range list {
			if n, ok := x.(*net.IPNet); ok {
				addr, _ := netip.AddrFromSlice(n.IP)
				w.own[addr.Unmap()] = true
			}
		}
	}
	return w.own[a]
}

// ip is what is needed of an IP packet that the filter let through.
type ip struct {
	proto    byte
	from, to netip.AddrPort
	data     []byte // of UDP
}

// parseIP reads a packet that begins with its IP header (RFC 791, RFC 8200).
func parseIP(p []byte) (h ip, ok bool) {
	if len(p) < 20 {
		return h, false
	}
	var from, to netip.Addr
	at := 40
	switch p[0] >> 4 {
	case 4:
		at, h.proto = 4*int(p[0]&0xf), p[9]
		from, to = netip.AddrFrom4([4]byte(p[12:16])), netip.AddrFrom4([4]byte(p[16:20]))
	case 6:
		if len(p) < 40 {
			return h, false
		}
		h.proto = p[6]
		from, to = netip.AddrFrom16([16]byte(p[8:24])), netip.AddrFrom16([16]byte(p[24:40]))
	default:
		return h, false
	}
	if at < 20 || at+8 > len(p) {
		return h, false
	}
	h.from = netip.AddrPortFrom(from, binary.BigEndian.Uint16(p[at:]))
	h.to = netip.AddrPortFrom(to, binary.BigEndian.Uint16(p[at+2:]))
	if h.data = p[at+8:]; h.proto == unix.IPPROTO_TCP {
		h.data = nil
	}
	return h, true
}

// forgetCached tells the system's own resolver to forget its cache: what it has was not judged by the rules now in force.
func forgetCached() {
	ctx, cancel := context.WithTimeout(context.Background(), busWait)
	defer cancel()
	flushResolved(ctx)
}
