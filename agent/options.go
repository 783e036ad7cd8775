package agent

import (
	"cmp"
	"context"
	"log/slog"
	"time"

	"github.com/warderd/warder/agent/identity"
	"github.com/warderd/warder/enforce/all"
	"github.com/warderd/warder/enforce/section"
	"github.com/warderd/warder/platform"
	"github.com/warderd/warder/platform/host"
	"github.com/warderd/warder/platform/link"
	"github.com/warderd/warder/platform/notify"
	"github.com/warderd/warder/platform/paths"
	"github.com/warderd/warder/platform/seat"
	"github.com/warderd/warder/platform/service"
	"github.com/warderd/warder/sync/protocol"
)

// Source delivers assignments and takes reports. The check-in client is one.
type Source interface {
	Exchange(context.Context, protocol.Report) (protocol.Answer, error)
}

// Options of an agent. The zero value of each field means the real machine.
type Options struct {
	Paths   paths.Paths
	Version string
	Log     *slog.Logger
	Level   *slog.LevelVar
	// Network lets the network of this process be governed although sysfs is another tree: for tests in a network of their own.
	Network bool
	SysRoot string // of sysfs
	// ProcRoot is procfs, where mounts and swaps are read.
	ProcRoot string
	Inputs   string // the kernel's list of input devices
	Boot     string // the boot id
	Machine  string // hash of the machine's own id
	Now      func() time.Time
	Random   func() float64
	Seat     func() []uint32     // the users at the machine now
	Logins   func() []seat.Login // the graphical sessions
	// Tell notifies those of the users who have a terminal, and returns whom it reached.
	Tell func(message string, users []uint32) []notify.Told
	// Source replaces the check-in client of an enrolled device.
	Source func(*identity.Device) (Source, error)
	// Reach reports whether a server can be reached through a proxy ("" for none): either as any program on this
	// machine would, or past our own rules.
	Reach func(ctx context.Context, server, proxy string, exempt bool) error
	// Sections and Capabilities are the lists of this version.
	Sections     []section.Section
	Capabilities []func(platform.Host) platform.Capability
	// Ready is called once the policy is in force and the local API answers. Alive is called from the loop, every
	// Watch.
	Ready func()
	Alive func()
	Watch time.Duration
	// Ending says why the service manager ends the agent. Linger is the pause before a stop looks again for devices
	// that arrived meanwhile.
	Ending func(context.Context) service.Ending
	Linger time.Duration
	// Tuned says that the process belongs to the agent alone (Tune was called).
	Tuned bool
}

// defaults replaces zero values by the real machine's.
func (o *Options) defaults() {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.SysRoot == "" {
		o.SysRoot = "/sys"
	}
	if o.ProcRoot == "" {
		o.ProcRoot = "/proc"
	}
	if o.Inputs == "" {
		o.Inputs = "/proc/bus/input/devices"
	}
	if o.Boot == "" {
		o.Boot = host.Boot()
	}
	if o.Boot == "" {
		// On a system that cannot tell boots apart, resources that end with a boot count as ours until they are read
		// again.
		o.Boot = "unknown"
	}
	if o.Machine == "" {
		o.Machine = host.Machine()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Watch == 0 {
		o.Watch = 5 * time.Minute
	}
	if o.Ending == nil {
		o.Ending = service.Why
	}
	if o.Linger == 0 {
		o.Linger = 500 * time.Millisecond
	}
	if o.Seat == nil {
		o.Seat = seat.Active
	}
	if o.Logins == nil {
		o.Logins = seat.Graphical
	}
	if o.Tell == nil {
		o.Tell = notify.Tell
	}
	if o.Reach == nil {
		o.Reach = link.Probe
	}
	if o.Sections == nil {
		o.Sections = all.Sections
	}
	if o.Capabilities == nil {
		o.Capabilities = capabilities
	}
}

// describe describes this machine for the server.
func describe() protocol.Host {
	h := host.Describe()
	return protocol.Host{Name: cmp.Or(h.Name, "unnamed"), OS: h.OS, OSVersion: h.Version, Arch: h.Arch, Serial: h.Serial}
}
