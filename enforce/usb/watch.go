package usb

import (
	"sync/atomic"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
)

// Watch is the judge that a guard uses between two looks at the machine. If the machine has no input, it lets one new
// input in, and from then on judges without that exception.
func (r *Rules) Watch() enforce.Judge[fact.USB] {
	w := &watch{rules: r}
	w.now.Store(r)
	return w
}

type watch struct {
	rules *Rules // for reasons; it has the entries of every verdict given
	now   atomic.Pointer[Rules]
}

// Judge judges a device, and remembers that a new input was let in.
func (w *watch) Judge(u *fact.USB) enforce.Verdict {
	for {
		r := w.now.Load()
		v := r.Judge(u)
		if v.Guard != enforce.LastInput || u.Authorized.OK && u.Authorized.V {
			return v
		}
		if w.now.CompareAndSwap(r, r.WithoutNewcomer()) {
			return v
		}
	}
}

// Pins reports whether the serial of such a device can matter.
func (w *watch) Pins(vendor, product uint16) bool {
	id := uint32(vendor)<<16 | uint32(product)
	return len(w.rules.list.pins[id]) > 0 || len(w.rules.exceptions[id]) > 0
}

// Refuses reports whether a device would be refused if there were no guard.
func (w *watch) Refuses(u *fact.USB) bool {
	allow, _, _ := w.rules.decide(u, enforce.Enforce)
	return !allow
}

// Reason renders a verdict of this watch.
func (w *watch) Reason(v enforce.Verdict, u *fact.USB) (reason, nearest string) {
	return w.rules.Reason(v, u)
}
