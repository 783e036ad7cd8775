package firewall

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/platform"
	"github.com/warderd/warder/platform/link"
)

// Switch is the kill switch: a table of its own, in which packets pass that leave through the VPN, and what brings it up.
// It needs no other part of the agent to work: what the agent tells it (Carry) are elements of its sets.
type Switch struct {
	gate enforce.Gate
	log  *slog.Logger
	off  bool // this process's network is not the machine's

	noted *fact.Carried // at the early start: what was so when the agent last ran

	mu      sync.Mutex
	conn    *nftables.Conn // kept open, and opened when first needed
	own     uint32         // our port at netlink, by which our own messages are told from others'
	told    *fact.Carried  // what was told last; nil: nothing yet
	carried *fact.Carried  // what is in the table, as far as we have made it
}

// NewSwitch makes a kill switch. It touches nothing yet.
func NewSwitch(gate enforce.Gate, log *slog.Logger) *Switch { return &Switch{gate: gate, log: log} }

const (
	switchKind = "switch"
	// SwitchTable is the name of its table, of the family inet.
	SwitchTable = "warder_switch"
)

// vpn is the one resource.
var vpn = enforce.Key{Kind: switchKind, ID: "vpn"}

// The sets of the switch.
const (
	setClosed              = "closed"  // the families that are closed
	setTunnels             = "tunnels" // interfaces, by number
	setWays4, setWays6     = "ways4", "ways6"
	setDoors4, setDoors6   = "doors4", "doors6" // with protocol and port
	setLocal4, setLocal6   = "local4", "local6"
	setOwn4, setOwn6       = "own4", "own6" // as doors, for root alone
	setServers4            = "servers4"     // name servers
	setServers6            = "servers6"
	chainQuestions         = "questions"
	chainForward           = "forward"
	switchPriority         = -10 // before other programs' filters, so that what they see is what leaves
	switchHow              = "the kernel's nftables, table inet " + SwitchTable
	maxDoors, maxQuestions = 4096, 128
	// optLen is how long EDNS's record is without options.
	optLen = 11
)

// Kinds is the one kind. It ends with a boot, and can cut the machine off from its server.
func (s *Switch) Kinds() []platform.Kind {
	return []platform.Kind{{Name: switchKind, Life: platform.Boot, Made: true, Network: true}}
}

func (s *Switch) open() (*nftables.Conn, error) {
	if s.conn != nil {
		return s.conn, nil
	}
	c, err := nftables.New(nftables.AsLasting(), nftables.WithSockOptions(func(n *netlink.Conn) error {
		s.own = n.PID()
		return errors.Join(n.SetReadBuffer(socketBuffer), n.SetWriteBuffer(socketBuffer))
	}))
	if err != nil {
		return nil, fmt.Errorf("cannot reach the kernel's packet filter: %w", err)
	}
	s.conn = c
	return c, nil
}

// broken closes a connection on which something failed, because its answers may be out of step.
func (s *Switch) broken() {
	if s.conn != nil {
		_ = s.conn.CloseLasting()
		s.conn = nil
	}
}

func (s *Switch) port() uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.own
}

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
	refuse := chain{Chain: nftables.Chain{Name: chainRefuse, Table: t}}
	questions := chain{Chain: nftables.Chain{Name: chainQuestions, Table: t}}
	out, forward := hook(chainOut, nftables.ChainHookOutput), hook(chainForward, nftables.ChainHookForward)

	refuse.add(proto(unix.IPPROTO_TCP), counted(&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}))
	refuse.add(counted(&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_ADMIN_PROHIBITED}))
	pass := verdict(expr.VerdictAccept, "")

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
		c.add(to4(setLocal4), pass)
		c.add(to6(setLocal6), pass)
	}
	out.add(family(unix.NFPROTO_IPV4), proto(unix.IPPROTO_UDP), fromPort(68), toPort(67), pass)
	out.add(family(unix.NFPROTO_IPV6), proto(unix.IPPROTO_UDP), fromPort(546), toPort(547), pass)
	out.add(proto(unix.IPPROTO_ICMPV6), discovery(), pass)
	// Reports of multicast groups (MLD): without them a switch does not pass on what looks for this machine.
	for _, kind := range []byte{131, 132, 143} {
		out.add(proto(unix.IPPROTO_ICMPV6), icmpType(kind), toGroup(), pass)
	}
	out.add(to4(setWays4), pass)
	out.add(to6(setWays6), pass)
	out.add(door4(setDoors4), pass)
	out.add(door6(setDoors6), pass)
	out.add(fromRoot(), door4(setOwn4), pass)
	out.add(fromRoot(), door6(setOwn6), pass)
	for _, to := range [][]expr.Any{to4(setServers4), to6(setServers6)} {
		out.add(proto(unix.IPPROTO_UDP), toPort(53), to, verdict(expr.VerdictJump, chainQuestions))
	}
	out.add(verdict(expr.VerdictGoto, chainRefuse))
	forward.add(verdict(expr.VerdictGoto, chainRefuse))
	return []chain{refuse, questions, out, forward}
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
		rules = append(rules, append(plain, verdict(expr.VerdictAccept, "")...), append(edns, verdict(expr.VerdictAccept, "")...))
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

