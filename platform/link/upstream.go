package link

import (
	"net"
	"os"
	"strings"
)

// stubs are the files in which local resolvers list the servers that they ask (systemd-resolved.service(8),
// NetworkManager.conf(5)).
var stubs = []string{"/run/systemd/resolve/resolv.conf", "/run/NetworkManager/no-stub-resolv.conf", "/run/NetworkManager/resolv.conf"}

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
