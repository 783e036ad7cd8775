package storage

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/enforce/section"
	"github.com/warderd/warder/enforce/usb"
)

const (
	settingExternal  enforce.Setting = "storage.external_storage_allowed"
	settingException enforce.Setting = "storage.exception" // not a setting of the document: granted beside it
)

// KindMedia is the kind of the one resource that keeps external disks from being opened; platform/media has it.
const KindMedia = "media"

// refusedMedia is its value while they are refused.
const refusedMedia enforce.Value = fact.MediaRefused

var mediaKey = enforce.Key{Kind: KindMedia, ID: "external"}

// The lines of the decision order; the first that answers wins.
const (
	lineOwn       int32 = 1 // not external
	lineException int32 = 2 // an exception for this very disk; or usb's, whose Rule then names it
	lineExternal  int32 = 3 // external_storage_allowed decides
	lineRest      int32 = 4 // nothing managed
)

// Rules are this section's part of a policy for single disks.
type Rules struct {
	denies   bool
	mode     enforce.Mode
	limits   bool   // the size of files
	most     uint64 // bytes
	sizeMode enforce.Mode
	paths    bool // events name files by their paths
	noSync   bool // sync clients
	syncMode enforce.Mode
	usb      *usb.Rules
	excepted map[string]int32 // by serial
	files    []string         // those with an exception from the limit of their size
	// exceptedClients are the sync clients with an exception, by ID.
	exceptedClients map[string]int32
	builtIn         map[string]bool // USB devices, by path, that the firmware says are inside the machine
	machine         *fact.Machine
}

// compile prepares a policy for judging disks.
func compile(d *policy.Document, m *fact.Machine) *Rules {
	if m == nil {
		m = &fact.Machine{}
	}
	r := &Rules{denies: d.Storage.ExternalStorageAllowed.Set && !d.Storage.ExternalStorageAllowed.V, mode: d.Mode(settingExternal),
		usb: usb.Compile(d, m), excepted: map[string]int32{}, exceptedClients: map[string]int32{}, builtIn: map[string]bool{}, machine: m}
	if most := d.Storage.MaxFileSizeMB; most.Set {
		r.limits, r.most, r.sizeMode = true, uint64(most.V)<<20, d.Mode(settingSize)
	}
	r.paths = d.Storage.EventPaths.V == policy.PathsPlain && d.Mode(settingPaths) > enforce.Off
	if sync := d.Storage.CloudSyncAllowed; sync.Set && !sync.V {
		r.noSync, r.syncMode = true, d.Mode(settingCloud)
	}
	for i := range m.USB.V {
		if u := &m.USB.V[i]; u.Hardwired.OK && u.Hardwired.V {
			r.builtIn[u.Path] = true
		}
	}
	for i, s := range d.Exceptions["storage"] {
		if serial, ok := strings.CutPrefix(s, policy.DiskSubject); ok {
			r.excepted[serial] = int32(i + 1)
		}
		if file, ok := strings.CutPrefix(s, policy.FileSubject); ok {
			r.files = append(r.files, file)
		}
		if client, ok := strings.CutPrefix(s, policy.ClientSubject); ok {
			r.exceptedClients[client] = int32(i + 1)
		}
	}
	return r
}

// Watch is the judge that a guard uses.
func (r *Rules) Watch() enforce.Judge[fact.Medium] { return r }

// Concerned reports whether a disk can be refused in any mode.
func (r *Rules) Concerned() bool { return r.denies && r.mode > enforce.Off }

// CanDeny reports whether a disk can be refused in enforce mode.
func (r *Rules) CanDeny() bool { return r.denies && r.mode == enforce.Enforce }

