package usb

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/enforce/section"
)

func document(t testing.TB, s string) *policy.Document {
	t.Helper()
	d, err := policy.Decode([]byte(s), policy.Options{Strict: true})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestTables judges the devices of each table in testdata: "policy" is a document, "machine" the
// snapshot at load (optional), and each line of "want" is "device: classes [flags] => words".
func TestTables(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) < 5 {
		t.Fatalf("%d tables, %v", len(files), err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txtar"), func(t *testing.T) {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			a := txtar.Parse(b)
			part := map[string]string{}
			for _, x := range a.Files {
				part[x.Name] = string(x.Data)
			}
			m := &fact.Machine{USB: fact.Is([]fact.USB(nil)), Inputs: fact.Is(fact.Inputs{Keyboards: 1, Pointers: 1})}
			if s := part["machine"]; s != "" {
				if err := json.Unmarshal([]byte(s), m); err != nil {
					t.Fatal(err)
				}
			}
			r := Compile(document(t, part["policy"]), m)
			for line := range strings.Lines(part["want"]) {
				if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
					continue
				}
				in, want, ok := strings.Cut(line, "=>")
				if !ok {
					t.Fatalf("line %q", line)
				}
				u := device(t, in)
				v := r.Judge(u)
				got := r.ask(u)
				words := got.Answer + " | " + got.Reason + " | " + got.Nearest + " | guard " + v.Guard.String() + " | line " +
					fmt.Sprint(v.Rule.Line)
				for w := range strings.SplitSeq(want, ";") {
					if w = strings.TrimSpace(w); !strings.Contains(words, w) {
						t.Errorf("%s\n got %s\n want %q", line, words, w)
					}
				}
			}
		})
	}
}

// device reads "0951:1666[:SERIAL] 08,03 [at=1-2@7] [on] [hardwired] [cut] [name] [mtp|nomtp]".
func device(t *testing.T, s string) *fact.USB {
	t.Helper()
	f := strings.Fields(s)
	e, err := policy.ParseUSBEntry(f[0])
	if err != nil {
		t.Fatal(err)
	}
	u := &fact.USB{Path: "1-9", Number: 9, Vendor: e.Vendor, Product: e.Product, Serial: e.Serial, Authorized: fact.Is(false)}
	for c := range strings.SplitSeq(f[1], ",") {
		if c == "-" {
			continue
		}
		class, err := policy.ParseClass(c)
		if err != nil {
			t.Fatal(err)
		}
		u.Interfaces = append(u.Interfaces, fact.Interface{Class: uint8(class)})
	}
	for _, w := range f[2:] {
		switch w {
		case "on":
			u.Authorized = fact.Is(true)
		case "hardwired":
			u.Hardwired = fact.Is(true)
		case "cut":
			u.Truncated = "cut short"
		case "keyboard":
			u.Keyboard = true
		case "pointer":
			u.Pointer = true
		case "root":
			u.Root = true
		case "named", "mtp", "nomtp":
			for i := range u.Interfaces {
				u.Interfaces[i].Name = 4
				if w != "named" {
					u.Interfaces[i].MTP = fact.Is(w == "mtp")
				}
			}
		default:
			if _, err := fmt.Sscanf(w, "at=%d-%d@%d", new(int), new(int), &u.Number); err != nil {
				t.Fatalf("word %q", w)
			}
			u.Path, _, _ = strings.Cut(strings.TrimPrefix(w, "at="), "@")
		}
	}
	return u
}

