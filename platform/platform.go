// Package platform is the contract of back ends: what can be listed, changed and undone on a
// machine, and what can be observed. It owns no policy and decides nothing. agent/reconcile drives
// back ends; each package below this one is one capability of a system.
package platform

import (
	"context"
	"fmt"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
)

// Backend reads and changes the resources of its kinds. One goroutine at a time calls Apply.
type Backend interface {
	Kinds() []Kind
	// List reads every resource of its kinds, what an earlier run left behind included. A resource
	// that cannot be read is listed as Unknown.
	List(context.Context) (map[enforce.Key]enforce.Reading, error)
	// Apply makes changes, in order, each behind the gate, and gives the error of each that failed. It
	// proves nothing: List again. One change that fails does not keep the others from being made.
	Apply(context.Context, []enforce.Change) map[enforce.Key]error
	// Watch tells of resources that another program may have changed, until the context ends. It may tell of
	// one that is as it was, and must not tell of what this program writes. A back end that hears nothing
	// answers Unwatched at once, with the reason.
	Watch(ctx context.Context, changed func(Touch)) error
}

// Touch says that a resource may have been changed.
type Touch struct {
	Key enforce.Key     // zero where it is not known which
	By  enforce.Program // zero where it is not known who
}

// Unwatched is the answer of a back end that is not told of changes, and why: the look that comes every few
// minutes finds them.
type Unwatched struct{ Why string }

func (u Unwatched) Error() string { return "changes are not announced: " + u.Why }

// Life says how long a value lasts.
type Life uint8

const (
	Boot    Life = iota // fresh after a reboot
	Present             // until unplugged
	Disk
)

// Kind describes one kind of resource.
type Kind struct {
	Name string
	Life Life
	// Safe is the vendor's default: what to restore on the day the ledger itself is lost. Empty
	// where there is none.
	Safe enforce.Value
	// Ours is a value that nobody else is known to write; with the ledger lost, it is given back to
	// Safe. Empty where there is none.
	Ours enforce.Value
	// Join makes one want of two that differ; nil where they cannot be joined.
	Join func(a, b enforce.Want) (enforce.Want, bool)
	// From gives the baseline of a resource that appeared while we held another one: a root hub
	// born under our parameter, a device refused by our default. nil: what is seen is the baseline.
	// held looks up the baseline of a resource that the ledger holds.
	From func(key enforce.Key, seen enforce.Reading, held func(enforce.Key) (enforce.Reading, bool)) enforce.Reading
	// Found resources are there or not by themselves and never made by us: where one is absent there
	// is nothing to hold.
	Found bool
	// Network resources can cut this machine off from its server: their plans are commit-confirmed.
	Network bool
	// Urgent resources are written by a guard as events come: their rows live until unplugged and
	// do not wait for the disk.
	Urgent bool
}

// Observer reads one part of a snapshot.
type Observer interface {
	Observe(context.Context, *fact.Machine) error
}

// Watched is an observer that is told of changes to what it reads, until the context ends.
type Watched interface {
	Observer
	Watch(ctx context.Context, changed func()) error
}

// Unsupported is what a back end answers where its system lacks something.
type Unsupported struct{ Feature, Need string }

func (u Unsupported) Error() string {
	return fmt.Sprintf("%s is not supported here: it needs %s", u.Feature, u.Need)
}
