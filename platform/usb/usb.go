// Package usb is USB on this machine: which devices are present, which of them the kernel may use, and a guard that
// answers each new one before a driver binds. It owns the sysfs files authorized_default and authorized
// (Documentation/usb/authorization.rst in the kernel). It knows no policy: the agent loads a judge. Facts go to the
// agent's snapshot; each decision is passed on with what was read back.
package usb

import (
	"time"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/platform"
)

// The kinds of resources, as the decisions in enforce/usb name them.
const (
	kindDefault = "usb.default"
	kindParam   = "usb.param"
	kindDevice  = "usb.device"
)

// Ruling is what a guard judges by.
type Ruling struct {
	Judge enforce.Judge[fact.USB]
	// Act says whether anything can be refused at all. Otherwise the guard watches and never writes.
	Act bool
}

// Decision is one device judged.
type Decision struct {
	Device  fact.USB
	Verdict enforce.Verdict
	Done    enforce.Reading // authorized as read back, after acting
	Err     error           // why the machine's state is not the verdict
	Plugged bool            // a device that was just plugged in; otherwise a rescan found it
	Changed bool            // the guard wrote
	By      enforce.Judge[fact.USB]
	Usable  time.Duration // how long at most it could be used before it was refused; 0: it could not
	// Released is what became of its disks, if it had some and was taken away.
	Released *platform.Released

	// Received is when the kernel's announcement was read; zero for a rescan. Decided is just before the write,
	// Verified after the read-back.
	Received, Decided, Verified time.Time
}

// Subject names a device for people and for the server.
func Subject(u *fact.USB) string {
	s := "usb " + u.Path + " " + u.ID()
	if u.Serial != "" {
		s += " " + enforce.Plain(u.Serial)
	}
	return s
}

// Releasing is the error of a device that is about to be taken away: its disks are being emptied, in the background.
type Releasing struct{ Name string }

// Error says that the device is being emptied.
func (r *Releasing) Error() string {
	return "the disks of " + r.Name + " are being emptied before it is taken away"
}

// Progress is one release under way.
type Progress struct {
	Device string // "2-1"
	Since  time.Time
	Step   string
}

// mtpWait bounds how long a device is asked whether it is MTP. Most have answered everything within 5 ms.
const mtpWait = 150 * time.Millisecond

// mtpAnswer bounds a single question, so that a device that hangs at one can still answer another.
const mtpAnswer = 30 * time.Millisecond
