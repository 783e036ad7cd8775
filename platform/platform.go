// Package platform is the contract of back ends: what can be listed, changed and undone on a machine, and what can be
// observed. It owns no policy and decides nothing. agent/reconcile drives back ends; each package below this one is one
// capability of a system.
package platform

import (
	"context"
	"fmt"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
)

// Backend reads and changes the resources of its kinds. Only one goroutine at a time calls Apply.
type Backend interface {
	Kinds() []Kind
	// List reads every resource of its kinds, including what an earlier run left behind. A resource that cannot be read
	// is listed as Unknown.
	List(context.Context) (map[enforce.Key]enforce.Reading, error)
	// Apply makes changes, in order, each behind the gate, and returns the error of each that failed. It proves
	// nothing: call List again. A change that fails does not prevent the others.
	Apply(context.Context, []enforce.Change) map[enforce.Key]error
	// Watch reports resources that another program may have changed, until ctx ends. It may report one that is
	// unchanged, but must not report this program's own writes. A back end that cannot watch returns Unwatched at once,
	// with the reason.
	Watch(ctx context.Context, changed func(Touch)) error
}

// Touch says that a resource may have been changed.
type Touch struct {
	Key enforce.Key     // zero if it is not known which
	By  enforce.Program // zero if it is not known who
}

// Unwatched is the answer of a back end that learns of no changes, and why. The regular look finds them, every few
// minutes.
type Unwatched struct{ Why string }

func (u Unwatched) Error() string { return "changes are not announced: " + u.Why }

// Life says how long a value lasts.
type Life uint8

const (
	Boot    Life = iota // reset by a reboot
	Present             // until unplugged
	Disk
)

// Kind describes one kind of resource.
type Kind struct {
	Name string
	Life Life
	// Safe is the vendor's default, which is restored if the ledger is lost. Empty if there is none.
	Safe enforce.Value
	// Ours is a value that nobody else is known to write. If the ledger is lost, such a resource is given back to Safe.
	// Empty if there is none.
	Ours enforce.Value
	// Join makes one want of two different ones; nil if they cannot be joined.
	Join func(a, b enforce.Want) (enforce.Want, bool)
	// From returns the baseline of a resource that appeared while we had changed another one: a root hub created under
	// our parameter, a device refused by our default. nil: the value seen is the baseline. changed looks up the baseline
	// of a resource that is in the ledger.
	From func(key enforce.Key, seen enforce.Reading, changed func(enforce.Key) (enforce.Reading, bool)) enforce.Reading
	// Made resources exist only because we made them, under a name that nobody else uses. Their baseline is that they are
	// absent, and whatever is found under that name is ours to remove.
	Made bool
	// Found resources exist or not by themselves, and are never created by us: nothing is done about one that is
	// absent.
	Found bool
	// Network resources can cut this machine off from its server: their plans have to be confirmed after they are
	// applied.
	Network bool
	// Urgent resources are written by a guard as events come: their rows end when the device is unplugged, and do not
	// wait for the disk.
	Urgent bool
}

// Observer reads one part of a snapshot.
type Observer interface {
	Observe(context.Context, *fact.Machine) error
}

// Watched is an observer that reports changes to what it reads, until ctx ends.
type Watched interface {
	Observer
	Watch(ctx context.Context, changed func()) error
}

// Unsupported is what a back end returns if its system lacks something.
type Unsupported struct{ Feature, Need string }

func (u Unsupported) Error() string {
	return fmt.Sprintf("%s is not supported here: it needs %s", u.Feature, u.Need)
}