// Carry tells the switch what is so now. If its table is there, the sets have it when this returns, in one transaction.
func (s *Switch) Carry(c fact.Carried) error {
	if s.off {
		return errors.New("on a simulated machine the network is left alone")
	}
	if s.noted != nil {
		c.Doors, c.Own, c.Names = append(c.Doors, s.noted.Doors...), append(c.Own, s.noted.Own...), append(c.Names, s.noted.Names...)
	}
	c.Sort()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.told = &c
	conn, err := s.open()
	if err != nil {
		return err
	}
	t := switchTable()
	if s.carried != nil && s.carried.Equal(&c) {
		return nil
	}
	has, err := known(conn, t)
	if err != nil {
		s.broken()
		return fmt.Errorf("cannot read nftables: %w", err)
	}
	if has == nil {
		return nil // it will be made with this
	}
	if slices.ContainsFunc(switchSets(t), func(x *nftables.Set) bool { return has[x.Name] == nil }) {
		return nil // it is not as it was made, and is made anew at the next look
	}
	for _, x := range switchSets(t) {
		conn.FlushSet(x)
	}
	conn.FlushChain(&nftables.Chain{Name: chainQuestions, Table: t})
	if err := fill(conn, t, &c); err != nil {
		s.broken()
		return err
	}
	if err := s.flush(conn); err != nil {
		return err
	}
	s.carried = &c
	return nil
}

// note is what the next early start has to know: what can be reached while no tunnel is up.
func (s *Switch) note() (out []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.told == nil || s.told.Mode != fact.SwitchAlways {
		return nil
	}
	for word, list := range map[string][]fact.Door{"door": s.told.Doors, "own": s.told.Own} {
		for _, d := range list[:min(len(list), maxDoors)] {
			out = append(out, fmt.Sprintf("%s %s %d", word, d.Address, d.Port))
		}
	}
	slices.Sort(out)
	for _, n := range s.told.Names[:min(len(s.told.Names), maxQuestions)] {
		out = append(out, "name "+n)
	}
	return out
}

// read reads such a note. What is none is left out.
func read(note []string) *fact.Carried {
	out := &fact.Carried{}
	for _, line := range note[:min(len(note), maxDoors+maxQuestions)] {
		w := strings.Fields(line)
		switch {
		case len(w) == 3 && (w[0] == "door" || w[0] == "own"):
			a, err := netip.ParseAddr(w[1])
			port, errPort := strconv.ParseUint(w[2], 10, 16)
			if err != nil || errPort != nil || a.Zone() != "" {
				continue
			}
			if d := (fact.Door{Address: a.Unmap(), Port: uint16(port)}); w[0] == "own" {
				out.Own = append(out.Own, d)
			} else {
				out.Doors = append(out.Doors, d)
			}
		case len(w) == 2 && w[0] == "name":
			out.Names = append(out.Names, w[1])
		}
	}
	return out
}

// fill adds the messages that put what is so now into a table whose sets and questions are empty.
func fill(c *nftables.Conn, t *nftables.Table, x *fact.Carried) error {
	elems := switchElements(x)
	for _, set := range switchSets(t) {
		for part := range slices.Chunk(elems[set.Name], perMessage) {
			if err := c.SetAddElements(set, part); err != nil {
				return err
			}
		}
	}
	for _, r := range questionRules(x.Names) {
		c.AddRule(&nftables.Rule{Table: t, Chain: &nftables.Chain{Name: chainQuestions, Table: t}, Exprs: r})
	}
	return nil
}

func (s *Switch) flush(c *nftables.Conn) error {
	if err := c.Flush(); err != nil {
		s.broken()
		return fmt.Errorf("nftables: %w", err)
	}
	return nil
}

