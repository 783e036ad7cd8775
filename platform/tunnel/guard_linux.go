package tunnel

import (
	"context"
	"net/netip"
	"slices"
	"sync"

	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/platform"
)

// Guard tells the kill switch, as soon as something changes, which tunnels count and what must be reachable beside them.
type Guard struct {
	r     *Reader
	Carry platform.Carry

	mu    sync.Mutex // one push at a time: an older reading must not come last
	rules rules
	last  *fact.Carried // what the switch was told; nil: there is none
	look  func(soon bool)
}

// rules are what the guard needs of the rules of the section "network".
type rules interface {
	platform.Rules
	// Carry is what the switch has to know; false: the policy asks for none.
	Carry(*fact.Tunnels) (fact.Carried, bool)
}

// Section names the section whose rules it uses.
func (g *Guard) Section() string { return "network" }

// Listen takes how a look is asked for.
func (g *Guard) Listen(_ func(platform.Decision), look func(soon bool)) { g.look = look }

// Load replaces the rules, and tells the switch.
func (g *Guard) Load(in platform.Rules) error {
	g.mu.Lock()
	g.rules, g.last = nil, nil
	if in != nil {
		n, ok := in.(rules)
		if !ok {
			g.mu.Unlock()
			return platform.Unsupported{Feature: "the kill switch", Need: "rules about tunnels"}
		}
		g.rules = n
	}
	g.mu.Unlock()
	return g.push(context.Background())
}

// push reads the tunnels, and tells the switch what follows. What cannot be read changes nothing: it does not open.
func (g *Guard) push(ctx context.Context) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.rules == nil || g.r.off {
		return nil
	}
	if _, asked := g.rules.Carry(&fact.Tunnels{}); !asked {
		return nil // nothing is read for it: what is loaded must be loaded quickly
	}
	return g.tell(g.r.known(ctx))
}

// read reads the tunnels for a finding, and tells the switch first: what the finding says is so by then.
func (g *Guard) read(ctx context.Context) fact.Known[fact.Tunnels] {
	g.mu.Lock()
	defer g.mu.Unlock()
	t := g.r.known(ctx)
	if err := g.tell(t); err != nil {
		g.r.log.Warn("the kill switch is not up to date", "error", err) // its own reading says so, too
	}
	return t
}

// tell tells the switch what follows. The caller has the lock.
func (g *Guard) tell(t fact.Known[fact.Tunnels]) error {
	if !t.OK || g.rules == nil || g.r.off {
		return nil // the finding says what cannot be read
	}
	c, ok := g.rules.Carry(&t.V)
	if !ok {
		return nil
	}
	g.last = &c
	return g.Carry(c)
}

// state is what the switch was told, in words; "" without one.
func (g *Guard) state() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.last == nil {
		return ""
	}
	return g.last.String()
}

// refuses reports whether the switch refuses packets to an address that leave by an interface.
func (g *Guard) refuses(a netip.Addr, port uint16, index int) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.last != nil && g.last.Closed && !slices.Contains(g.last.Tunnels, index) &&
		!slices.ContainsFunc(g.last.Local, func(r fact.Range) bool { return r.Has(a) }) &&
		!slices.ContainsFunc(g.last.Doors, func(d fact.Door) bool {
			return d.Address == a && (d.Port == 0 || port == 0 || d.Port == port)
		})
}

// stirred is called when something may have changed.
func (g *Guard) stirred(ctx context.Context) {
	if err := g.push(ctx); err != nil {
		g.r.log.Warn("the kill switch is not up to date", "error", err)
		if g.look != nil {
			g.look(true)
		}
	}
}

// Run waits: the reader's watch calls stirred.
func (g *Guard) Run(ctx context.Context) error { <-ctx.Done(); return nil }

// Work lists nothing.
func (g *Guard) Work() []platform.Work { return nil }

// Stop leaves the switch as it is.
func (g *Guard) Stop() {}
