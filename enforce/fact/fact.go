// Package fact has the nouns of what can be observed on a machine: USB devices, volumes, inputs. It owns only their
// shapes. Observers in platform fill them in, and sections decide on them. A device may report them, so that the server
// can answer what-if with the same code.
package fact

import (
	"fmt"
	"net/netip"
)

// Known is a value together with whether it could be read. The zero value is unknown.
type Known[T any] struct {
	V   T      `json:"value"`
	OK  bool   `json:"known"`
	Why string `json:"why,omitempty"` // why it is unknown
}

// Is makes a value known.
func Is[T any](v T) Known[T] { return Known[T]{V: v, OK: true} }

// Unread makes a value unknown, with the reason.
func Unread[T any](why string) Known[T] { return Known[T]{Why: why} }

// Machine is one snapshot. Each section reads the parts that it needs.
type Machine struct {
	Boot    string          `json:"boot"` // changes with every boot
	USB     Known[[]USB]    `json:"usb"`
	Inputs  Known[Inputs]   `json:"inputs"`
	Volumes Known[[]Volume] `json:"volumes"`
	// Controllers are the root hubs' kernel names, such as "usb1".
	Controllers Known[[]string]  `json:"controllers"`
	Network     Known[Network]   `json:"network"`
	Tunnels     Known[Tunnels]   `json:"tunnels"`
	Media       Known[[]Medium]  `json:"media"`
	Clients     Known[[]Running] `json:"clients"`
	Printing    Known[Printing]  `json:"printing"`
	Sessions    Known[[]Session] `json:"sessions"`
	Browsers    Known[[]Browser] `json:"browsers"`
	Tools       Known[[]Running] `json:"screenshot_tools"`
	Desktops    Known[Desktops]  `json:"desktops"`
	Scanning    Known[Scanning]  `json:"scanning"`
	Outgoing    Known[Outgoing]  `json:"outgoing"`
	PrintJobs   Known[PrintJobs] `json:"print_jobs"`
	// DisksRefused says that something on this machine can refuse external disks of every kind, and not USB's guard alone. It is not reported.
	DisksRefused bool `json:"-"`
	// Elsewhere are mounts that are on none of the disks. They are not reported.
	Elsewhere []string `json:"-"`
	// Starting is set while the machine boots and nobody has logged in; nil afterwards.
	Starting *Starting `json:"-"`
	// Capable says what this system's back ends support for each setting; see Can.
	Capable map[string]Capability `json:"capable,omitempty"`
}

// Network is the way of this machine to its server, which a policy must not cut off.
type Network struct {
	Server string `json:"server,omitempty"` // the policy server's host, a name or an address
	Proxy  string `json:"proxy,omitempty"`  // the host of the proxy to it; empty without one
	// ServerPort and ProxyPort are those of the two. They are not reported.
	ServerPort uint16 `json:"-"`
	ProxyPort  uint16 `json:"-"`
	// Configured are the servers that VPN programs were configured with when that was last read, also before they were removed
	// from there: who may edit that configuration must not switch the kill switch off. They are not reported.
	Configured []string `json:"-"`
	// Found are the addresses of what must be reachable beside a VPN, as they were last looked up: the way to the policy server,
	// the VPN's servers, what brings it up. They are not reported.
	Found map[string][]netip.Addr `json:"-"`
	// Ready says that the addresses on the way to the server are known, or that this policy has governed the network before.
	Ready bool `json:"ready,omitempty"`
}

// Starting is what is known of a machine that is booting.
type Starting struct {
	// Waits names a disk that the boot is waiting for; "" for none. The disk may be on the next device that is plugged
	// in.
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

// Volume is one writable file system or swap on an internal disk: not in memory, and not on external media.
type Volume struct {
	Dev       string      `json:"dev"`            // "254:1", or the file system's own id
	Mount     string      `json:"mount"`          // mount point; "swap"
	Also      []string    `json:"also,omitempty"` // other mount points
	FS        string      `json:"fs"`
	Swap      bool        `json:"swap,omitempty"`
	External  Known[bool] `json:"external"`
	Encrypted Known[bool] `json:"encrypted"` // every path down to a disk passes something that encrypts
	// Chain is the path down from each of its devices, such as "dm-1 (crypt aes-xts-plain64) > sda3". Leaf is the first
	// disk that is reached without encryption.
	Chain []string `json:"chain,omitempty"`
	Leaf  string   `json:"leaf,omitempty"`
}

// USB is one USB device, as its descriptors and its port describe it.
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
	Truncated  string      `json:"truncated,omitempty"` // why the descriptors could not be read completely
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
	// MTP says whether a vendor-specific interface gives access to files, by its name or its device's. Some devices
	// only tell in a control transfer.
	MTP Known[bool] `json:"mtp"`
}

// ID is vendor:product in lower-case hex.
func (u *USB) ID() string { return fmt.Sprintf("%04x:%04x", u.Vendor, u.Product) }

// Key identifies the device in its place. It changes when another device, or the same one again, is plugged in.
func (u *USB) Key() string { return fmt.Sprintf("%s@%d", u.Path, u.Number) }

// InputOnly reports whether every interface is a human interface device or a hub, and at least one is the former.
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

// MayBeMTP reports whether it is still unknown if an interface gives access to files.
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
