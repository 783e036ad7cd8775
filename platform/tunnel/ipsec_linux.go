package tunnel

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/warderd/warder/enforce/fact"
)

// ipsec is what the kernel's IPsec (xfrm) does with what is sent.
type ipsec struct {
	policies []outPolicy // those without an interface, the ones that are asked first in front
	states   []outbound
}

// outPolicy is an outgoing policy about all packets between two networks.
type outPolicy struct {
	src, dst netip.Prefix
	priority int
	tunnel   bool // it encrypts them into a tunnel, to
	to       netip.Addr
}

// outbound is the other end of a security association in tunnel mode.
type outbound struct {
	src, dst netip.Addr
	ifid     int
}

// maxIPsec bounds the policies and associations that are read.
const maxIPsec = 4096

// readIPsec reads both lists. A kernel without IPsec has empty ones. The kernel hands out the associations' keys with them; they are
// not kept.
func readIPsec() (*ipsec, error) {
	out := &ipsec{}
	h, err := netlink.NewHandle(unix.NETLINK_XFRM)
	if err != nil {
		if errors.Is(err, unix.EPROTONOSUPPORT) {
			return out, nil
		}
		return nil, fmt.Errorf("cannot reach the kernel's IPsec: %w", err)
	}
	defer h.Close()
	if err := h.SetSocketTimeout(socketLimit); err != nil {
		return nil, err
	}
	policies, err := h.XfrmPolicyList(netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("cannot list the IPsec policies: %w", err)
	}
	if len(policies) == 0 {
		return out, nil // and no association leads anywhere
	}
	states, err := h.XfrmStateList(netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("cannot list the IPsec associations: %w", err)
	}
	if len(policies) > maxIPsec || len(states) > maxIPsec {
		return nil, fmt.Errorf("this machine has more than %d IPsec policies or associations, which is the most that are read", maxIPsec)
	}
	for i := range states {
		s := &states[i]
		if s.Mode == netlink.XFRM_MODE_TUNNEL {
			out.states = append(out.states, outbound{addr(s.Src), addr(s.Dst), s.Ifid})
		}
	}
	for _, p := range policies {
		src, ok := prefix(p.Src)
		dst, also := prefix(p.Dst)
		if p.Dir != netlink.XFRM_DIR_OUT || !ok || !also || p.Ifid != 0 || p.Ifindex != 0 || p.Mark != nil && p.Mark.Mask != 0 ||
			p.Proto != 0 || p.DstPort != 0 || p.SrcPort != 0 {
			continue
		}
		x := outPolicy{src: src.Masked(), dst: dst.Masked(), priority: p.Priority}
		if p.Action == netlink.XFRM_POLICY_ALLOW && len(p.Tmpls) > 0 && p.Tmpls[0].Mode == netlink.XFRM_MODE_TUNNEL && p.Tmpls[0].Optional == 0 {
			x.tunnel, x.to = true, addr(p.Tmpls[0].Dst)
		}
		out.policies = append(out.policies, x)
	}
	slices.SortStableFunc(out.policies, func(a, b outPolicy) int { return a.priority - b.priority })
	return out, nil
}

// takes reports whether IPsec takes packets from one address to another into a tunnel.
func (s *ipsec) takes(src, dst netip.Addr) bool {
	for _, p := range s.policies {
		if p.dst.Contains(dst) && (p.src.Contains(src) || p.src.Bits() == 0) {
			return p.tunnel
		}
	}
	return false
}

// peers are the other ends of the associations that match, without those whose way leads to this machine.
func (s *ipsec) peers(match func(*outbound) bool) (out []fact.Peer) {
	for i := range s.states {
		if match(&s.states[i]) {
			out = append(out, fact.Peer{Endpoint: netip.AddrPortFrom(s.states[i].dst, 0)})
		}
	}
	slices.SortFunc(out, func(a, b fact.Peer) int { return a.Endpoint.Addr().Compare(b.Endpoint.Addr()) })
	return slices.Compact(out)
}

// tunnel is the IPsec connection that needs no interface, if there is one.
func (s *ipsec) tunnel() (fact.Tunnel, bool) {
	t := fact.Tunnel{Name: fact.TunnelIPsec, Kind: fact.TunnelIPsec, Up: true}
	to := map[netip.Addr]bool{}
	for _, p := range s.policies {
		if p.tunnel {
			to[p.to] = true
		}
	}
	if len(to) == 0 {
		return t, false
	}
	t.Peers = s.peers(func(o *outbound) bool { return to[o.dst] })
	for _, p := range t.Peers {
		delete(to, p.Endpoint.Addr())
	}
	if len(to) > 0 {
		t.Silent = "its policies ask for a connection that is not there"
	}
	return t, true
}
