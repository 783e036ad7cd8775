package storage

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/enforce/section"
	"github.com/warderd/warder/enforce/usb"
)

func document(t *testing.T, text string) *policy.Document {
	t.Helper()
	d, err := policy.Decode([]byte(`{"policy_data":`+text+`}`), policy.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

const noExternal = `{"storage":{"external_storage_allowed":false}}`

func card() fact.Medium {
	return fact.Medium{Name: "mmcblk0", Dev: "179:0", Turn: 3, Bus: fact.BusCard, Serial: "0x1", External: fact.Is(true), Refused: fact.Is(true), Held: true}
}

// The order of decisions, each line once.
func TestJudge(t *testing.T) {
	stick := card()
	stick.Bus, stick.Serial, stick.USB = fact.BusUSB, "SN1", &fact.Plugged{Path: "1-2", Vendor: 0x0951, Product: 0x1666}
	system, own, unknown, unnamed := card(), card(), card(), card()
	system.System, own.External, unnamed.Serial = "/home", fact.Is(false), ""
	unknown.External = fact.Unread[bool]("it has gone")
	built := stick
	built.USB = &fact.Plugged{Path: "1-9"}
	reader := built
	reader.Exchangeable = true
	pins := `{"storage":{"external_storage_allowed":false},"usb":{"whitelist":["0951:1666:SN1"]}}`
	names := `{"storage":{"external_storage_allowed":false},"usb":{"whitelist":["0951:1666"]}}`
	m := &fact.Machine{USB: fact.Is([]fact.USB{{Path: "1-9", Hardwired: fact.Is(true)}, {Path: "1-2", Hardwired: fact.Is(false)}})}
	for _, c := range []struct {
		what, policy string
		except       map[string][]string
		m            fact.Medium
		answer       string
		guard        enforce.Guard
		reason       string
	}{
		{"refused", noExternal, nil, card(), section.Deny, 0, "storage.external_storage_allowed is false, and it is a card in a slot"},
		{"no serial", noExternal, nil, unnamed, section.Deny, 0, "it is a card in a slot"},
		{"its own", noExternal, nil, own, section.Allow, 0, "it is one of this machine's own disks"},
		{"cannot be told", noExternal, nil, unknown, section.Allow, 0, "whether it is external cannot be told: it has gone"},
		{"the system's", noExternal, nil, system, section.Allow, enforce.SystemDisk, "kept by guard system_disk: it carries /home"},
		{"allowed", `{"storage":{"external_storage_allowed":true}}`, nil, card(), section.Allow, 0, "no setting in force refuses external disks"},
		{"not managed", `{}`, nil, card(), section.Allow, 0, "no setting in force"},
		{"a stick", noExternal, nil, stick, section.Deny, 0, "it is on USB"},
		{"a stick that is pinned", pins, nil, stick, section.Allow, 0, "usb.whitelist[0] pins its serial: 0951:1666:SN1"},
		{"a stick whose kind is listed", names, nil, stick, section.Deny, 0, "it is on USB"},
		{"an exception for the stick", noExternal, map[string][]string{"usb": {"0951:1666"}}, stick, section.Allow, 0, "an exception for this USB device"},
		{"an exception for the disk", noExternal, map[string][]string{"storage": {"disk:0x1"}}, card(), section.Allow, 0, "an exception for this disk"},
		{"an exception for another", noExternal, map[string][]string{"storage": {"disk:0x2"}}, card(), section.Deny, 0, "a card in a slot"},
		{"an exception for no serial", noExternal, map[string][]string{"storage": {"disk:"}}, unnamed, section.Deny, 0, "a card in a slot"},
		{"built in", noExternal, nil, built, section.Allow, 0, "it is one of this machine's own disks"},
		{"a built-in reader", noExternal, nil, reader, section.Deny, 0, "it is on USB"},
		{"monitor", noExternal, nil, card(), section.WouldDeny, 0, "would be refused in enforce mode"},
		{"monitor, the system's", noExternal, nil, system, section.Allow, 0, "no setting in force"},
	} {
		d := document(t, c.policy)
		if strings.HasPrefix(c.what, "monitor") {
			d = d.Capped(func(enforce.Setting) enforce.Mode { return enforce.Monitor })
		}
		d = d.Excepted(c.except)
		r := compile(d, m)
		v := r.Judge(&c.m)
		reason, _ := r.Reason(v, &c.m)
		if section.Word(v) != c.answer || v.Guard != c.guard || !strings.Contains(reason, c.reason) {
			t.Errorf("%s: %s %s: %s", c.what, section.Word(v), v.Guard, reason)
		}
		b, _ := json.Marshal(&c.m)
		if a, ok := r.Replay(enforce.Facts(b)); !ok || a.Answer != c.answer {
			t.Errorf("%s: replayed: %+v", c.what, a)
		}
	}
}

// What an exception of this section names passes the USB guard, too: otherwise the disk would never be there.
func TestExceptionPassesUSB(t *testing.T) {
	u := &fact.USB{Path: "1-2", Vendor: 0x0951, Product: 0x1666, Serial: "SN1", Interfaces: []fact.Interface{{Class: 8}}}
	d := document(t, noExternal)
	if v := usb.Compile(d, nil).Judge(u); v.Allow {
		t.Error("a stick is let in")
	}
	if v := usb.Compile(d.Excepted(map[string][]string{"storage": {"disk:SN1"}}), nil).Judge(u); !v.Allow {
		t.Error("the stick with an exception is refused")
	}
}

// A built-in card reader stays, because it is built in; what is in it is refused as a disk.
func TestBuiltInReader(t *testing.T) {
	reader := card()
	reader.Bus, reader.USB, reader.Exchangeable = fact.BusUSB, &fact.Plugged{Path: "1-9"}, true
	open := reader
	open.Open = true
	for want, list := range map[string][]fact.Medium{"compliant enforced: 1 external": {reader}, "noncompliant guarded: 1-9": {open}, "noncompliant guarded: 1-9 ": {}} {
		m := &fact.Machine{USB: fact.Is([]fact.USB{{Path: "1-9", Hardwired: fact.Is(true), Authorized: fact.Is(true), Interfaces: []fact.Interface{{Class: 8}}}}),
			Controllers: fact.Is([]string{"usb1"}), Media: fact.Is(list),
			Capable: map[string]fact.Capability{string(settingExternal): {Level: fact.Enforced}}}
		s := []section.Section{usb.Section, Section}
		f := section.Decide(s, section.Open(s, document(t, noExternal), m)).Findings[0]
		if got := string(f.Compliance) + " " + string(f.Enforcement) + ": " + f.Reason; !strings.HasPrefix(got, want) {
			t.Errorf("%v: %s", list, got)
		}
	}
}

// Which finding follows from what was read.
func TestExternalFinding(t *testing.T) {
	open, back, gone := card(), card(), card()
	open.Open, back.Refused, gone.Refused = true, fact.Is(false), fact.Unread[bool]("no right")
	system, unknown := card(), card()
	later := back
	later.Held = false
	system.System, unknown.External = "/usr", fact.Unread[bool]("it has gone")
	for _, c := range []struct {
		what  string
		level string
		media fact.Known[[]fact.Medium]
		want  string
		wants int
	}{
		{"none", fact.Enforced, fact.Is([]fact.Medium{}), "compliant enforced: enforced, with a limit: L", 1},
		{"refused", fact.Enforced, fact.Is([]fact.Medium{card()}), "compliant enforced: 1 external disk(s) are refused, first disk mmcblk0; enforced, with a limit: L", 1},
		{"may be open", fact.Enforced, fact.Is([]fact.Medium{card(), open}), "noncompliant enforced: disk mmcblk0 may still be open", 1},
		{"not refused", fact.Enforced, fact.Is([]fact.Medium{back}), "noncompliant enforced: disk mmcblk0 is external and the kernel does not refuse it", 1},
		{"not read back", fact.Enforced, fact.Is([]fact.Medium{gone}), "unknown enforced: disk mmcblk0: whether the kernel refuses it cannot be read: no right", 1},
		{"cannot be told", fact.Enforced, fact.Is([]fact.Medium{unknown}), "unknown enforced: disk mmcblk0: whether it is external cannot be told", 1},
		{"the system's", fact.Enforced, fact.Is([]fact.Medium{system}), "noncompliant guarded: disk mmcblk0 is refused and kept by guard system_disk: it carries /usr", 1},
		{"not read", fact.Enforced, fact.Unread[[]fact.Medium]("no right"), "unknown failed: the disks cannot be read: no right", 1},
		{"not there yet", fact.Enforced, fact.Is([]fact.Medium{later}), "compliant enforced: 1 external disk(s) are refused", 1},
		{"the worst counts", fact.Enforced, fact.Is([]fact.Medium{back, unknown, system}), "noncompliant enforced: disk mmcblk0 is external and", 1},
		{"a moment later", fact.Partial, fact.Is([]fact.Medium{}), "compliant partial: partial: L", 1},
		{"a moment later, not read", fact.Partial, fact.Unread[[]fact.Medium]("no right"), "unknown failed: the disks cannot be read: no right", 1},
		{"a moment later, refused", fact.Partial, fact.Is([]fact.Medium{card()}), "compliant partial: 1 external disk(s) are refused, first disk mmcblk0; partial: L", 1},
		{"a moment later, not yet", fact.Partial, fact.Is([]fact.Medium{back}), "noncompliant partial: disk mmcblk0 is external and the kernel does not refuse it", 1},
		{"USB alone", fact.Partial, fact.Is([]fact.Medium{}), "compliant partial: partial: L", 0},
		{"USB alone, and not read", fact.Partial, fact.Unread[[]fact.Medium]("no right"), "compliant partial: partial: L", 0},
		{"USB alone, and a card", fact.Partial, fact.Is([]fact.Medium{later}), "noncompliant partial: disk mmcblk0 is external, and nothing on this machine", 0},
		{"nobody acts", fact.DetectOnly, fact.Is([]fact.Medium{later}), "noncompliant detect_only: disk mmcblk0 is external and can be used", 0},
	} {
		m := &fact.Machine{USB: fact.Is([]fact.USB{}), Controllers: fact.Is([]string{"usb1"}), Media: c.media, DisksRefused: !strings.HasPrefix(c.what, "USB alone"),
			Capable: map[string]fact.Capability{string(settingExternal): {Level: c.level, Limit: "L"}}}
		s := []section.Section{usb.Section, Section}
		out := section.Decide(s, section.Open(s, document(t, noExternal), m))
		if len(out.Findings) != 1 {
			t.Fatalf("%s: %+v", c.what, out)
		}
		f := out.Findings[0]
		got := string(f.Compliance) + " " + string(f.Enforcement) + ": " + f.Reason
		wants := 0
		for _, w := range out.Wants {
			if w.Key == mediaKey {
				wants++
			}
		}
		if !strings.HasPrefix(got, c.want) || wants != c.wants {
			t.Errorf("%s: %s, %d wants", c.what, got, wants)
		}
	}
}

func TestExplainPath(t *testing.T) {
	own := fact.Medium{Name: "vda", Dev: "254:0", External: fact.Is(false), Refused: fact.Is(false), Mounts: []string{"/", "/boot"}}
	c := card()
	c.Mounts = []string{"/media/card"}
	own.Parts, c.Parts = []string{"vda", "vda1", "dm-0"}, []string{"mmcblk0", "mmcblk0p12"}
	m := &fact.Machine{Media: fact.Is([]fact.Medium{own, c}), Elsewhere: []string{"/tmp", "/mnt/share", "/dev"}}
	r := compile(document(t, noExternal), m)
	for at, want := range map[string]string{"/dev/mmcblk0": "deny disk mmcblk0", "/dev/mmcblk0p12": "deny disk mmcblk0", "/media/card/a/b": "deny disk mmcblk0",
		"/media/cards": "allow disk vda", "/etc": "allow disk vda", "/boot/x": "allow disk vda", "/dev/vda1": "allow disk vda", "/dev/vdab": "allow /dev/vdab", "/dev/dm-0": "allow disk vda", "/mnt/share/x": "allow /mnt/share/x", "/mnt": "allow disk vda",
		"/dev/mmcblk0p1": "allow /dev/mmcblk0p1", "/media/card": "deny disk mmcblk0",
		"relative": "error", "/" + strings.Repeat("x", 5000): "error"} {
		b, _ := json.Marshal(Subject{Path: at})
		a, err := r.Explain(b, m)
		got := a.Answer + " " + a.Subject
		if err != nil {
			got = "error"
		}
		if got != want {
			t.Errorf("%.40s: %s (%v)", at, got, err)
		}
	}
	if _, err := r.Explain(json.RawMessage(`{"path":"/x"}`), nil); err != section.ErrPresent {
		t.Error(err)
	}
}

func TestDiskSubject(t *testing.T) {
	for in, want := range map[string]string{"disk:A1": "disk:A1", "disk: A1 ": "disk:A1", "disk:": "", "A1": "", "disk:a\x1b[0m": "", "disk:" + strings.Repeat("x", 129): "",
		"disk:WD 1 TB": "disk:WD 1 TB"} {
		if got, _ := parseSubject(in); got != want {
			t.Errorf("%q: %q", in, got)
		}
	}
}
