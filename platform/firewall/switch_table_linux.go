package firewall

import (
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"

	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/platform/link"
)

// switchTable is the table, as an argument.
func switchTable() *nftables.Table {
	return &nftables.Table{Name: SwitchTable, Family: nftables.TableFamilyINet}
}

// switchSets are the sets of the switch.
func switchSets(t *nftables.Table) []*nftables.Set {
	out := []*nftables.Set{{Table: t, Name: setClosed, KeyType: nftables.TypeNFProto}, {Table: t, Name: setTunnels, KeyType: nftables.TypeIFIndex}}
	for _, x := range []struct {
		ways, doors, own, local, servers string
		addr                             nftables.SetDatatype
	}{{setWays4, setDoors4, setOwn4, setLocal4, setServers4, nftables.TypeIPAddr},
		{setWays6, setDoors6, setOwn6, setLocal6, setServers6, nftables.TypeIP6Addr}} {
		concat := nftables.MustConcatSetType(x.addr, nftables.TypeInetProto, nftables.TypeInetService)
		out = append(out, &nftables.Set{Table: t, Name: x.ways, KeyType: x.addr}, &nftables.Set{Table: t, Name: x.servers, KeyType: x.addr}, &nftables.Set{Table: t, Name: x.doors, Concatenation: true,
			KeyType: concat}, &nftables.Set{Table: t, Name: x.own, Concatenation: true, KeyType: concat},
			&nftables.Set{Table: t, Name: x.local, KeyType: x.addr, Interval: true})
	}
	return out
}

// switchElements is what belongs into each set.
func switchElements(c *fact.Carried) map[string][]nftables.SetElement {
	out := map[string][]nftables.SetElement{}
	if c.Closed {
		out[setClosed] = []nftables.SetElement{{Key: []byte{unix.NFPROTO_IPV4}}, {Key: []byte{unix.NFPROTO_IPV6}}}
	}
	for _, i := range c.Tunnels {
		out[setTunnels] = append(out[setTunnels], nftables.SetElement{Key: binaryutil.NativeEndian.PutUint32(uint32(i))}) //nolint:gosec // the kernel's
	}
	for _, a := range c.Servers {
		set := setServers6
		if a.Is4() {
			set = setServers4
		}
		out[set] = append(out[set], nftables.SetElement{Key: a.AsSlice()})
	}
	put := func(list []fact.Door, doors4, doors6 string) {
		for _, d := range list[:min(len(list), maxDoors)] {
			ways, doors := setWays6, doors6
			if d.Address.Is4() {
				ways, doors = setWays4, doors4
			}
			if d.Port == 0 {
				out[ways] = append(out[ways], nftables.SetElement{Key: d.Address.AsSlice()})
				continue
			}
			for _, p := range []byte{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
				key := append(d.Address.AsSlice(), p, 0, 0, 0, byte(d.Port>>8), byte(d.Port), 0, 0) // each part is filled up to four bytes
				out[doors] = append(out[doors], nftables.SetElement{Key: key})
			}
		}
	}
	put(slices.Concat(c.Brief, c.Doors), setDoors4, setDoors6)
	put(c.Own, setOwn4, setOwn6)
	by := map[string][]fact.Range{}
	for _, r := range c.Local {
		set := setLocal6
		if r.First.Is4() {
			set = setLocal4
		}
		by[set] = append(by[set], r)
	}
	for set, list := range by {
		out[set] = elements(list)
	}
	return out
}

