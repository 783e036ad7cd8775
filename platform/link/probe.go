package link

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// Mark is the firewall mark of connections that our own rules always let pass.
const Mark = 0x57415244

// Asking is the firewall mark of our own resolver's questions: they are not redirected to it again, and otherwise judged as any
// program's. The kill switch lets none of them past the VPN that another program's would not.
const Asking = Mark + 1

// probeLimit bounds one probe.
const probeLimit = 10 * time.Second

// Probe reports whether a server can be reached: as any program on this machine would, or, with exempt, past our own
// rules, including the DNS question for its name. It uses the proxy; "" is the environment's. Any answer counts, and
// the server's identity is not checked, because nothing is sent.
func Probe(ctx context.Context, server, proxy string, exempt bool) error {
	u, err := url.Parse(server)
	if err != nil || u.Host == "" {
		return errors.New("the server's address cannot be read")
	}
	ctx, cancel := context.WithTimeout(ctx, probeLimit)
	defer cancel()
	t := &http.Transport{
		Proxy: http.ProxyFromEnvironment, DialContext: dial(exempt), DisableKeepAlives: true,
		TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: true}, //nolint:gosec // see above
	}
	defer t.CloseIdleConnections()
	if proxy != "" {
		p, err := url.Parse(proxy)
		if err != nil {
			return errors.New("the proxy's address cannot be read")
		}
		t.Proxy = http.ProxyURL(p)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, u.Scheme+"://"+u.Host+"/healthz", nil)
	if err != nil {
		return err
	}
	res, err := t.RoundTrip(req)
	if err != nil {
		return fmt.Errorf("cannot reach %s: %w", u.Host, err)
	}
	_ = res.Body.Close()
	if res.StatusCode == http.StatusBadGateway || res.StatusCode == http.StatusGatewayTimeout {
		return fmt.Errorf("cannot reach %s: the proxy answers %d", u.Host, res.StatusCode)
	}
	return nil
}

// Asks returns a dialer for our own resolver's questions. It looks up no names.
func Asks(timeout time.Duration) *net.Dialer {
	return &net.Dialer{Timeout: timeout, Control: func(_, _ string, c syscall.RawConn) error { return mark(c, Asking) }}
}

// Past returns a dialer whose connections, and the questions for their names, pass our own rules.
func Past() *net.Dialer { return marked(func(c syscall.RawConn) error { return mark(c, Mark) }) }

// PastBy is Past by one interface, whatever the routes say.
func PastBy(name string) *net.Dialer {
	return marked(func(c syscall.RawConn) error { return errors.Join(mark(c, Mark), bind(c, name)) })
}

// By returns a dialer whose connections leave by one interface, whatever the routes say. It looks up no names.
func By(name string) *net.Dialer {
	return &net.Dialer{Timeout: probeLimit, Control: func(_, _ string, c syscall.RawConn) error { return bind(c, name) }}
}

// dial returns how a plain program dials, or how past our own rules.
func dial(exempt bool) func(context.Context, string, string) (net.Conn, error) {
	if exempt {
		return Absolute(Past())
	}
	return (&net.Dialer{Timeout: probeLimit}).DialContext
}

// Absolute dials as d, but looks a name up as it is, without the search domains that a network hands out: otherwise that network would
// choose what is asked past our rules.
func Absolute(d *net.Dialer) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		if host, port, err := net.SplitHostPort(address); err == nil && net.ParseIP(host) == nil {
			address = net.JoinHostPort(Rooted(host), port)
		}
		return d.DialContext(ctx, network, address)
	}
}

// Rooted is a name that no search domain is added to.
func Rooted(name string) string { return strings.TrimSuffix(name, ".") + "." }

// marked returns a dialer whose connections and DNS questions are made by such sockets.
func marked(prepare func(syscall.RawConn) error) *net.Dialer {
	d := &net.Dialer{Timeout: probeLimit, Control: func(_, _ string, c syscall.RawConn) error { return prepare(c) }}
	ask := &net.Dialer{Timeout: probeLimit, Control: d.Control}
	var tries atomic.Uint32
	d.Resolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		list := upstreams(address) // the resolver asks again: use the next server then
		return ask.DialContext(ctx, network, list[int(tries.Add(1)-1)%len(list)])
	}}
	return d
}
