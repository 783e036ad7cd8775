//go:build !linux

package usb

import (
	"context"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/platform"
)

var unsupported = platform.Unsupported{Feature: "USB control", Need: "Linux, in this version"}

// Ports stands in where there is no sysfs.
type Ports struct {
	Root    string
	Gate    enforce.Gate
	Release Release
	DevRoot string
	Taken   func(u fact.USB, r Released, err error)
	Stays   func(name string) bool
	Carries func(dir string) string
}

// Releases: nothing is taken away here.
func (p *Ports) Releases() []Progress { return nil }

// Stop has nothing to stop.
func (p *Ports) Stop() {}

// Observe says that the devices cannot be read.
func (p *Ports) Observe(_ context.Context, m *fact.Machine) error {
	m.USB, m.Controllers = fact.Unread[[]fact.USB](unsupported.Error()), fact.Unread[[]string](unsupported.Error())
	return nil
}

// Backend has no resources here.
type Backend struct{ *Ports }

func (Backend) Kinds() []platform.Kind { return nil }

func (Backend) List(context.Context) (map[enforce.Key]enforce.Reading, error) { return nil, nil }

func (Backend) Apply(context.Context, []enforce.Change) error { return unsupported }

// Guard never sees a device here.
type Guard struct {
	*Ports
	Hand func(Decision)
	Gone func(name string)
}

func (*Guard) Load(Ruling) {}

// Watch has nothing to watch.
func (*Guard) Watch() {}

func (*Guard) Rescan() {}

// Run waits for the context: there is nothing to guard.
func (*Guard) Run(ctx context.Context) error { <-ctx.Done(); return nil }
