package platform

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"reflect"
	"time"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/platform/mountinfo"
)

// Host is what a capability is made for: a machine, and the agent that runs there.
type Host struct {
	Sysfs  string // where sysfs is, "/sys"
	Proc   string // where procfs is, "/proc"
	Inputs string // the kernel's list of input devices
	Run    string // the runtime directory; empty after a boot
	// Quarantine is the directory of files that a policy has taken out of the way.
	Quarantine string
	// Scanner is the program that looks for sensitive data; "": where packages put it.
	Scanner string
	// Network says that the network of this process may be governed. It is not for a machine made of files.
	Network bool
	Gate    enforce.Gate
	Log     *slog.Logger
	// Desks are the desktops of this machine; nil at the early start.
	Desks Desks
	// Early is set while the machine boots, before the agent runs. It has, by capability, what each noted when the
	// agent last ran.
	Early *Notes
}

// Notes are what capabilities have to know about a machine while it boots, and cannot find out then; by the
// capability's name.
type Notes map[string][]string

// Of returns one capability's notes.
func (n *Notes) Of(capability string) []string {
	if n == nil {
		return nil
	}
	return (*n)[capability]
}

// Capability is one capability of a system as a value: what it claims, observes, changes and guards. The agent drives
// every capability through this door and imports none.
type Capability struct {
	Name string
	// Claims say what this version supports, for every system. The README's table comes from them.
	Claims []Claim
	// Probe says what this machine supports now. It may only lower the claims; nil: they stand.
	Probe     func(context.Context) []Claim
	Observers []Observer
	// Ask obtains facts that only the devices themselves can tell, and fills them in. It is called when a decision
	// depends on one. It reports whether it has learnt anything; nil: there is nothing to ask.
	Ask      func(context.Context, *fact.Machine) bool
	Backends []Backend
	Guards   []Guard
	// Provides are functions that other capabilities may use; Uses are functions of others that this one needs.
	Provides, Uses []Port
	// Early says that it takes part in the early start: what its back ends enforce is enforced from then on.
	Early bool
	// Note returns what it has to know at the next early start; nil: nothing.
	Note func() []string
	// Inventory lists what there is, for support; nil: nothing.
	Inventory func(context.Context) (any, error)
	// Now says what the machine's present state of a section's subject is, in the section's own words for it; "" if there
	// is nothing to say. nil: never.
	Now func(section, subject string) string
	// Start is called once, before anything else, to end what an earlier run left; nil: nothing.
	Start func()
}

// Claim says what a capability supports of one setting on one system.
type Claim struct {
	Setting   enforce.Setting
	OS        string // as GOOS
	Level     string // fact.Enforced, Partial, DetectOnly, Unsupported
	Limit     string // what escapes, or what is missing
	Exercised bool   // on a real kernel with real (emulated) devices, by the tests
}

// Systems are the systems that Warder is built for.
var Systems = []string{"linux", "windows", "darwin"}

// ClaimOf returns what a list of capabilities supports of a setting on a system: the highest claim among them, of several the last
// (a capability stands after those that do a part of what it does).
func ClaimOf(list []Capability, s enforce.Setting, os string) Claim {
	best := Claim{Setting: s, OS: os, Level: fact.Unsupported, Limit: fact.NotCarried}
	for _, c := range list {
		for _, claim := range c.Claims {
			if claim.Setting == s && claim.OS == os && (rank(claim.Level) > rank(best.Level) ||
				claim.Level == best.Level && (best.Limit == fact.NotCarried || rank(claim.Level) > 0)) {
				best = claim
			}
		}
	}
	return best
}

// rank orders the levels of a claim.
func rank(level string) int {
	for i, l := range []string{fact.Unsupported, fact.DetectOnly, fact.Partial, fact.Enforced} {
		if l == level {
			return i
		}
	}
	return 0
}

