package usb

import (
	"fmt"
	"strings"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/enforce/policy"
)

// Reason renders a verdict: why, and the smallest change to the policy that would reverse it.
func (r *Rules) Reason(v enforce.Verdict, u *fact.USB) (reason, nearest string) {
	rule, deny := v.Rule, !v.Allow || v.Guard != enforce.NoGuard
	prefix := ""
	if v.WouldDeny {
		rule, deny = v.Would, true
		prefix = fmt.Sprintf("would be refused in enforce mode (%s is in %s mode): ", rule.Setting, v.WouldMode)
	}
	reason = prefix + r.sentence(rule, u, deny)
	switch v.Guard {
	case enforce.LastInput:
		reason += "; kept by guard last_input: no other keyboard or pointer would be left"
	case enforce.Hardwired:
		reason += "; kept by guard hardwired: the firmware says it is built in"
	case enforce.Starting:
		reason += "; kept by guard starting: " + r.startNeeds(u)
	}
	return reason, r.nearest(rule, u, deny)
}

// startNeeds says what the booting machine may need a device for.
func (r *Rules) startNeeds(u *fact.USB) string {
	if r.machine == nil || r.machine.Starting == nil || u.InputOnly() {
		return "while the machine starts up, no input device is refused"
	}
	return "the start waits for " + r.machine.Starting.Waits + ", which may be on it"
}

// sentence says which rule decided, and by which value.
func (r *Rules) sentence(rule enforce.Rule, u *fact.USB, deny bool) string {
	switch rule.Line {
	case lineHub:
		return "hubs are always allowed; what is behind them is judged"
	case lineStorage:
		return "storage.external_storage_allowed is false and the device is storage (" + storageClass(u) + ")"
	case lineException:
		return "an exception for this device is in force"
	case lineWhitelist:
		return fmt.Sprintf("usb.whitelist[%d] allows %s", rule.Entry-1, r.entry(rule))
	case lineClasses:
		if deny {
			list, verb := r.outside(u), " is"
			if len(list) > 1 {
				verb = " are"
			}
			return strings.Join(list, ", ") + verb + " not in usb.allowed_classes"
		}
		return "every class of the device is in usb.allowed_classes"
	case lineAllowed:
		return fmt.Sprintf("usb.allowed is %t", r.allowed)
	}
	if deny {
		return "usb.whitelist does not name " + u.ID()
	}
	return "no setting in force refuses USB devices"
}

// entry is the whitelist entry of a rule; verdicts of other rules have none here.
func (r *Rules) entry(rule enforce.Rule) string {
	if i := int(rule.Entry) - 1; i >= 0 && i < len(r.doc.USB.Whitelist.V) {
		return r.doc.USB.Whitelist.V[i].String()
	}
	return "an entry"
}

// nearest is the smallest change to the policy that would reverse a rule's answer; "" if there is none.
func (r *Rules) nearest(rule enforce.Rule, u *fact.USB, deny bool) string {
	switch {
	case deny && rule.Line == lineStorage && u.Serial != "":
		return fmt.Sprintf("add %q to usb.whitelist (an entry with a serial overrides storage.external_storage_allowed)",
			u.ID()+":"+u.Serial)
	case deny && rule.Line == lineStorage:
		return "set storage.external_storage_allowed to true: the device has no serial to pin"
	case deny && u.Serial != "":
		return fmt.Sprintf("add %q to usb.whitelist", u.ID()+":"+u.Serial)
	case deny:
		return fmt.Sprintf("add %q to usb.whitelist", u.ID())
	case rule.Line == lineWhitelist:
		return fmt.Sprintf("remove %q from usb.whitelist", r.entry(rule))
	case rule.Line == lineClasses:
		return fmt.Sprintf("remove %s from usb.allowed_classes", strings.Join(classesOf(u), ", "))
	case rule.Line == lineAllowed || rule.Line == lineRest:
		return "set usb.allowed to false"
	}
	return ""
}

// classesOf lists a device's classes by name, each once.
func classesOf(u *fact.USB) []string {
	var out []string
	seen := map[uint8]bool{}
	for _, i := range u.Interfaces {
		if !seen[i.Class] {
			seen[i.Class] = true
			out = append(out, policy.Class(i.Class).String())
		}
	}
	return out
}

// outside lists the classes of a device that are not in usb.allowed_classes.
func (r *Rules) outside(u *fact.USB) []string {
	var out []string
	seen := map[uint8]bool{}
	for _, i := range u.Interfaces {
		if !r.classAllowed(i.Class) && !seen[i.Class] {
			seen[i.Class] = true
			out = append(out, policy.Class(i.Class).String())
		}
	}
	switch {
	case u.Truncated != "":
		out = append(out, "what its descriptors hide ("+u.Truncated+")")
	case len(u.Interfaces) == 0:
		out = append(out, "a device without interfaces")
	}
	return out
}

// storageClass names what makes a device storage.
func storageClass(u *fact.USB) string {
	for _, i := range u.Interfaces {
		switch {
		case i.Class == classStorage || i.Class == classImage:
			return policy.Class(i.Class).String()
		case i.Class == classVendor && i.MTP.OK && i.MTP.V:
			return "vendor-specific MTP"
		}
	}
	if u.Truncated != "" {
		return "cannot be ruled out: " + u.Truncated
	}
	return "cannot be ruled out: it did not say whether it is MTP"
}