// Judge judges one disk.
func (r *Rules) Judge(m *fact.Medium) enforce.Verdict {
	rule, allow := r.decide(m)
	switch {
	case allow || r.mode == enforce.Off:
		return enforce.Verdict{Allow: true, Rule: rule, Would: rule}
	case r.mode < enforce.Enforce:
		return enforce.Verdict{Allow: true, Rule: enforce.Rule{Line: lineRest}, Would: rule, WouldDeny: m.System == "", WouldMode: r.mode}
	case m.System != "":
		return enforce.Verdict{Allow: true, Rule: rule, Would: rule, WouldMode: r.mode, Guard: enforce.SystemDisk}
	}
	return enforce.Verdict{Rule: rule, Would: rule, WouldMode: r.mode}
}

// outside reports whether a disk is external. What cannot be told is not taken away from anybody; the finding says so.
func (r *Rules) outside(m *fact.Medium) bool {
	return m.External.V && !(m.USB != nil && !m.Exchangeable && r.builtIn[m.USB.Path])
}

func (r *Rules) decide(m *fact.Medium) (rule enforce.Rule, allow bool) {
	if !r.outside(m) {
		return enforce.Rule{Line: lineOwn}, true
	}
	if n := r.excepted[m.Serial]; m.Serial != "" && n > 0 {
		return enforce.Rule{Setting: settingException, Line: lineException, Entry: n}, true
	}
	if m.USB != nil {
		if rule, ok := r.usb.Carries(m.USB, m.Serial); ok {
			return rule, true
		}
	}
	if r.denies {
		return enforce.Rule{Setting: settingExternal, Line: lineExternal}, false
	}
	return enforce.Rule{Line: lineRest}, true
}

// buses are the words for what makes a disk external.
var buses = map[string]string{
	fact.BusUSB: "it is on USB", fact.BusCard: "it is a card in a slot", fact.BusFireWire: "it is on FireWire",
	fact.BusPCI: "it is behind a port that leads outside (Thunderbolt, USB4, ExpressCard)", fact.BusESATA: "it is on an eSATA port",
}

func onBus(m *fact.Medium) string {
	if s := buses[m.Bus]; s != "" {
		return s
	}
	return "it is external"
}

// Reason says why, and the smallest change to the policy that would reverse it.
func (r *Rules) Reason(v enforce.Verdict, m *fact.Medium) (reason, nearest string) {
	rule, prefix := v.Rule, ""
	if v.WouldDeny {
		rule, prefix = v.Would, fmt.Sprintf("would be refused in enforce mode (%s is in %s mode): ", v.Would.Setting, v.WouldMode)
	}
	switch {
	case rule.Setting == settingExternal && rule.Line == lineExternal:
		reason = prefix + "storage.external_storage_allowed is false, and " + onBus(m)
		if v.Guard == enforce.SystemDisk {
			return reason + "; kept by guard system_disk: it carries " + m.System + " of the running system", ""
		}
		switch {
		case m.USB != nil && m.Serial != "":
			nearest = fmt.Sprintf("add %q to usb.whitelist (an entry with a serial overrides storage.external_storage_allowed)",
				fmt.Sprintf("%04x:%04x:%s", m.USB.Vendor, m.USB.Product, m.Serial))
		case m.Serial != "":
			nearest = fmt.Sprintf("grant an exception for %q, for a time, or set storage.external_storage_allowed to true", policy.DiskSubject+m.Serial)
		default:
			nearest = "set storage.external_storage_allowed to true: the disk has no serial that an exception could name"
		}
		return reason, nearest
	case rule.Setting == settingException:
		return "an exception for this disk is in force", ""
	case rule.Setting == "usb.whitelist":
		return fmt.Sprintf("usb.whitelist[%d] pins its serial: %s", rule.Entry-1, r.usb.Entry(rule)), fmt.Sprintf("remove %q from usb.whitelist",
			r.usb.Entry(rule))
	case rule.Setting != "":
		return "an exception for this USB device is in force", ""
	case !m.External.OK && m.External.Why != "":
		return "whether it is external cannot be told: " + m.External.Why, ""
	case rule.Line == lineOwn:
		return "it is one of this machine's own disks", ""
	}
	return "no setting in force refuses external disks", "set storage.external_storage_allowed to false"
}