// putSwitch adds the messages of one transaction that makes the table anew.
func putSwitch(c *nftables.Conn, t *nftables.Table, mode string, x *fact.Carried) error {
	c.AddTable(t) // so that there is one to delete
	c.DelTable(t)
	c.AddTable(t)
	for _, set := range switchSets(t) {
		if err := c.AddSet(set, nil); err != nil {
			return err
		}
	}
	for _, ch := range switchChains(t) {
		added := c.AddChain(&ch.Chain)
		for i, exprs := range ch.rules {
			rule := &nftables.Rule{Table: t, Chain: added, Exprs: slices.Clone(exprs)}
			if ch.Name == chainOut && i == 0 {
				rule.UserData = userdata.AppendString(nil, userdata.TypeComment, mode)
			}
			c.AddRule(rule)
		}
	}
	return fill(c, t, x)
}

// Apply makes or removes the table, in one transaction.
func (s *Switch) Apply(_ context.Context, changes []enforce.Change) map[enforce.Key]error {
	failed := map[enforce.Key]error{}
	for _, c := range changes {
		if err := s.change(c); err != nil {
			failed[c.Key] = err
		}
	}
	return failed
}

func (s *Switch) change(c enforce.Change) error {
	if c.Key != vpn || s.off {
		return fmt.Errorf("there is no %s", c.Key)
	}
	if err := s.gate(c); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	conn, err := s.open()
	if err != nil {
		return err
	}
	t := switchTable()
	if c.To.State == enforce.Absent {
		s.carried = nil
		if has, err := known(conn, t); err != nil || has == nil {
			return err
		}
		conn.DelTable(t)
		return s.flush(conn)
	}
	if s.told == nil {
		return errors.New("nothing says yet which tunnels count")
	}
	if err := putSwitch(conn, t, string(c.To.Value), s.told); err != nil {
		s.broken()
		return err
	}
	if err := s.flush(conn); err != nil {
		return err
	}
	s.carried = s.told
	return nil
}

// List reads the table, and tries what must not succeed.
func (s *Switch) List(ctx context.Context) (map[enforce.Key]enforce.Reading, error) {
	if s.off {
		return nil, nil
	}
	s.mu.Lock()
	r, err := s.read()
	carried := s.carried
	s.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if r.State == enforce.Absent {
		return map[enforce.Key]enforce.Reading{}, nil
	}
	if !strings.HasPrefix(string(r.Value), changed) && carried != nil && carried.Closed {
		why := proveClosed(ctx, carried.Tunnels)
		s.mu.Lock()
		changed := s.carried != carried
		s.mu.Unlock()
		if why != "" && !changed { // otherwise it was opened meanwhile
			r.Value += enforce.Value("; but " + why)
		}
	}
	return map[enforce.Key]enforce.Reading{vpn: r}, nil
}

// read reads the table's sets, chains and rules. The caller has the lock.
func (s *Switch) read() (enforce.Reading, error) {
	absent := enforce.Reading{State: enforce.Absent, How: switchHow}
	c, err := s.open()
	if err != nil {
		return absent, err
	}
	// A transaction of another program in between makes the kernel interrupt a list; it is begun again.
	var value string
	for try := 0; ; try++ {
		value, err = s.readOnce(c)
		if err == nil || try == 5 || !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EAGAIN) {
			break
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return absent, nil
	}
	if err != nil {
		s.broken()
		return absent, fmt.Errorf("cannot read nftables: %w", err)
	}
	return enforce.Reading{State: enforce.Present, Value: enforce.Value(value), How: switchHow}, nil
}

