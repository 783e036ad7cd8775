package agent

import (
	"cmp"
	"context"
	"net"
	"net/netip"
	"time"

	"github.com/warderd/warder/platform/link"
)

// besideAfter is how long the usual way may take before another is tried, too.
const besideAfter = 5 * time.Second

// dial connects to the policy server, or to the proxy on the way to it: as any program would, and, while a policy asks for a VPN, also
// by the interfaces beside it if that takes long. Otherwise a tunnel that takes everything and leads nowhere would keep
// away the very policy that ends it.
func (a *Agent) dial(ctx context.Context, network, address string) (net.Conn, error) {
	usual := &net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second} // as of http.DefaultTransport
	ways := []func(context.Context) (net.Conn, error){
		func(ctx context.Context) (net.Conn, error) { return usual.DialContext(ctx, network, address) },
	}
	host, port, err := net.SplitHostPort(address)
	if err == nil && a.endpoints != nil {
		for _, addr := range a.endpoints.known(host) {
			if addr.IsLoopback() {
				continue
			}
			for _, name := range link.Uplinks() {
				to, by := net.JoinHostPort(addr.String(), port), link.By(name)
				by.KeepAlive = usual.KeepAlive
				ways = append(ways, func(ctx context.Context) (net.Conn, error) { return by.DialContext(ctx, network, to) })
			}
		}
	}
	return first(ctx, ways[:min(len(ways), besideMost)], besideAfter)
}

// besideMost bounds the ways that are tried at the same time.
const besideMost = 9

// first returns the first connection that is made by any of these ways. The first of them has a head start. Without a connection, its
// error is returned.
func first(ctx context.Context, ways []func(context.Context) (net.Conn, error), head time.Duration) (net.Conn, error) {
	if len(ways) == 1 {
		return ways[0](ctx)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		conn net.Conn
		err  error
		way  int
	}
	results := make(chan result, len(ways))
	start := func(i int) { go func() { c, err := ways[i](ctx); results <- result{c, err, i} }() }
	start(0)
	timer := time.NewTimer(head)
	defer timer.Stop()
	started, failed := 1, error(nil)
	others := func() {
		for ; started < len(ways); started++ {
			start(started)
		}
	}
	for ended := 0; ended < len(ways); {
		select {
		case <-timer.C:
			others()
		case r := <-results:
			ended++
			if r.err == nil {
				left := started - ended
				go func() { // whatever else comes is not needed
					for range left {
						if r := <-results; r.conn != nil {
							_ = r.conn.Close()
						}
					}
				}()
				return r.conn, nil
			}
			if r.way == 0 {
				failed = r.err
				others()
			}
		}
	}
	return nil, cmp.Or(failed, context.Cause(ctx))
}

// lookUpPast looks up a name past our own rules: as the routes say, and then, if nobody answers, by the interfaces beside a tunnel. Such a
// tunnel may be up without leading anywhere because its server has another address now.
func lookUpPast(ctx context.Context, host string) ([]netip.Addr, error) {
	limited, cancel := context.WithTimeout(ctx, endpointLimit/3)
	list, failed := link.Past().Resolver.LookupNetIP(limited, "ip", host)
	cancel()
	if failed == nil {
		return list, nil
	}
	for _, name := range link.Uplinks() {
		limited, cancel := context.WithTimeout(ctx, endpointLimit/3)
		list, err := link.PastBy(name).Resolver.LookupNetIP(limited, "ip", host)
		cancel()
		if err == nil {
			return list, nil
		}
	}
	return nil, failed
}
