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
	"github.com/google/nftables/userdata"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/platform"
)

// Switch is the kill switch: a table of its own, in which packets pass that leave through the VPN, and what brings it up.
// It needs no other part of the agent to work: what the agent tells it (Carry) are elements of its sets.
type Switch struct {
	gate enforce.Gate
	log  *slog.Logger
	off  bool // this process's network is not the machine's

	noted *fact.Carried // at the early start: what was so when the agent last ran

	mu sync.Mutex
	kernel
	told    *fact.Carried // what was told last; nil: nothing yet
	carried *fact.Carried // what is in the table, as far as we have made it
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
	chainAsked             = "asked"
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

func (s *Switch) port() uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.own
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
		s.close()
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
		s.close()
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
		s.close()
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
	return each(changes, s.change)
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
		s.close()
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
	value, err := untorn(func() (string, error) { return s.readOnce(c) })
	if errors.Is(err, fs.ErrNotExist) {
		return absent, nil
	}
	if err != nil {
		s.close()
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
	there, err := chainsOf(c, SwitchTable)
	if err != nil {
		return "", err
	}
	full := switchChains(t)
	if len(there) != len(full) {
		return fmt.Sprintf("%sit has %d chains, not %d", changed, len(there), len(full)), nil
	}
	mode := ""
	for _, want := range full {
		x := there[want.Name]
		if !isAs(x, &want) {
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
	defer s.close() // a probe leaves nothing open
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