// switchChains are the chains of the switch, without its questions' rules.
func switchChains(t *nftables.Table) []chain {
	accept := nftables.ChainPolicyAccept
	priority := nftables.ChainPriority(switchPriority)
	hook := func(name string, at *nftables.ChainHook) chain {
		return chain{Chain: nftables.Chain{Name: name, Table: t, Type: nftables.ChainTypeFilter, Hooknum: at, Priority: &priority, Policy: &accept}}
	}
	refuse := refusing(t)
	questions := chain{Chain: nftables.Chain{Name: chainQuestions, Table: t}}
	asked := chain{Chain: nftables.Chain{Name: chainAsked, Table: t}} // for names that may be asked for
	out, forward := hook(chainOut, nftables.ChainHookOutput), hook(chainForward, nftables.ChainHookForward)

	pass := verdict(expr.VerdictAccept, "")
	asked.add(fromUsers(), limited(true), verdict(expr.VerdictGoto, chainRefuse)) // when they are asked tells something, too
	asked.add(pass)

	out.add(marked(link.Mark), pass)
	out.add(loopback(), pass)
	for _, p := range []byte{unix.IPPROTO_UDP, unix.IPPROTO_TCP} { // redirected to our resolver
		out.add(proto(p), toPort(link.ResolverPort), toSelf(), pass)
	}
	open := []expr.Any{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1}, &expr.Lookup{SourceRegister: 1, SetName: setClosed, Invert: true}}
	through := []expr.Any{&expr.Meta{Key: expr.MetaKeyOIF, Register: 1}, &expr.Lookup{SourceRegister: 1, SetName: setTunnels}}
	for _, c := range []*chain{&out, &forward} {
		c.add(open, pass)
		c.add(through, pass)
		// Otherwise what passes to one address is passed on by it to another, or has room for what a user wants to tell.
		for _, x := range append(detours(), options()) {
			c.add(x, verdict(expr.VerdictGoto, chainRefuse))
		}
	}
	out.add(door4(setDoors4), pass) // the tunnel's own packets: most of what gets here
	out.add(door6(setDoors6), pass)
	out.add(to4(setWays4), pass)
	out.add(to6(setWays6), pass)
	out.add(fromRoot(), door4(setOwn4), pass)
	out.add(fromRoot(), door6(setOwn6), pass)
	for _, c := range []*chain{&out, &forward} {
		c.add(to4(setLocal4), pass)
		c.add(to6(setLocal6), pass)
	}
	for _, x := range dhcp() {
		out.add(x, pass)
	}
	out.add(proto(unix.IPPROTO_ICMPV6), discovery(), pass)
	// Reports of multicast groups (MLD): without them a switch does not pass on what looks for this machine.
	for _, kind := range []byte{131, 132, 143} {
		out.add(proto(unix.IPPROTO_ICMPV6), icmpType(kind), toGroup(), limited(false), pass) // a user chooses the groups
	}
	out.add(fromOthers(), verdict(expr.VerdictGoto, chainRefuse))
	for _, to := range [][]expr.Any{to4(setServers4), to6(setServers6)} {
		out.add(proto(unix.IPPROTO_UDP), toPort(53), to, verdict(expr.VerdictJump, chainQuestions))
	}
	out.add(verdict(expr.VerdictGoto, chainRefuse))
	forward.add(verdict(expr.VerdictGoto, chainRefuse))
	return []chain{refuse, asked, questions, out, forward}
}

// door4 and door6 match an address, a protocol and a port, which lie side by side in the kernel's registers.
func door4(set string) []expr.Any {
	return append(family(unix.NFPROTO_IPV4), &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4},
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 9},
		&expr.Payload{DestRegister: 10, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Lookup{SourceRegister: 1, SetName: set})
}

func door6(set string) []expr.Any {
	return append(family(unix.NFPROTO_IPV6), &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 24, Len: 16},
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 2},
		&expr.Payload{DestRegister: 13, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Lookup{SourceRegister: 1, SetName: set})
}

// limited matches what comes no more often than a machine has use for, or what comes more often than that.
func limited(over bool) []expr.Any {
	return []expr.Any{&expr.Limit{Type: expr.LimitTypePkts, Rate: 20, Unit: expr.LimitTimeSecond, Burst: 60, Over: over}}
}

// fromOthers matches packets whose sender is no address of this machine, which any program can bring about (IPV6_FREEBIND).
func fromOthers() []expr.Any {
	return []expr.Any{&expr.Fib{Register: 1, FlagSADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)}}
}

