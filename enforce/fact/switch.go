package fact

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// The modes of the kill switch.
const (
	// SwitchUp closes everything beside the VPN while it is up.
	SwitchUp = "packets leave through the VPN alone while it is up"
	// SwitchAlways closes everything beside the VPN, whether it is up or not.
	SwitchAlways = "packets leave through the VPN alone, also while it is down"
)

// Door is an address beside the VPN that can be reached; port 0: at any port, by any protocol.
type Door struct {
	Address netip.Addr
	Port    uint16
}

// Carried is what the kill switch has to know of a moment.
type Carried struct {
	Mode    string // SwitchUp or SwitchAlways
	Closed  bool   // packets leave through Tunnels alone
	Tunnels []int  // the kernel's numbers of their interfaces
	Doors   []Door
	// Own are those that root's programs alone may reach: the policy server, and the proxy to it.
	Own []Door
	// Brief are further ones, which end soon: for a sign-in page.
	Brief []Door
	// Local are the addresses of the own networks that can be reached beside it; sorted and disjoint.
	Local []Range
	// Names can be looked up beside it, exactly as they stand here.
	Names []string
	// Servers are the name servers of which they may be asked.
	Servers []netip.Addr
}

// Sort brings the lists into one order, without what stands twice.
func (c *Carried) Sort() {
	slices.Sort(c.Tunnels)
	c.Tunnels = slices.Compact(c.Tunnels)
	for _, list := range []*[]Door{&c.Doors, &c.Own, &c.Brief} {
		slices.SortFunc(*list, func(a, b Door) int { return cmp.Or(a.Address.Compare(b.Address), cmp.Compare(a.Port, b.Port)) })
		*list = slices.Compact(*list)
	}
	slices.SortFunc(c.Servers, netip.Addr.Compare)
	c.Servers = slices.Compact(c.Servers)
	slices.Sort(c.Names)
	c.Names = slices.Compact(c.Names)
}

// Equal reports whether two sorted ones are the same.
func (c *Carried) Equal(o *Carried) bool {
	return c.Mode == o.Mode && c.Closed == o.Closed && slices.Equal(c.Tunnels, o.Tunnels) && slices.Equal(c.Doors, o.Doors) &&
		slices.Equal(c.Own, o.Own) && slices.Equal(c.Brief, o.Brief) && slices.Equal(c.Local, o.Local) && slices.Equal(c.Names, o.Names) && slices.Equal(c.Servers, o.Servers)
}

// String describes it in one line.
func (c *Carried) String() string {
	if !c.Closed {
		return "open"
	}
	out := fmt.Sprintf("closed, but for %d interface(s), %d address(es) beside them, and %d own network(s)", len(c.Tunnels),
		len(c.Doors)+len(c.Own)+len(c.Brief), len(c.Local))
	if len(c.Names) > 0 {
		out += "; names that are looked up: " + strings.Join(c.Names, ", ")
	}
	return out
}
