package fact

import (
	"crypto/sha256"
	"encoding/hex"
	"net/netip"
)

// Tunnels are this machine's tunnels, and where what it sends to other hosts goes.
type Tunnels struct {
	List []Tunnel `json:"list"`
	// Ways are where packets go that a program sends without choosing an interface, an address of its own, or anything
	// else that a routing rule asks for.
	Ways []Way `json:"ways"`
	// Unrouted is why the ways are not known, although the tunnels are; "" if they are.
	Unrouted string `json:"unrouted,omitempty"`
	// Rules are routing rules that send some packets elsewhere, by their user, protocol, port or own address, in the words
	// of ip-rule(8).
	Rules []string `json:"rules,omitempty"`
	// Configured are the servers that the VPN programs' own configuration names, as "host:port" or a host alone. They are not
	// reported.
	Configured []string `json:"-"`
	// Learnt is how many those are.
	Learnt int `json:"learnt,omitempty"`
	// Inside are the numbers of interfaces that lead to containers and virtual machines of this machine alone: packets stay in it.
	Inside []int `json:"-"`
	// Gateways are the routers to other networks, and Servers the name servers of this machine. They are not reported.
	Gateways []netip.Addr `json:"-"`
	Servers  []netip.Addr `json:"-"`
}

// The kinds of tunnels. A tunnel of kind TunnelIPsec has no interface of its own: packets are taken from whichever they would
// leave through.
const (
	TunnelWireGuard = "wireguard"
	TunnelTun       = "tun"
	TunnelTap       = "tap"
	TunnelXFRM      = "xfrm"
	TunnelVTI       = "vti"
	TunnelPPP       = "ppp"
	TunnelIPsec     = "ipsec"
)

// Tunnel is one tunnel.
type Tunnel struct {
	Name string `json:"name"` // the interface's; TunnelIPsec without one
	Kind string `json:"kind"`
	// Index is the kernel's number of the interface; another one with its name has another number. It is not reported.
	Index int  `json:"-"`
	Up    bool `json:"up"`
	// Peers are WireGuard's, or one for each other end of IPsec.
	Peers []Peer `json:"peers,omitempty"`
	// Far are addresses at its other end: that of a point-to-point interface, and the routers that routes over it name.
	// They are not reported.
	Far []netip.Addr `json:"-"`
	// Silent is why packets probably do not arrive at the other end; "" if nothing says so.
	Silent string `json:"silent,omitempty"`
}

// Peer is one other end of a tunnel.
type Peer struct {
	// Key stands for WireGuard's public key; see PeerKey. It is empty for other kinds.
	Key string `json:"key,omitempty"`
	// Endpoint is the address to which its packets are sent. It is not reported.
	Endpoint netip.AddrPort `json:"-"`
}

// PeerKey stands for a WireGuard public key, in base64, where whose VPN a person uses must not be told.
func PeerKey(key string) string {
	h := sha256.Sum256([]byte("warder peer " + key))
	return hex.EncodeToString(h[:8])
}

// Way is one of the ways by which packets leave this machine.
type Way struct {
	Interface string `json:"interface"` // TunnelIPsec: taken by IPsec's policies
	Family    int    `json:"family"`    // 4 or 6
	// Link says that these are the neighbours: hosts of the networks that the interface itself has an address in.
	Link bool `json:"link,omitempty"`
	// Host says that these are single addresses, each routed by itself, as a VPN's own server is.
	Host bool `json:"host,omitempty"`
	// Most says that most of the family's addresses are reached by this way.
	Most bool `json:"most,omitempty"`
	// Ranges are sorted and disjoint. They are not reported: they tell where a person is.
	Ranges []Range `json:"-"`
	Count  int     `json:"count"` // of the ranges
	// Public says that some of the addresses belong to hosts outside: neither to private networks, nor to an IPv6 network of the own
	// link that is not larger than one usually is (/64).
	Public bool `json:"public,omitempty"`
}
