package usb

import (
	"fmt"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/enforce/section"
)

// The kinds of resources this section wants.
const (
	KindDefault = "usb.default" // a root hub's authorized_default; ID "usb1"
	KindParam   = "usb.param"   // the usbcore module's parameter, which later controllers inherit
	KindDevice  = "usb.device"  // a device's authorized; ID fact.USB.Key
)

// Section is USB device control.
var Section = section.Section{Name: "usb", Decide: decide}

func decide(d *policy.Document, m *fact.Machine) section.Outcome {
	managed := d.Managed("usb")
	var out section.Outcome
	denyStorage := d.Storage.ExternalStorageAllowed.Set && !d.Storage.ExternalStorageAllowed.V
	if len(managed) == 0 && !denyStorage {
		return out
	}
	can := m.Capable["usb"]
	if can.Level != "enforced" {
		return section.NotYet(d, "usb", can.Limit)
	}
	r := Compile(d, m)
	present := r.present(m)
	for _, s := range managed {
		out.Findings = append(out.Findings, r.finding(s, d.Mode(s), m, present))
	}
	out.Wants = r.wants(d, m)
	return out
}

// wants: when something can be refused, the kernel refuses by default and each device present is
// authorised or not. Below enforce the same is planned, for what-if, and never applied.
func (r *Rules) wants(d *policy.Document, m *fact.Machine) []enforce.Want {
	mode, by := r.standing(d)
	if mode == enforce.Off || !m.Controllers.OK || !m.USB.OK {
		return nil
	}
	out := []enforce.Want{{Key: enforce.Key{Kind: KindParam, ID: "authorized_default"}, Value: "0", By: by, Mode: mode, Phase: enforce.Close}}
	for _, c := range m.Controllers.V {
		out = append(out, enforce.Want{Key: enforce.Key{Kind: KindDefault, ID: c}, Value: "0", By: by, Mode: mode, Phase: enforce.Close})
	}
	for i := range m.USB.V {
		u := &m.USB.V[i]
		if u.Root {
			continue
		}
		v := r.Judge(u)
		if v.Guard == enforce.LastInput && !(u.Authorized.OK && u.Authorized.V) {
			r = r.WithoutNewcomer() // one new input is let in, not all that wait
		}
		w := enforce.Want{Key: enforce.Key{Kind: KindDevice, ID: u.Key()}, Value: "1", By: by, Mode: mode, Phase: enforce.Open, Guard: v.Guard}
		deny := !v.Allow || mode < enforce.Enforce && v.WouldDeny
		if deny {
			w.Value, w.Phase = "0", enforce.Close
			w.By = []enforce.Setting{v.Rule.Setting}
			if v.Allow {
				w.By = []enforce.Setting{v.Would.Setting}
			}
		}
		out = append(out, w)
	}
	return out
}

// standing gives the mode in which the kernel's default is wanted, and the settings that ask.
func (r *Rules) standing(d *policy.Document) (enforce.Mode, []enforce.Setting) {
	mode := enforce.Off
	var by []enforce.Setting
	ask := func(s enforce.Setting, denies bool) {
		m := d.Mode(s)
		if m == enforce.Off || !denies || m < mode {
			return
		}
		if m > mode {
			mode, by = m, nil
		}
		by = append(by, s)
	}
	ask(settingAllowed, !r.allowed)
	ask(settingWhitelist, true)
	ask(settingClasses, true)
	ask(settingStorage, r.denyStorage)
	return mode, by
}

// standingDevice is a present device that a setting refuses.
type standingDevice struct {
	u *fact.USB
	v enforce.Verdict
}

// present groups the devices that are there although a setting refuses them, by that setting.
func (r *Rules) present(m *fact.Machine) map[enforce.Setting][]standingDevice {
	out := map[enforce.Setting][]standingDevice{}
	for i := range m.USB.V {
		u := &m.USB.V[i]
		v := r.Judge(u)
		switch {
		case v.Guard != enforce.NoGuard:
			out[v.Rule.Setting] = append(out[v.Rule.Setting], standingDevice{u, v})
		case v.WouldDeny:
			out[v.Would.Setting] = append(out[v.Would.Setting], standingDevice{u, v})
		}
	}
	return out
}

func (r *Rules) finding(s enforce.Setting, mode enforce.Mode, m *fact.Machine, present map[enforce.Setting][]standingDevice) enforce.Finding {
	f := enforce.Finding{Setting: s, Mode: mode, Compliance: enforce.Compliant, Enforcement: enforce.Enforced}
	if mode < enforce.Enforce {
		f.Enforcement = enforce.Observed
	}
	if !m.USB.OK || !m.Controllers.OK {
		f.Compliance = enforce.Uncertain
		f.Reason = "the machine's USB devices cannot be read: " + m.USB.Why + m.Controllers.Why
		return f
	}
	if len(m.Controllers.V) == 0 {
		f.Reason = "this machine has no USB bus"
		return f
	}
	return standing(f, present[s])
}

// standing adds to a finding the devices that a setting refuses and that work all the same.
func standing(f enforce.Finding, devices []standingDevice) enforce.Finding {
	if len(devices) == 0 {
		return f
	}
	d := devices[0]
	f.Compliance = enforce.Noncompliant
	f.Reason = fmt.Sprintf("%d device(s) it refuses are in use, first %s %s", len(devices), d.u.Path, d.u.ID())
	for _, x := range devices {
		if x.v.Guard != enforce.NoGuard {
			f.Enforcement = enforce.IsGuarded
			f.Reason = fmt.Sprintf("%s %s is refused and kept by guard %s", x.u.Path, x.u.ID(), x.v.Guard)
			break
		}
	}
	return f
}

// Storage is what the USB guard finds for storage.external_storage_allowed, for that section.
func Storage(d *policy.Document, m *fact.Machine) enforce.Finding {
	s := settingStorage
	f := enforce.Finding{Setting: s, Mode: d.Mode(s), Compliance: enforce.Compliant, Enforcement: enforce.Enforced}
	if d.Storage.ExternalStorageAllowed.V {
		if f.Mode < enforce.Enforce {
			f.Enforcement = enforce.Observed
		}
		f.Reason = "external storage is allowed; nothing to hold"
		return f
	}
	if can := m.Capable["usb"]; can.Level != "enforced" {
		f.Compliance, f.Enforcement, f.Reason = enforce.Uncertain, enforce.Unsupported, can.Limit
		return f
	}
	r := Compile(d, m)
	f = r.finding(s, f.Mode, m, r.present(m))
	if f.Enforcement == enforce.Enforced {
		f.Enforcement = enforce.Partial
		f.Reason = "partial: USB only; card readers on PCI, Thunderbolt and USB4 disks, network shares are not held back"
	}
	return f
}
