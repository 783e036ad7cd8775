package firewall

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/google/nftables"
	"github.com/google/nftables/userdata"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/platform"
)

// Firewall writes and reads the table.
type Firewall struct {
	gate enforce.Gate
	log  *slog.Logger

	off bool // this process's network is not the machine's
	mu  sync.Mutex
	kernel
	told  map[enforce.Value]filling
	order []enforce.Value // of told, oldest first
	now   filling         // what is in force, as far as we have made it
	there bool            // the table, as last read or written
	made  string          // the lists that the table was made for, as last read
	// has are addresses that may be in the named sets: others can be added without being removed before. nil: not known.
	has map[netip.Addr]struct{}

	track    sync.Mutex
	tracker  int // a netlink socket for Asked, opened when first needed; 0: none
	sequence uint32
}

// filling is a reach, which addresses may still be reached by open connections, and what is known of resolved addresses.
type filling struct {
	reach fact.Reach
	keep  func(netip.Addr) bool
	known func() []platform.Admission
}

// New makes a firewall. It touches nothing yet.
func New(gate enforce.Gate, log *slog.Logger) *Firewall {
	return &Firewall{gate: gate, log: log, told: map[enforce.Value]filling{}}
}

// Kinds is the one kind. It ends with a boot, and can cut the machine off from its server.
func (f *Firewall) Kinds() []platform.Kind {
	return []platform.Kind{{Name: kind, Life: platform.Boot, Made: true, Network: true}}
}

// broken closes a connection on which something failed, because its answers may be out of step.
func (f *Firewall) broken() {
	f.has = nil
	f.close()
}

// Fill says what a reach consists of, before it is wanted by its description. keep reports whether an address may still
// be reached by connections that are open already; known lists the addresses that were resolved lately, with which a table
// that is made anew begins. If that reach is in force, connections that may no longer be open are ended now.
func (f *Firewall) Fill(reach fact.Reach, keep func(netip.Addr) bool, known func() []platform.Admission) error {
	if f.off {
		return errors.New("on a simulated machine the network is left alone")
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	v, x := enforce.Value(reach.String()), filling{reach, keep, known}
	if _, again := f.told[v]; !again {
		if f.order = append(f.order, v); len(f.order) > 4 {
			delete(f.told, f.order[0])
			f.order = f.order[1:]
		}
	}
	f.told[v] = x
	now, err := f.read()
	if err != nil || !now.Is(v) {
		return err
	}
	f.now = x
	if err := f.end(x, false); err != nil {
		f.broken()
		return err
	}
	return nil
}

// List reads the table.
func (f *Firewall) List(ctx context.Context) (map[enforce.Key]enforce.Reading, error) {
	if f.off {
		return nil, nil
	}
	f.mu.Lock()
	r, err := f.read()
	f.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if r.State == enforce.Absent {
		return map[enforce.Key]enforce.Reading{}, nil
	}
	if strings.HasPrefix(string(r.Value), changed) {
		return map[enforce.Key]enforce.Reading{names: r}, nil // it is known not to be in force
	}
	if why := prove(ctx, f.lists()); why != "" {
		r.Value += enforce.Value("; but " + why)
	}
	return map[enforce.Key]enforce.Reading{names: r}, nil
}

func (f *Firewall) lists() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.made
}

// how is the evidence's source.
const how = "the kernel's nftables, table inet " + Table

// read reads the table's sets, chains and rules. A table that has more or less than it should is described as that.
func (f *Firewall) read() (enforce.Reading, error) {
	absent := enforce.Reading{State: enforce.Absent, How: how}
	c, err := f.open()
	if err != nil {
		return absent, err
	}
	r, err := f.readWith(c)
	f.there = err == nil
	if errors.Is(err, fs.ErrNotExist) {
		return absent, nil
	}
	if err != nil {
		f.broken()
		return absent, fmt.Errorf("cannot read nftables: %w", err)
	}
	return r, nil
}

func (f *Firewall) readWith(c *nftables.Conn) (enforce.Reading, error) {
	return untorn(func() (enforce.Reading, error) { return f.readOnce(c) })
}