// readOnce describes the table: by its mode if it is as it was made, and otherwise by the first difference.
func (s *Switch) readOnce(c *nftables.Conn) (string, error) {
	t := switchTable()
	tables, err := c.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return "", err
	}
	at := slices.IndexFunc(tables, func(x *nftables.Table) bool { return x.Name == SwitchTable })
	if at < 0 {
		return "", fs.ErrNotExist
	}
	if tables[at].Flags != 0 {
		return changed + "the table has flags, and may be dormant", nil
	}
	known, err := c.GetSets(t)
	if err != nil {
		return "", err
	}
	has := map[string]*nftables.Set{}
	for _, x := range known {
		has[x.Name] = x
	}
	want := switchSets(t)
	var elems map[string][]nftables.SetElement
	if s.carried != nil {
		elems = switchElements(s.carried)
	}
	for _, w := range want {
		x := has[w.Name]
		if x == nil || x.KeyType.Bytes != w.KeyType.Bytes || x.Interval != w.Interval || x.HasTimeout != w.HasTimeout {
			return changed + "set " + w.Name + " is not as it was made", nil
		}
		if elems == nil {
			continue // an earlier run's; what it should have is told soon
		}
		list, err := c.GetSetElements(x)
		if err != nil {
			return "", err
		}
		if !slices.Equal(keysOf(list), keysOf(elems[w.Name])) {
			return changed + "set " + w.Name + " has other elements", nil
		}
	}
	if len(has) != len(want) {
		return fmt.Sprintf("%sit has %d sets, not %d", changed, len(has), len(want)), nil
	}
	return s.readChains(c, t)
}

// readChains reads the chains and rules.
func (s *Switch) readChains(c *nftables.Conn, t *nftables.Table) (string, error) {
	all, err := c.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return "", err
	}
	there := map[string]*nftables.Chain{}
	for _, x := range all {
		if x.Table.Name == SwitchTable {
			there[x.Name] = x
		}
	}
	full := switchChains(t)
	if len(there) != len(full) {
		return fmt.Sprintf("%sit has %d chains, not %d", changed, len(there), len(full)), nil
	}
	mode := ""
	for _, want := range full {
		x := there[want.Name]
		if x == nil || x.Type != want.Type || !same(x.Hooknum, want.Hooknum) || !same(x.Priority, want.Priority) ||
			want.Policy != nil && !same(x.Policy, want.Policy) {
			return changed + "chain " + want.Name + " is not as it was made", nil
		}
		rules, err := c.GetRules(t, x)
		if err != nil {
			return "", err
		}
		expected := want.rules
		switch want.Name {
		case chainOut:
			mode = listsOf(rules)
		case chainQuestions:
			if s.carried == nil {
				continue
			}
			expected = questionRules(s.carried.Names)
		}
		if len(rules) != len(expected) {
			return fmt.Sprintf("%schain %s has %d rules, not %d", changed, want.Name, len(rules), len(expected)), nil
		}
		for n := range rules {
			if print(rules[n].Exprs) != print(expected[n]) {
				return fmt.Sprintf("%srule %d of chain %s is not as it was made", changed, n+1, want.Name), nil
			}
		}
	}
	return mode, nil
}

// keysOf are the keys of elements, in order.
func keysOf(list []nftables.SetElement) (out []string) {
	for _, e := range list {
		k := string(e.Key)
		if e.IntervalEnd {
			if a, ok := netip.AddrFromSlice(e.Key); ok && a.IsUnspecified() {
				continue // how the kernel says that nothing is before the first interval
			}
			k += " end"
		}
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// Watch reports other programs' transactions that concern the table.
func (s *Switch) Watch(ctx context.Context, changed func(platform.Touch)) error {
	if s.off {
		<-ctx.Done()
		return nil
	}
	return watchTable(ctx, SwitchTable, vpn, s.port, changed)
}

// try makes a table of another name with the same content, and removes it in the same transaction.
func (s *Switch) try() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, err := s.open()
	if err != nil {
		return err
	}
	defer s.broken() // a probe leaves nothing open
	t := &nftables.Table{Name: SwitchTable + "_probe", Family: nftables.TableFamilyINet}
	if err := putSwitch(c, t, "", &fact.Carried{Names: []string{"a.example"}}); err != nil {
		return err
	}
	c.DelTable(t)
	return s.flush(c)
}

// proveClosed tries to get past the switch, by the first interface of each family that is no tunnel. It says what went wrong, or "".
func proveClosed(ctx context.Context, tunnels []int) string {
	for _, x := range []struct {
		six  bool
		addr string
	}{{false, "192.0.2.1:9"}, {true, "[2001:db8::1]:9"}} {
		name := outward(x.six, tunnels)
		if name == "" {
			continue
		}
		limited, cancel := context.WithTimeout(ctx, proveWithin)
		d := bound(name)
		begun := time.Now()
		c, err := d.DialContext(limited, "tcp", x.addr)
		cancel()
		switch {
		case err == nil:
			_ = c.Close()
			return "a connection past the VPN was made, by " + name
		case limitedOut(err) || time.Since(begun) >= proveWithin:
			return "a packet past the VPN was not refused, by " + name
		}
	}
	return ""
}
