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
		Name: "firewall", Claims: nameClaims(), Probe: func(context.Context) []platform.Claim { return lower(nameClaims(), f.off, f.try) },
		Backends: []platform.Backend{f},
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

// SwitchCapability is the kill switch. At the early start no tunnel is up, and what was reachable beside it when the agent
// last ran is still.
func SwitchCapability(h platform.Host) platform.Capability {
	s := NewSwitch(h.Gate, h.Log)
	s.off = !h.Network
	if h.Early != nil {
		s.noted = read(h.Early.Of(switchKind))
	}
	return platform.Capability{
		Name: switchKind, Early: true, Note: s.note, Claims: vpnClaims(),
		Probe:    func(context.Context) []platform.Claim { return lower(vpnClaims(), s.off, s.try) },
		Backends: []platform.Backend{s}, Provides: []platform.Port{platform.Lend[platform.Carry](platform.PortCarry, s.Carry)},
	}
}

// PortsCapability closes the ports of printers. What it is for is claimed by who knows the printers.
func PortsCapability(h platform.Host) platform.Capability {
	p := NewPorts(h.Gate)
	p.off = !h.Network
	return platform.Capability{Name: portsKind, Backends: []platform.Backend{p}}
}

// lower lowers claims if this kernel does not take the rules at all. It is tried with a table of another name that exists for a
// moment.
func lower(out []platform.Claim, off bool, try func() error) []platform.Claim {
	limit := "on a simulated machine the network is left alone"
	if !off {
		err := try()
		if err == nil {
			return nil
		}
		limit = "this kernel does not take the rules that are needed: " + err.Error()
	}
	for i := range out {
		out[i].Level, out[i].Limit = fact.Unsupported, limit
	}
	return out
}
