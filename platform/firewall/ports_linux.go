package firewall

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/platform"
	"github.com/warderd/warder/platform/link"
)

// Ports closes the ports of printers in the network, for every program but ours, and those of this machine that lead to printers at
// USB, for programs of users.
type Ports struct {
	gate enforce.Gate
	off  bool // this process's network is not the machine's

	mu sync.Mutex
	kernel
}

// NewPorts makes it. It touches nothing yet.
func NewPorts(gate enforce.Gate) *Ports { return &Ports{gate: gate} }

const (
	portsKind = "ports"
	// PortsTable is the name of its table, of the family inet.
	PortsTable = "warder_ports"
	portsHow   = "the kernel's nftables, table inet " + PortsTable
)

// printers is the one resource.
var printers = enforce.Key{Kind: portsKind, ID: "printers"}

// Kinds is the one kind. It ends with a boot, and cannot cut the machine off from its server: packets with our mark pass.
func (p *Ports) Kinds() []platform.Kind {
	return []platform.Kind{{Name: portsKind, Life: platform.Boot, Made: true}}
}

func portsTable() *nftables.Table {
	return &nftables.Table{Name: PortsTable, Family: nftables.TableFamilyINet}
}

// portsChains are the chains of the table.
func portsChains(t *nftables.Table, local []uint16) []chain {
	accept := nftables.ChainPolicyAccept
	hook := func(name string, at *nftables.ChainHook) chain {
		return chain{Chain: nftables.Chain{Name: name, Table: t, Type: nftables.ChainTypeFilter, Hooknum: at, Priority: nftables.ChainPriorityFilter, Policy: &accept}}
	}
	out, forward := hook(chainOut, nftables.ChainHookOutput), hook(chainForward, nftables.ChainHookForward)
	refused := verdict(expr.VerdictGoto, chainRefuse)
	out.add(marked(link.Mark), verdict(expr.VerdictAccept, ""))
	for _, p := range local {
		out.add(proto(unix.IPPROTO_TCP), toPort(p), toSelf(), fromUsers(), refused)
	}
	out.add(toSelf(), verdict(expr.VerdictAccept, ""))
	for _, p := range fact.PrintPorts {
		out.add(proto(unix.IPPROTO_TCP), toPort(p), refused)
		forward.add(proto(unix.IPPROTO_TCP), toPort(p), refused) // of containers and virtual machines
	}
	return []chain{refusing(t), out, forward}
}

// putPorts adds the messages of one transaction that makes the table anew.
func putPorts(c *nftables.Conn, t *nftables.Table, value string) error {
	local, err := fact.ParsePortsClosed(value)
	if err != nil {
		return err
	}
	c.AddTable(t) // so that there is one to delete
	c.DelTable(t)
	c.AddTable(t)
	for _, ch := range portsChains(t, local) {
		added := c.AddChain(&ch.Chain)
		for i, exprs := range ch.rules {
			rule := &nftables.Rule{Table: t, Chain: added, Exprs: slices.Clone(exprs)}
			if ch.Name == chainOut && i == 0 {
				rule.UserData = userdata.AppendString(nil, userdata.TypeComment, value)
			}
			c.AddRule(rule)
		}
	}
	return nil
}

func (p *Ports) flush(c *nftables.Conn) error {
	if err := c.Flush(); err != nil {
		p.close()
		return fmt.Errorf("nftables: %w", err)
	}
	return nil
}

// Apply makes or removes the table, in one transaction.
func (p *Ports) Apply(_ context.Context, changes []enforce.Change) map[enforce.Key]error {
	return each(changes, p.change)
}

func (p *Ports) change(c enforce.Change) error {
	if c.Key != printers || p.off {
		return fmt.Errorf("there is no %s", c.Key)
	}
	if err := p.gate(c); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	conn, err := p.open()
	if err != nil {
		return err
	}
	t := portsTable()
	if c.To.State == enforce.Absent {
		if has, err := known(conn, t); err != nil || has == nil {
			return err
		}
		conn.DelTable(t)
		return p.flush(conn)
	}
	if err := putPorts(conn, t, string(c.To.Value)); err != nil {
		p.close()
		return err
	}
	return p.flush(conn)
}

// List reads the table.
func (p *Ports) List(context.Context) (map[enforce.Key]enforce.Reading, error) {
	if p.off {
		return nil, nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	c, err := p.open()
	if err != nil {
		return nil, err
	}
	value, err := untorn(func() (string, error) { return readPorts(c) })
	if errors.Is(err, fs.ErrNotExist) {
		return map[enforce.Key]enforce.Reading{}, nil
	}
	if err != nil {
		p.close()
		return nil, fmt.Errorf("cannot read nftables: %w", err)
	}
	return map[enforce.Key]enforce.Reading{printers: {State: enforce.Present, Value: enforce.Value(value), How: portsHow}}, nil
}

// readPorts describes the table: as it was wanted if it is as it was made, and otherwise by the first difference.
func readPorts(c *nftables.Conn) (string, error) {
	t := portsTable()
	tables, err := c.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return "", err
	}
	at := slices.IndexFunc(tables, func(x *nftables.Table) bool { return x.Name == PortsTable })
	if at < 0 {
		return "", fs.ErrNotExist
	}
	if tables[at].Flags != 0 {
		return changed + "the table has flags, and may be dormant", nil
	}
	there, err := chainsOf(c, PortsTable)
	if err != nil {
		return "", err
	}
	rules := map[string][]*nftables.Rule{}
	for name, x := range there {
		if rules[name], err = c.GetRules(t, x); err != nil {
			return "", err
		}
	}
	value := listsOf(rules[chainOut])
	local, err := fact.ParsePortsClosed(value)
	if err != nil {
		return changed + "it does not say what it closes", nil //nolint:nilerr // that is the reading
	}
	full := portsChains(t, local)
	if len(there) != len(full) {
		return fmt.Sprintf("%sit has %d chains, not %d", changed, len(there), len(full)), nil
	}
	for _, want := range full {
		if !isAs(there[want.Name], &want) {
			return changed + "chain " + want.Name + " is not as it was made", nil
		}
		if n := differs(rules[want.Name], want.rules); n != "" {
			return changed + n + " of chain " + want.Name, nil
		}
	}
	return value, nil
}

// differs says what of a chain's rules is not as it was made; "" if nothing.
func differs(has []*nftables.Rule, want [][]expr.Any) string {
	if len(has) != len(want) {
		return fmt.Sprintf("%d rules, not %d", len(has), len(want))
	}
	for n := range has {
		if print(has[n].Exprs) != print(want[n]) {
			return fmt.Sprintf("another rule %d", n+1)
		}
	}
	return ""
}

// Watch reports other programs' transactions that concern the table.
func (p *Ports) Watch(ctx context.Context, changed func(platform.Touch)) error {
	if p.off {
		<-ctx.Done()
		return nil
	}
	return watchTable(ctx, PortsTable, printers, func() uint32 {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.own
	}, changed)
}
