package policy

import (
	"fmt"
	"net/netip"
	"strings"

	"golang.org/x/net/idna"
)

// Name is one entry of a domain list. A plain name is that name and all below it, "*.n" all below
// and not n itself, "=n" that name alone; addresses and CIDRs stand for themselves.
type Name struct {
	Host  string // lower-case A-label, no trailing dot
	Scope Scope
	Net   netip.Prefix // where the entry is an address or a CIDR; Host is empty then
}

// Scope says how far a name reaches.
type Scope uint8

const (
	Subtree Scope = iota // the name and all below it
	Below                // all below it
	Exact                // that name alone
)

// ParseName reads one entry.
func ParseName(s string) (Name, error) {
	if p, err := netip.ParsePrefix(s); err == nil {
		if p != p.Masked() {
			return Name{}, fmt.Errorf("must have no bits set below its length: %s", p.Masked())
		}
		return Name{Net: p}, nil
	}
	if a, err := netip.ParseAddr(s); err == nil {
		if a.Zone() != "" {
			return Name{}, fmt.Errorf("must have no zone")
		}
		return Name{Net: netip.PrefixFrom(a, a.BitLen())}, nil
	}
	n := Name{}
	host := s
	switch {
	case strings.HasPrefix(s, "*."):
		n.Scope, host = Below, s[2:]
	case strings.HasPrefix(s, "="):
		n.Scope, host = Exact, s[1:]
	}
	host = strings.TrimSuffix(host, ".")
	a, err := idna.Lookup.ToASCII(host)
	if err != nil || a == "" || len(a) > 253 || strings.ContainsAny(a, "*=/:@ ") || !labels(a) {
		return Name{}, fmt.Errorf(`must be a domain name, "*.name", "=name", an address or a CIDR`)
	}
	n.Host = strings.ToLower(a)
	return n, nil
}

// labels checks the length of each label (RFC 1035, 2.3.4); idna leaves that to the caller.
func labels(host string) bool {
	for l := range strings.SplitSeq(host, ".") {
		if l == "" || len(l) > 63 {
			return false
		}
	}
	return true
}

func (n Name) String() string {
	switch {
	case n.Net.IsValid() && n.Net.IsSingleIP():
		return n.Net.Addr().String()
	case n.Net.IsValid():
		return n.Net.String()
	case n.Scope == Below:
		return "*." + n.Host
	case n.Scope == Exact:
		return "=" + n.Host
	}
	return n.Host
}

// Matches reports whether the entry covers a host, and how specifically: the greater, the longer.
func (n Name) Matches(host string) (int, bool) {
	if n.Host == "" {
		return 0, false
	}
	if host == n.Host {
		if n.Scope == Exact {
			return 2*len(n.Host) + 1, true
		}
		return 2 * len(n.Host), n.Scope == Subtree
	}
	below := len(host) > len(n.Host) && strings.HasSuffix(host, n.Host) && host[len(host)-len(n.Host)-1] == '.'
	return 2 * len(n.Host), below && n.Scope != Exact
}