// external is the finding of external_storage_allowed, and what is wanted for it.
func external(c *section.Case, out *section.Outcome) {
	can, r := c.Can(settingExternal), rulesOf(c)
	acts := can.Level == fact.Enforced || can.Level == fact.Partial && c.Machine.DisksRefused // otherwise USB's guard is all there is
	why, unread := c.Machine.Unread(fact.PartMedia)
	f := usb.Storage(c, func(path string) bool { return acts && r.covered(path) })
	defer func() { out.Findings = append(out.Findings, f) }()
	if !r.denies || can.Level == fact.Unsupported {
		return
	}
	if acts {
		out.Wants = append(out.Wants, enforce.Want{Key: mediaKey, Value: refusedMedia, By: []enforce.Setting{settingExternal}, Mode: r.mode,
			Phase: enforce.Close})
	}
	switch {
	case f.Compliance == enforce.Noncompliant: // a device that it refuses is in use
	case unread && acts:
		f = section.Unread(c, settingExternal, why)
	case !unread:
		r.standing(&f, acts)
		word := "enforced, with a limit: "
		if can.Level == fact.Partial {
			word = "partial: "
		}
		if f.Compliance == enforce.Compliant && f.Enforcement != enforce.Observed && can.Limit != "" && !strings.Contains(f.Reason, can.Limit) {
			f.Reason = strings.TrimPrefix(f.Reason+"; "+word+can.Limit, "; ")
		}
	}
}

// covered reports whether everything in a USB device that has to stay (a built-in card reader) is refused as a disk.
func (r *Rules) covered(path string) bool {
	disks := 0
	for i := range r.machine.Media.V {
		m := &r.machine.Media.V[i]
		if m.USB == nil || m.USB.Path != path {
			continue
		}
		if disks++; r.Judge(m).Allow || m.Held && !(m.Refused.OK && m.Refused.V && !m.Open) {
			return false
		}
	}
	return disks > 0
}

// standing judges the disks that are there. acts: something refuses them, and if it is not there yet (Held), that is the planner's
// to say.
func (r *Rules) standing(f *enforce.Finding, acts bool) {
	var bad, unsure, kept, refused []string
	for i := range r.machine.Media.V {
		m := &r.machine.Media.V[i]
		v := r.Judge(m)
		if m.External.V && len(f.Evidence) < maxNamed {
			f.Evidence = append(f.Evidence, evidenceOf(m))
		}
		switch {
		case !m.External.OK:
			unsure = append(unsure, Name(m)+": whether it is external cannot be told: "+m.External.Why)
		case v.Guard != enforce.NoGuard:
			kept = append(kept, Name(m)+" is refused and kept by guard "+v.Guard.String()+": it carries "+m.System)
		case v.WouldDeny:
			bad = append(bad, Name(m)+" is external and can be used")
		case v.Allow:
		case !acts:
			bad = append(bad, Name(m)+" is external, and nothing on this machine can refuse it")
		case !m.Refused.OK:
			unsure = append(unsure, Name(m)+": whether the kernel refuses it cannot be read: "+m.Refused.Why)
		case m.Held && !m.Refused.V:
			bad = append(bad, Name(m)+" is external and the kernel does not refuse it")
		case m.Held && m.Open:
			bad = append(bad, Name(m)+" may still be open since before it was refused")
		default:
			refused = append(refused, Name(m))
		}
	}
	switch {
	case len(bad) > 0:
		f.Compliance, f.Reason = enforce.Noncompliant, bad[0]+more(len(bad))
	case len(kept) > 0:
		f.Compliance, f.Enforcement, f.Reason = enforce.Noncompliant, enforce.IsGuarded, kept[0]+more(len(kept))
	case len(unsure) > 0:
		f.Compliance, f.Reason = enforce.Uncertain, unsure[0]+more(len(unsure))
	case len(refused) > 0:
		f.Reason = fmt.Sprintf("%d external disk(s) are refused, first %s", len(refused), refused[0])
	}
}

