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
	"github.com/warderd/warder/sync/checkin"
)

// endpoints keeps the addresses of hosts that must be reachable beside a VPN: its servers, what brings it up, and the way to the
// policy server. They are looked up in the background, past our own rules, and kept for a start without a network.
type endpoints struct {
	now    func() time.Time
	ask    func(context.Context, string) ([]netip.Addr, error)
	run    func(func(context.Context)) // in the background
	learnt func()                      // called when there is something new
	after  func(time.Duration) <-chan time.Time
	file   string
	woken  chan struct{} // ends a wait

	mu    sync.Mutex
	kept  kept
	hosts []string // those that are needed now, the most important first
	asked bool     // a policy asks for a VPN
	busy  bool
	// wanted says that nothing leaves until a tunnel works: whoever brings one up may find that its server has moved.
	wanted bool
	// cadence is how long it takes until what was not answered is asked for again: longer and longer.
	cadence *checkin.Cadence
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
	next  time.Time                // when to ask again
	// unanswered says that the last look-up failed.
	unanswered bool
}

const (
	endpointAgain = 10 * time.Minute // after an answer
	endpointSoon  = time.Minute      // after one, while no tunnel works
	endpointRetry = 10 * time.Second // without one, at least
	endpointKept  = 24 * time.Hour   // a name may change between several addresses
	endpointMost  = 32               // addresses of one name
	endpointNames = 512
	endpointLimit = 10 * time.Second
	endpointFile  = 1 << 20
)

func newEndpoints(file string, random func() float64, now func() time.Time, run func(func(context.Context)), learnt func()) *endpoints {
	e := &endpoints{now: now, run: run, learnt: learnt, after: time.After, file: file, woken: make(chan struct{}, 1),
		cadence: checkin.NewCadence(random),
		ask:     lookUpPast}
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
	e.hosts, e.asked, e.wanted = nil, false, false
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

// of returns what is known of these hosts, the most important first, and sees to the rest. It never waits. Addresses are left out.
// They are asked for more often while they are wanted.
func (e *endpoints) of(hosts []string, wanted bool) map[string][]netip.Addr {
	hosts = slices.DeleteFunc(slices.Clone(hosts), func(h string) bool { _, err := netip.ParseAddr(h); return h == "" || err == nil })
	hosts = hosts[:min(len(hosts), endpointNames)]
	e.mu.Lock()
	defer e.mu.Unlock()
	e.hosts, e.asked, e.wanted = hosts, true, wanted
	if wanted {
		e.sooner(endpointSoon, false)
	}
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
	e.stir()
	return out
}

// known returns the addresses of one host, as far as they are needed beside a VPN: none while no policy asks for one.
func (e *endpoints) known(host string) []netip.Addr {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.asked {
		return nil
	}
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{a}
	}
	if x := e.kept.Hosts[host]; x != nil && slices.Contains(e.hosts, host) {
		return slices.SortedFunc(maps.Keys(x.Found), netip.Addr.Compare)
	}
	return nil
}

// stir sees to what is due. The caller has the lock.
func (e *endpoints) stir() {
	switch {
	case len(e.due()) == 0:
	case e.busy:
		select {
		case e.woken <- struct{}{}:
		default:
		}
	default:
		e.busy = true
		e.run(e.lookUp)
	}
}

// again looks everything up once more, because the server was not reached: it may have another address by now.
func (e *endpoints) again() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.sooner(endpointRetry, true)
	e.stir()
}

// sooner makes everything due that was asked for longer ago; and what was not answered, if all. The caller has the lock.
func (e *endpoints) sooner(ago time.Duration, all bool) {
	now := e.now()
	for _, h := range e.hosts {
		if x := e.kept.Hosts[h]; x != nil && x.next.Sub(now) <= endpointAgain-ago && (all || !x.unanswered) {
			x.next = now
		}
	}
}

// due are the hosts that have to be looked up now. The caller has the lock.
func (e *endpoints) due() (out []string) {
	now := e.now()
	for _, h := range e.hosts {
		x := e.kept.Hosts[h]
		if x != nil && (!now.Before(x.next) || x.next.Sub(now) > endpointAgain) && !slices.Contains(out, h) { // or the clock was set back
			out = append(out, h)
		}
	}
	return out
}

// lookUp asks for names, one after the other, and again for those that are not answered, until all are; and again and again while no
// tunnel works.
func (e *endpoints) lookUp(ctx context.Context) {
	for {
		e.mu.Lock()
		if e.wanted {
			e.sooner(endpointSoon, false)
		}
		hosts := e.due()
		e.mu.Unlock()
		changed := false
		var failed error
		for _, h := range hosts {
			limited, cancel := context.WithTimeout(ctx, endpointLimit)
			list, err := e.ask(limited, h)
			cancel()
			failed = cmp.Or(failed, err)
			changed = e.take(h, list, err) || changed
		}
		if changed && ctx.Err() == nil {
			e.mu.Lock()
			e.save()
			e.mu.Unlock()
			e.learnt()
		}
		e.mu.Lock()
		open, answered := false, false
		for _, h := range e.hosts {
			if x := e.kept.Hosts[h]; x != nil {
				open, answered = open || x.unanswered, answered || !x.unanswered
			}
		}
		soon := e.wanted && answered
		e.busy = ctx.Err() == nil && (open || soon)
		again, wait := e.busy, endpointAgain
		if failed != nil {
			wait = max(endpointRetry, min(wait, e.cadence.Failed(failed)))
		} else if !open {
			e.cadence.Done()
		}
		if soon {
			wait = min(wait, endpointSoon)
		}
		e.mu.Unlock()
		if !again {
			return
		}
		select {
		case <-ctx.Done():
		case <-e.woken:
		case <-e.after(wait):
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
	if err != nil || len(list) == 0 {
		x.next, x.unanswered = now.Add(endpointRetry), true
		return false
	}
	x.next, x.unanswered = now.Add(endpointAgain), false
	before := slices.SortedFunc(maps.Keys(x.Found), netip.Addr.Compare)
	maps.DeleteFunc(x.Found, func(_ netip.Addr, at time.Time) bool { return now.Sub(at) > endpointKept })
	for _, a := range list[:min(len(list), endpointMost/2)] {
		x.Found[a.Unmap()] = now
	}
	for len(x.Found) > endpointMost {
		oldest := slices.MinFunc(slices.Collect(maps.Keys(x.Found)), func(a, b netip.Addr) int { return x.Found[a].Compare(x.Found[b]) })
		delete(x.Found, oldest)
	}
	return !slices.Equal(before, slices.SortedFunc(maps.Keys(x.Found), netip.Addr.Compare))
}
