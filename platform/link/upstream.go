package link

import (
	"net"
	"os"
	"strings"
)

// resolved is where systemd-resolved writes the servers that it asks (systemd-resolved.service(8)).
const resolved = "/run/systemd/resolve/resolv.conf"

// upstream is the name server behind a stub on this machine: what the stub asks in our place would not
// carry our mark.
func upstream(address string) string { return upstreamIn(address, resolved) }

func upstreamIn(address, file string) string {
	host, port, err := net.SplitHostPort(address)
	if err != nil || !strings.HasPrefix(host, "127.0.0.5") {
		return address
	}
	b, err := os.ReadFile(file)
	if err != nil || len(b) > 64<<10 {
		return address
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == "nameserver" && net.ParseIP(f[1]) != nil {
			return net.JoinHostPort(f[1], port)
		}
	}
	return address
}
