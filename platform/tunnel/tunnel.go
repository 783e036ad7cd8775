// Package tunnel observes VPNs: which tunnels this machine has (WireGuard in the kernel and in a program, tun and tap, IPsec with and
// without an interface, PPP), and where what it sends goes. That is not guessed from a default route: the kernel is asked for an
// address of every part of the address space between whose edges no routing table and no IPsec policy makes a difference. It
// writes nothing itself: its guard tells the firewall's kill switch what is so. Whether a tunnel is the company's is decided by enforce/network.
package tunnel

import (
	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/platform"
)

// seen is the limit of what is observed; docs/network.md has each part with its test. What is closed is among the firewall's claims.
const seen = "nothing can be closed on this machine. Not seen are programs that choose an interface or an address of this machine themselves, " +
	"what root routes by packet marks, and other network namespaces; that a tunnel works is only seen of WireGuard"

// State is what there was when it was last read, for support on the machine itself.
type State struct {
	fact.Tunnels
	// Endpoints are the addresses of the other ends, by tunnel.
	Endpoints map[string][]string `json:"endpoints"`
	Switch    string              `json:"switch,omitempty"`  // what the kill switch was told last; "" without one
	Problem   string              `json:"problem,omitempty"` // why nothing is known
}

// claims are what this package supports: what it observes is enough for these without the firewall.
func claims() (out []platform.Claim) {
	for _, s := range []enforce.Setting{"network.vpn", "network.vpn_required", "network.split_tunnel"} {
		out = append(out, platform.Claim{Setting: s, OS: "linux", Level: fact.DetectOnly, Limit: seen, Exercised: true})
	}
	return out
}
