package storage

import (
	"fmt"
	"slices"
	"strings"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/enforce/section"
)

const settingEncryption enforce.Setting = "storage.encryption_required"

// exempt are the mount points with what boots the machine, before any key is available.
var exempt = []string{"/boot", "/boot/efi", "/efi"}

// maxNamed bounds the volumes that a finding names as evidence; the ones that fail come first.
const maxNamed = 16

// encryption checks that every writable file system and swap on this machine's own disks passes something that
// encrypts, on every path down. It only detects.
func encryption(c *section.Case) enforce.Finding {
	s, d := settingEncryption, c.Document
	f := enforce.Finding{Setting: s, Mode: d.Mode(s), Compliance: enforce.Compliant, Enforcement: enforce.DetectOnly}
	if !d.Storage.EncryptionRequired.V {
		f.Reason = "encryption is not required"
		return f
	}
	if c.Can(s).Level == fact.Unsupported {
		return section.NotYet(c, s)
	}
	if why, unread := c.Machine.Unread(fact.PartVolumes); unread {
		return section.Unread(c, s, why)
	}
	var bad, unsure, good, free, excused []*fact.Volume
	for i := range c.Machine.Volumes.V {
		v := &c.Machine.Volumes.V[i]
		switch {
		case v.Encrypted.OK && v.Encrypted.V:
			good = append(good, v)
		case starts(v):
			free = append(free, v)
		case excepted(d.Exceptions["storage"], v):
			excused = append(excused, v)
		case v.Encrypted.OK:
			bad = append(bad, v)
		default:
			unsure = append(unsure, v)
		}
	}
	for _, list := range [][]*fact.Volume{bad, unsure, excused, good, free} {
		for _, v := range list {
			if len(f.Evidence) < maxNamed {
				f.Evidence = append(f.Evidence, evidence(v))
			}
		}
	}
	switch {
	case len(bad) > 0:
		f.Compliance = enforce.Noncompliant
		f.Reason = name(bad[0]) + " is not encrypted: " + bad[0].Leaf + " is plain (path: " + strings.Join(bad[0].Chain, ", ") + ")" +
			more(len(bad))
	case len(unsure) > 0:
		f.Compliance = enforce.Uncertain
		f.Reason = "cannot tell whether " + name(unsure[0]) + " is encrypted: " + unsure[0].Encrypted.Why + more(len(unsure))
	case len(good)+len(excused) == 0:
		f.Compliance = enforce.Uncertain
		f.Reason = "no file system or swap on this machine's own disks is in use, so encryption cannot be judged"
	default:
		f.Reason = fmt.Sprintf("%d file system(s) and swap(s) are encrypted", len(good))
		if len(excused) > 0 {
			f.Reason += "; an exception is in force for " + name(excused[0]) + ", which is not or cannot be told" + more(len(excused))
		}
		if len(free) > 0 {
			f.Reason += "; " + free[0].Mount + " is not, and does not have to be: the machine starts from it"
		}
	}
	return f
}

// excepted reports whether an exception is in force for a file system, by any place where it is mounted.
func excepted(exceptions []string, v *fact.Volume) bool {
	return !v.Swap && slices.ContainsFunc(exceptions, func(s string) bool {
		point, is := strings.CutPrefix(s, policy.MountSubject)
		return is && (point == v.Mount || slices.Contains(v.Also, point))
	})
}

// starts reports whether a volume is only mounted where a machine boots from.
func starts(v *fact.Volume) bool {
	return !v.Swap && slices.Contains(exempt, v.Mount) &&
		!slices.ContainsFunc(v.Also, func(at string) bool { return !slices.Contains(exempt, at) })
}

// name is a volume as a finding names it: its first mount point and type.
func name(v *fact.Volume) string {
	if v.Swap {
		return "the swap on " + v.Dev
	}
	if v.FS == "" {
		return v.Mount
	}
	return v.Mount + " (" + v.FS + ")"
}

// more says how many further volumes there are.
func more(n int) string {
	if n == 1 {
		return ""
	}
	return fmt.Sprintf("; and %d more", n-1)
}

// evidence is the path down from a volume, as evidence.
func evidence(v *fact.Volume) enforce.Evidence {
	e := enforce.Evidence{Key: "volume " + v.Mount, State: enforce.Present, How: strings.Join(v.Chain, ", ")}
	if v.Swap {
		e.Key = "swap " + v.Dev
	}
	switch {
	case !v.Encrypted.OK:
		e.State, e.How = enforce.Unknown, v.Encrypted.Why
	case v.Encrypted.V:
		e.Value = "encrypted"
	default:
		e.Value = "plain"
	}
	return e
}
