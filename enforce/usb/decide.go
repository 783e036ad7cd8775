package usb

import (
	"errors"
	"fmt"
	"slices"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/enforce/section"
)

// The kinds of resources that this section wants.
const (
	KindDefault = "usb.default" // a root hub's authorized_default; ID "usb1"
	KindParam   = "usb.param"   // the usbcore module's parameter, the default of later controllers
	KindDevice  = "usb.device"  // a device's authorized; ID fact.USB.Key
)

// Section is USB device control.
var Section = section.Section{
	Name: "usb", Settings: policy.Section("usb"),
	Needs:     []fact.Part{fact.PartUSB, fact.PartControllers},
	Concerned: func(d *policy.Document) bool { return len(d.Managed("usb")) > 0 || deniesStorage(d) },
	Compile:   func(d *policy.Document, m *fact.Machine) section.Rules { return Compile(d, m) },
	Decide:    decide, Count: count, Except: &section.Except{Parse: parseSubject, Names: names, Refused: refused},
	Single: func(enforce.Setting) bool { return true }, // each device
}

// deniesStorage reports whether storage.external_storage_allowed, which is enforced here, refuses storage.
func deniesStorage(d *policy.Document) bool {
	return d.Storage.ExternalStorageAllowed.Set && !d.Storage.ExternalStorageAllowed.V
}

// rulesOf are the rules of this section in a case.
func rulesOf(c *section.Case) *Rules { return c.Rules("usb").(*Rules) }

// decide wants the kernel's defaults and each device's authorized, and finds every managed setting.
func decide(c *section.Case) section.Outcome {
	d := c.Document
	managed := d.Managed("usb")
	var out section.Outcome
	r := rulesOf(c)
	if len(managed) == 0 && !r.denyStorage {
		return out
	}
	if c.Can(settingAllowed).Level == fact.Unsupported {
		for _, s := range managed {
			out.Findings = append(out.Findings, section.NotYet(c, s))
		}
		return out
	}
	present := r.refused()
	for _, s := range managed {
		f := r.finding(s, d.Mode(s), present)
		if can := c.Can(s); f.Compliance == enforce.Compliant && f.Enforcement == enforce.Enforced && f.Reason == "" && can.Limit != "" {
			f.Reason = "enforced, with a limit: " + can.Limit
		}
		out.Findings = append(out.Findings, f)
	}
	out.Wants = r.wants(d, c.Machine)
	for i := range c.Machine.USB.V {
		u := &c.Machine.USB.V[i]
		out.Ask = out.Ask || u.MayBeMTP() && r.Judge(u).Ask
	}
	return out
}

// wants: if something can be refused, the kernel refuses by default, and each present device is authorised or not.
// Below enforce the same is planned, for what-if, but never applied.
func (r *Rules) wants(d *policy.Document, m *fact.Machine) []enforce.Want {
	mode, by := r.standing(d)
	if mode == enforce.Off {
		return nil
	}
	out := []enforce.Want{{Key: enforce.Key{Kind: KindParam, ID: "authorized_default"}, Value: "0", By: by, Mode: mode,
		Phase: enforce.Close}}
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
			r = r.WithoutNewcomer() // one new input is let in, not all that are waiting
		}
		w := enforce.Want{Key: enforce.Key{Kind: KindDevice, ID: u.Key()}, Value: "1", By: by, Mode: mode, Phase: enforce.Open,
			Guard: v.Guard}
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

// standing returns the mode in which the kernel's default is wanted, and the settings that ask for it.
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

