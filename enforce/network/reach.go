package network

import (
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
)

// onLink are the addresses that a machine needs to be part of a network at all: link-local ones, and the multicast groups
// of its own link (neighbours, routers, DHCP, local names).
var onLink = prefixes("169.254.0.0/16", "224.0.0.0/24", "255.255.255.255/32", "fe80::/10", "ff02::/16")

func prefixes(list ...string) (out []netip.Prefix) {
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

// Reach is what the firewall has to know of the settings that are at least in the given mode.
func (r *Rules) Reach(least enforce.Mode) fact.Reach {
	out := fact.Reach{Only: r.modeAllowed >= least}
	if out.Only {
		out.Names = r.lists.sum[0]
	}
	if r.modeBlocked >= least {
		out.Names = strings.TrimPrefix(out.Names+"+"+r.lists.sum[1], "+")
	}
	lists := out.Names != "" && (least < enforce.Enforce || r.listed())
	if !lists {
		out.Names = "" // an empty list refuses nothing
	}
	if r.modeClients >= least {
		out.Names = strings.TrimPrefix(out.Names+"+sync clients", "+")
	}
	allow, refuse := r.ranges(least)
	if out.Refuse = refuse; lists {
		out.Resolvers = without(otherResolvers(), allow)
	}
	if out.Only {
		out.Allow = allow
	}
	return out
}

// ranges flattens the lists, where the longest entry wins, to disjoint ranges of addresses.
func (r *Rules) ranges(least enforce.Mode) (allow, refuse []fact.Range) {
	var of uint8
	if r.modeAllowed >= least {
		of |= netAllow
	}
	if r.modeBlocked >= least {
		of |= netBlock
	}
	var all []netip.Prefix
	for i := range r.essential {
		if n := r.essential[i].name.Net; n.IsValid() {
			all = append(all, n)
		}
	}
	all = append(all, onLink...)
	all = append(all, slices.Collect(maps.Keys(r.exceptedNets.of))...)
	for p, f := range r.lists.nets.of {
		if f&of != 0 {
			all = append(all, p)
		}
	}
	// Between two edges every address has the same answer.
	var edges []netip.Addr
	for _, p := range all {
		edges = append(edges, p.Addr())
		if next := fact.Last(p).Next(); next.IsValid() {
			edges = append(edges, next)
		}
	}
	slices.SortFunc(edges, netip.Addr.Compare)
	edges = slices.Compact(edges)
	for i, from := range edges {
		to := fact.Last(netip.PrefixFrom(from, 0))
		if i+1 < len(edges) && edges[i+1].Is4() == from.Is4() {
			to = edges[i+1].Prev()
		}
		_, block, found := r.lists.nets.match(from, of)
		switch {
		case r.isEssential(&Subject{Address: from}), r.isExcepted(&Subject{Address: from}), found && !block:
			allow = fact.Extend(allow, from, to)
		case found:
			refuse = fact.Extend(refuse, from, to)
		case slices.ContainsFunc(onLink, func(p netip.Prefix) bool { return p.Contains(from) }):
			allow = fact.Extend(allow, from, to)
		}
	}
	return allow, refuse
}

// without removes the addresses that are in a range of another list.
func without(list []netip.Addr, in []fact.Range) (out []fact.Range) {
	for _, a := range list {
		if !slices.ContainsFunc(in, func(r fact.Range) bool { return r.Has(a) }) {
			out = fact.Extend(out, a, a)
		}
	}
	return out
}
