// Package firewall owns Warder's own nftables table, "inet warder", and nothing else of the machine's packet filter: which
// addresses can be reached, the ports by which names could be looked up past our resolver, and the redirection of every
// question about a name to that resolver. Everything is written in one transaction, and read back rule by rule. Packets
// with our mark (link.Mark) always pass: the resolver's own questions, and the probe that tells whether a policy cut this
// machine off. Source of the format: nftables' netlink messages (linux/netfilter/nf_tables.h).
package firewall

import (
	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/platform"
)

const (
	kind = "firewall"
	// Table is the name of our table, of the family inet.
	Table = "warder"

	onlyLinux = "names and addresses are only governed on Linux in this version"
	// allowedLimit and blockedLimit say what escapes; docs/network.md has each with its test.
	ungoverned = "not governed are containers and virtual machines, connections that the other side begins, IPv4 addresses behind " +
		"a translating prefix (NAT64), what root sends past the packet filter or with Warder's packet mark, and a boot until the agent runs"
	allowedLimit = "another name at an allowed address (shared hosting) and every port of a host in the public time pool can be " +
		"reached, too; whoever runs the machine's name server decides what an allowed name resolves to; " + ungoverned
	switchLimit = "not closed are the VPN's own server for other programs, what is no IP, what root sends past the packet filter " +
		"(raw sockets on an interface) or with Warder's packet mark, other network namespaces that have an interface of their own, virtual machines that are bridged onto " +
		"a network card, and what is beside IPsec without an interface; that a tunnel works is only seen of WireGuard"
	alwaysLimit  = "names in network.vpn.bootstrap_domains are reached by that name alone, and routes that the VPN installs beside itself stay closed; " + switchLimit
	blockedLimit = "names are refused, not addresses: programs that know an address, or ask an unknown resolver over HTTPS or at " +
		"another port, get through; " + ungoverned
)

// nameClaims are what this package supports of names, on every system, together with the resolver; vpnClaims what the kill switch
// does, together with the tunnels' observer.
func nameClaims() []platform.Claim {
	return everywhere(onlyLinux, platform.Claim{Setting: "network.allowed_domains", Limit: allowedLimit},
		platform.Claim{Setting: "network.blocked_domains", Limit: blockedLimit},
		platform.Claim{Setting: "network.allowed_lists", Limit: allowedLimit}, platform.Claim{Setting: "network.blocked_lists", Limit: blockedLimit})
}

func vpnClaims() []platform.Claim {
	return everywhere("VPNs are only governed on Linux in this version", platform.Claim{Setting: "network.vpn_required", Limit: switchLimit},
		platform.Claim{Setting: "network.vpn_always_on", Limit: alwaysLimit}, platform.Claim{Setting: "network.split_tunnel", Limit: switchLimit},
		platform.Claim{Setting: "network.vpn", Limit: switchLimit})
}

// everywhere are claims that are partial on Linux, with what other systems do not support.
func everywhere(other string, list ...platform.Claim) (out []platform.Claim) {
	for _, c := range list {
		c.OS, c.Level, c.Exercised = "linux", fact.Partial, true
		out = append(out, c)
		for _, os := range []string{"windows", "darwin"} {
			out = append(out, platform.Claim{Setting: c.Setting, OS: os, Level: fact.Unsupported, Limit: other})
		}
	}
	return out
}

// names is the one resource: the table with what names need.
var names = enforce.Key{Kind: kind, ID: "names"}
