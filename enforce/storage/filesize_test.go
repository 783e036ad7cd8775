package storage

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/enforce/section"
)

const tenMiB = `{"storage":{"max_file_size_mb":10}}`

// The order of decisions about the size of files, each line once.
func TestSizes(t *testing.T) {
	system, own, unknown, unnamed := card(), card(), card(), card()
	system.System, own.External, unnamed.Serial = "/home", fact.Is(false), ""
	unknown.External = fact.Unread[bool]("it has gone")
	stick := card()
	stick.Bus, stick.USB = fact.BusUSB, &fact.Plugged{Path: "1-2", Vendor: 0x0951, Product: 0x1666}
	built := stick
	built.USB = &fact.Plugged{Path: "1-9"}
	m := &fact.Machine{USB: fact.Is([]fact.USB{{Path: "1-9", Hardwired: fact.Is(true)}})}
	for _, c := range []struct {
		what, policy string
		except       map[string][]string
		m            fact.Medium
		answer       string
		guard        enforce.Guard
		reason       string
	}{
		{"limited", tenMiB, nil, card(), section.Deny, 0, "storage.max_file_size_mb is 10 (10485760 bytes), and it is a card in a slot"},
		{"no serial", tenMiB, nil, unnamed, section.Deny, 0, "it is a card in a slot"},
		{"nothing at all", `{"storage":{"max_file_size_mb":0}}`, nil, card(), section.Deny, 0, "is 0 (0 bytes)"},
		{"its own", tenMiB, nil, own, section.Allow, 0, "it is one of this machine's own disks"},
		{"cannot be told", tenMiB, nil, unknown, section.Allow, 0, "whether it is external cannot be told: it has gone"},
		{"the system's", tenMiB, nil, system, section.Allow, enforce.SystemDisk, "kept by guard system_disk: it carries /home"},
		{"not managed", `{}`, nil, card(), section.Allow, 0, "no setting in force limits"},
		{"an exception", tenMiB, map[string][]string{"storage": {"disk:0x1"}}, card(), section.Allow, 0, "an exception for this disk"},
		{"an exception for another", tenMiB, map[string][]string{"storage": {"disk:0x2"}}, card(), section.Deny, 0, "a card in a slot"},
		{"an exception for the stick", tenMiB, map[string][]string{"usb": {"0951:1666"}}, stick, section.Deny, 0, "it is on USB"},
		{"built in", tenMiB, nil, built, section.Allow, 0, "it is one of this machine's own disks"},
		{"monitor", tenMiB, nil, card(), section.WouldDeny, 0, "would be limited in enforce mode"},
		{"monitor, the system's", tenMiB, nil, system, section.Allow, 0, "no setting in force"},
	} {
		d := document(t, c.policy)
		if strings.HasPrefix(c.what, "monitor") {
			d = d.Capped(func(enforce.Setting) enforce.Mode { return enforce.Monitor })
		}
		r := compile(d.Excepted(c.except), m)
		v := r.Sizes().Judge(&c.m)
		reason, _ := r.Sizes().Reason(v, &c.m)
		if section.Word(v) != c.answer || v.Guard != c.guard || !strings.Contains(reason, c.reason) {
			t.Errorf("%s: %s, %v, %q", c.what, section.Word(v), v.Guard, reason)
		}
	}
}

// A disk of which it cannot be read is unknown, and not left out.
func TestLimitUnread(t *testing.T) {
	yes, a, b := true, card(), card()
	a.Limited, b.Name, b.Unread = &yes, "mmcblk1", "its map is gone"
	m := &fact.Machine{Media: fact.Is([]fact.Medium{a, b}), Capable: map[string]fact.Capability{"storage": {Level: fact.Enforced}}}
	out := decide(section.Open([]section.Section{Section}, document(t, tenMiB), m))
	if f := out.Findings[0]; f.Compliance != enforce.Uncertain || !strings.Contains(f.Reason, "mmcblk1") || !strings.HasSuffix(f.Reason, "cannot be read: its map is gone") || f.Evidence[1].State != enforce.Unknown {
		t.Errorf("%+v", f)
	}
}

