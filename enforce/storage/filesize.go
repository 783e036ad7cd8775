package storage

import (
	"fmt"
	"strings"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/enforce/section"
)

const (
	settingSize  enforce.Setting = "storage.max_file_size_mb"
	settingPaths enforce.Setting = "storage.event_paths"
)

// KindFileSize is the kind of the one resource that limits the size of files on external disks; platform/media has it.
const KindFileSize = "filesize"

var sizeKey = enforce.Key{Kind: KindFileSize, ID: "external"}

// Sizes judge whether files on a disk may have any size. An exception for the disk, or a disk that the system is on, is exempt; a
// serial that usb.whitelist pins is not: that says who may come in, not what may leave.
type Sizes struct{ r *Rules }

// Sizes are the section's rules for the size of files.
func (r *Rules) Sizes() enforce.Judge[fact.Medium] { return Sizes{r} }

// MaxFileSize is the largest size of a file on an external disk, in bytes; ok is false if the policy does not limit it.
func (r *Rules) MaxFileSize() (n uint64, ok bool) {
	return r.most, r.limits && r.sizeMode > enforce.Off
}

// ExceptedFiles are the files that may have any size.
func (r *Rules) ExceptedFiles() []string { return r.files }

// PlainPaths reports whether events name files by their paths.
func (r *Rules) PlainPaths() bool { return r.paths }

// eventPaths is the finding of event_paths, which says how events are written and restricts nobody.
func eventPaths(c *section.Case) enforce.Finding {
	s, can, r := settingPaths, c.Can(settingPaths), rulesOf(c)
	if can.Level == fact.Unsupported {
		return section.NotYet(c, s)
	}
	f := enforce.Finding{Setting: s, Mode: c.Document.Mode(s), Compliance: enforce.Compliant, Enforcement: enforce.Enforced,
		Reason: "events name files by a mark that says nothing about their names"}
	if r.paths {
		f.Reason = "events name files by their paths"
	}
	if f.Mode < enforce.Enforce {
		f.Enforcement = enforce.Observed
	}
	return f
}

// CanLimit reports whether the size of files is limited in enforce mode.
func (r *Rules) CanLimit() bool { return r.limits && r.sizeMode == enforce.Enforce }

// The lines of the decision order for the size of files.
const (
	lineLimited int32 = 11 // max_file_size_mb decides
	lineAnySize int32 = 12 // nothing managed
)

// Judge judges one disk: Allow says that files on it may have any size.
func (s Sizes) Judge(m *fact.Medium) enforce.Verdict {
	r := s.r
	rule := enforce.Rule{Setting: settingSize, Line: lineLimited}
	switch {
	case !r.outside(m):
		rule = enforce.Rule{Line: lineOwn}
		return enforce.Verdict{Allow: true, Rule: rule, Would: rule}
	case !r.limits || r.sizeMode == enforce.Off:
		rule = enforce.Rule{Line: lineAnySize}
		return enforce.Verdict{Allow: true, Rule: rule, Would: rule}
	case m.Serial != "" && r.excepted[m.Serial] > 0:
		rule = enforce.Rule{Setting: settingException, Line: lineException, Entry: r.excepted[m.Serial]}
		return enforce.Verdict{Allow: true, Rule: rule, Would: rule}
	case r.sizeMode < enforce.Enforce:
		return enforce.Verdict{Allow: true, Rule: enforce.Rule{Line: lineAnySize}, Would: rule, WouldDeny: m.System == "", WouldMode: r.sizeMode}
	case m.System != "":
		return enforce.Verdict{Allow: true, Rule: rule, Would: rule, WouldMode: r.sizeMode, Guard: enforce.SystemDisk}
	}
	return enforce.Verdict{Rule: rule, Would: rule, WouldMode: r.sizeMode}
}

// Reason says why files on a disk are limited or not, and the smallest change to the policy that would reverse it.
func (s Sizes) Reason(v enforce.Verdict, m *fact.Medium) (reason, nearest string) {
	r, rule, prefix := s.r, v.Rule, ""
	if v.WouldDeny {
		rule, prefix = v.Would, fmt.Sprintf("would be limited in enforce mode (%s is in %s mode): ", v.Would.Setting, v.WouldMode)
	}
	switch {
	case rule.Setting == settingSize:
		reason = fmt.Sprintf("%sstorage.max_file_size_mb is %d (%d bytes), and %s", prefix, r.most>>20, r.most, onBus(m))
		if v.Guard == enforce.SystemDisk {
			return reason + "; kept by guard system_disk: it carries " + m.System + " of the running system", ""
		}
		if m.Serial != "" {
			return reason, fmt.Sprintf("grant an exception for %q, for a time, or raise storage.max_file_size_mb", policy.DiskSubject+m.Serial)
		}
		return reason, "raise storage.max_file_size_mb: the disk has no serial that an exception could name"
	case rule.Setting == settingException:
		return "an exception for this disk is in force", ""
	case !m.External.OK && m.External.Why != "":
		return "whether it is external cannot be told: " + m.External.Why, ""
	case rule.Line == lineOwn:
		return "it is one of this machine's own disks", ""
	}
	return "no setting in force limits the size of files", ""
}

