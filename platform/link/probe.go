package link

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"syscall"
	"time"
)

// Mark is the firewall mark of connections that our own rules always let pass.
const Mark = 0x57415244

// probeLimit bounds one probe.
const probeLimit = 10 * time.Second

// Probe reports whether a server's port can be reached: as any program of this machine would, or
// with exempt past our own rules.
func Probe(ctx context.Context, server string, exempt bool) error {
	u, err := url.Parse(server)
	if err != nil {
		return err
	}
	port := u.Port()
	if port == "" {
		port = "443"
		if u.Scheme == "http" {
			port = "80"
		}
	}
	d := net.Dialer{Timeout: probeLimit}
	if exempt {
		d.Control = func(_, _ string, c syscall.RawConn) error { return mark(c) }
	}
	c, err := d.DialContext(ctx, "tcp", net.JoinHostPort(u.Hostname(), port))
	if err != nil {
		return fmt.Errorf("cannot reach %s: %w", u.Host, err)
	}
	return c.Close()
}
