package tunnel

import (
	"context"
	"net/netip"

	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/platform"
)

// Capability observes tunnels and routes.
func Capability(h platform.Host) platform.Capability {
	r := New(h.Log)
	r.off = !h.Network
	g := &Guard{r: r}
	r.guard = g
	return platform.Capability{Name: "tunnel", Early: true, Claims: claims(), Probe: r.probe, Observers: []platform.Observer{r}, Now: r.now,
		Guards:    []platform.Guard{g},
		Uses:      []platform.Port{platform.Borrow(platform.PortCarry, func(f platform.Carry) { g.Carry = f })},
		Inventory: func(context.Context) (any, error) { return r.State(), nil }}
}

// probe checks whether this machine's tunnels and routes can be read.
func (r *Reader) probe(ctx context.Context) []platform.Claim {
	why := simulated
	if !r.off {
		_, err := r.read(ctx)
		if err == nil {
			return nil
		}
		why = "the tunnels and routes cannot be read: " + err.Error()
	}
	out := claims()
	for i := range out {
		out[i].Level, out[i].Limit = fact.Unsupported, why
	}
	return out
}

const simulated = "on a simulated machine the network is left alone"

// now says by which interface packets to an address leave.
func (r *Reader) now(section, subject string) string {
	if section != "network" || r.off {
		return ""
	}
	ap, err := netip.ParseAddrPort(subject)
	if err != nil {
		a, err := netip.ParseAddr(subject)
		if err != nil {
			return ""
		}
		ap = netip.AddrPortFrom(a, 0)
	}
	return r.wayTo(ap.Addr().Unmap(), ap.Port())
}
