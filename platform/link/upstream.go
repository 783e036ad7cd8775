package link

import (
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
)

// stubs are the files in which local resolvers list the servers that they ask (systemd-resolved.service(8),
// NetworkManager.conf(5)).
var stubs = []string{"/run/systemd/resolve/resolv.conf", "/run/NetworkManager/no-stub-resolv.conf", "/run/NetworkManager/resolv.conf"}

// Servers lists the name servers that this machine would ask, without local stubs: those of the local resolver, or of
// resolv.conf.
func Servers() (out []netip.AddrPort) {
	for _, s := range upstreamsIn("127.0.0.1:53", append(slices.Clone(stubs), "/etc/resolv.conf")) {
		if a, err := netip.ParseAddrPort(s); err == nil && !a.Addr().IsLoopback() {
			out = append(out, a)
		}
	}
	return out
}

// Domains lists the domains of this machine's links: those that a single-label name is looked up in.
func Domains() (out []string) { return domainsIn(append(slices.Clone(stubs), "/etc/resolv.conf")) }

// domainsIn is Domains, with the files as an argument (resolv.conf(5)).
func domainsIn(files []string) (out []string) {
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil || len(b) > 64<<10 {
			continue
		}
		for line := range strings.Lines(string(b)) {
			f := strings.Fields(line)
			if len(f) < 2 || f[0] != "search" && f[0] != "domain" {
				continue
			}
			for _, d := range f[1:] {
				d = strings.ToLower(strings.Trim(d, "."))
				if d != "" && !slices.Contains(out, d) {
					out = append(out, d)
				}
			}
		}
	}
	return out
}

// upstreams returns the name servers behind a local stub resolver, because questions that the stub sends for us would
// not carry our mark. If they are unknown, or there is no stub, it returns the address itself.
func upstreams(address string) []string { return upstreamsIn(address, stubs) }

// upstreamsIn is upstreams, with the files as an argument.
func upstreamsIn(address string, files []string) (out []string) {
	host, port, err := net.SplitHostPort(address)
	if ip := net.ParseIP(host); err != nil || ip == nil || !ip.IsLoopback() {
		return []string{address}
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil || len(b) > 64<<10 {
			continue
		}
		for line := range strings.Lines(string(b)) {
			f := strings.Fields(line)
			if len(f) < 2 || f[0] != "nameserver" {
				continue
			}
			bare, _, _ := strings.Cut(f[1], "%") // a link-local address names its link
			if ip := net.ParseIP(bare); ip != nil && !ip.IsLoopback() {
				out = append(out, net.JoinHostPort(f[1], port))
			}
		}
		if len(out) > 0 {
			return out
		}
	}
	return []string{address}
}
