package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"golang.org/x/net/idna"
)

// Name is one entry of a domain list. A plain name covers that name and everything below it; "*.n" covers everything
// below n but not n itself; "=n" only that name. Addresses and CIDRs cover themselves.
type Name struct {
	Host  string // lower-case A-label, no trailing dot
	Scope Scope
	Net   netip.Prefix // if the entry is an address or a CIDR; Host is empty then
}

// Scope says how far a name reaches.
type Scope uint8

const (
	Subtree Scope = iota // the name and everything below it
	Below                // everything below it
	Exact                // that name alone
)

// ParseName reads one entry.
func ParseName(s string) (Name, error) {
	if p, err := netip.ParsePrefix(s); err == nil {
		if p != p.Masked() {
			return Name{}, fmt.Errorf("must have no bits set below its length: %s", p.Masked())
		}
		return Name{Net: unmapped(p)}, nil
	}
	if a, err := netip.ParseAddr(s); err == nil {
		if a.Zone() != "" {
			return Name{}, fmt.Errorf("must have no zone")
		}
		return Name{Net: unmapped(netip.PrefixFrom(a, a.BitLen()))}, nil
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
	a, err := asLookedUp(host)
	if err != nil || a == "" || len(a) > 253 || !labels(a) {
		return Name{}, fmt.Errorf(`must be a domain name, "*.name", "=name", an address or a CIDR`)
	}
	n.Host = a
	return n, nil
}

// lookup maps a name in another script as a browser does before it looks it up (UTS 46, not transitional). The rules
// for registering names are stricter and not applied: names with an underscore (services), with two hyphens in a row or
// with a hyphen at an end are looked up every day.
var lookup = idna.New(idna.MapForLookup(), idna.Transitional(false), idna.BidiRule(), idna.StrictDomainName(false),
	idna.CheckHyphens(false),
	idna.CheckJoiners(true))

// maxHost is more than a name of 253 characters takes in any script. Mapping takes a time that grows with the square of the length.
const maxHost = 1100

// asLookedUp is a host as it appears in a DNS question. A host that is already ASCII is only put into lower case, even
// if its "xn--" is not valid.
func asLookedUp(host string) (string, error) {
	if len(host) > maxHost {
		return "", errors.New("is too long")
	}
	for i := range len(host) {
		if host[i] >= 0x80 {
			return lookup.ToASCII(host)
		}
	}
	return strings.ToLower(host), nil
}

// unmapped converts an IPv4 network written as IPv6 ("::ffff:10.0.0.0/104") to IPv4, because packets only have the IPv4
// form.
func unmapped(p netip.Prefix) netip.Prefix {
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		return netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p
}

// labels checks the length of each label (RFC 1035, 2.3.4) and its characters: those of names that are looked up, which
// are more than may be registered.
func labels(host string) bool {
	for l := range strings.SplitSeq(host, ".") {
		if l == "" || len(l) > 63 || strings.Trim(l, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return false
		}
	}
	return true
}

// never says why an entry can match nothing; "" if it can match.
func (n Name) never() string {
	switch {
	case n.Net.IsValid() && n.Net.IsSingleIP() && n.Net.Addr().IsUnspecified():
		return "matches nothing: nobody can connect to this address"
	case n.Host != "" && numeric(n.Host[strings.LastIndexByte(n.Host, '.')+1:]):
		return "matches nothing: no domain name ends in a number; a network is written as a CIDR, such as 10.0.0.0/8"
	}
	return ""
}

func numeric(label string) bool { return strings.Trim(label, "0123456789") == "" }

// String is the entry in its canonical form.
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

// Matches reports whether the entry covers a host, and how specifically: the more specific entry has the greater
// number.
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