// A question about a file, and about one of an event.
func TestExplainSize(t *testing.T) {
	c := card()
	c.Mounts = []string{"/media/card"}
	now := &fact.Machine{Media: fact.Is([]fact.Medium{c})}
	for _, x := range []struct {
		policy, path string
		size         uint64
		answer, says string
	}{
		{tenMiB, "/media/card/a", 10 << 20, section.Allow, "it is within the limit"},
		{tenMiB, "/media/card/a", 10<<20 + 1, section.Deny, "storage.max_file_size_mb is 10"},
		{tenMiB, "/home/a", 1 << 40, section.Allow, "it is on no external disk"},
		{`{"storage":{"max_file_size_mb":10,"external_storage_allowed":false}}`, "/media/card/a", 1, section.Deny, "external_storage_allowed"},
		{`{}`, "/media/card/a", 1 << 40, section.Allow, "no setting in force"},
	} {
		r := compile(document(t, x.policy), now)
		b, _ := json.Marshal(Subject{Path: x.path, Size: &x.size})
		a, err := r.Explain(b, now)
		if err != nil || a.Answer != x.answer || !strings.Contains(a.Reason, x.says) {
			t.Errorf("%+v: %+v, %v", x, a, err)
		}
	}
	facts, _ := json.Marshal(fact.Written{Medium: c, About: fact.AboutSize, Bytes: 11 << 20})
	if a, ok := compile(document(t, tenMiB), now).Replay(enforce.Facts(facts)); !ok || a.Answer != section.Deny || !strings.Contains(a.Subject, "a file of 11534336 bytes on disk mmcblk0") {
		t.Errorf("%+v %v", a, ok)
	}
	if a, _ := compile(document(t, `{"storage":{"max_file_size_mb":11}}`), now).Replay(enforce.Facts(facts)); a.Answer != section.Allow {
		t.Errorf("with a larger limit: %+v", a)
	}
}

// An exception for one file.
func TestExceptedFile(t *testing.T) {
	c := card()
	c.Mounts = []string{"/media/card"}
	now := &fact.Machine{Media: fact.Is([]fact.Medium{c})}
	d := document(t, tenMiB)
	const subject = "file:/media/card/talk.mp4"
	if got, err := parseSubject(subject); got != subject || err != nil || !slices.Equal(subjectNames(subject), []string{subject}) {
		t.Errorf("%q %v", got, err)
	}
	for _, bad := range []string{"file:", "file:a", "file:/a/", "file:/a/../b", "file:/a\x1b", "file:/" + strings.Repeat("a", maxName+1), "file:" + strings.Repeat("/"+strings.Repeat("a", 200), 3)} {
		if _, err := parseSubject(bad); err == nil || !strings.Contains(err.Error(), "must be the path of a file on an external disk") || len(err.Error()) > 300 {
			t.Errorf("%.20q: %v", bad, err)
		}
	}
	for _, bad := range []string{"file:/", "file:" + strings.Repeat("/a", maxDepth+1)} {
		if _, err := parseSubject(bad); err == nil || !strings.Contains(err.Error(), "directories deep") {
			t.Errorf("%.20q: %v", bad, err)
		}
	}
	d.Exceptions = map[string][]string{"storage": {subject}}
	r := compile(d, now)
	if !slices.Equal(r.ExceptedFiles(), []string{"/media/card/talk.mp4"}) || r.Sizes().Judge(&c).Allow {
		t.Errorf("%v; the disk: %+v", r.ExceptedFiles(), r.Sizes().Judge(&c))
	}
	for path, want := range map[string]string{"/media/card/talk.mp4": section.Allow, "/media/card/talk.mp4.part": section.Deny, "/media/card/../card/talk.mp4": section.Allow} {
		size := uint64(11 << 20)
		b, _ := json.Marshal(Subject{Path: path, Size: &size})
		a, err := r.Explain(b, now)
		if err != nil || a.Answer != want || want == section.Deny && !strings.HasSuffix(a.Nearest, `for this file alone: grant an exception for "file:`+path+`"`) ||
			want == section.Allow && a.Reason != "an exception for this file is in force" {
			t.Errorf("%s: %+v, %v", path, a, err)
		}
	}
}

