package usb

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/enforce/section"
)

// Subject is the subject of a question: a device by its ids, with its classes if they are known, or whatever is plugged
// in at a port.
type Subject struct {
	Vendor  uint16  `json:"vendor"`
	Product uint16  `json:"product"`
	Serial  string  `json:"serial,omitempty"`
	Classes []uint8 `json:"classes,omitempty"`
	Port    string  `json:"port,omitempty"`
}

// Name names a device for people and for the server.
func Name(u *fact.USB) string {
	s := "usb " + u.Path + " " + u.ID()
	if u.Serial != "" {
		s += " " + enforce.Plain(u.Serial)
	}
	return s
}

// Explain answers for a device that need not be plugged in.
func (r *Rules) Explain(subject json.RawMessage, now *fact.Machine) (section.Answer, error) {
	var in Subject
	if err := json.Unmarshal(subject, &in); err != nil {
		return section.Answer{}, fmt.Errorf("the subject cannot be read: %w", err)
	}
	if in.Port != "" {
		return r.explainPort(in.Port, now)
	}
	u := &fact.USB{Vendor: in.Vendor, Product: in.Product, Serial: in.Serial}
	for _, class := range in.Classes {
		// Most vendor-specific interfaces give no access to files.
		u.Interfaces = append(u.Interfaces, fact.Interface{Class: class, MTP: fact.Is(false)})
	}
	a := r.ask(u)
	if slices.Contains(in.Classes, classVendor) {
		if files := r.ask(phone(u)); files.Answer != a.Answer {
			a.Reason += "; of a phone or player that offers files through that interface (MTP): " + files.Answer + ": " + files.Reason
		}
	}
	if len(in.Classes) == 0 {
		a = r.askUnknown(u)
	}
	a.Subject = "usb " + u.ID()
	if u.Serial != "" {
		a.Subject += " " + enforce.Plain(u.Serial)
	}
	return a, nil
}

// phone returns the same device with file access behind its vendor-specific interfaces.
func phone(u *fact.USB) *fact.USB {
	p := *u
	p.Interfaces = slices.Clone(u.Interfaces)
	for i := range p.Interfaces {
		p.Interfaces[i].MTP = fact.Is(p.Interfaces[i].Class == classVendor)
	}
	return &p
}

// explainPort answers for the device at a port, which needs a present snapshot.
func (r *Rules) explainPort(port string, now *fact.Machine) (section.Answer, error) {
	if now == nil {
		return section.Answer{}, section.ErrPresent
	}
	for i := range now.USB.V {
		u := &now.USB.V[i]
		if u.Path != port {
			continue
		}
		a := r.ask(u)
		a.Now = "in use: no"
		if u.Authorized.OK && u.Authorized.V {
			a.Now = "in use: yes"
		}
		return a, nil
	}
	return section.Answer{}, fmt.Errorf("%w at port %q", section.ErrAbsent, port)
}

// Replay answers for the device of an event.
func (r *Rules) Replay(facts enforce.Facts) (section.Answer, bool) {
	var u fact.USB
	if facts == "" || json.Unmarshal([]byte(facts), &u) != nil || len(u.Interfaces) == 0 && u.Truncated == "" {
		return section.Answer{}, false
	}
	return r.ask(&u), true
}

// Present answers for each device of the snapshot.
func (r *Rules) Present() []section.Answer {
	out := make([]section.Answer, 0, len(r.machine.USB.V))
	for i := range r.machine.USB.V {
		out = append(out, r.ask(&r.machine.USB.V[i]))
	}
	return out
}

// ask explains a device for which every deciding fact is known.
func (r *Rules) ask(u *fact.USB) section.Answer {
	v := r.Judge(u)
	a := section.Answer{Answer: section.Word(v), Subject: Name(u), Group: u.ID()}
	a.Reason, a.Nearest = r.Reason(v, u)
	return a
}

// askUnknown explains a device whose classes are unknown. If they matter, the answer is that it depends, and on what.
func (r *Rules) askUnknown(u *fact.USB) section.Answer {
	by := map[string][]string{}
	var last section.Answer
	for c := range 256 {
		d := *u
		d.Interfaces = []fact.Interface{{Class: uint8(c), MTP: fact.Is(false)}}
		if c == classHub {
			continue
		}
		last = r.ask(&d)
		by[last.Answer] = append(by[last.Answer], policy.Class(c).String())
	}
	if len(by) == 1 {
		return last
	}
	var parts []string
	for _, word := range []string{section.Allow, section.Deny, section.WouldDeny} {
		if list := by[word]; len(list) > 0 {
			text := "any other class"
			if len(list) <= 20 {
				text = strings.Join(list, ", ")
			}
			parts = append(parts, word+": "+text)
		}
	}
	return section.Answer{Answer: section.Depends, Reason: "depends on the device's classes; " + strings.Join(parts, "; "),
		Nearest: "name them with --class, e.g. --class 08,03"}
}
