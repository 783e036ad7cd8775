package fact

import (
	"encoding/json"
	"fmt"
)

// Part names one part of a snapshot, in reports and in a section's needs.
type Part string

// The parts that this version knows.
const (
	PartUSB         Part = "usb"
	PartControllers Part = "controllers"
	PartInputs      Part = "inputs"
	PartVolumes     Part = "volumes"
	PartNetwork     Part = "network"
	PartTunnels     Part = "tunnels"
	PartMedia       Part = "media"
	PartClients     Part = "clients"
	PartPrinting    Part = "printing"
	PartSessions    Part = "sessions"
	PartBrowsers    Part = "browsers"
	PartTools       Part = "screenshot_tools"
	PartDesktops    Part = "desktops"
	PartScanning    Part = "scanning"
	PartOutgoing    Part = "outgoing"
	PartPrintJobs   Part = "print_jobs"
)

// row is one line of the table of parts. A new part is a field of Machine and a line here.
type row struct {
	part Part
	what string // for people
	// emptied: agents up to 0.3 left this part out of a report when it was an empty list.
	emptied bool
	read    func(*Machine) (why string, ok bool)
	encode  func(*Machine) (json.RawMessage, error)
	decode  func(*Machine, json.RawMessage, Reader) error
	unread  func(*Machine, string)
}

// line makes a row for a part whose field is returned by at.
func line[T any](part Part, what string, emptied bool, at func(*Machine) *Known[T]) row {
	return row{
		part: part, what: what, emptied: emptied,
		read:   func(m *Machine) (string, bool) { return at(m).Why, at(m).OK },
		encode: func(m *Machine) (json.RawMessage, error) { return json.Marshal(at(m).V) },
		decode: func(m *Machine, b json.RawMessage, read Reader) error {
			var v T
			if err := read(b, &v); err != nil {
				return fmt.Errorf("%s: %w", part, err)
			}
			*at(m) = Is(v)
			return nil
		},
		unread: func(m *Machine, why string) { *at(m) = Unread[T](why) },
	}
}

var parts = []row{
	line(PartUSB, "the USB devices", true, func(m *Machine) *Known[[]USB] { return &m.USB }),
	line(PartControllers, "the USB controllers", true, func(m *Machine) *Known[[]string] { return &m.Controllers }),
	line(PartInputs, "the keyboards and pointers", false, func(m *Machine) *Known[Inputs] { return &m.Inputs }),
	line(PartVolumes, "the volumes", false, func(m *Machine) *Known[[]Volume] { return &m.Volumes }),
	line(PartNetwork, "the way to the server", false, func(m *Machine) *Known[Network] { return &m.Network }),
	line(PartTunnels, "the tunnels and routes", false, func(m *Machine) *Known[Tunnels] { return &m.Tunnels }),
	line(PartMedia, "the disks", false, func(m *Machine) *Known[[]Medium] { return &m.Media }),
	line(PartClients, "the processes", false, func(m *Machine) *Known[[]Running] { return &m.Clients }),
	line(PartPrinting, "the print queues", false, func(m *Machine) *Known[Printing] { return &m.Printing }),
	line(PartSessions, "the desktops", false, func(m *Machine) *Known[[]Session] { return &m.Sessions }),
	line(PartBrowsers, "the browsers", false, func(m *Machine) *Known[[]Browser] { return &m.Browsers }),
	line(PartTools, "the processes", false, func(m *Machine) *Known[[]Running] { return &m.Tools }),
	line(PartDesktops, "the desktops' settings", false, func(m *Machine) *Known[Desktops] { return &m.Desktops }),
	line(PartScanning, "the program that looks for sensitive data", false, func(m *Machine) *Known[Scanning] { return &m.Scanning }),
	line(PartOutgoing, "the files that leave this machine", false, func(m *Machine) *Known[Outgoing] { return &m.Outgoing }),
	line(PartPrintJobs, "the print jobs", false, func(m *Machine) *Known[PrintJobs] { return &m.PrintJobs }),
}

// Unread says why a part of the snapshot is unknown, and reports whether it is.
func (m *Machine) Unread(p Part) (why string, unread bool) {
	for _, r := range parts {
		if r.part != p {
			continue
		}
		why, ok := r.read(m)
		if ok {
			return "", false
		}
		if why == "" {
			why = "nothing has read it"
		}
		return r.what + " cannot be read: " + why, true
	}
	return fmt.Sprintf("%q is not part of a snapshot", p), true
}

// Forget makes a part unknown.
func (m *Machine) Forget(p Part, why string) {
	for _, r := range parts {
		if r.part == p {
			r.unread(m, why)
		}
	}
}

// Encode returns the parts as a report carries them: the known ones, and the reasons for the others.
func (m *Machine) Encode() (known map[Part]json.RawMessage, unread map[string]string) {
	known, unread = map[Part]json.RawMessage{}, map[string]string{}
	for _, r := range parts {
		why, ok := r.read(m)
		if ok {
			if b, err := r.encode(m); err == nil {
				if string(b) == "null" {
					b = json.RawMessage("[]") // an empty list; the other parts are never nil
				}
				known[r.part] = b
				continue
			}
		}
		if why == "" && r.emptied {
			why = "nothing has read it"
		}
		if why != "" {
			unread[string(r.part)] = why
		}
	}
	return known, unread
}

// Reader reads JSON as json.Unmarshal does.
type Reader func([]byte, any) error

// Decode reads the parts of a report. A missing part is unknown.
func (m *Machine) Decode(known map[Part]json.RawMessage, unread map[string]string, read Reader) error {
	for _, r := range parts {
		if why, is := unread[string(r.part)]; is {
			r.unread(m, why)
			continue
		}
		b, is := known[r.part]
		if !is && !r.emptied {
			continue
		}
		if !is {
			b = json.RawMessage("[]")
		}
		if err := r.decode(m, b, read); err != nil {
			return err
		}
	}
	return nil
}

// Parts lists the names of all parts.
func Parts() []Part {
	out := make([]Part, 0, len(parts))
	for _, r := range parts {
		out = append(out, r.part)
	}
	return out
}

// Can is what this system's back ends support for a setting. Reports of agents up to 0.3 say it by section.
func (m *Machine) Can(setting string) Capability {
	if c, ok := m.Capable[setting]; ok {
		return c
	}
	for i := range setting {
		if setting[i] == '.' {
			if c, ok := m.Capable[setting[:i]]; ok {
				return c
			}
		}
	}
	return Capability{Level: Unsupported, Limit: NotCarried}
}

// NotCarried is the limit of a setting that no back end claims.
const NotCarried = "not supported in this version"

// The levels of a capability, lowest first.
const (
	Unsupported = "unsupported"
	DetectOnly  = "detect_only"
	Partial     = "partial"
	Enforced    = "enforced"
)

// Acts reports whether a back end changes the machine for the setting.
func (c Capability) Acts() bool { return c.Level == Enforced || c.Level == Partial }
