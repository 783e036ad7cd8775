package fact

import (
	"strconv"
	"strings"
)

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
	// Off says that it is refused by having no driver: it is no disk, and was this one.
	Off bool `json:"off,omitempty"`
	// Refused says that the kernel lets nobody open it.
	Refused Known[bool] `json:"refused"`
	// Limited says whether the size of files on it is limited by the kernel; nil while nothing limits any disk. Unread says why it
	// cannot be told although something does.
	Limited *bool  `json:"limited,omitempty"`
	Unread  string `json:"limited_unread,omitempty"`
	// Taken says that Limited means something weaker: files that are too large are taken off it after they were written. Over are
	// those that are known to be still there, and OverWhy why one of them is.
	Taken   bool   `json:"taken,omitempty"`
	Over    int    `json:"over,omitempty"`
	OverWhy string `json:"over_why,omitempty"`
	// Open says that it may have been opened before it was refused, and nobody has taken it away since.
	Open bool `json:"open,omitempty"`
}

// Written is a file that would get so many bytes, on a disk.
type Written struct {
	Medium
	About string `json:"about,omitempty"` // AboutSize
	Bytes uint64 `json:"bytes,omitempty"` // 0: not of a file, or not known
}

// AboutSize says that a fact about a disk is about the size of files on it.
const AboutSize = "size"

// Plugged is a USB device as a disk's bus names it.
type Plugged struct {
	Path    string `json:"path"` // "1-2"
	Vendor  uint16 `json:"vendor"`
	Product uint16 `json:"product"`
}

// MediaRefused is the value of the resource that keeps external disks from being opened, while it does. The number counts the
// programs' versions: those of an earlier agent are not taken for ones that another program has changed.
const MediaRefused = "external disks are refused (programs 3)"

// FileSizeLimit is the value of the resource that limits the size of files on external disks to so many bytes, while it does.
func FileSizeLimit(bytes uint64) string {
	return fileSizeBegin + strconv.FormatUint(bytes, 10) + fileSizeEnd
}

// FileSizePrograms is the version of the programs that do so; another object has another one.
const (
	FileSizePrograms = 4
	fileSizeBegin    = "files on external disks are limited to "
)

var fileSizeEnd = " bytes (programs " + strconv.Itoa(FileSizePrograms) + ")"

// ParseFileSizeLimit reads such a value.
func ParseFileSizeLimit(s string) (bytes uint64, ok bool) {
	number, begins := strings.CutPrefix(s, fileSizeBegin)
	number, ends := strings.CutSuffix(number, fileSizeEnd)
	n, err := strconv.ParseUint(number, 10, 64)
	return n, begins && ends && err == nil
}

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
