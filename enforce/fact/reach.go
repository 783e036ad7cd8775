package fact

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Destination is what a program wants to reach: a name as it is looked up (lower-case, A-labels, without a dot at its
// end), or an address.
type Destination struct {
	Name    string     `json:"name,omitempty"`
	Address netip.Addr `json:"address,omitzero"`
	Port    uint16     `json:"port,omitempty"`
	// Link says that the name stands in the answer for another one that was allowed, such as a CNAME's target: only an
	// entry that blocks it is about it.
	Link bool `json:"-"`
}

// Range is the addresses from First to Last, both included and of the same family.
type Range struct{ First, Last netip.Addr }

// Has reports whether an address is in the range.
func (r Range) Has(a netip.Addr) bool { return r.First.Compare(a) <= 0 && a.Compare(r.Last) <= 0 }

// IsPrivate reports whether a range is in a network that no host outside has.
func (r Range) IsPrivate() bool {
	return slices.ContainsFunc(Private, func(p netip.Prefix) bool { return p.Contains(r.First) && p.Contains(r.Last) })
}

// Private are those networks (RFC 1918, 6598 and 4193).
var Private = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("172.16.0.0/12"), netip.MustParsePrefix("192.168.0.0/16"),
	netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("fc00::/7")}

// Extend adds a range to a sorted list, joined with the last one if they touch.
func Extend(list []Range, from, to netip.Addr) []Range {
	if n := len(list); n > 0 && list[n-1].Last.Next() == from {
		list[n-1].Last = to
		return list
	}
	return append(list, Range{First: from, Last: to})
}

// Last is the last address of a network.
func Last(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < 8*len(b); i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

func (r Range) String() string {
	if r.First == r.Last {
		return r.First.String()
	}
	return r.First.String() + "-" + r.Last.String()
}

// Reach is what a firewall has to know of a policy: which addresses can be reached without being looked up.
type Reach struct {
	// Names stands for the lists of names that are in force; it changes with them.
	Names string
	// Only says that nothing can be reached but what an allowed name resolved to, and Allow.
	Only bool
	// Allow and Refuse are sorted, disjoint, and no range touches the next. Allow is empty without Only.
	Allow, Refuse []Range
	// Resolvers are the addresses at which names can be looked up past this machine's resolver. They are closed for that.
	Resolvers []Range
}

// layout counts the forms that the firewall's table has had: a table that an earlier version made is not taken for one that
// another program has changed.
const layout = 3

// String describes a reach in one line. Two that differ are described differently.
func (r Reach) String() string {
	h := sha256.New()
	fmt.Fprintln(h, "layout", layout)
	for _, list := range [][]Range{r.Allow, r.Refuse, r.Resolvers} {
		for _, x := range list {
			fmt.Fprintln(h, x)
		}
		fmt.Fprintln(h)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "names are judged (lists %s)", r.Names)
	if r.Only {
		fmt.Fprintf(&b, "; only allowed names and %d networks can be reached", len(r.Allow))
	}
	if len(r.Refuse) > 0 {
		fmt.Fprintf(&b, "; %d networks are refused", len(r.Refuse))
	}
	fmt.Fprintf(&b, "; %d other resolvers are closed (%s)", len(r.Resolvers), hex.EncodeToString(h.Sum(nil))[:16])
	return b.String()
}
