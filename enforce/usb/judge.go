package usb

import (
	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
)

// Judge judges one device.
func (r *Rules) Judge(u *fact.USB) enforce.Verdict {
	allow, rule, ask := r.decide(u, enforce.Enforce)
	all, would, askAll := r.decide(u, enforce.Monitor)
	v := enforce.Verdict{Allow: allow, Rule: rule, Would: would, Ask: ask || askAll}
	v.WouldMode, v.WouldDeny = r.mode(would.Setting), allow && !all
	if !allow {
		if g := r.guard(u); g != enforce.NoGuard {
			v.Allow, v.Guard = true, g
		}
	}
	return v
}

// decide walks the lines whose setting is at least in the given mode. A line in a lower mode is skipped. ask reports
// that a fact which only a control transfer can tell would matter.
func (r *Rules) decide(u *fact.USB, least enforce.Mode) (allow bool, rule enforce.Rule, ask bool) {
	if isHub(u) {
		return true, enforce.Rule{Line: lineHub}, false
	}
	if n := r.excepted(u); n > 0 {
		return true, enforce.Rule{Setting: settingException, Line: lineException, Entry: n}, false
	}
	entry, pinned := r.whitelisted(u)
	if r.denyStorage && r.modeStorage >= least && !pinned && !r.disks[u.Serial] {
		storage, unsure := isStorage(u)
		if storage {
			return false, enforce.Rule{Setting: settingStorage, Line: lineStorage}, unsure
		}
	}
	if r.modeWhitelist >= least && entry > 0 {
		return true, enforce.Rule{Setting: settingWhitelist, Line: lineWhitelist, Entry: entry}, false
	}
	if r.modeClasses >= least {
		ok := r.allClasses(u)
		return ok, enforce.Rule{Setting: settingClasses, Line: lineClasses}, false
	}
	if r.modeAllowed >= least {
		return r.allowed, enforce.Rule{Setting: settingAllowed, Line: lineAllowed}, false
	}
	if r.modeWhitelist >= least {
		return false, enforce.Rule{Setting: settingWhitelist, Line: lineRest}, false
	}
	return true, enforce.Rule{Line: lineRest}, false
}

// mode is the mode of a setting in these rules.
func (r *Rules) mode(s enforce.Setting) enforce.Mode {
	switch s {
	case settingException:
		return enforce.Enforce
	case settingStorage:
		return r.modeStorage
	case settingWhitelist:
		return r.modeWhitelist
	case settingClasses:
		return r.modeClasses
	case settingAllowed:
		return r.modeAllowed
	}
	return enforce.Off // no setting decided
}

// isHub accepts only devices whose every interface is a hub: a hub with any other interface is judged.
func isHub(u *fact.USB) bool {
	if u.Root {
		return true
	}
	for i := range u.Interfaces {
		if u.Interfaces[i].Class != classHub {
			return false
		}
	}
	return len(u.Interfaces) > 0 && u.Truncated == ""
}

// isStorage reports whether a device can store files. Descriptors that cannot be read completely, and a vendor-specific
// interface that did not answer in time whether it is MTP, count as yes; unsure reports the latter.
func isStorage(u *fact.USB) (yes, unsure bool) {
	for i := range u.Interfaces {
		switch c := &u.Interfaces[i]; c.Class {
		case classStorage, classImage:
			return true, false
		case classVendor:
			if !c.MTP.OK {
				unsure = true
			} else if c.MTP.V {
				return true, false
			}
		}
	}
	return unsure || u.Truncated != "", unsure
}

// allClasses: every interface of every configuration and alternate setting must be in the list, so that a stick with a
// hidden keyboard is refused as a whole.
func (r *Rules) allClasses(u *fact.USB) bool {
	for i := range u.Interfaces {
		if !r.classAllowed(u.Interfaces[i].Class) {
			return false
		}
	}
	return len(u.Interfaces) > 0 && u.Truncated == ""
}
