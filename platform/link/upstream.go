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

// Configured are the files that say which servers are asked here: those of local resolvers, and the system's own.
func Configured() []string { return append(slices.Clone(stubs), "/etc/resolv.conf") }

// Servers lists the name servers that this machine asks, without resolvers on the machine itself: all that any of the files
// names, because a VPN may change only one of them.
func Servers() []netip.AddrPort {
	own := map[netip.Addr]bool{}
	if list, err := net.InterfaceAddrs(); err == nil {
		for _, a := range list {
			if n, ok := a.(*net.IPNet); ok {
				addr, _ := netip.AddrFromSlice(n.IP)
				own[addr.Unmap()] = true
			}
		}
	}
	return serversIn(Configured(), own)
}

// serversIn is Servers, with the files and the machine's own addresses as arguments.
func serversIn(files []string, own map[netip.Addr]bool) (out []netip.AddrPort) {
	for _, f := range files {
		directives(f, func(name string, args []string) {
			a, err := netip.ParseAddr(args[0])
			if name != "nameserver" || err != nil || a.IsLoopback() || own[a.Unmap().WithZone("")] {
				return
			}
			if s := netip.AddrPortFrom(a.Unmap(), 53); !slices.Contains(out, s) {
				out = append(out, s)
			}
		})
	}
	return out
}

// Domains lists the domains of this machine's links: those that a single-label name is looked up in.
func Domains() []string { return domainsIn(Configured()) }

// domainsIn is Domains, with the files as an argument.
func domainsIn(files []string) (out []string) {
	for _, f := range files {
		directives(f, func(name string, args []string) {
			if name != "search" && name != "domain" {
				return
			}
			for _, d := range args {
				d = strings.ToLower(strings.Trim(d, "."))
				if d != "" && !slices.Contains(out, d) {
					out = append(out, d)
				}
			}
		})
	}
	return out
}

// directives calls f with each line of a file in the format of resolv.conf(5) that has an argument.
func directives(file string, f func(name string, args []string)) {
	b, err := os.ReadFile(file)
	if err != nil || len(b) > 64<<10 {
		return
	}
	for line := range strings.Lines(string(b)) {
		if words := strings.Fields(line); len(words) > 1 {
			f(words[0], words[1:])
		}
	}
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
		directives(f, func(name string, args []string) {
			bare, _, _ := strings.Cut(args[0], "%") // a link-local address names its link
			if ip := net.ParseIP(bare); name == "nameserver" && ip != nil && !ip.IsLoopback() {
				out = append(out, net.JoinHostPort(args[0], port))
			}
		})
		if len(out) > 0 {
			return out
		}
	}
	return []string{address}
}
