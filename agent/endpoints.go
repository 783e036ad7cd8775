package agent

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/warderd/warder/platform/link"
)

// endpoints keeps the addresses of the VPN endpoints that the policy names, so that a tunnel can be compared with them. They are
// looked up in the background, past our own rules.
type endpoints struct {
	now    func() time.Time
	ask    func(context.Context, string) ([]netip.Addr, error)
	run    func(func(context.Context)) // in the background
	learnt func()                      // called when there is something new

	mu    sync.Mutex
	known map[string]*endpoint
	busy  bool
}

// endpoint is one name.
type endpoint struct {
	found map[netip.Addr]time.Time // when each address was last an answer
	next  time.Time                // when to ask again
}

const (
	endpointAgain = 10 * time.Minute // after an answer
	endpointRetry = time.Minute      // without one
	endpointKept  = 24 * time.Hour   // a name may change between several addresses
	endpointMost  = 32               // addresses of one name
	endpointLimit = 10 * time.Second
)

func newEndpoints(now func() time.Time, run func(func(context.Context)), learnt func()) *endpoints {
	return &endpoints{now: now, run: run, learnt: learnt, known: map[string]*endpoint{},
		ask: func(ctx context.Context, host string) ([]netip.Addr, error) {
			return link.Past().Resolver.LookupNetIP(ctx, "ip", host)
		}}
}

// of returns what is known of these names, and sees to the rest. It never waits.
func (e *endpoints) of(hosts []string) map[string][]netip.Addr {
	e.mu.Lock()
	defer e.mu.Unlock()
	maps.DeleteFunc(e.known, func(h string, _ *endpoint) bool { return !slices.Contains(hosts, h) })
	if len(hosts) == 0 {
		return nil
	}
	out := map[string][]netip.Addr{}
	var due []string
	now := e.now()
	for _, h := range hosts {
		x := e.known[h]
		if x == nil {
			x = &endpoint{found: map[netip.Addr]time.Time{}}
			e.known[h] = x
		}
		if list := slices.SortedFunc(maps.Keys(x.found), netip.Addr.Compare); len(list) > 0 {
			out[h] = list
		}
		if !now.Before(x.next) || x.next.Sub(now) > endpointAgain { // or the clock was set back
			due = append(due, h)
		}
	}
	if len(due) > 0 && !e.busy {
		e.busy = true
		e.run(func(ctx context.Context) { e.lookUp(ctx, due) })
	}
	return out
}

// lookUp asks for names, one after the other.
func (e *endpoints) lookUp(ctx context.Context, hosts []string) {
	changed := false
	for _, h := range hosts {
		limited, cancel := context.WithTimeout(ctx, endpointLimit)
		list, err := e.ask(limited, h)
		cancel()
		changed = e.take(h, list, err) || changed
	}
	e.mu.Lock()
	e.busy = false
	e.mu.Unlock()
	if changed && ctx.Err() == nil {
		e.learnt()
	}
}

// take keeps an answer, and reports whether it changes anything.
func (e *endpoints) take(host string, list []netip.Addr, err error) (changed bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	x := e.known[host]
	if x == nil {
		return false // the policy no longer names it
	}
	now := e.now()
	if err != nil || len(list) == 0 {
		x.next = now.Add(endpointRetry)
		return false
	}
	x.next = now.Add(endpointAgain)
	for _, a := range list {
		if _, is := x.found[a.Unmap()]; is || len(x.found) < endpointMost {
			changed = changed || !is
			x.found[a.Unmap()] = now
		}
	}
	n := len(x.found)
	maps.DeleteFunc(x.found, func(_ netip.Addr, at time.Time) bool { return now.Sub(at) > endpointKept })
	return changed || len(x.found) != n
}
