package resolver

import (
	"context"

	"github.com/warderd/warder/platform"
)

// Capability is the resolver: a guard that answers questions, with the firewall's functions. What it supports is among the
// firewall's claims, because neither does anything without the other.
func Capability(h platform.Host) platform.Capability {
	r := New(h.Log)
	return platform.Capability{
		Name: "network", Guards: []platform.Guard{r}, Start: r.Start,
		Uses: []platform.Port{
			platform.Borrow(platform.PortFill, func(f platform.Fill) { r.Fill = f }),
			platform.Borrow(platform.PortAdmit, func(f platform.Admit) { r.Admit = f }),
			platform.Borrow(platform.PortAdmitted, func(f platform.Admitted) { r.Admitted = f }),
			platform.Borrow(platform.PortLeft, func(f platform.Left) { r.Left = f }),
			platform.Borrow(platform.PortAsked, func(f platform.Asked) { r.Asked = f }),
			platform.Borrow(platform.PortForget, func(f platform.Forget) { r.Forget = f }),
		},
		Now:       r.present,
		Inventory: func(context.Context) (any, error) { return r.State(), nil },
	}
}