// The finding: what makes it bad, unsure, kept, good.
func TestSizeFinding(t *testing.T) {
	yes, no := true, false
	with := func(change func(*fact.Medium)) fact.Medium {
		m := card()
		m.Limited = &yes
		change(&m)
		return m
	}
	for _, x := range []struct {
		what  string
		disks []fact.Medium
		level string
		want  string
		says  string
	}{
		{"limited", []fact.Medium{with(func(*fact.Medium) {})}, fact.Enforced, "compliant/enforced", "limited to 10485760 bytes"},
		{"not read", []fact.Medium{card()}, fact.Enforced, "compliant/enforced", "something escapes"},
		{"none", nil, fact.Enforced, "compliant/enforced", "something escapes"},
		{"not limited", []fact.Medium{with(func(m *fact.Medium) { m.Limited = &no })}, fact.Enforced, "noncompliant/enforced", "files on disk mmcblk0 are not limited"},
		{"the system's", []fact.Medium{with(func(m *fact.Medium) { m.System = "/home" })}, fact.Enforced, "noncompliant/guarded", "kept by guard system_disk"},
		{"cannot be told", []fact.Medium{with(func(m *fact.Medium) { m.External = fact.Unread[bool]("gone") })}, fact.Enforced, "unknown/enforced", "cannot be told"},
		{"a program gets round it", []fact.Medium{with(func(*fact.Medium) {})}, fact.Partial, "compliant/partial", "something escapes"},
		{"files are taken off it", []fact.Medium{with(func(m *fact.Medium) { m.Taken = true })}, fact.Partial, "compliant/partial", "files of more than 10485760 bytes are taken off 1 external disk(s)"},
		{"some are still there", []fact.Medium{with(func(m *fact.Medium) { m.Taken, m.Over, m.OverWhy, m.Unread = true, 2, "no room", "notices were lost" })}, fact.Partial, "noncompliant/enforced",
			"2 file(s) on disk mmcblk0 are larger than 10485760 bytes: no room"},
		{"notices were lost", []fact.Medium{with(func(m *fact.Medium) { m.Taken, m.Unread = true, "notices were lost" })}, fact.Partial, "unknown/enforced", "notices were lost"},
		{"it cannot", []fact.Medium{card()}, fact.Unsupported, "unknown/unsupported", "something escapes"},
	} {
		m := &fact.Machine{Media: fact.Is(x.disks), Capable: map[string]fact.Capability{string(settingSize): {Level: x.level, Limit: "something escapes"}}}
		out := decide(section.Open([]section.Section{Section, {Name: "usb"}}, document(t, tenMiB), m))
		f := out.Findings[0]
		if got := string(f.Compliance) + "/" + string(f.Enforcement); got != x.want || !strings.Contains(f.Reason, x.says) {
			t.Errorf("%s: %s %q", x.what, got, f.Reason)
		}
		if wants := len(out.Wants); wants != map[bool]int{true: 0, false: 1}[x.level == fact.Unsupported] {
			t.Errorf("%s: %d wants", x.what, wants)
		}
	}
}

// How events name files is no restriction: it is carried out in every mode, unless that is off.
func TestEventPaths(t *testing.T) {
	for _, x := range []struct {
		value, mode, level string
		plain              bool
		want, says         string
	}{
		{"plain", "enforce", fact.Enforced, true, "compliant/enforced", "by their paths"},
		{"plain", "monitor", fact.Enforced, true, "compliant/observed", "by their paths"},
		{"hashed", "enforce", fact.Enforced, false, "compliant/enforced", "by a mark"},
		{"plain", "enforce", fact.Unsupported, true, "unknown/unsupported", "no files here"},
	} {
		d := document(t, `{"storage":{"event_paths":"`+x.value+`"}}`)
		if x.mode == "monitor" {
			d = d.Capped(func(enforce.Setting) enforce.Mode { return enforce.Monitor })
		}
		m := &fact.Machine{Capable: map[string]fact.Capability{string(settingPaths): {Level: x.level, Limit: "no files here"}}}
		out := decide(section.Open([]section.Section{Section, {Name: "usb"}}, d, m))
		if len(out.Findings) != 1 || len(out.Wants) != 0 {
			t.Fatalf("%+v: %+v", x, out)
		}
		f := out.Findings[0]
		if got := string(f.Compliance) + "/" + string(f.Enforcement); got != x.want || !strings.Contains(f.Reason, x.says) || compile(d, m).PlainPaths() != x.plain {
			t.Errorf("%+v: %s %q", x, got, f.Reason)
		}
	}
	if compile(document(t, `{}`), nil).PlainPaths() {
		t.Error("paths are told although no policy says so")
	}
}

// The value of the resource carries the limit, and nothing else is read as one.
func TestFileSizeLimit(t *testing.T) {
	for _, n := range []uint64{0, 1, 10 << 20, 1 << 60} {
		if got, ok := fact.ParseFileSizeLimit(fact.FileSizeLimit(n)); !ok || got != n {
			t.Errorf("%d: %d, %v", n, got, ok)
		}
	}
	for _, s := range []string{"", "changed: they are not pinned any more", fact.MediaRefused, strings.Replace(fact.FileSizeLimit(5), "5", "-5", 1),
		strings.Replace(fact.FileSizeLimit(5), "programs", "program", 1)} {
		if n, ok := fact.ParseFileSizeLimit(s); ok {
			t.Errorf("%q is read as %d", s, n)
		}
	}
}
