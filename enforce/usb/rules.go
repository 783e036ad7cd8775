// Package usb decides about USB devices: the order of usb.allowed, usb.whitelist, usb.allowed_classes and
// storage.external_storage_allowed, and the guards that keep people from being locked out. It is pure: a policy and a
// snapshot of the machine are compiled into Rules once, and Judge then answers for each device in well under a
// microsecond, without allocating. platform/usb carries its decisions out.
package usb

import (
	"strings"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/enforce/section"
)

// The lines of the decision order; the first that answers wins. They are the Line of a Rule.
const (
	lineHub       int32 = 1 // root hubs, and devices whose every interface is a hub
	lineStorage   int32 = 2 // external storage is not allowed, and this is storage
	lineWhitelist int32 = 3
	lineClasses   int32 = 4
	lineAllowed   int32 = 5
	lineRest      int32 = 6 // a whitelist without a match; or nothing managed
	lineException int32 = 7 // asked before storage: a time-boxed exception for this very device
)

const (
	settingAllowed   enforce.Setting = "usb.allowed"
	settingWhitelist enforce.Setting = "usb.whitelist"
	settingClasses   enforce.Setting = "usb.allowed_classes"
	settingAudit     enforce.Setting = "usb.audit_only"
	settingStorage   enforce.Setting = "storage.external_storage_allowed"
	settingException enforce.Setting = "usb.exception" // not a setting of the document: granted beside it
)

// classHub and the rest are USB base class codes.
const (
	classHID     = 0x03
	classImage   = 0x06
	classStorage = 0x08
	classHub     = 0x09
	classVendor  = 0xff
)

// Rules is one policy compiled for one machine. It is read-only after Compile.
type Rules struct {
	allowed     bool
	list        *list
	classes     [4]uint64
	denyStorage bool
	exceptions  map[uint32][]pin // serial "" matches any
	disks       map[string]bool  // serials of disks that have an exception in the storage section

	modeAllowed, modeWhitelist, modeClasses, modeStorage enforce.Mode

	machine   *fact.Machine // the snapshot these rules were compiled for
	protected map[place]enforce.Guard
	newcomer  roles // inputs of which the machine has none, so that a new one may be let in
	doc       *policy.Document
}

// list is a whitelist, indexed for look-up.
type list struct {
	exact   map[uint32]int32 // vendor<<16 | product
	vendors map[uint16]int32
	pins    map[uint32][]pin
}

// listOf indexes a whitelist.
func listOf(entries []policy.USBEntry) *list {
	l := &list{exact: make(map[uint32]int32, len(entries)), vendors: map[uint16]int32{}, pins: map[uint32][]pin{}}
	for i, e := range entries {
		n, id := int32(i+1), uint32(e.Vendor)<<16|uint32(e.Product)
		switch {
		case e.AnyProduct:
			l.vendors[e.Vendor] = n
		case e.Serial != "":
			l.pins[id] = append(l.pins[id], pin{e.Serial, n})
		default:
			l.exact[id] = n
		}
	}
	return l
}

type pin struct {
	serial string
	entry  int32
}

type place struct {
	path   string
	number int
}

type roles struct{ keyboard, pointer bool }

// Compile prepares a policy for judging. The snapshot is only needed for the guards: which inputs there are, and which
// of them the policy would take away.
func Compile(d *policy.Document, m *fact.Machine) *Rules {
	if m == nil {
		m = &fact.Machine{}
	}
	r := &Rules{
		allowed:       d.USB.Allowed.V,
		denyStorage:   deniesStorage(d),
		modeAllowed:   d.Mode(settingAllowed),
		modeWhitelist: d.Mode(settingWhitelist),
		modeClasses:   d.Mode(settingClasses),
		modeStorage:   d.Mode(settingStorage),
		doc:           d,
		machine:       m,
	}
	r.list = d.Derived("usb.whitelist", func() any { return listOf(d.USB.Whitelist.V) }).(*list)
	for _, c := range d.USB.AllowedClasses.V {
		r.classes[c>>6] |= 1 << (c & 63)
	}
	r.exceptions = map[uint32][]pin{}
	for i, subject := range d.Exceptions["usb"] {
		e, err := policy.ParseUSBEntry(subject)
		if err != nil || e.AnyProduct {
			continue // not ours: an exception needs both vendor and product
		}
		id := uint32(e.Vendor)<<16 | uint32(e.Product)
		r.exceptions[id] = append(r.exceptions[id], pin{e.Serial, int32(i + 1)})
	}
	for _, subject := range d.Exceptions["storage"] {
		if serial, ok := strings.CutPrefix(subject, policy.DiskSubject); ok && serial != "" {
			if r.disks == nil {
				r.disks = map[string]bool{}
			}
			r.disks[serial] = true
		}
	}
	r.protect(m)
	return r
}

// CanDeny reports whether anything can be refused in enforce mode. Only then is the kernel told to refuse by default.
func (r *Rules) CanDeny() bool {
	const e = enforce.Enforce
	return r.modeStorage == e && r.denyStorage || r.modeClasses == e || r.modeWhitelist == e ||
		r.modeAllowed == e && !r.allowed
}

// Public returns these rules without anything below enforce: what everybody may see.
func (r *Rules) Public() section.Rules {
	c := *r
	for _, m := range []*enforce.Mode{&c.modeAllowed, &c.modeWhitelist, &c.modeClasses, &c.modeStorage} {
		if *m < enforce.Enforce {
			*m = enforce.Off
		}
	}
	return &c
}

// whitelisted returns the entry that allows a device, and whether it pins the serial.
func (r *Rules) whitelisted(u *fact.USB) (entry int32, pinned bool) {
	id := uint32(u.Vendor)<<16 | uint32(u.Product)
	if u.Serial != "" {
		for _, p := range r.list.pins[id] {
			if p.serial == u.Serial {
				return p.entry, true
			}
		}
	}
	if n, ok := r.list.exact[id]; ok {
		return n, false
	}
	return r.list.vendors[u.Vendor], false
}

// excepted returns the exception that lets a device pass, or 0.
func (r *Rules) excepted(u *fact.USB) int32 {
	if len(r.exceptions) == 0 {
		return 0
	}
	for _, p := range r.exceptions[uint32(u.Vendor)<<16|uint32(u.Product)] {
		if p.serial == "" || p.serial == u.Serial {
			return p.entry
		}
	}
	return 0
}

func (r *Rules) classAllowed(class uint8) bool {
	return class == classHub || r.classes[class>>6]&(1<<(class&63)) != 0
}
