package firewall

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/platform/link"
)

// The sets of the table. The first six have the policy's own networks; what allowed names resolved to is in the last two,
// each element with a time-out, and with the name as its comment.
const (
	setAllow4, setAllow6         = "allow4", "allow6"
	setRefuse4, setRefuse6       = "refuse4", "refuse6"
	setResolvers4, setResolvers6 = "resolvers4", "resolvers6"
	setNamed4, setNamed6         = "named4", "named6"
	// Connections that were ended: the other side's address and port, and ours. Without it, a packet of the other side would
	// begin the connection anew, as one that it had begun.
	setEnded4, setEnded6 = "ended4", "ended6"
)

// The chains: what goes out, where it ends if it is refused, where questions about names go, and what may come in to our
// resolver.
const (
	chainOut, chainRefuse, chainNames, chainIn = "out", "refuse", "names", "in"
)

// maxNamed bounds the addresses in one of the two named sets, and maxEnded the connections in one of the two ended sets.
const (
	maxNamed = 16384
	maxEnded = 65536
)

// chain is one chain with its rules.
type chain struct {
	nftables.Chain
	rules [][]expr.Any
}

// chains are the chains of a table, for a reach with or without Only.
func chains(t *nftables.Table, only bool) []chain {
	accept := nftables.ChainPolicyAccept
	out := chain{Chain: nftables.Chain{Name: chainOut, Table: t, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookOutput,
		Priority: nftables.ChainPriorityFilter, Policy: &accept}}
	refuse := refusing(t)
	names := chain{Chain: nftables.Chain{Name: chainNames, Table: t, Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookOutput,
		Priority: nftables.ChainPriorityNATDest, Policy: &accept}}

	in := chain{Chain: nftables.Chain{Name: chainIn, Table: t, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookInput,
		Priority: nftables.ChainPriorityFilter, Policy: &accept}}

	refused := verdict(expr.VerdictGoto, chainRefuse)

	for _, m := range []uint32{link.Mark, link.Asking} {
		out.add(marked(m), verdict(expr.VerdictAccept, ""))
		names.add(marked(m), verdict(expr.VerdictAccept, ""))
	}
	out.add(loopback(), verdict(expr.VerdictAccept, ""))
	// A question that was just redirected still names the interface that it was meant for.
	for _, p := range []byte{unix.IPPROTO_UDP, unix.IPPROTO_TCP} {
		out.add(proto(p), toPort(link.ResolverPort), toSelf(), verdict(expr.VerdictAccept, ""))
	}
	// A question that was not redirected belongs to a connection from before, or to one that began as our own.
	for _, p := range []byte{unix.IPPROTO_UDP, unix.IPPROTO_TCP} {
		out.add(proto(p), toPort(53), refused)
	}
	for _, x := range detours() {
		out.add(x, refused)
	}
	out.add(flow4(setEnded4), refused)
	out.add(flow6(setEnded6), refused)
	out.add(established(), verdict(expr.VerdictAccept, ""))
	for _, p := range []byte{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
		out.add(proto(p), toPort(853), refused) // DNS over TLS and over QUIC
		out.add(proto(p), toPort(443), to4(setResolvers4), refused)
		out.add(proto(p), toPort(443), to6(setResolvers6), refused)
	}
	out.add(to4(setRefuse4), refused)
	out.add(to6(setRefuse6), refused)
	if only {
		for _, to := range [][]expr.Any{to4(setAllow4), to6(setAllow6), to4(setNamed4), to6(setNamed6)} {
			out.add(to, verdict(expr.VerdictAccept, ""))
		}
		// DHCP in both families, and the neighbour and router discovery of IPv6, which may be sent to any address.
		for _, x := range dhcp() {
			out.add(x, verdict(expr.VerdictAccept, ""))
		}
		out.add(proto(unix.IPPROTO_ICMPV6), discovery(), verdict(expr.VerdictAccept, ""))
		out.add(refused)
	}

	names.add(loopback(), verdict(expr.VerdictAccept, ""))
	for _, p := range []byte{unix.IPPROTO_UDP, unix.IPPROTO_TCP} {
		names.add(family(unix.NFPROTO_IPV4), proto(p), toPort(53), toOwn(unix.NFPROTO_IPV4, 12, 4))
		names.add(family(unix.NFPROTO_IPV6), proto(p), toPort(53), toOwn(unix.NFPROTO_IPV6, 8, 16))
		in.add(fromOutside(), proto(p), toPort(link.ResolverPort), verdict(expr.VerdictDrop, ""))
	}
	return []chain{refuse, out, names, in}
}

// refusing is the chain in which packets end that are refused: at once, and not by silence.
func refusing(t *nftables.Table) chain {
	c := chain{Chain: nftables.Chain{Name: chainRefuse, Table: t}}
	c.add(proto(unix.IPPROTO_TCP), counted(&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}))
	c.add(counted(&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_ADMIN_PROHIBITED}))
	return c
}

