package platform

import (
	"runtime"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
)

// Capability says what this version does for one setting on one system. The README's table is
// generated from it, and a machine's findings cite its Limit, so that neither can claim more.
type Capability struct {
	Setting   enforce.Setting
	OS        string // as GOOS
	Level     string // enforced, partial, detect_only, unsupported
	Limit     string
	Exercised bool // on a real kernel with real (emulated) devices, by the tests
}

const (
	notYet      = "no back end of this version carries it"
	notYetUSB   = "USB control is only carried on Linux in this version"
	partialDisk = "USB only: PCI card readers, Thunderbolt and USB4 disks and network shares are not held back"
)

// Systems are the systems that Warder is built for.
var Systems = []string{"linux", "windows", "darwin"}

// Capabilities lists every setting on every system.
func Capabilities(settings []enforce.Setting) []Capability {
	var out []Capability
	for _, s := range settings {
		for _, os := range Systems {
			out = append(out, capability(s, os))
		}
	}
	return out
}

func capability(s enforce.Setting, os string) Capability {
	c := Capability{Setting: s, OS: os, Level: "unsupported", Limit: notYet}
	usb := s.Section() == "usb"
	external := s == "storage.external_storage_allowed"
	switch {
	case usb && os == "linux":
		c.Level, c.Limit, c.Exercised = "enforced", "", true
	case external && os == "linux":
		c.Level, c.Limit, c.Exercised = "partial", partialDisk, true
	case usb || external:
		c.Limit = notYetUSB
	}
	return c
}

// Capable is what findings on this machine may claim, by section.
func Capable() map[string]fact.Capability {
	out := map[string]fact.Capability{}
	for _, section := range []string{"storage", "network", "dlp"} {
		out[section] = fact.Capability{Level: "unsupported", Limit: notYet}
	}
	c := capability("usb.allowed", runtime.GOOS)
	out["usb"] = fact.Capability{Level: c.Level, Limit: c.Limit}
	return out
}
