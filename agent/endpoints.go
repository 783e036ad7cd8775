package agent

import (
	"cmp"
	"context"
	"encoding/json"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/warderd/warder/platform/durable"
)

// endpoints keeps the addresses of hosts that must be reachable beside a VPN: its servers, what brings it up, and the way to the
// policy server. They are looked up in the background, past our own rules, and kept for a start without a network.
type endpoints struct {
	now    func() time.Time
	random func() float64
	ask    func(context.Context, string) ([]netip.Addr, error)
	run    func(func(context.Context)) // in the background
	learnt func()                      // called when there is something new
	after  func(time.Duration) <-chan time.Time
	file   string
	woken  chan struct{} // ends a wait

	mu    sync.Mutex
	kept  kept
	hosts []string // those that are needed now, the most important first
	// sought are those of them that are asked for every minute: nothing leaves until a tunnel works, and whoever brings one up may
	// find that its server has moved.
	sought []string
	asked  bool // a policy asks for a VPN
	busy   bool
}

// kept is what the file has.
type kept struct {
	Hosts map[string]*endpoint `json:"hosts"`
	// Configured are the servers that VPN programs were configured with last, when they had any.
	Configured []string `json:"configured,omitempty"`
}

// endpoint is one name.
type endpoint struct {
	Found map[netip.Addr]time.Time `json:"found"` // when each address was last an answer
	asked time.Time                // when it was last asked for; zero: it is due
	// pause is how long it takes at most until what was not answered is asked for again: longer and longer. Zero: it was answered.
	pause time.Duration
	// part is which part of it, from a half to the whole, so that not all machines of a company ask at the same time.
	part float64
}

const (
	endpointAgain = 10 * time.Minute // after an answer
	endpointSoon  = time.Minute      // after one, if it is sought
	endpointRetry = 10 * time.Second // without one, at least
	endpointKept  = 24 * time.Hour   // a name may change between several addresses
	endpointMost  = 32               // addresses of one name
	endpointNames = 512
	endpointLimit = 20 * time.Second
	endpointBatch = 4 // changes that are told together
	endpointFile  = 1 << 20
)

func newEndpoints(file string, random func() float64, now func() time.Time, run func(func(context.Context)), learnt func()) *endpoints {
	e := &endpoints{now: now, random: random, run: run, learnt: learnt, after: time.After, file: file, woken: make(chan struct{}, 1),
		ask: func(ctx context.Context, host string) ([]netip.Addr, error) { return lookUpPast(ctx, host, nil) }}
	if i, err := os.Stat(file); err == nil && i.Size() < endpointFile {
		// A file that cannot be read is one that has nothing: everything is looked up again.
		b, err := os.ReadFile(file)
		if err != nil || json.Unmarshal(b, &e.kept) != nil || len(e.kept.Hosts) > endpointNames || len(e.kept.Configured) > endpointNames {
			e.kept = kept{}
		}
	}
	if e.kept.Hosts == nil {
		e.kept.Hosts = map[string]*endpoint{}
	}
	maps.DeleteFunc(e.kept.Hosts, func(_ string, x *endpoint) bool { return x == nil || len(x.Found) > endpointMost })
	return e
}

// configured remembers the servers that VPN programs are configured with, and returns those of last time if there are none now.
func (e *endpoints) configured(list []string) []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(list) > 0 && !slices.Equal(list, e.kept.Configured) {
		e.kept.Configured = slices.Clone(list)
		e.save()
	}
	return slices.Clone(e.kept.Configured)
}

// clear forgets everything: no policy asks for a VPN.
func (e *endpoints) clear() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.hosts, e.sought, e.asked = nil, nil, false
	if len(e.kept.Hosts)+len(e.kept.Configured) > 0 {
		e.kept = kept{Hosts: map[string]*endpoint{}}
		_ = durable.Remove(e.file)
	}
}

// save writes the file. The caller has the lock.
func (e *endpoints) save() {
	b, err := json.Marshal(e.kept)
	if err == nil {
		err = durable.Write(e.file, b, 0o600)
	}
	if err != nil { // the next start looks them up again
		slog.Warn("the addresses beside the VPN cannot be kept", "error", err)
	}
}

