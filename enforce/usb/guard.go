package usb

import (
	"slices"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
)

// protect finds the input devices that stay although the policy refuses them, because no other
// would be left, and whether a new one may still come. Where it cannot be told how many other
// inputs there are, none is taken away, and none is let in for that reason.
func (r *Rules) protect(m *fact.Machine) {
	r.protected = map[place]enforce.Guard{}
	if m == nil || !m.USB.OK {
		return
	}
	var left roles
	if m.Inputs.OK {
		left = roles{m.Inputs.V.Keyboards > 0, m.Inputs.V.Pointers > 0}
	}
	var refused []*fact.USB
	for i := range m.USB.V {
		u := &m.USB.V[i]
		allow, _, _ := r.decide(u, enforce.Enforce)
		if allow || u.Hardwired.OK && u.Hardwired.V {
			left.keyboard = left.keyboard || u.Keyboard
			left.pointer = left.pointer || u.Pointer
		} else if u.Authorized.OK && u.Authorized.V && (u.Keyboard || u.Pointer) {
			refused = append(refused, u)
		}
	}
	kept := left
	for _, u := range refused {
		if u.Keyboard && !left.keyboard || u.Pointer && !left.pointer {
			r.protected[place{u.Path, u.Number}] = enforce.LastInput
			kept.keyboard = kept.keyboard || u.Keyboard
			kept.pointer = kept.pointer || u.Pointer
		}
	}
	if m.Inputs.OK {
		r.newcomer = roles{!kept.keyboard, !kept.pointer && !kept.keyboard}
	}
}

// guard names why a refusal is not carried out. A newly plugged device is only let in as the
// machine's one input if it is a human interface device and nothing else: claiming to be a
// keyboard must not open the door for a disk.
func (r *Rules) guard(u *fact.USB) enforce.Guard {
	if u.Hardwired.OK && u.Hardwired.V {
		return enforce.Hardwired
	}
	if g := r.protected[place{u.Path, u.Number}]; g != enforce.NoGuard {
		return g
	}
	if u.Truncated == "" && u.HIDOnly() && (u.Keyboard && r.newcomer.keyboard || u.Pointer && r.newcomer.pointer) {
		return enforce.LastInput
	}
	if r.needed(u) {
		return enforce.Starting
	}
	return enforce.NoGuard
}

// needed: while the machine starts up, somebody may have to type the passphrase of a disk, and the start may wait
// for a disk of which nobody knows yet where it is.
func (r *Rules) needed(u *fact.USB) bool {
	if r.machine == nil || r.machine.Starting == nil {
		return false
	}
	if u.InputOnly() {
		return true
	}
	return r.machine.Starting.Waits != "" && slices.ContainsFunc(u.Interfaces,
		func(i fact.Interface) bool { return i.Class == classStorage })
}

// WithoutNewcomer is the same rules once a new input has been let in: the next one is judged as
// any other device, until the machine is looked at again.
func (r *Rules) WithoutNewcomer() *Rules {
	c := *r
	c.newcomer = roles{}
	return &c
}
