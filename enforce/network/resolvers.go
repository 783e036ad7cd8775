package network

import (
	"net/netip"
	"slices"
	"sync"

	"github.com/warderd/warder/enforce/policy"
)

// The other ways to look up names: the public resolvers that browsers and systems offer for DNS over HTTPS, TLS and QUIC,
// as their operators publish them. Their names are refused while a list is in force, unless an entry of
// allowed_domains covers them, and their addresses are closed at the ports of those protocols.
var (
	resolverNames = []string{
		"dns.google", "dns64.dns.google", "8888.google", "cloudflare-dns.com", "one.one.one.one", "1dot1dot1dot1.cloudflare-dns.com",
		"doh.cloudflare-dns.com", "dns.cloudflare.com", "dns.quad9.net", "dns9.quad9.net", "dns10.quad9.net",
		"dns11.quad9.net", "doh.opendns.com", "dns.opendns.com", "doh.familyshield.opendns.com", "doh.umbrella.com", "dns.umbrella.com",
		"dns.adguard.com", "dns.adguard-dns.com", "dns-family.adguard.com", "family.adguard-dns.com", "unfiltered.adguard-dns.com",
		"d.adguard-dns.com", "dns.nextdns.io", "dns1.nextdns.io", "dns2.nextdns.io", "anycast.dns.nextdns.io", "firefox.dns.nextdns.io",
		"chromium.dns.nextdns.io", "dns.controld.com", "freedns.controld.com", "doh.cleanbrowsing.org",
		"security-filter-dns.cleanbrowsing.org", "family-filter-dns.cleanbrowsing.org", "adult-filter-dns.cleanbrowsing.org",
		"doh.mullvad.net", "dns.mullvad.net", "adblock.dns.mullvad.net", "base.dns.mullvad.net", "all.dns.mullvad.net",
		"doh.dns.sb", "dot.sb", "dns.sb", "doh.libredns.gr", "dns.digitale-gesellschaft.ch", "dns.switch.ch", "doh.ffmuc.net",
		"dot.ffmuc.net", "dns.alidns.com", "doh.pub", "dot.pub", "dns.twnic.tw", "public.dns.iij.jp", "doh.xfinity.com",
		"dns0.eu", "zero.dns0.eu", "kids.dns0.eu", "dns4all.eu", "doh.dns4all.eu", "protective.joindns4.eu", "unfiltered.joindns4.eu",
		"dnsforge.de", "doh.applied-privacy.net", "dot1.applied-privacy.net", "odoh.cloudflare-dns.com", "doh.dns.apple.com",
		"mask.icloud.com", "mask-h2.icloud.com",
	}
	// canaries are the names by which programs ask a network whether they may look up names past it (Firefox).
	canaries          = []string{"use-application-dns.net"}
	resolverAddresses = []string{
		"8.8.8.8", "8.8.4.4", "2001:4860:4860::8888", "2001:4860:4860::8844", "2001:4860:4860::64", "2001:4860:4860::6464",
		"1.1.1.1", "1.0.0.1", "1.1.1.2", "1.0.0.2", "1.1.1.3", "1.0.0.3", "2606:4700:4700::1111", "2606:4700:4700::1001",
		"2606:4700:4700::1112", "2606:4700:4700::1002", "2606:4700:4700::1113", "2606:4700:4700::1003", "2606:4700:4700::64",
		"2606:4700:4700::6400", "104.16.248.249", "104.16.249.249", "2606:4700::6810:f8f9", "2606:4700::6810:f9f9",
		"162.159.36.1", "162.159.46.1", "162.159.61.3", "172.64.41.3", "2803:f800:53::3", "2a06:98c1:52::3",
		"9.9.9.9", "149.112.112.112", "9.9.9.10", "149.112.112.10", "9.9.9.11", "149.112.112.11", "9.9.9.12", "149.112.112.12",
		"149.112.112.9", "2620:fe::fe", "2620:fe::9", "2620:fe::10", "2620:fe::fe:10", "2620:fe::11", "2620:fe::fe:11", "2620:fe::fe:9",
		"208.67.222.222", "208.67.220.220", "208.67.222.123", "208.67.220.123", "146.112.41.2", "146.112.41.3",
		"2620:119:35::35", "2620:119:53::53", "2620:119:fc::2",
		"94.140.14.14", "94.140.15.15", "94.140.14.15", "94.140.15.16", "94.140.14.140", "94.140.14.141", "2a10:50c0::ad1:ff",
		"2a10:50c0::ad2:ff", "2a10:50c0::bad1:ff", "2a10:50c0::bad2:ff", "2a10:50c0::1:ff", "2a10:50c0::2:ff",
		"45.90.28.0", "45.90.30.0", "2a07:a8c0::", "2a07:a8c1::",
		"76.76.2.0", "76.76.10.0", "76.76.2.11", "76.76.10.11", "2606:1a40::", "2606:1a40:1::",
		"185.228.168.9", "185.228.169.9", "185.228.168.10", "185.228.169.11", "185.228.168.168", "185.228.169.168",
		"194.242.2.2", "194.242.2.3", "194.242.2.4", "194.242.2.5", "194.242.2.6", "194.242.2.9", "2a07:e340::2", "2a07:e340::3",
		"185.222.222.222", "45.11.45.11", "2a09::", "2a11::", "193.110.81.0", "185.253.5.0", "2a0f:fc80::", "2a0f:fc81::",
		"130.59.31.248", "130.59.31.251", "2001:620:0:ff::2", "2001:620:0:ff::3", "185.95.218.42", "185.95.218.43", "2a05:fc84::42",
		"2a05:fc84::43", "5.1.66.255", "185.150.99.255", "2001:678:e68:f000::", "2001:678:ed0:f000::", "223.5.5.5", "223.6.6.6",
		"2400:3200::1", "2400:3200:baba::1", "1.12.12.12", "120.53.53.53", "176.9.93.198", "176.9.1.117", "146.255.56.98",
	}
)

// otherNames are those names, hashed.
var otherNames = sync.OnceValue(func() *table {
	b := &builder{}
	for _, list := range [][]string{resolverNames, canaries} {
		for _, s := range list {
			if n, err := policy.ParseName(s); err == nil {
				b.add(n, false)
			}
		}
	}
	return b.table()
})

// otherResolvers are those addresses, in order.
var otherResolvers = sync.OnceValue(func() (out []netip.Addr) {
	for _, s := range resolverAddresses {
		if a, err := netip.ParseAddr(s); err == nil {
			out = append(out, a)
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out)
})