// refused groups the present devices that a setting refuses, by that setting.
func (r *Rules) refused() map[enforce.Setting][]standingDevice {
	out := map[enforce.Setting][]standingDevice{}
	for i := range r.machine.USB.V {
		u := &r.machine.USB.V[i]
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

// finding is the finding of one setting, before anything is read back.
func (r *Rules) finding(s enforce.Setting, mode enforce.Mode, refused map[enforce.Setting][]standingDevice) enforce.Finding {
	f := enforce.Finding{Setting: s, Mode: mode, Compliance: enforce.Compliant, Enforcement: enforce.Enforced}
	if mode < enforce.Enforce {
		f.Enforcement = enforce.Observed
	}
	if len(r.machine.Controllers.V) == 0 {
		f.Reason = "this machine has no USB bus"
		return f
	}
	return standing(f, refused[s])
}

// standing adds to a finding the devices that a setting refuses and that work nevertheless.
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

// Storage returns the USB guard's finding for storage.external_storage_allowed, for the storage section. Of devices that are kept
// because they are built in, those count as refused whose disks are refused: covered tells by the device's path.
func Storage(c *section.Case, covered func(path string) bool) enforce.Finding {
	s, d := settingStorage, c.Document
	f := enforce.Finding{Setting: s, Mode: d.Mode(s), Compliance: enforce.Compliant, Enforcement: enforce.Enforced}
	if d.Storage.ExternalStorageAllowed.V {
		if f.Mode < enforce.Enforce {
			f.Enforcement = enforce.Observed
		}
		f.Reason = "external storage is allowed; nothing to enforce"
		return f
	}
	can := c.Can(s)
	if can.Level == fact.Unsupported {
		return section.NotYet(c, s)
	}
	for _, p := range []fact.Part{fact.PartUSB, fact.PartControllers} {
		if why, unread := c.Machine.Unread(p); unread {
			return section.Unread(c, s, why)
		}
	}
	r := rulesOf(c)
	refused := r.refused()
	refused[s] = slices.DeleteFunc(refused[s], func(x standingDevice) bool { return x.v.Guard == enforce.Hardwired && covered(x.u.Path) })
	f = r.finding(s, f.Mode, refused)
	if f.Enforcement == enforce.Enforced && can.Level == fact.Partial {
		f.Enforcement = enforce.Partial
		f.Reason = "partial: " + can.Limit
	}
	return f
}

// count returns figures about what is plugged in.
func count(c *section.Case) []section.Count {
	r := rulesOf(c)
	devices, refused, guarded := 0, 0, 0
	for i := range c.Machine.USB.V {
		u := &c.Machine.USB.V[i]
		if u.Root {
			continue
		}
		devices++
		if u.Authorized.OK && !u.Authorized.V {
			refused++
		}
		if r.Judge(u).Guard != enforce.NoGuard {
			guarded++
		}
	}
	return []section.Count{{Name: "buses", N: len(c.Machine.Controllers.V)}, {Name: "devices", N: devices},
		{Name: "refused", N: refused, Bad: true}, {Name: "guarded", N: guarded, Bad: true}}
}

// parseSubject: an exception is for one kind of device, or for one device by its serial.
func parseSubject(s string) (string, error) {
	e, err := policy.ParseUSBEntry(s)
	if err != nil || e.AnyProduct {
		return "", errors.New(`must name one kind of device, "vvvv:pppp" or "vvvv:pppp:SERIAL"`)
	}
	if why := e.Never(); why != "" {
		return "", errors.New(why)
	}
	return e.String(), nil
}

// names: a code may have been made for the very device or for its kind.
func names(subject string) []string {
	e, err := policy.ParseUSBEntry(subject)
	if err != nil || e.AnyProduct {
		return nil
	}
	kind := policy.USBEntry{Vendor: e.Vendor, Product: e.Product}
	if e.Serial == "" {
		return []string{kind.String()}
	}
	return []string{e.String(), kind.String()}
}

func subjectOf(u *fact.USB) string {
	return policy.USBEntry{Vendor: u.Vendor, Product: u.Product, Serial: u.Serial}.String()
}

// refused are the devices that are present and refused.
func refused(c *section.Case) (out []string) {
	r := rulesOf(c)
	for i := range c.Machine.USB.V {
		if u := &c.Machine.USB.V[i]; !u.Root && !r.Judge(u).Allow {
			out = append(out, subjectOf(u))
		}
	}
	return out
}
