package usb

import (
	"slices"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
)

// protect finds the input devices that stay although the policy refuses them, because no other would be left, and
// whether a new one may still be let in. If the number of other inputs cannot be read, none is taken away, and none is
// let in for that reason.
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

// guard names why a refusal is not carried out. A newly plugged device is let in as the machine's only input only if it
// is a human interface device and nothing else: claiming to be a keyboard must not let a disk in.
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

// needed: while the machine boots, somebody may have to type the passphrase of a disk, and the boot may wait for a disk
// that nobody has found yet.
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

// WithoutNewcomer returns these rules after a new input has been let in: until the next look at the machine, another
// one is judged like any other device.
func (r *Rules) WithoutNewcomer() *Rules {
	c := *r
	c.newcomer = roles{}
	return &c
}