func (c *chain) add(parts ...[]expr.Any) {
	var all []expr.Any
	for _, p := range parts {
		all = append(all, p...)
	}
	c.rules = append(c.rules, all)
}

func verdict(k expr.VerdictKind, chain string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: k, Chain: chain}}
}

func counted(e expr.Any) []expr.Any { return []expr.Any{&expr.Counter{}, e} }

func equal(data []byte) *expr.Cmp { return &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: data} }

func marked(m uint32) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyMARK, Register: 1}, equal(binaryutil.NativeEndian.PutUint32(m))}
}

func loopback() []expr.Any {
	name := make([]byte, unix.IFNAMSIZ)
	copy(name, "lo")
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1}, equal(name)}
}

// fromOutside matches what did not come from this machine.
func fromOutside() []expr.Any {
	name := make([]byte, unix.IFNAMSIZ)
	copy(name, "lo")
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1}, &expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: name}}
}

// toSelf matches what goes to an address of this machine.
func toSelf() []expr.Any {
	return []expr.Any{&expr.Fib{Register: 1, FlagDADDR: true, ResultADDRTYPE: true},
		equal(binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL))}
}

// detours matches packets that name further stations, to which the address that they go to first would pass them on: routing headers of
// IPv6, and source routes of IPv4 (RFC 8200, section 4.4; RFC 791, section 3.1). Any program can send such packets.
func detours() [][]expr.Any {
	has := func(op expr.ExthdrOp, kind byte) []expr.Any {
		return []expr.Any{&expr.Exthdr{DestRegister: 1, Type: kind, Len: 1, Flags: present, Op: op}, equal([]byte{1})}
	}
	return [][]expr.Any{
		append(family(unix.NFPROTO_IPV6), has(expr.ExthdrOpIpv6, unix.IPPROTO_ROUTING)...),
		append(family(unix.NFPROTO_IPV4), has(opIPv4, 131)...), // loose
		append(family(unix.NFPROTO_IPV4), has(opIPv4, 137)...), // strict
	}
}

// What google/nftables does not name (linux/netfilter/nf_tables.h).
const (
	present = 1 // NFT_EXTHDR_F_PRESENT
	opIPv4  = 2 // NFT_EXTHDR_OP_IPV4
)

func established() []expr.Any {
	bits := binaryutil.NativeEndian.PutUint32(expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED)
	return []expr.Any{&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: bits, Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)}}
}

func family(f byte) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1}, equal([]byte{f})}
}

func proto(p byte) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, equal([]byte{p})}
}

func fromPort(p uint16) []expr.Any { return port(0, p) }

func toPort(p uint16) []expr.Any { return port(2, p) }

func port(offset uint32, p uint16) []expr.Any {
	return []expr.Any{&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: 2},
		equal(binaryutil.BigEndian.PutUint16(p))}
}

// near are the networks in which a DHCP server is asked by its own address: private ones, and the broadcast address. One elsewhere is asked
// by broadcast again when that is refused (RFC 2131, section 4.4.5).
var near = []netip.Prefix{netip.MustParsePrefix("255.255.255.255/32"), netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("172.16.0.0/12"),
	netip.MustParsePrefix("192.168.0.0/16"), netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("169.254.0.0/16")}

// dhcp matches what a DHCP client sends. Where programs of users may have its port (net.ipv4.ip_unprivileged_port_start) they can send so, too,
// but not to hosts outside.
func dhcp() (out [][]expr.Any) {
	from := func(f byte, own, server uint16) []expr.Any {
		return slices.Concat(family(f), proto(unix.IPPROTO_UDP), fromPort(own), toPort(server))
	}
	for _, p := range near {
		mask := net.CIDRMask(p.Bits(), 32)
		out = append(out, append(from(unix.NFPROTO_IPV4, 68, 67), &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4},
			&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: mask, Xor: make([]byte, 4)}, equal(p.Addr().AsSlice())))
	}
	return append(out, append(from(unix.NFPROTO_IPV6, 546, 547), toGroup()...))
}

// discovery matches the ICMPv6 types 133 to 137 (RFC 4861, section 4).
func discovery() []expr.Any {
	return []expr.Any{&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 1},
		&expr.Cmp{Op: expr.CmpOpGte, Register: 1, Data: []byte{133}}, &expr.Cmp{Op: expr.CmpOpLte, Register: 1, Data: []byte{137}}}
}

func to4(set string) []expr.Any {
	return append(family(unix.NFPROTO_IPV4), &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4},
		&expr.Lookup{SourceRegister: 1, SetName: set})
}

func to6(set string) []expr.Any {
	return append(family(unix.NFPROTO_IPV6), &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 24, Len: 16},
		&expr.Lookup{SourceRegister: 1, SetName: set})
}