func (f *Firewall) readOnce(c *nftables.Conn) (enforce.Reading, error) {
	t := &nftables.Table{Name: Table, Family: nftables.TableFamilyINet}
	tables, err := c.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return enforce.Reading{}, err
	}
	at := slices.IndexFunc(tables, func(x *nftables.Table) bool { return x.Name == Table })
	if at < 0 {
		return enforce.Reading{}, fs.ErrNotExist
	}
	wrong := func(format string, args ...any) (enforce.Reading, error) {
		return enforce.Reading{State: enforce.Present, Value: enforce.Value(changed + fmt.Sprintf(format, args...)), How: how}, nil
	}
	if tables[at].Flags != 0 {
		return wrong("the table has flags, and may be dormant")
	}
	reach := fact.Reach{}
	known, err := c.GetSets(t)
	if err != nil {
		return enforce.Reading{}, err
	}
	has := map[string]*nftables.Set{}
	for _, s := range known {
		has[s.Name] = s
	}
	for _, want := range sets(t) {
		s := has[want.Name]
		if s == nil || s.KeyType.Bytes != want.KeyType.Bytes || s.Interval != want.Interval || s.HasTimeout != want.HasTimeout {
			return wrong("set %s is not as it was made", want.Name)
		}
		if want.Concatenation {
			continue // it only refuses
		}
		list, err := c.GetSetElements(s)
		if err != nil {
			return enforce.Reading{}, err
		}
		if want.HasTimeout {
			if a := f.stranger(list); a.IsValid() {
				return wrong("%s is in set %s, and no allowed name resolved to it", a, want.Name)
			}
			continue
		}
		found, err := ranges(list)
		if err != nil {
			return wrong("set %s: %v", want.Name, err)
		}
		switch want.Name[:len(want.Name)-1] {
		case "allow":
			reach.Allow = append(reach.Allow, found...)
		case "refuse":
			reach.Refuse = append(reach.Refuse, found...)
		default:
			reach.Resolvers = append(reach.Resolvers, found...)
		}
	}
	if len(has) != len(sets(t)) {
		return wrong("it has %d sets, not %d", len(has), len(sets(t)))
	}
	there, err := chainsOf(c, Table)
	if err != nil {
		return enforce.Reading{}, err
	}
	full := chains(t, true)
	if len(there) != len(full) {
		return wrong("it has %d chains, not %d", len(there), len(full))
	}
	for i, want := range full {
		x := there[want.Name]
		if !isAs(x, &want) {
			return wrong("chain %s is not as it was made", want.Name)
		}
		rules, err := c.GetRules(t, x)
		if err != nil {
			return enforce.Reading{}, err
		}
		if want.Name == chainNames {
			reach.Names = listsOf(rules)
		}
		expected := want.rules
		if want.Name == chainOut {
			// With Only it has more rules; whichever matches is what it was made for.
			if open := chains(t, false)[i].rules; len(rules) == len(open) {
				expected = open
			} else {
				reach.Only = true
			}
		}
		if len(rules) != len(expected) {
			return wrong("chain %s has %d rules, not %d", want.Name, len(rules), len(expected))
		}
		for n := range rules {
			if print(rules[n].Exprs) != print(expected[n]) {
				return wrong("rule %d of chain %s is not as it was made", n+1, want.Name)
			}
		}
	}
	f.made = reach.Names
	return enforce.Reading{State: enforce.Present, Value: enforce.Value(reach.String()), How: how}, nil
}

// stranger is an admitted address that no answer admitted: another program put it there. As long as we have not made the
// table ourselves, what an earlier run admitted is believed.
func (f *Firewall) stranger(list []nftables.SetElement) netip.Addr {
	for _, e := range list {
		a, ok := netip.AddrFromSlice(e.Key)
		if ok && (e.Timeout == 0 || f.now.keep != nil && !f.now.keep(a)) {
			return a
		}
	}
	return netip.Addr{}
}

// changed begins the description of a table that is not as it was made.
const changed = "changed: "

func same[T comparable](a, b *T) bool { return a == b || a != nil && b != nil && *a == *b }

