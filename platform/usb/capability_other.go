//go:build !linux

package usb

import (
	"context"
	"runtime"

	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/platform"
)

// Capability reports that this system's devices are neither observed nor controlled.
func Capability(platform.Host) platform.Capability {
	return platform.Capability{Name: "usb", Claims: claims(), Observers: []platform.Observer{observer{}},
		Inventory: func(context.Context) (any, error) { return Inventory() }}
}

type observer struct{}

// Observe leaves the USB part unknown.
func (observer) Observe(_ context.Context, m *fact.Machine) error {
	why := unsupported.Error() + ", and this is " + runtime.GOOS
	m.Forget(fact.PartUSB, why)
	m.Forget(fact.PartControllers, why)
	return nil
}
