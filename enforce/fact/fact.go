// Package fact holds the nouns of what can be observed on a machine: USB devices, volumes, inputs.
// It owns shapes only. Platform observers fill them, sections decide on them, and a device may
// report them so that the server asks "what if" with the same code.
package fact

import "fmt"

// Known is a value together with whether it could be read. The zero value is unknown.
type Known[T any] struct {
	V   T      `json:"value"`
	OK  bool   `json:"known"`
	Why string `json:"why,omitempty"` // why it is not known
}

// Is makes a value known.
func Is[T any](v T) Known[T] { return Known[T]{V: v, OK: true} }

// Unread makes a value unknown, saying why.
func Unread[T any](why string) Known[T] { return Known[T]{Why: why} }

// Machine is one snapshot; a section reads the parts that it needs.
type Machine struct {
	Boot    string          `json:"boot"` // changes with every boot
	USB     Known[[]USB]    `json:"usb"`
	Inputs  Known[Inputs]   `json:"inputs"`
	Volumes Known[[]Volume] `json:"volumes"`
	// Controllers are the root hubs' kernel names: "usb1".
	Controllers Known[[]string] `json:"controllers"`
	// Starting stands while the machine starts up and nobody has logged in; nil afterwards.
	Starting *Starting `json:"-"`
	// Capable says what this system's back ends can carry for each setting; see Can.
	Capable map[string]Capability `json:"capable,omitempty"`
}

// Starting is what is known of a machine that starts up.
type Starting struct {
	// Waits names a disk that the start waits for and that is not there yet, "" for none: it may be on whatever
	// comes.
	Waits string
}

// Capability is what a back end can do for one setting on this machine.
type Capability struct {
	Level string `json:"level"`           // Enforced, Partial, DetectOnly, Unsupported
	Limit string `json:"limit,omitempty"` // what escapes, or what is missing
}

// Inputs counts the keyboards and pointers that are not on USB.
type Inputs struct {
	Keyboards int `json:"keyboards"`
	Pointers  int `json:"pointers"`
}

// Volume is one file system or swap that is written: on a disk of this machine, not in memory, not outside.
type Volume struct {
	Dev       string      `json:"dev"`            // "254:1", or what it calls itself
	Mount     string      `json:"mount"`          // where it stands; "swap"
	Also      []string    `json:"also,omitempty"` // the other places
	FS        string      `json:"fs"`
	Swap      bool        `json:"swap,omitempty"`
	External  Known[bool] `json:"external"`
	Encrypted Known[bool] `json:"encrypted"` // every path down to a disk passes something that encrypts
	// Chain is the way down from each of its devices: "dm-1 (crypt aes-xts-plain64) > sda3". Leaf is the first
	// disk that is reached without encryption.
	Chain []string `json:"chain,omitempty"`
	Leaf  string   `json:"leaf,omitempty"`
}

// USB is one USB device as its descriptors and its port tell it.
type USB struct {
	Path       string      `json:"path"`   // the kernel's name, "1-2.3"; a root hub is "usb1"
	Number     int         `json:"number"` // its address on the bus; a new one after each plug
	Bus        int         `json:"bus"`
	Vendor     uint16      `json:"vendor"`
	Product    uint16      `json:"product"`
	Class      uint8       `json:"class"` // of the device descriptor
	Serial     string      `json:"serial,omitempty"`
	Name       string      `json:"name,omitempty"`      // manufacturer and product string, for people
	Interfaces []Interface `json:"interfaces"`          // of every configuration and alternate setting
	Truncated  string      `json:"truncated,omitempty"` // why the descriptors could not be read to the end
	Hardwired  Known[bool] `json:"hardwired"`
	Authorized Known[bool] `json:"authorized"`
	Root       bool        `json:"root,omitempty"`
	Keyboard   bool        `json:"keyboard,omitempty"` // has a keyboard that works, or a boot-protocol one
	Pointer    bool        `json:"pointer,omitempty"`
}

// Interface is one interface descriptor (USB 2.0, table 9-12).
type Interface struct {
	Config    uint8 `json:"config"`
	Number    uint8 `json:"number"`
	Alternate uint8 `json:"alternate"`
	Class     uint8 `json:"class"`
	SubClass  uint8 `json:"subclass"`
	Protocol  uint8 `json:"protocol"`
	Name      uint8 `json:"name_index,omitempty"` // index of its string descriptor
	// MTP says that files are behind a vendor-specific interface, by its name or its device's; only a transfer tells.
	MTP Known[bool] `json:"mtp"`
}

// ID is vendor:product in lower-case hex.
func (u *USB) ID() string { return fmt.Sprintf("%04x:%04x", u.Vendor, u.Product) }

// Key is the device at its place: it changes when another device, or the same again, is plugged.
func (u *USB) Key() string { return fmt.Sprintf("%s@%d", u.Path, u.Number) }

// InputOnly reports whether every interface is a human interface device or a hub, and one is the former.
func (u *USB) InputOnly() bool {
	input := false
	for i := range u.Interfaces {
		switch u.Interfaces[i].Class {
		case 0x03:
			input = true
		case 0x09:
		default:
			return false
		}
	}
	return input && u.Truncated == ""
}

// MayBeMTP reports whether an interface has not said yet whether files are behind it.
func (u *USB) MayBeMTP() bool {
	for i := range u.Interfaces {
		if u.Interfaces[i].Class == 0xff && !u.Interfaces[i].MTP.OK {
			return true
		}
	}
	return false
}

// HIDOnly reports whether every interface is a human interface device.
func (u *USB) HIDOnly() bool {
	for i := range u.Interfaces {
		if u.Interfaces[i].Class != 0x03 {
			return false
		}
	}
	return len(u.Interfaces) > 0
}