// Apply makes or removes the table, in one transaction.
func (f *Firewall) Apply(_ context.Context, changes []enforce.Change) map[enforce.Key]error {
	return each(changes, f.change)
}

func (f *Firewall) change(c enforce.Change) error {
	if c.Key != names || f.off {
		return fmt.Errorf("there is no %s", c.Key)
	}
	if err := f.gate(c); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	conn, err := f.open()
	if err != nil {
		return err
	}
	t := &nftables.Table{Name: Table, Family: nftables.TableFamilyINet}
	if c.To.State == enforce.Absent {
		if r, err := f.read(); err != nil || r.State == enforce.Absent {
			return err
		}
		conn.DelTable(t)
		f.now = filling{}
		if err := f.flush(conn); err != nil {
			return err
		}
		f.there = false
		return nil
	}
	x, ok := f.told[c.To.Value]
	if !ok {
		return errors.New("nothing says what it consists of: the resolver does not run")
	}
	if err := f.write(conn, t, x); err != nil {
		return err
	}
	f.now, f.there = x, true
	if err := f.end(x, true); err != nil {
		f.broken()
		return err
	}
	return nil
}

// write replaces the table. What allowed names have resolved to stays, or is there again.
func (f *Firewall) write(c *nftables.Conn, t *nftables.Table, x filling) error {
	f.has = nil
	named := map[string][]nftables.SetElement{}
	if x.reach.Only && x.known != nil {
		for _, a := range x.known() {
			set := setNamed6
			if a.Address.Is4() {
				set = setNamed4
			}
			if len(named[set]) < maxNamed*3/4 {
				named[set] = append(named[set], nftables.SetElement{Key: a.Address.AsSlice(), Timeout: a.For, Comment: comment(a.Name)})
			}
		}
	}
	if err := put(c, t, x.reach, named); err != nil {
		f.broken()
		return err
	}
	return f.flush(c)
}

// put adds the messages of one transaction that makes the table anew.
func put(c *nftables.Conn, t *nftables.Table, r fact.Reach, named map[string][]nftables.SetElement) error {
	c.AddTable(t) // so that there is one to delete
	c.DelTable(t)
	c.AddTable(t)
	fixed := content(r)
	for _, s := range sets(t) {
		if err := c.AddSet(s, nil); err != nil {
			return err
		}
		list := named[s.Name]
		if s.Interval {
			list = elements(fixed[s.Name])
		}
		for part := range slices.Chunk(list, perMessage) {
			if err := c.SetAddElements(s, part); err != nil {
				return err
			}
		}
	}
	for _, x := range chains(t, r.Only) {
		added := c.AddChain(&x.Chain)
		for i, exprs := range x.rules {
			rule := &nftables.Rule{Table: t, Chain: added, Exprs: slices.Clone(exprs)}
			if x.Name == chainNames && i == 0 {
				rule.UserData = userdata.AppendString(nil, userdata.TypeComment, r.Names)
			}
			c.AddRule(rule)
		}
	}
	return nil
}

// listsOf are the lists of names that the table was made for: the comment of the first rule of the chain for names.
func listsOf(rules []*nftables.Rule) string {
	if len(rules) == 0 {
		return ""
	}
	s, _ := userdata.GetString(rules[0].UserData, userdata.TypeComment)
	return enforce.Plain(s)
}

// perMessage bounds the elements in one message: a nested attribute has at most 64 KiB.
const perMessage = 256

func (f *Firewall) flush(c *nftables.Conn) error {
	if err := c.Flush(); err != nil {
		f.broken()
		return fmt.Errorf("nftables: %w", err)
	}
	return nil
}

// try makes a table of another name with the same content, and removes it in the same transaction.
func (f *Firewall) try() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	c, err := f.open()
	if err != nil {
		return err
	}
	defer f.broken() // a probe leaves nothing open
	t := &nftables.Table{Name: Table + "-probe", Family: nftables.TableFamilyINet}
	if err := put(c, t, fact.Reach{Only: true}, nil); err != nil {
		return err
	}
	c.DelTable(t)
	return f.flush(c)
}

func sortAddrs(list []netip.Addr) { slices.SortFunc(list, netip.Addr.Compare) }