// options matches IPv4 packets with options, but for reports of multicast groups (IGMP), which must have one (RFC 3376).
func options() []expr.Any {
	return append(family(unix.NFPROTO_IPV4), &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: []byte{unix.IPPROTO_IGMP}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 0, Len: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{0x0f}, Xor: []byte{0}},
		&expr.Cmp{Op: expr.CmpOpGt, Register: 1, Data: []byte{5}})
}

// fromUsers matches packets of other programs than root's.
func fromUsers() []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeySKUID, Register: 1}, &expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)}}
}

// fromRoot matches packets of root's programs.
func fromRoot() []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeySKUID, Register: 1}, equal(make([]byte, 4))}
}

// The types that may be asked for: addresses, and where a service is (RFC 1035, 3596, 9460).
var askable = []byte{1, 28, 65}

// asks matches questions for exactly this name over UDP: every byte is compared, but for its number and flags, capital
// letters, and the size and flags of EDNS, which may have no options (RFC 1035, section 4.1; RFC 6891). None: it is no name.
func asks(name string) (rules [][]expr.Any) {
	n, err := dnsmessage.NewName(name + ".")
	if err != nil || name == "" {
		return nil
	}
	m := dnsmessage.Message{Questions: []dnsmessage.Question{{Name: n, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}}}
	b, err := m.Pack()
	if err != nil || len(b) > 12+255+4 {
		return nil
	}
	wire := b[12 : len(b)-4]
	const udp, header = 8, 12
	payload := func(offset, n int) *expr.Payload {
		return &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: uint32(offset), Len: uint32(n)} //nolint:gosec // small
	}
	length := func(n int) []byte { return binaryutil.BigEndian.PutUint16(uint16(udp + n)) } //nolint:gosec // small
	var same []expr.Any
	for at := 0; at < len(wire); at += 16 {
		part := wire[at:min(at+16, len(wire))]
		mask, want := make([]byte, len(part)), slices.Clone(part)
		for i, c := range part {
			if mask[i] = 0xff; c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' { // 97 and more is no length: labels have 63 bytes at most
				mask[i], want[i] = 0xdf, c&0xdf
			}
		}
		same = append(same, payload(udp+header+at, len(part)),
			&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: uint32(len(part)), Mask: mask, Xor: make([]byte, len(part))}, equal(want)) //nolint:gosec // small
	}
	for _, kind := range askable {
		question := slices.Concat([]expr.Any{
			payload(udp+2, 2), &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 2, Mask: []byte{0xf8, 0}, Xor: []byte{0, 0}}, equal([]byte{0, 0})},
			same, []expr.Any{payload(udp+header+len(wire), 4), equal([]byte{0, kind, 0, 1})})
		plain := append([]expr.Any{payload(4, 2), equal(length(len(b))), payload(udp+4, 8), equal([]byte{0, 1, 0, 0, 0, 0, 0, 0})}, question...)
		edns := append([]expr.Any{
			payload(4, 2), equal(length(len(b) + optLen)),
			payload(udp+4, 8), equal([]byte{0, 1, 0, 0, 0, 0, 0, 1})}, question...)
		edns = append(edns, payload(udp+len(b), 3), equal([]byte{0, 0, 41}), payload(udp+len(b)+optLen-2, 2), equal([]byte{0, 0}))
		pass := verdict(expr.VerdictGoto, chainAsked)
		rules = append(rules, append(plain, pass...), append(edns, pass...))
	}
	return rules
}

// icmpType matches a type of ICMPv6, and toGroup what goes to multicast groups of the own link (ff02::/16).
func icmpType(kind byte) []expr.Any {
	return []expr.Any{&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 1}, equal([]byte{kind})}
}

func toGroup() []expr.Any {
	return []expr.Any{&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 24, Len: 2}, equal([]byte{0xff, 0x02})}
}

// questionRules are the rules of the chain for questions.
func questionRules(names []string) (out [][]expr.Any) {
	for _, n := range names[:min(len(names), maxQuestions)] {
		out = append(out, asks(n)...)
	}
	return out
}