// of returns what is known of these hosts, the most important first, and sees to the rest; those that are sought are asked for more
// often. It never waits. Addresses are left out.
func (e *endpoints) of(hosts, sought []string) map[string][]netip.Addr {
	hosts = slices.DeleteFunc(slices.Clone(hosts), func(h string) bool { _, err := netip.ParseAddr(h); return h == "" || err == nil })
	hosts = hosts[:min(len(hosts), endpointNames)]
	e.mu.Lock()
	defer e.mu.Unlock()
	e.hosts, e.asked = hosts, true
	e.sought = slices.DeleteFunc(slices.Clone(sought), func(h string) bool { return !slices.Contains(hosts, h) })
	e.sought = e.sought[:min(len(e.sought), endpointSought)]
	out := map[string][]netip.Addr{}
	for _, h := range hosts {
		x := e.kept.Hosts[h]
		if x == nil {
			x = &endpoint{}
			e.kept.Hosts[h] = x
		}
		if x.Found == nil {
			x.Found = map[netip.Addr]time.Time{}
		}
		if list := slices.SortedFunc(maps.Keys(x.Found), netip.Addr.Compare); len(list) > 0 {
			out[h] = list
		}
	}
	if len(e.kept.Hosts) > endpointNames { // those of earlier policies go
		maps.DeleteFunc(e.kept.Hosts, func(h string, _ *endpoint) bool { return !slices.Contains(hosts, h) })
	}
	e.hurry(false)
	e.stir()
	return out
}

// endpointSought bounds how many hosts are asked for every minute.
const endpointSought = 16

// known returns the addresses of one host, the newest answer first, as far as they are needed beside a VPN: none while no policy asks
// for one.
func (e *endpoints) known(host string) []netip.Addr {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.asked {
		return nil
	}
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{a}
	}
	x := e.kept.Hosts[host]
	if x == nil || !slices.Contains(e.hosts, host) {
		return nil
	}
	return slices.SortedFunc(maps.Keys(x.Found), func(a, b netip.Addr) int {
		return cmp.Or(x.Found[b].Compare(x.Found[a]), a.Compare(b))
	})
}

// again looks everything up once more, because the server was not reached: it may have another address by now.
func (e *endpoints) again() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.hurry(true)
	e.stir()
}

// hurry makes due what was not answered when it was last asked for, and the rest, too, if all; but nothing that was asked for a
// moment ago. The caller has the lock.
func (e *endpoints) hurry(all bool) {
	now := e.now()
	for _, h := range e.hosts {
		if x := e.kept.Hosts[h]; x != nil && (all || x.pause > 0) && now.Sub(x.asked) >= endpointRetry {
			x.asked = time.Time{}
		}
	}
}

// stir starts the look-ups if there is anything to do, or wakes them. The caller has the lock.
func (e *endpoints) stir() {
	wait, ok := e.wait()
	switch {
	case !ok:
	case !e.busy && (wait == 0 || e.goesOn()):
		e.busy = true
		e.run(e.lookUp)
	case e.busy && wait == 0:
		select {
		case e.woken <- struct{}{}:
		default:
		}
	}
}

// goesOn reports whether the look-ups go on by themselves, and do not wait for the next look at the machine. The caller has the lock.
func (e *endpoints) goesOn() bool {
	return slices.ContainsFunc(e.hosts, func(h string) bool {
		x := e.kept.Hosts[h]
		return x != nil && (x.pause > 0 || slices.Contains(e.sought, h))
	})
}

// left is how long it takes until a host is asked for again. The caller has the lock.
func (e *endpoints) left(h string) time.Duration {
	x, every := e.kept.Hosts[h], endpointAgain
	switch {
	case x == nil:
		return endpointAgain
	case x.pause > 0:
		every = max(endpointRetry, time.Duration(float64(x.pause)*x.part))
	case slices.Contains(e.sought, h):
		every = endpointSoon
	}
	since := e.now().Sub(x.asked)
	if since < 0 { // the clock was set back
		return 0
	}
	return max(every-since, 0)
}