// fileSize is the finding of max_file_size_mb, and what is wanted for it.
func fileSize(c *section.Case, out *section.Outcome) {
	s, can, r := settingSize, c.Can(settingSize), rulesOf(c)
	f := enforce.Finding{Setting: s, Mode: r.sizeMode, Compliance: enforce.Compliant, Enforcement: enforce.Enforced}
	defer func() { out.Findings = append(out.Findings, f) }()
	if can.Level == fact.Unsupported {
		f = section.NotYet(c, s)
		return
	}
	if f.Mode < enforce.Enforce {
		f.Enforcement = enforce.Observed
	}
	out.Wants = append(out.Wants, enforce.Want{Key: sizeKey, Value: enforce.Value(fact.FileSizeLimit(r.most)), By: []enforce.Setting{s}, Mode: r.sizeMode,
		Phase: enforce.Close})
	if why, unread := c.Machine.Unread(fact.PartMedia); unread {
		f = section.Unread(c, s, why)
		return
	}
	var bad, unsure, kept, limited []string
	taken := false
	for i := range c.Machine.Media.V {
		m := &c.Machine.Media.V[i]
		taken = taken || m.Taken
		v := r.Sizes().Judge(m)
		if m.External.V && len(f.Evidence) < maxNamed {
			f.Evidence = append(f.Evidence, sizeEvidence(m))
		}
		switch {
		case !m.External.OK:
			unsure = append(unsure, Name(m)+": whether it is external cannot be told: "+m.External.Why)
		case v.Guard != enforce.NoGuard:
			kept = append(kept, Name(m)+" is external and kept by guard "+v.Guard.String()+": it carries "+m.System)
		case v.WouldDeny:
			bad = append(bad, "files on "+Name(m)+" may have any size")
		case v.Allow:
		case m.Over > 0:
			bad = append(bad, fmt.Sprintf("%d file(s) on %s are larger than %d bytes: %s", m.Over, Name(m), r.most, m.OverWhy))
		case m.Unread != "":
			unsure = append(unsure, "whether files on "+Name(m)+" are limited cannot be read: "+m.Unread)
		case m.Limited != nil && !*m.Limited:
			bad = append(bad, "files on "+Name(m)+" are not limited")
		case m.Limited != nil: // otherwise nothing limits any disk yet: that is the planner's to say
			limited = append(limited, Name(m))
		}
	}
	switch {
	case len(bad) > 0:
		f.Compliance, f.Reason = enforce.Noncompliant, bad[0]+more(len(bad))
	case len(kept) > 0:
		f.Compliance, f.Enforcement, f.Reason = enforce.Noncompliant, enforce.IsGuarded, kept[0]+more(len(kept))
	case len(unsure) > 0:
		f.Compliance, f.Reason = enforce.Uncertain, unsure[0]+more(len(unsure))
	case len(limited) > 0:
		f.Reason = fmt.Sprintf("files on %d external disk(s) are limited to %d bytes, first %s", len(limited), r.most, limited[0])
		if taken {
			f.Reason = fmt.Sprintf("files of more than %d bytes are taken off %d external disk(s), first %s", r.most, len(limited), limited[0])
		}
	}
	if f.Enforcement != enforce.Enforced || f.Compliance != enforce.Compliant || can.Limit == "" {
		return
	}
	word := "enforced, with a limit: "
	if can.Level == fact.Partial {
		f.Enforcement, word = enforce.Partial, "partial: "
	}
	f.Reason = strings.TrimPrefix(f.Reason+"; "+word+can.Limit, "; ")
}

// sizeEvidence is what was read of one disk.
func sizeEvidence(m *fact.Medium) enforce.Evidence {
	e := enforce.Evidence{Key: "filesize.disk/" + m.Key(), State: enforce.Absent, How: "the programs in the kernel"}
	if m.Unread != "" {
		e.State, e.How = enforce.Unknown, m.Unread
	}
	if m.Limited != nil {
		e.State, e.Value = enforce.Present, "files may have any size"
		switch {
		case *m.Limited && m.Taken:
			e.Value, e.How = "files that are too large are taken off it", "the list of what fanotify watches"
		case *m.Limited:
			e.Value = "files are limited"
		}
	}
	return e
}
