package agent

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/platform/link"
)

// besideAfter is how long the usual way may take before another is tried, too.
const besideAfter = 5 * time.Second

// besideMost bounds the ways that are tried at the same time.
const besideMost = 9

// dial connects to the policy server, or to the proxy on the way to it: as any program would, and, while a policy asks for a VPN, also
// by the interfaces beside its tunnel if that takes long. Otherwise a tunnel that takes everything and leads nowhere would
// keep away the very policy that ends it.
func (a *Agent) dial(ctx context.Context, network, address string) (net.Conn, error) {
	usual := &net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second} // as of http.DefaultTransport
	ways := []way[net.Conn]{func(ctx context.Context) (net.Conn, error) { return usual.DialContext(ctx, network, address) }}
	by := link.PastBy
	if trial, _ := a.custody.onTrial(); trial {
		by = link.By // a policy that shuts the server out must not be confirmed past itself
	}
	host, port, err := net.SplitHostPort(address)
	if err == nil && a.endpoints != nil && a.mayBeside() {
		for _, addr := range a.endpoints.known(host) {
			for _, name := range a.uplinks() {
				if addr.IsLoopback() || len(ways) == besideMost {
					continue
				}
				to, d := net.JoinHostPort(addr.String(), port), by(name)
				d.KeepAlive = usual.KeepAlive
				ways = append(ways, func(ctx context.Context) (net.Conn, error) {
					c, err := d.DialContext(ctx, network, to)
					if err != nil {
						return nil, err
					}
					return stray{c}, nil
				})
			}
		}
	}
	c, err := first(ctx, ways, besideAfter, func(c net.Conn) { _ = c.Close() }, nil)
	if s, is := c.(stray); is {
		a.strays.made(address)
		c = s.Conn
	}
	return c, err
}

// stray is a connection that was made beside a tunnel.
type stray struct{ net.Conn }

// strays says whether there may be such connections, and when the usual way is tried again.
type strays struct {
	mu      sync.Mutex
	address string // what was connected to; "": there are none
	next    time.Time
	pause   time.Duration
}

// The pauses between two tries of the usual way.
const (
	strayPause = 30 * time.Second
	strayMost  = 10 * time.Minute
)

func (s *strays) made(address string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.address = address
}

// due returns the address to try now; "": none.
func (s *strays) due(now time.Time) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.address == "" || now.Before(s.next) && s.next.Sub(now) <= strayMost {
		return ""
	}
	s.pause = min(max(2*s.pause, strayPause), strayMost)
	s.next = now.Add(s.pause)
	return s.address
}

// over says that the usual way works.
func (s *strays) over() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.address, s.next, s.pause = "", time.Time{}, 0
}

// mayBeside reports whether what is sent to the server may be seen beside a tunnel: not what is in clear, nor a proxy's password in clear.
func (a *Agent) mayBeside() bool {
	server, proxy := a.server()
	p := proxyOf(server, proxy)
	return strings.HasPrefix(server, "https:") && (p == nil || p.User == nil || p.Scheme == "https")
}

// proxyOf is the proxy to a server: the one that is set, or the environment's; nil: none.
func proxyOf(server, proxy string) *url.URL {
	u, err := url.Parse(server)
	if err != nil {
		return nil
	}
	var p *url.URL
	if proxy != "" {
		p, err = url.Parse(proxy)
	} else {
		p, err = http.ProxyFromEnvironment(&http.Request{URL: u})
	}
	if err != nil {
		return nil
	}
	return p
}

// uplinks are the interfaces beside this machine's tunnels; none if there are no tunnels.
func (a *Agent) uplinks() []string {
	list := a.machine.last().snapshot.Tunnels.V.List
	if !slices.ContainsFunc(list, func(t fact.Tunnel) bool { return t.Up }) {
		return nil
	}
	return slices.DeleteFunc(link.Uplinks(), func(name string) bool {
		return slices.ContainsFunc(list, func(t fact.Tunnel) bool { return t.Name == name })
	})
}

// endStrays ends the connections that were made beside a tunnel, once the usual way works again.
func (a *Agent) endStrays() {
	address := a.strays.due(a.o.Now())
	if address == "" {
		return
	}
	a.background.Go(func() {
		c, err := (&net.Dialer{Timeout: besideAfter}).DialContext(a.ctx, "tcp", address)
		if err != nil {
			return
		}
		_ = c.Close()
		a.do(func() {
			a.strays.over()
			if a.contact.client != nil {
				a.contact.client.Close()
			}
			if a.contact.socket != nil {
				a.contact.renewed = true
				a.contact.socket.Renew()
			}
		})
	})
}

// seeks reports whether nothing leaves until a tunnel works.
func (a *Agent) seeks() bool {
	s := a.machine.last()
	if s.compiled == nil {
		return false
	}
	r, ok := s.compiled.Rules("network").(interface{ Seeks(t *fact.Tunnels) bool })
	return ok && r.Seeks(&s.snapshot.Tunnels.V)
}

// way is one way to get something.
type way[T any] func(context.Context) (T, error)

// first returns what any of these ways gives first. The first of them has a head start. If none gives anything, or the first one fails
// for good, its error is returned. What comes too late is dropped; drop may be nil.
func first[T any](ctx context.Context, ways []way[T], head time.Duration, drop func(T), final func(error) bool) (T, error) {
	if len(ways) == 1 {
		return ways[0](ctx)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		got T
		err error
		way int
	}
	var none T
	results := make(chan result, len(ways))
	start := func(i int) { go func() { got, err := ways[i](ctx); results <- result{got, err, i} }() }
	start(0)
	timer := time.NewTimer(head)
	defer timer.Stop()
	started, ended, failed := 1, 0, error(nil)
	others := func() {
		for ; started < len(ways); started++ {
			start(started)
		}
	}
	late := func() {
		for range started - ended {
			if r := <-results; r.err == nil && drop != nil {
				drop(r.got)
			}
		}
	}
	for ended < len(ways) {
		select {
		case <-timer.C:
			others()
		case r := <-results:
			ended++
			switch {
			case r.err == nil:
				go late()
				return r.got, nil
			case r.way != 0:
			case final != nil && final(r.err):
				go late()
				return none, r.err
			default:
				failed = r.err
				others()
			}
		}
	}
	return none, failed
}

// lookUpPast looks up a name past our own rules: as the routes say, and, if that takes long or fails, also by the interfaces beside a
// tunnel, which may lead nowhere because its server has another address now. That there is no such name is an answer.
func lookUpPast(ctx context.Context, host string, uplinks []string) ([]netip.Addr, error) {
	by := func(d *net.Dialer) way[[]netip.Addr] {
		return func(ctx context.Context) ([]netip.Addr, error) {
			return d.Resolver.LookupNetIP(ctx, "ip", link.Rooted(host))
		}
	}
	ways := []way[[]netip.Addr]{by(link.Past())}
	for _, name := range uplinks {
		ways = append(ways, by(link.PastBy(name)))
	}
	return first(ctx, ways, besideAfter, nil, func(err error) bool {
		var e *net.DNSError
		return errors.As(err, &e) && e.IsNotFound
	})
}
