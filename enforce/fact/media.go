package fact

import "strconv"

// Medium is one disk of the machine: not a partition, and not one that rests on others.
type Medium struct {
	Name   string `json:"name"`             // the kernel's, "mmcblk0"
	Dev    string `json:"dev"`              // "179:0"
	Turn   uint64 `json:"turn,omitempty"`   // of its arrivals at this number; 0: it was there before they were counted
	Bus    string `json:"bus,omitempty"`    // what makes it external: BusUSB and the others
	Model  string `json:"model,omitempty"`  // for people
	Serial string `json:"serial,omitempty"` // the disk's own, or that of the USB device
	// USB is the USB device that it is part of; nil for other disks.
	USB *Plugged `json:"usb,omitempty"`
	// Exchangeable says that what is in it can be taken out: a card reader.
	Exchangeable bool        `json:"exchangeable,omitempty"`
	External     Known[bool] `json:"external"`
	// System names what of the running system is on it, such as "/home"; "" for nothing.
	System string `json:"system,omitempty"`
	// Mounts are where it is mounted, as far as this machine's own list says, and Parts the kernel's names of the disk, its
	// partitions and what rests on them. They are not reported.
	Mounts []string `json:"-"`
	Parts  []string `json:"-"`
	// Held says that something keeps disks from being opened, so that Refused and Open say something.
	Held bool `json:"held,omitempty"`
	// Refused says that the kernel lets nobody open it.
	Refused Known[bool] `json:"refused"`
	// Open says that it may have been opened before it was refused, and nobody has taken it away since.
	Open bool `json:"open,omitempty"`
}

// Plugged is a USB device as a disk's bus names it.
type Plugged struct {
	Path    string `json:"path"` // "1-2"
	Vendor  uint16 `json:"vendor"`
	Product uint16 `json:"product"`
}

// MediaRefused is the value of the resource that keeps external disks from being opened, while it does. The number counts the
// programs' versions: those of an earlier agent are not taken for ones that another program has changed.
const MediaRefused = "external disks are refused (programs 1)"

// What makes a disk external.
const (
	BusUSB      = "usb"
	BusCard     = "mmc"      // a slot for SD and MMC cards
	BusFireWire = "firewire" // IEEE 1394
	BusPCI      = "pci"      // behind a port that the firmware marks as leading outside: Thunderbolt, USB4, ExpressCard
	BusESATA    = "esata"
)

// Key identifies the disk in its place: another one that gets its number has another key.
func (m *Medium) Key() string { return m.Name + "@" + strconv.FormatUint(m.Turn, 10) }