// flow4 and flow6 match connections by the other side's address and port, and ours. The parts lie side by side in the
// kernel's registers: number 1 is 16 bytes long, and from 8 on each has 4.
func flow4(set string) []expr.Any {
	return append(family(unix.NFPROTO_IPV4), &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4},
		&expr.Payload{DestRegister: 9, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Payload{DestRegister: 10, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 2},
		&expr.Lookup{SourceRegister: 1, SetName: set})
}

func flow6(set string) []expr.Any {
	return append(family(unix.NFPROTO_IPV6), &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 24, Len: 16},
		&expr.Payload{DestRegister: 2, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Payload{DestRegister: 13, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 2},
		&expr.Lookup{SourceRegister: 1, SetName: set})
}

// toOwn sends a packet to the address that it comes from instead: our resolver listens there, too. That address can be
// reached from a socket that is bound to an interface, and from a link-local one; 127.0.0.1 cannot.
func toOwn(family byte, source, length uint32) []expr.Any {
	return []expr.Any{&expr.Counter{},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: source, Len: length},
		&expr.Immediate{Register: 2, Data: binaryutil.BigEndian.PutUint16(link.ResolverPort)},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(family), RegAddrMin: 1, RegAddrMax: 1, RegProtoMin: 2, RegProtoMax: 2,
			Specified: true}}
}

// sets are the table's sets.
func sets(t *nftables.Table) (out []*nftables.Set) {
	for _, name := range []string{setAllow4, setRefuse4, setResolvers4, setAllow6, setRefuse6, setResolvers6} {
		s := &nftables.Set{Table: t, Name: name, KeyType: nftables.TypeIPAddr, Interval: true}
		if strings.HasSuffix(name, "6") {
			s.KeyType = nftables.TypeIP6Addr
		}
		out = append(out, s)
	}
	flow := func(name string, addr nftables.SetDatatype) *nftables.Set {
		return &nftables.Set{Table: t, Name: name, Concatenation: true, HasTimeout: true, Size: maxEnded,
			KeyType: nftables.MustConcatSetType(addr, nftables.TypeInetService, nftables.TypeInetService)}
	}
	out = append(out, flow(setEnded4, nftables.TypeIPAddr), flow(setEnded6, nftables.TypeIP6Addr))
	return append(out, &nftables.Set{Table: t, Name: setNamed4, KeyType: nftables.TypeIPAddr, HasTimeout: true, Size: maxNamed},
		&nftables.Set{Table: t, Name: setNamed6, KeyType: nftables.TypeIP6Addr, HasTimeout: true, Size: maxNamed})
}

// content is what belongs into the fixed sets, by name.
func content(r fact.Reach) map[string][]fact.Range {
	out := map[string][]fact.Range{}
	for name, list := range map[string][]fact.Range{"allow": r.Allow, "refuse": r.Refuse, "resolvers": r.Resolvers} {
		for _, x := range list {
			if x.First.Is4() {
				out[name+"4"] = append(out[name+"4"], x)
			} else {
				out[name+"6"] = append(out[name+"6"], x)
			}
		}
	}
	return out
}

// elements are ranges as a set of intervals takes them: where each begins, and the first address after it.
func elements(list []fact.Range) (out []nftables.SetElement) {
	for _, r := range list {
		out = append(out, nftables.SetElement{Key: r.First.AsSlice()})
		if end := r.Last.Next(); end.IsValid() {
			out = append(out, nftables.SetElement{Key: end.AsSlice(), IntervalEnd: true})
		}
	}
	return out
}

// ranges reads such elements back. The kernel lists them from the last to the first.
func ranges(list []nftables.SetElement) (out []fact.Range, err error) {
	begins, ends := map[netip.Addr]bool{}, map[netip.Addr]bool{}
	var edges []netip.Addr
	for _, e := range list {
		a, ok := netip.AddrFromSlice(e.Key)
		if !ok {
			return nil, fmt.Errorf("an element of %d bytes is no address", len(e.Key))
		}
		if e.IntervalEnd {
			ends[a] = true
		} else {
			begins[a] = true
		}
		edges = append(edges, a)
	}
	sortAddrs(edges)
	var from netip.Addr
	for _, a := range edges {
		if ends[a] && from.IsValid() {
			out, from = append(out, fact.Range{First: from, Last: a.Prev()}), netip.Addr{}
		}
		if begins[a] && !from.IsValid() {
			from = a
		}
	}
	if from.IsValid() {
		out = append(out, fact.Range{First: from, Last: fact.Last(netip.PrefixFrom(from, 0))})
	}
	return out, nil
}

// print describes a rule for comparison, without what changes by itself: counters, and the numbers of sets.
func print(rule []expr.Any) string {
	var b strings.Builder
	for _, e := range rule {
		switch x := e.(type) {
		case *expr.Counter:
			b.WriteString("counter;")
		case *expr.Lookup:
			c := *x
			c.SetID = 0
			fmt.Fprintf(&b, "lookup %+v;", c)
		default:
			fmt.Fprintf(&b, "%T %+v;", e, e)
		}
	}
	return b.String()
}
