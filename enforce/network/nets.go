package network

import (
	"net/netip"

	"github.com/warderd/warder/enforce/policy"
)

// nets has the addresses and networks of both lists.
type nets struct {
	of map[netip.Prefix]uint8 // netBlock, netAllow
	// Which lengths there are: 0 to 32 of IPv4, 0 to 128 of IPv6.
	four, six [129]bool
}

const (
	netBlock uint8 = 1 << iota
	netAllow
)

// add adds an entry of a list; names are passed over.
func (n *nets) add(e policy.Name, flag uint8) {
	if !e.Net.IsValid() {
		return
	}
	if n.of == nil {
		n.of = map[netip.Prefix]uint8{}
	}
	n.of[e.Net] |= flag
	if e.Net.Addr().Is4() {
		n.four[e.Net.Bits()] = true
	} else {
		n.six[e.Net.Bits()] = true
	}
}

// match finds the longest network that contains an address, among those whose flags are in of. A tie blocks.
func (n *nets) match(a netip.Addr, of uint8) (p netip.Prefix, block, found bool) {
	if len(n.of) == 0 {
		return p, false, false
	}
	lengths, most := &n.six, 128
	if a.Is4() {
		lengths, most = &n.four, 32
	}
	for bits := most; bits >= 0; bits-- {
		if !lengths[bits] {
			continue
		}
		p, err := a.Prefix(bits)
		if err != nil {
			return p, false, false
		}
		if f := n.of[p] & of; f != 0 {
			return p, f&netBlock != 0, true
		}
	}
	return p, false, false
}