// Lower returns the claims for one system as a probe leaves them. A probe's answer that exceeds its claim, or for a
// setting without one, is ignored.
func Lower(claims, probed []Claim, os string) []Claim {
	var out []Claim
	for _, c := range claims {
		if c.OS != os {
			continue
		}
		for _, p := range probed {
			if p.Setting == c.Setting && rank(p.Level) < rank(c.Level) {
				c.Level, c.Limit = p.Level, p.Limit
			}
		}
		out = append(out, c)
	}
	return out
}

// Port is one function that a capability lends (Func) or takes (Take). The agent joins them by name.
type Port struct {
	Name string
	Func any                 // lent
	Take func(any) (ok bool) // taken; false if it has another type
	Type reflect.Type        // of what is taken
}

// Lend is a port that provides f.
func Lend[F any](name string, f F) Port { return Port{Name: name, Func: f} }

// Borrow is a port that uses the function of that name.
func Borrow[F any](name string, take func(F)) Port {
	return Port{Name: name, Type: reflect.TypeFor[F](), Take: func(f any) bool {
		typed, ok := f.(F)
		if ok {
			take(typed)
		}
		return ok
	}}
}

// Join gives every capability the functions that it uses. It fails if one is missing, provided twice, or of another
// type: that is a mistake in the lists.
func Join(list []Capability) error {
	lent := map[string]any{}
	for _, c := range list {
		for _, p := range c.Provides {
			if _, twice := lent[p.Name]; twice {
				return fmt.Errorf("%s: port %s is lent twice", c.Name, p.Name)
			}
			lent[p.Name] = p.Func
		}
	}
	for _, c := range list {
		for _, p := range c.Uses {
			f, ok := lent[p.Name]
			if !ok {
				return fmt.Errorf("%s uses port %s, which nothing lends", c.Name, p.Name)
			}
			if !p.Take(f) {
				return fmt.Errorf("%s uses port %s as %s; it is %T", c.Name, p.Name, p.Type, f)
			}
		}
	}
	return nil
}

// Rules are what a guard is loaded with; it finds the judge for its own kind of event in them.
type Rules interface {
	// CanDeny reports whether anything can be refused at all. Otherwise a guard watches and never writes.
	CanDeny() bool
}

// Guard answers events as they happen, by the rules that the agent loads.
type Guard interface {
	// Section names the section whose rules it uses.
	Section() string
	// Load replaces the rules and judges everything present again. It returns when what can be done at once is done and
	// read back. nil: there is no policy, and everything passes.
	Load(Rules) error
	// Listen sets who is told; it is called before anything is loaded. hand receives each decision and never waits.
	// look asks for another look at the machine: soon if something may have to be done, otherwise once the machine has
	// come to rest.
	Listen(hand func(Decision), look func(soon bool))
	// Run answers events until ctx ends.
	Run(ctx context.Context) error
	// Work lists what goes on in the background.
	Work() []Work
	// Stop ends that work and leaves everything as it is.
	Stop()
}

// Decision is one event judged, and what became of it.
type Decision struct {
	Section string
	Key     enforce.Key // of the resource
	Subject string      // for people
	Verdict enforce.Verdict
	// Reason renders the verdict, later and elsewhere; nil if there was no policy to judge by.
	Reason  func() (reason, nearest string)
	Fact    any             // what was judged
	Done    enforce.Reading // as read back, after acting
	Err     error           // why the machine's state is not the verdict
	New     bool            // it has just arrived; otherwise a rescan found it
	Changed bool            // the guard wrote
	Quiet   bool            // not worth an event while it is allowed
	Note    string          // what else became of it, a sentence
	Forced  bool            // something may be lost: Note says what
	Taken   bool            // something of a person's was taken away: the people at the machine are told in enforce mode, too
	// Usable is how long at most a device that is now refused could be used before; 0: it could not.
	Usable time.Duration

	// Clock names what is measured, "insert". Received is when the announcement was read, and zero for a rescan.
	// Decided is just before the write, Verified after the read-back.
	Clock                       string
	Received, Decided, Verified time.Time
}

// Kept is what is noted of a file that is put into the quarantine.
type Kept struct {
	Path    string // where it was
	Place   string // what that is on, for people
	Setting enforce.Setting
	Reason  string // why, for people
}

