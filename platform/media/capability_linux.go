package media

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/platform"
	"github.com/warderd/warder/platform/bpf"
)

// Media is what observes, refuses and releases external disks.
type Media struct {
	sys, proc, run string
	off            bool // this is not the real machine
	gate           enforce.Gate
	log            *slog.Logger
	release        platform.ReleaseDisks
	carries        platform.CarriesSystem
	leaves         platform.Leaves

	wanted atomic.Bool // the programs should be there
	cannot atomic.Bool // they cannot be here: drivers are taken off disks instead (off_linux.go)
	offing atomic.Bool // and are, now

	offMu     sync.Mutex
	unbinding map[string]chan struct{} // devices whose driver is coming off; closed once it is
	making    atomic.Bool              // we are changing what is pinned

	mu    sync.Mutex
	set   *kernel       // what is pinned, while it is as it was made
	fresh chan struct{} // set is another one

	moving sync.Mutex
	taking map[string]*platform.Work // disks that are being taken away, by key
	all    sync.WaitGroup
	stop   context.CancelFunc
	ctx    context.Context
}

// Capability is the control of external disks.
func Capability(h platform.Host) platform.Capability {
	m := &Media{sys: h.Sysfs, proc: h.Proc, run: h.Run, off: h.Sysfs != "/sys", gate: h.Gate, log: h.Log, fresh: make(chan struct{}, 1),
		taking: map[string]*platform.Work{}}
	m.ctx, m.stop = context.WithCancel(context.Background())
	return platform.Capability{
		Name: name, Claims: claims(), Probe: m.probe, Start: m.start,
		Observers: []platform.Observer{m}, Backends: []platform.Backend{m}, Guards: []platform.Guard{&Guard{Media: m}},
		Provides: []platform.Port{platform.Lend(platform.PortOutside, platform.Outside(m.outside))},
		Uses: []platform.Port{
			platform.Borrow(platform.PortRelease, func(f platform.ReleaseDisks) { m.release = f }),
			platform.Borrow(platform.PortCarries, func(f platform.CarriesSystem) { m.carries = f }),
			platform.Borrow(platform.PortLeaves, func(f platform.Leaves) { m.leaves = f }),
		},
	}
}

// probe says why this machine cannot refuse external disks, if it cannot.
func (m *Media) probe(ctx context.Context) []platform.Claim {
	err := errors.New("this machine is simulated")
	if !m.off {
		err = bpf.Media.Takes(ctx, m.run)
	}
	m.cannot.Store(err != nil)
	if err == nil {
		if why := bpf.Preempts(); why != nil { // whoever opens a disk is asked nevertheless, by a program of another kind
			return []platform.Claim{{Setting: setting, OS: "linux", Level: fact.Partial, Limit: twoLimit + ": " + why.Error() + "; " + limit}}
		}
		return nil
	}
	level, text := fact.Partial, offLimit
	if m.off {
		level, text = fact.Unsupported, "external disks are not refused"
	}
	return []platform.Claim{{Setting: setting, OS: "linux", Level: level, Limit: text + ": " + err.Error()}}
}
