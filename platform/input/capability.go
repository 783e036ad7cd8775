package input

import "github.com/warderd/warder/platform"

// Capability observes keyboards and pointers. It has to follow usb in the lists, because it marks the USB devices that
// carry one. It claims no setting.
func Capability(h platform.Host) platform.Capability {
	return platform.Capability{Name: "input", Early: true, Observers: []platform.Observer{Observer{File: h.Inputs}}}
}