// OutsideDisk is an external disk, and where what is on it is mounted.
type OutsideDisk struct {
	fact.Medium
	Name   string // for people
	Mounts []mountinfo.Mount
}

// Work is something that goes on in the background.
type Work struct {
	Subject string // "2-1"
	What    string // "emptying its disks before it is taken away"
	Since   time.Time
	Step    string // may name a path, and so whose it is
}

// Released is what became of the disks that had to be emptied before a device was taken away.
type Released struct {
	Forced bool   // not all is known to be written: the deadline came first
	Note   string // a sentence for people: who was asked to end, what may be lost
}

// Admission is an address that an allowed name has resolved to.
type Admission struct {
	Name    string // the name that was asked for
	Address netip.Addr
	For     time.Duration // how long from now
}

// The functions that capabilities lend each other.
type (
	// ReleaseDisks empties the disks of a device before it is taken away. dir is the device's directory in sysfs; step
	// is called with what is being done. It returns when the device may go, at the latest after a deadline of its own.
	// finish is called once the device has gone.
	ReleaseDisks func(ctx context.Context, dir string, step func(string)) (out Released, finish func())
	// Fill tells the firewall what a reach consists of, before the planner asks for it by its description. keep reports
	// whether open connections to an address may go on; known lists what may be reached because it was resolved.
	Fill func(reach fact.Reach, keep func(netip.Addr) bool, known func() []Admission) error
	// Admit lets addresses be reached for a time, and returns when the kernel has taken them; Admitted lists them.
	Admit    func([]Admission) error
	Admitted func() ([]Admission, error)
	// Left says what an earlier run left: what it had admitted, and for which lists; "" if it left nothing.
	Left func() (list []Admission, lists string, err error)
	// Asked tells which server a question that was redirected to our resolver had been sent to; proto is the number of
	// UDP or TCP.
	Asked func(proto uint8, from netip.AddrPort) (netip.AddrPort, bool)
	// Forget ends a connection of our own with a name server in the kernel's memory, so that the next program that gets
	// its port is not taken for us.
	Forget func(proto uint8, own, far netip.AddrPort)
	// Carry tells the kill switch what is so now: it is in the kernel when this returns, if the switch is there.
	Carry func(fact.Carried) error
	// KeepFile copies an open file into the quarantine, and returns under which name, once the copy is whole and on the disk. The
	// caller removes the original; if it cannot, drop removes the copy. undisturbed is asked meanwhile, and about at the end: the
	// file may get another name.
	KeepFile func(ctx context.Context, f *os.File, about func() Kept, undisturbed func() bool) (id string, drop func(), err error)
	// KeepData is KeepFile for a file with sensitive data. done is called once the original is gone: an older copy of the same, which
	// somebody made who was ended before they could remove it, goes then.
	KeepData func(ctx context.Context, f *os.File, about func() Kept, undisturbed func() bool) (id string, drop, done func(), err error)
	// Expire removes files with sensitive data from the quarantine that have been there for so many days.
	Expire func(days int) (gone int, err error)
	// Outside lists the external disks that have something mounted.
	Outside func() ([]OutsideDisk, error)
	// CarriesSystem names the part of the running system that is on a device's disk, "" for none.
	CarriesSystem func(dir string) string
	// Leaves reports whether a USB device, by its path, is refused or being taken away: its disks go with it.
	Leaves func(path string) bool
)

// The names of the ports.
const (
	PortRelease  = "volume.release"
	PortCarries  = "volume.carries"
	PortLeaves   = "usb.leaves"
	PortFill     = "firewall.fill"
	PortAdmit    = "firewall.admit"
	PortAdmitted = "firewall.admitted"
	PortLeft     = "firewall.left"
	PortAsked    = "firewall.asked"
	PortForget   = "firewall.forget"
	PortCarry    = "firewall.carry"
	PortKeep     = "quarantine.keep"
	PortKeepData = "quarantine.keep_data" // files with sensitive data, which have a bound of their own
	PortExpire   = "quarantine.expire"
	PortLook     = "scan.look"
	PortOutside  = "media.outside"
)
