package firewall

import (
	"context"

	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/platform"
)

// Capability is the firewall: a standing state, to which the resolver admits addresses.
func Capability(h platform.Host) platform.Capability {
	f := New(h.Gate, h.Log)
	f.off = !h.Network
	return platform.Capability{
		Name: "firewall", Claims: claims(), Probe: f.probe, Backends: []platform.Backend{f},
		Provides: []platform.Port{
			platform.Lend[platform.Fill](platform.PortFill, f.Fill),
			platform.Lend[platform.Admit](platform.PortAdmit, f.Admit),
			platform.Lend[platform.Admitted](platform.PortAdmitted, f.Admitted),
			platform.Lend[platform.Left](platform.PortLeft, f.Left),
			platform.Lend[platform.Asked](platform.PortAsked, f.Asked),
			platform.Lend[platform.Forget](platform.PortForget, f.Forget),
		},
	}
}

// probe checks whether this kernel takes the rules at all, with a table of another name that exists for a moment.
func (f *Firewall) probe(context.Context) []platform.Claim {
	limit := "on a simulated machine the network is left alone"
	if !f.off {
		err := f.try()
		if err == nil {
			return nil
		}
		limit = "this kernel does not take the rules that are needed: " + err.Error()
	}
	out := claims()
	for i := range out {
		out[i].Level, out[i].Limit = fact.Unsupported, limit
	}
	return out
}