// A verdict needs no allocation, whatever the length of the list.
func TestJudgeDoesNotAllocate(t *testing.T) {
	r, u := large(t)
	if n := testing.AllocsPerRun(1000, func() { r.Judge(u) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func large(t testing.TB) (*Rules, *fact.USB) {
	list := make([]string, 10_000)
	for i := range list {
		list[i] = fmt.Sprintf("%04x:%04x", 0x1000+i/16, i%16)
		if i%5 == 0 {
			list[i] += fmt.Sprintf(":S%d", i)
		}
	}
	b, _ := json.Marshal(map[string]any{"policy_data": map[string]any{
		"usb":     map[string]any{"whitelist": list, "allowed_classes": []string{"hid", "audio"}},
		"storage": map[string]any{"external_storage_allowed": false}}})
	r := Compile(document(t, string(b)), &fact.Machine{USB: fact.Is([]fact.USB(nil)), Inputs: fact.Is(fact.Inputs{Keyboards: 1})})
	return r, &fact.USB{Path: "1-2", Number: 3, Vendor: 0x1001, Product: 5, Serial: "S25",
		Interfaces: []fact.Interface{{Class: 8}, {Class: 3}}}
}

func BenchmarkJudge(b *testing.B) {
	r, u := large(b)
	b.ReportAllocs()
	for b.Loop() {
		r.Judge(u)
	}
}

func BenchmarkDecodeAndCompile10000(b *testing.B) {
	list := make([]string, 10_000)
	for i := range list {
		list[i] = fmt.Sprintf("%04x:%04x:S%d", 0x1000+i/16, i%16, i)
	}
	doc, _ := json.Marshal(map[string]any{"policy_data": map[string]any{"usb": map[string]any{"whitelist": list}}})
	for b.Loop() {
		d, err := policy.Decode(doc, policy.Options{})
		if err != nil {
			b.Fatal(err)
		}
		Compile(d, nil)
	}
}

// Monitor mode plans what it would do and asks for no change; enforce sets the kernel's default and each device.
func TestWants(t *testing.T) {
	m := &fact.Machine{Controllers: fact.Is([]string{"usb1"}), Inputs: fact.Is(fact.Inputs{Keyboards: 1}),
		Capable: map[string]fact.Capability{"usb": {Level: "enforced"}},
		USB: fact.Is([]fact.USB{{Path: "usb1", Root: true},
			{Path: "1-1", Number: 2, Interfaces: []fact.Interface{{Class: 8}}, Authorized: fact.Is(true)},
			{Path: "1-2", Number: 3, Interfaces: []fact.Interface{{Class: 3}}, Authorized: fact.Is(true)}})}
	text := func(mode string) string {
		out := outcome(document(t, `{"compliance":"`+mode+`","policy_data":{"usb":{"allowed_classes":["hid"]}}}`), m)
		var lines []string
		for _, w := range out.Wants {
			lines = append(lines, fmt.Sprintf("%s=%s %s %d", w.Key, w.Value, w.Mode, w.Phase))
		}
		for _, f := range out.Findings {
			lines = append(lines, fmt.Sprintf("%s %s/%s", f.Setting, f.Compliance, f.Enforcement))
		}
		return strings.Join(lines, "\n")
	}
	const want = `usb.param/authorized_default=0 MODE -1
usb.default/usb1=0 MODE -1
usb.device/1-1@2=0 MODE -1
usb.device/1-2@3=1 MODE 1
`
	if got := text("enforce"); got != strings.ReplaceAll(want, "MODE", "enforce")+"usb.allowed_classes compliant/enforced" {
		t.Errorf("enforce:\n%s", got)
	}
	if got := text("monitor"); got != strings.ReplaceAll(want, "MODE", "monitor")+"usb.allowed_classes noncompliant/observed" {
		t.Errorf("monitor:\n%s", got)
	}
	out := outcome(document(t, `{"policy_data":{"usb":{"allowed":true}}}`), m)
	if len(out.Wants) != 0 {
		t.Errorf("nothing can be refused, and yet: %v", out.Wants)
	}
	m.Capable["usb.allowed"] = fact.Capability{Level: fact.DetectOnly, Limit: "sysfs is read-only"}
	m.Capable["usb.allowed_classes"] = m.Capable["usb.allowed"]
	if got := text("enforce"); got != strings.ReplaceAll(want, "MODE", "monitor")+"usb.allowed_classes noncompliant/detect_only" {
		t.Errorf("where it can only be seen:\n%s", got)
	}
	m.Capable = map[string]fact.Capability{"usb": {Level: fact.Enforced}}
	m.USB = fact.Unread[[]fact.USB]("no")
	out = outcome(document(t, `{"policy_data":{"usb":{"allowed":false}}}`), m)
	if out.Findings[0].Compliance != enforce.Uncertain || len(out.Wants) != 0 ||
		!strings.Contains(out.Blind["usb"], "the USB devices cannot be read: no") {
		t.Errorf("unknown counted as %v, with %v", out.Findings, out.Wants)
	}
	m.Capable = nil
	out = outcome(document(t, `{"policy_data":{"usb":{"allowed":false}}}`), m)
	if len(out.Blind) != 0 || out.Findings[0].Enforcement != enforce.Unsupported {
		t.Errorf("a section that nothing carries is blind: %+v", out)
	}
}

func outcome(d *policy.Document, m *fact.Machine) section.Outcome {
	list := []section.Section{Section}
	return section.Decide(list, section.Open(list, d, m))
}

func TestAskUnknown(t *testing.T) {
	m := &fact.Machine{USB: fact.Is([]fact.USB(nil)), Inputs: fact.Is(fact.Inputs{Keyboards: 1})}
	r := Compile(document(t, `{"policy_data":{"usb":{"allowed_classes":["hid"],"whitelist":["0951:1666"]}}}`), m)
	if a := r.askUnknown(&fact.USB{Vendor: 0x0951, Product: 0x1666}); a.Answer != "allow" {
		t.Errorf("whitelisted: %+v", a)
	}
	if a := r.askUnknown(&fact.USB{Vendor: 1, Product: 1}); a.Answer != "depends" || !strings.Contains(a.Reason, "allow: hid") {
		t.Errorf("got %+v", a)
	}
	r = Compile(document(t, `{"policy_data":{"usb":{"allowed":false}}}`), m)
	if a := r.askUnknown(&fact.USB{Vendor: 1, Product: 1}); a.Answer != "deny" {
		t.Errorf("got %+v", a)
	}
}

// While a machine boots, inputs are let in, and disks while the boot waits for one; nothing else is, and none of this
// once it has started.
func TestStarting(t *testing.T) {
	d := document(t, `{"compliance":"enforce","policy_data":{"usb":{"allowed":false},"storage":{"external_storage_allowed":false}}}`)
	device := func(classes ...uint8) *fact.USB {
		u := &fact.USB{Path: "1-2", Number: 3, Vendor: 1, Product: 2, Authorized: fact.Is(true), Hardwired: fact.Is(false)}
		for _, c := range classes {
			u.Interfaces = append(u.Interfaces, fact.Interface{Class: c})
		}
		return u
	}
	cut := device(3)
	cut.Truncated = "it ends early"
	for _, c := range []struct {
		name                    string
		u                       *fact.USB
		running, start, waiting bool
	}{
		{"a keyboard", device(3), false, true, true},
		{"a keyboard with a hub", device(3, 9), false, true, true},
		{"a keyboard that hides something", cut, false, false, false},
		{"a keyboard with a disk", device(3, 8), false, false, true},
		{"a disk", device(8), false, false, true},
		{"a telephone", device(6), false, false, false},
		{"a network card", device(2, 10), false, false, false},
	} {
		for _, s := range []struct {
			starting *fact.Starting
			want     bool
		}{{nil, c.running}, {&fact.Starting{}, c.start}, {&fact.Starting{Waits: "UUID=1 (/data of /etc/fstab)"}, c.waiting}} {
			m := &fact.Machine{USB: fact.Is([]fact.USB{*c.u}), Inputs: fact.Is(fact.Inputs{Keyboards: 1, Pointers: 1}),
				Starting: s.starting}
			r := Compile(d, m)
			v := r.Judge(c.u)
			if v.Allow != s.want || v.Allow && v.Guard != enforce.Starting {
				t.Errorf("%s, starting %+v: %+v", c.name, s.starting, v)
			}
			if reason, _ := r.Reason(v, c.u); v.Allow && !strings.Contains(reason, "kept by guard starting: ") {
				t.Errorf("%s: %s", c.name, reason)
			}
		}
	}
}
