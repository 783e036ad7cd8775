package input

import "github.com/warderd/warder/platform"

// Capability sees keyboards and pointers. It stands after usb in the lists: it marks the USB devices that
// carry one. It claims no setting.
func Capability(h platform.Host) platform.Capability {
	return platform.Capability{Name: "input", Early: true, Observers: []platform.Observer{Observer{File: h.Inputs}}}
}