// evidenceOf is what was read of one disk.
func evidenceOf(m *fact.Medium) enforce.Evidence {
	e := enforce.Evidence{Key: "media.disk/" + m.Key(), State: enforce.Unknown, How: m.Refused.Why}
	if m.Refused.OK {
		e.State, e.Value = enforce.Present, "open to programs"
		if m.Refused.V {
			e.Value = "refused"
		}
		e.How = "the programs in the kernel"
		if m.Off {
			e.How = "it has no driver"
		}
	}
	return e
}

// Name names a disk for people and for the server.
func Name(m *fact.Medium) string {
	s := "disk " + m.Name
	if m.Model != "" {
		s += " (" + enforce.Plain(m.Model) + ")"
	}
	return s
}

// The bounds of a path in an exception: its bytes, and those of each name in it.
const (
	maxPoint = 512
	maxName  = 255
	maxDepth = 32 // of a file; the kernel's programs follow no more
)

// pathOf checks the path of an exception's subject.
func pathOf(s, what, such string) error {
	long := slices.ContainsFunc(strings.Split(s, "/"), func(name string) bool { return len(name) > maxName })
	if !path.IsAbs(s) || path.Clean(s) != s || len(s) > maxPoint || long || enforce.Plain(s) != s {
		return fmt.Errorf("%s %q must be %s, with at most %d bytes, and %d in a name", strings.TrimSuffix(what, ":"), enforce.Plain(s[:min(len(s), 64)]), such, maxPoint, maxName)
	}
	return nil
}

// parseSubject: an exception is for one disk, by its serial, for one file on one, for one sync client, or for one file system that
// need not be encrypted.
func parseSubject(s string) (string, error) {
	if id, ok := strings.CutPrefix(s, policy.ClientSubject); ok {
		if _, known := fact.Clients.ByID(id); !known {
			return "", fmt.Errorf("client %q must be one of %s", enforce.Plain(id), strings.Join(clientIDs(), ", "))
		}
		return s, nil
	}
	if point, ok := strings.CutPrefix(s, policy.MountSubject); ok {
		return s, pathOf(point, policy.MountSubject, "where a file system is mounted, such as /srv/data")
	}
	if file, ok := strings.CutPrefix(s, policy.FileSubject); ok {
		if file == "/" || strings.Count(file, "/") > maxDepth {
			return "", fmt.Errorf("file %q must be a file, at most %d directories deep", enforce.Plain(file[:min(len(file), 64)]), maxDepth)
		}
		return s, pathOf(file, policy.FileSubject, "the path of a file on an external disk, such as /media/ada/STICK/talk.mp4")
	}
	serial, ok := strings.CutPrefix(s, policy.DiskSubject)
	if serial = strings.TrimSpace(serial); !ok || serial == "" || len(serial) > 128 || enforce.Plain(serial) != serial {
		return "", errors.New(`must name one disk by its serial, "disk:SERIAL", one file on an external disk, "file:/media/ada/STICK/talk.mp4", one sync client, "client:dropbox", or one file system that need not be encrypted, "mount:/srv/data"`)
	}
	return policy.DiskSubject + serial, nil
}

func subjectNames(subject string) []string {
	if s, err := parseSubject(subject); err == nil {
		return []string{s}
	}
	return nil
}

// refusedNow are the disks that are there and refused, and the sync clients that are, by the names under which an exception can be given.
func refusedNow(c *section.Case) (out []string) {
	r := rulesOf(c)
	for i := range c.Machine.Media.V {
		if m := &c.Machine.Media.V[i]; !r.Judge(m).Allow && m.Serial != "" && !slices.Contains(out, policy.DiskSubject+m.Serial) {
			out = append(out, policy.DiskSubject+m.Serial)
		}
	}
	if r.CanStop() {
		for _, id := range r.refusedClients() {
			out = append(out, policy.ClientSubject+id)
		}
	}
	return out
}