// wait is how long it takes until the first host is due; false: there is none. The caller has the lock.
func (e *endpoints) wait() (least time.Duration, ok bool) {
	least = endpointAgain
	for _, h := range e.hosts {
		least = min(least, e.left(h))
	}
	return least, len(e.hosts) > 0
}

// due is the host that has to be looked up now; "" if there is none. Those that are sought take turns with the others, of which the one that
// waits longest comes first: many names that nobody answers must not keep the VPN's server away. The caller has the lock.
func (e *endpoints) due(sought bool) (host string) {
	var late []string
	for _, h := range e.hosts {
		if e.left(h) == 0 {
			late = append(late, h)
		}
	}
	if len(late) == 0 {
		return ""
	}
	if i := slices.IndexFunc(late, func(h string) bool { return slices.Contains(e.sought, h) }); sought && i >= 0 {
		return late[i]
	}
	return slices.MinFunc(late, func(a, b string) int { return e.kept.Hosts[a].asked.Compare(e.kept.Hosts[b].asked) })
}

// lookUp asks for names, one after the other; and again for those that are not answered, until all are, and for those that are sought.
func (e *endpoints) lookUp(ctx context.Context) {
	for {
		changed := 0
		for sought := true; ; sought = !sought {
			e.mu.Lock()
			h := e.due(sought)
			e.busy = ctx.Err() == nil
			e.mu.Unlock()
			if ctx.Err() != nil {
				return
			}
			if h != "" {
				limited, cancel := context.WithTimeout(ctx, endpointLimit)
				list, err := e.ask(limited, h)
				cancel()
				if ctx.Err() == nil && e.take(h, list, err) { // otherwise it was not the network that did not answer
					changed++
				}
			}
			if changed > 0 && (h == "" || changed == endpointBatch) {
				changed = 0
				e.mu.Lock()
				e.save()
				e.mu.Unlock()
				e.learnt()
			}
			if h == "" {
				break
			}
		}
		e.mu.Lock()
		wait, _ := e.wait()
		e.busy = ctx.Err() == nil && (e.goesOn() || wait == 0)
		again := e.busy
		e.mu.Unlock()
		if !again {
			return
		}
		select {
		case <-ctx.Done():
		case <-e.woken:
		case <-e.after(max(wait, time.Second)):
		}
	}
}

// take keeps an answer, and reports whether it changes anything. The newest answer is always kept, in the place of the oldest, and
// the last one never goes: without a network it is all that is known.
func (e *endpoints) take(host string, list []netip.Addr, err error) (changed bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	x := e.kept.Hosts[host]
	if x == nil {
		return false // nobody needs it any more
	}
	now := e.now()
	list = slices.DeleteFunc(slices.Clone(list), func(a netip.Addr) bool { // no host has these, whatever a server says
		a = a.Unmap()
		return !a.IsGlobalUnicast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255})
	})
	x.asked = now
	if err != nil || len(list) == 0 {
		x.pause, x.part = min(max(2*x.pause, endpointRetry), endpointAgain), 0.5+e.random()/2
		return false
	}
	x.pause = 0
	before := slices.SortedFunc(maps.Keys(x.Found), netip.Addr.Compare)
	for a, at := range x.Found {
		if at.After(now) { // the clock was ahead
			x.Found[a] = now
		}
	}
	maps.DeleteFunc(x.Found, func(_ netip.Addr, at time.Time) bool { return now.Sub(at) > endpointKept })
	list = list[:min(len(list), endpointMost/2)]
	for i := range list {
		list[i] = list[i].Unmap()
		x.Found[list[i]] = now
	}
	for len(x.Found) > endpointMost {
		older := slices.DeleteFunc(slices.Collect(maps.Keys(x.Found)), func(a netip.Addr) bool { return slices.Contains(list, a) })
		delete(x.Found, slices.MinFunc(older, func(a, b netip.Addr) int { return x.Found[a].Compare(x.Found[b]) }))
	}
	return !slices.Equal(before, slices.SortedFunc(maps.Keys(x.Found), netip.Addr.Compare))
}
