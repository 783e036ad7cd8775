package usb

import (
	"context"

	"golang.org/x/sys/unix"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/platform"
)

// Capability is USB device control: the kernel's defaults and each device's authorized, as a standing state and through
// a guard that answers plugs.
func Capability(h platform.Host) platform.Capability {
	p := &Ports{Root: h.Sysfs, DevRoot: "/dev", Gate: h.Gate, Option: NewOption(h.Run)}
	g := &Guard{Ports: p}
	g.Watch()
	return platform.Capability{
		Name: "usb", Early: true, Claims: claims(), Probe: p.probe,
		Observers: []platform.Observer{p}, Ask: p.Ask,
		Backends: []platform.Backend{Backend{p}},
		Guards:   []platform.Guard{&door{g}},
		Uses: []platform.Port{
			platform.Borrow(platform.PortRelease, func(f platform.ReleaseDisks) { p.Release = f }),
			platform.Borrow(platform.PortCarries, func(f platform.CarriesSystem) { p.Carries = f }),
		},
		Provides:  []platform.Port{platform.Lend[platform.Leaves](platform.PortLeaves, g.leaves)},
		Inventory: func(context.Context) (any, error) { return Inventory() },
	}
}

// probe checks whether the files can be written at all: in a container they often cannot.
func (p *Ports) probe(context.Context) []platform.Claim {
	var fs unix.Statfs_t
	if err := unix.Statfs(p.devices(), &fs); err == nil && fs.Flags&unix.ST_RDONLY != 0 {
		return atMost(fact.DetectOnly, "sysfs is mounted read-only here", "linux")
	}
	return nil
}

// door adapts the guard for the agent.
type door struct{ *Guard }

// Section names the section whose rules it uses.
func (d *door) Section() string { return "usb" }

// watcher is the interface of that section's rules.
type watcher interface {
	Watch() enforce.Judge[fact.USB]
}

// Load replaces the rules and judges everything present again.
func (d *door) Load(r platform.Rules) error {
	if r == nil {
		d.Guard.Load(Ruling{Judge: nothing{}})
		return nil
	}
	w, ok := r.(watcher)
	if !ok {
		return platform.Unsupported{Feature: "USB control", Need: "rules that judge USB devices"}
	}
	d.Guard.Load(Ruling{Judge: w.Watch(), Act: r.CanDeny()})
	return nil
}

// Listen sets who is told.
func (d *door) Listen(hand func(platform.Decision), look func(soon bool)) {
	d.told.Store(&told{hand: func(x Decision) { hand(x.neutral()) }, gone: func(_ string, came bool) { look(came) }})
}

// Work lists the devices whose disks are being emptied.
func (d *door) Work() []platform.Work {
	var out []platform.Work
	for _, r := range d.Releases() {
		out = append(out, platform.Work{Subject: r.Device, What: "emptying its disks before it is taken away", Since: r.Since,
			Step: r.Step})
	}
	return out
}

// nothing lets everything pass: there is no policy.
type nothing struct{}

func (nothing) Judge(*fact.USB) enforce.Verdict { return enforce.Verdict{Allow: true} }

func (nothing) Reason(enforce.Verdict, *fact.USB) (reason, nearest string) { return "", "" }

// neutral is a decision in the agent's form.
func (d Decision) neutral() platform.Decision {
	u := d.Device
	out := platform.Decision{
		Section: "usb", Key: enforce.Key{Kind: kindDevice, ID: u.Key()}, Subject: Subject(&u), Verdict: d.Verdict, Fact: &u,
		Done: d.Done, Err: d.Err, New: d.Plugged, Changed: d.Changed, Quiet: onlyHub(&u),
		Clock: "insert", Received: d.Received, Decided: d.Decided, Verified: d.Verified,
	}
	if u.Name != "" {
		out.Subject += " (" + u.Name + ")"
	}
	if _, none := d.By.(nothing); !none {
		out.Reason = func() (reason, nearest string) { return d.By.Reason(d.Verdict, &u) }
	}
	if !d.Verdict.Allow && d.Err == nil && d.Done.Is("0") {
		out.Usable = d.Usable
	}
	if d.Released != nil {
		out.Forced = d.Released.Forced
		if d.Released.Note != "" {
			out.Note = "its disk: " + enforce.Plain(d.Released.Note)
		}
	}
	return out
}

// onlyHub reports whether every interface is a hub.
func onlyHub(u *fact.USB) bool {
	for _, i := range u.Interfaces {
		if i.Class != 0x09 {
			return false
		}
	}
	return true
}
