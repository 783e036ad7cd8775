package enforce

import (
	"errors"
	"fmt"
	"time"
)

// Rule points at the line of a decision that answered. It contains no text, so that a verdict costs no allocation; the
// section's Explain renders it.
type Rule struct {
	Setting Setting `json:"setting,omitempty"`
	Line    int32   `json:"line"`            // the line of the section's decision order, from 1; 0: none
	Entry   int32   `json:"entry,omitempty"` // the list entry that matched, from 1; 0: none
}

// Guard names why a deny was not carried out.
type Guard uint8

const (
	NoGuard    Guard = iota
	LastInput        // no other keyboard or pointer would be left
	Hardwired        // the firmware says the port is inside the machine
	Starting         // the machine is booting, and may need it for that
	SystemDisk       // the running system is on it
	OtherGuard       // one of a newer version
)

// String is the guard's name.
func (g Guard) String() string {
	switch g {
	case LastInput:
		return "last_input"
	case Hardwired:
		return "hardwired"
	case Starting:
		return "starting"
	case SystemDisk:
		return "system_disk"
	case OtherGuard:
		return "unknown"
	}
	return ""
}

// MarshalText writes the guard's name.
func (g Guard) MarshalText() ([]byte, error) { return []byte(g.String()), nil }

// UnmarshalText reads a guard's name.
func (g *Guard) UnmarshalText(b []byte) error {
	*g = OtherGuard
	for _, c := range []Guard{NoGuard, LastInput, Hardwired, Starting, SystemDisk} {
		if c.String() == string(b) {
			*g = c
		}
	}
	return nil
}

// Verdict answers one event.
type Verdict struct {
	Allow     bool  `json:"allow"`
	Rule      Rule  `json:"rule"`                 // decided among the settings in Enforce
	Would     Rule  `json:"would"`                // decided among all settings
	WouldDeny bool  `json:"would_deny,omitempty"` // what all settings together say
	WouldMode Mode  `json:"would_mode,omitempty"` // of the setting that Would names
	Guard     Guard `json:"guard,omitempty"`      // why a deny was not carried out
	Ask       bool  `json:"-"`                    // the answer depends on a fact that was not yet known
}

// Judge answers events about one kind of fact, without allocating.
type Judge[T any] interface {
	Judge(*T) Verdict
	// Reason says in one sentence why, and the smallest change to the policy that would reverse it.
	Reason(Verdict, *T) (reason, nearest string)
}

// Program is a program that was seen changing something, as the kernel described it at that moment.
type Program struct {
	PID  int    `json:"pid"`
	Name string `json:"name,omitempty"` // the file that it runs; empty if it was gone already
}

// String names the program and its process id.
func (p Program) String() string {
	switch {
	case p.PID == 0:
		return "another program"
	case p.Name == "":
		return fmt.Sprintf("a program that is gone (pid %d)", p.PID)
	}
	return fmt.Sprintf("%s (pid %d)", p.Name, p.PID)
}

// ErrContended means that a resource is left alone for a while, because another program keeps changing it back.
var ErrContended = errors.New("another program keeps changing it, so Warder has stopped repairing it for now")

// EventKind names what happened.
type EventKind string

const (
	Allowed   EventKind = "allowed"    // judged and let through
	Denied    EventKind = "denied"     // judged, refused, and read back as refused
	WouldDeny EventKind = "would_deny" // a mode below enforce let it pass
	Guarded   EventKind = "guarded"    // a guard kept it
	Failed    EventKind = "failed"     // the machine's state is not what was decided
	Forced    EventKind = "forced"     // a disk was taken away before all of it was known to be written
	Warned    EventKind = "warned"     // people were told of something that lasts; warn mode alone
	Drift     EventKind = "drift"      // another program changed a resource that is enforced, or that a mode below enforce watches
)

// Event is one thing that happened, and what was done about it.
type Event struct {
	Seq     uint64    `json:"seq,omitempty"` // given by the outbox
	At      time.Time `json:"at"`
	Setting Setting   `json:"setting"`
	Mode    Mode      `json:"mode"`
	Kind    EventKind `json:"kind"`
	Subject string    `json:"subject"`          // what it happened to, e.g. "usb 1-2 0951:1666"
	Reason  string    `json:"reason,omitempty"` // one sentence, naming the setting
	Told    string    `json:"told,omitempty"`   // warn mode: whom, or "no session"
	Verdict Verdict   `json:"verdict"`
	Done    Reading   `json:"done"`            // read back after acting
	Count   int       `json:"count,omitempty"` // more than one if older events were folded
	Policy  string    `json:"policy,omitempty"`
	// Users are the people who were at the machine; the event is shown to them and to root alone. It does not leave the
	// machine.
	Users []uint32 `json:"users,omitempty"`
	Facts Facts    `json:"facts,omitempty"` // what was judged, for asking "what if" about it later
	// Section is the section whose rules judged it: a stick refused by a storage setting was judged by "usb". It is
	// empty if nothing was judged, and from agents up to 0.3.
	Section string `json:"section,omitempty"`
	// By is the program that changed something; nil if none was seen.
	By *Program `json:"by,omitempty"`
}

// Personal reports whether an event tells what somebody does at the machine. The agent's own events (holds, losses) do
// not.
func (e *Event) Personal() bool { return e.Setting.Section() != "agent" }

// Facts are the facts of one event as JSON. Which facts depends on the section that judged it.
type Facts string

// MarshalJSON writes the facts as they are.
func (f Facts) MarshalJSON() ([]byte, error) {
	if f == "" {
		return []byte("null"), nil
	}
	return []byte(f), nil
}

// UnmarshalJSON keeps them as they came.
func (f *Facts) UnmarshalJSON(b []byte) error {
	if *f = Facts(b); *f == "null" {
		*f = ""
	}
	return nil
}
