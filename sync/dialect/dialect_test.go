package dialect

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/policy"
)

// asking is a translation that asks for settings, in a mode.
func asking(t testing.TB, source string, mode enforce.Mode, data string) Translation {
	t.Helper()
	doc := fmt.Appendf(nil, `{"id":%q,"name":%q,"compliance":%q,"policy_data":%s}`, source, source, mode, data)
	if _, err := policy.Decode(doc, policy.Options{Strict: true}); err != nil {
		t.Fatal(err)
	}
	return Translation{Source: source, Document: doc}
}

func TestCompose(t *testing.T) {
	const milder = "it is asked for in enforce mode, and is in monitor mode: a section has one, the milder of all that ask for something of it"
	a := asking(t, "wso2:1", enforce.Enforce, `{"storage":{"encryption_required":true,"external_storage_allowed":false},"dlp":{"print_allowed":false}}`)
	b := asking(t, "manageengine:2", enforce.Monitor, `{"storage":{"encryption_required":false,"cloud_sync_allowed":false}}`)
	gone := asking(t, "wso2:3", enforce.Warn, `{"usb":{"allowed":false}}`)
	gone.Released = true
	c, err := Compose("all", a, gone, b)
	if err != nil {
		t.Fatal(err)
	}
	d, err := policy.Decode(c.Document, policy.Options{Strict: true})
	if err != nil {
		t.Fatal(err)
	}
	for s, want := range map[enforce.Setting]struct {
		mode   enforce.Mode
		source string
	}{
		"storage.encryption_required":      {enforce.Monitor, "wso2:1"}, // the milder: nothing is enforced that somebody only watches
		"storage.external_storage_allowed": {enforce.Monitor, "wso2:1"},
		"storage.cloud_sync_allowed":       {enforce.Monitor, "manageengine:2"},
		"dlp.print_allowed":                {enforce.Enforce, "wso2:1"},
		"usb.allowed":                      {enforce.Off, ""},
	} {
		if d.Mode(s) != want.mode || c.Sources[s] != want.source {
			t.Errorf("%s: %s, of %q", s, d.Mode(s), c.Sources[s])
		}
	}
	if want := []Unsupported{
		{"manageengine:2", "storage.encryption_required", "it is asked for as false, and wso2:1, which comes first, asks for true"},
		{"wso2:1", "storage.encryption_required", milder},
		{"wso2:1", "storage.external_storage_allowed", milder},
	}; !d.Storage.EncryptionRequired.V || !slices.Equal(c.Named, want) {
		t.Errorf("%s %q", c.Document, c.Named)
	}
	// In the other order, the first one's is the milder one.
	if c, err = Compose("all", b, a); err != nil || len(c.Named) != 3 || c.Named[0].Source != "wso2:1" || c.Named[1].Reason != milder {
		t.Errorf("%q %v", c.Named, err)
	}
	if c, err = Compose("none", gone); err != nil || len(c.Sources) != 0 || !strings.Contains(string(c.Document), `"policy_data":{}`) {
		t.Errorf("%s %v", c.Document, err)
	}
	for _, list := range [][]Translation{{a, a}, {{Source: "x", Document: []byte(`{}`)}}} {
		if c, err := Compose("wrong", list...); err == nil {
			t.Errorf("%s", c.Document)
		}
	}
}

// Whatever is composed has each setting of the first that sets it, and no section in a mode that one of them did not ask for.
func TestComposeGenerated(t *testing.T) {
	r := rand.New(rand.NewPCG(17, 1)) //nolint:gosec // the same each time
	flags := []enforce.Setting{"usb.allowed", "storage.encryption_required", "storage.external_storage_allowed", "storage.cloud_sync_allowed", "network.vpn_required", "dlp.print_allowed", "dlp.screenshot_allowed"}
	for range 300 {
		var list []Translation
		var docs []*policy.Document
		for i := range 1 + r.IntN(4) {
			data := map[string]map[string]bool{}
			for _, s := range flags {
				if section, name, _ := strings.Cut(string(s), "."); r.IntN(3) == 0 {
					if data[section] == nil {
						data[section] = map[string]bool{}
					}
					data[section][name] = r.IntN(2) == 0
				}
			}
			b, err := json.Marshal(data)
			if err != nil {
				t.Fatal(err)
			}
			x := asking(t, fmt.Sprint("x:", i), []enforce.Mode{enforce.Monitor, enforce.Warn, enforce.Enforce}[r.IntN(3)], string(b))
			d, err := policy.Decode(x.Document, policy.Options{Strict: true})
			if err != nil {
				t.Fatal(err)
			}
			list, docs = append(list, x), append(docs, d)
		}
		c, err := Compose("all", list...)
		if err != nil {
			t.Fatal(err)
		}
		got, err := policy.Decode(c.Document, policy.Options{Strict: true})
		if err != nil {
			t.Fatal(err)
		}
		want := policy.Merge(docs...)
		if !slices.Equal(got.Settings(), want.Settings()) {
			t.Fatalf("%v, want %v", got.Settings(), want.Settings())
		}
		differ := map[string]bool{}
		for _, s := range got.Settings() {
			for _, d := range docs {
				for _, o := range d.Settings() {
					if s.Section() == o.Section() && got.Mode(s) > d.Mode(o) {
						t.Fatalf("%s is in %s mode, and %s in %s", s, got.Mode(s), o, d.Mode(o))
					}
					if s.Section() == o.Section() && got.Mode(s) < d.Mode(o) {
						differ[s.Section()] = true
					}
				}
			}
			if c.Sources[s] != want.Sources[s] {
				t.Fatalf("%s is %s's", s, c.Sources[s])
			}
		}
		if diff := policy.Diff(want, got); len(differ) == 0 && len(diff) > 0 {
			t.Fatalf("%q", diff)
		}
		said := map[string]bool{}
		for _, u := range c.Named {
			if strings.Contains(u.Reason, " mode: a section has one") {
				said[enforce.Setting(u.Name).Section()] = true
			} else if c.Sources[enforce.Setting(u.Name)] == u.Source {
				t.Fatalf("%q, and it is what counts", u)
			}
		}
		if !maps.Equal(differ, said) {
			t.Fatalf("%v differ, and it is said of %q", differ, c.Named)
		}
	}
}

// A leaf is one thing: a translator that says two is wrong, and makes nothing.
func TestLeaves(t *testing.T) {
	doc, err := Read([]byte(`{"a":{"b":[1,null,{}],"c":""},"text":"{\"x\":[true]}","long":"` + strings.Repeat("y", 10) + `"}`))
	if err != nil {
		t.Fatal(err)
	}
	root := doc.Root()
	in, ok := root.Get("text").Inside()
	if again, _ := root.Get("text").Inside(); !ok || again.Path() != in.Path() {
		t.Error("inside")
	}
	var paths []string
	for _, l := range doc.Leaves() {
		paths = append(paths, l.Path)
	}
	if want := []string{"a.b[0]", "a.b[1]", "a.b[2]", "a.c", "long", "text»x[0]"}; !slices.Equal(paths, want) {
		t.Errorf("%q", paths)
	}
	b := Build("vendor", doc, Options{})
	b.Set("storage.encryption_required", true, "x", in.Get("x").Items()[0])
	root.Get("a").Get("c").Sentinel()
	root.Get("none").Envelope() // what is not there is nothing
	x, err := b.Finish()
	if err != nil || len(x.Named) != 4 || x.Named[0].Reason != "no counterpart for vendor:a.b[0]" {
		t.Errorf("%q, %v", x.Named, err)
	}
	root.Get("long").Envelope()
	if _, err := b.Finish(); err == nil {
		t.Error("two things of one leaf")
	}
	if _, ok := root.Get("long").Inside(); ok {
		t.Error("a text is no object")
	}
}

// Names and texts of a document are as long as somebody likes, and may control a terminal.
func TestNames(t *testing.T) {
	doc, err := Read(fmt.Appendf(nil, `{"\u001b[31m%s":{"%[1]s":1}}`, strings.Repeat("n", 900)))
	if err != nil {
		t.Fatal(err)
	}
	x, err := Build("vendor", doc, Options{}).Finish()
	if err != nil || len(x.Named) != 1 || len(x.Named[0].Name) > 600 || strings.ContainsRune(x.Named[0].Name+x.Named[0].Reason, 0x1b) {
		t.Errorf("%q, %v", x.Named, err)
	}
}

// Of two values of a setting the stricter one counts, in either order; of what has no order, the first, and the other is named.
func TestTwice(t *testing.T) {
	for _, c := range []struct {
		setting      enforce.Setting
		first, other any
		want         any
		named        int
	}{
		{"storage.external_storage_allowed", true, false, false, 0},
		{"storage.encryption_required", true, false, true, 0},
		{"dlp.clipboard_sharing", true, false, false, 0},
		{"usb.allowed", false, true, false, 0},
		{"network.vpn_always_on", false, true, true, 0},
		{"storage.max_file_size_mb", int64(5), int64(3), int64(3), 0},
		{"storage.event_paths", "plain", "hashed", "plain", 1},
		{"dlp.quarantine_days", int64(5), int64(5), int64(5), 0},
		{"passcode.min_length", int64(4), int64(8), int64(8), 2},
		{"passcode.max_age_days", int64(0), int64(90), int64(90), 2},     // 0 is for ever
		{"passcode.lock_after_minutes", int64(0), int64(5), int64(5), 2}, // 0 is never
		{"passcode.lock_grace_minutes", int64(0), int64(5), int64(0), 2},
		{"passcode.allow_simple", true, false, false, 2},
		{"browser.home_page", "https://a", "https://b", "https://a", 2},
	} {
		for i, order := range [][2]any{{c.first, c.other}, {c.other, c.first}} {
			if s, _ := stricter(c.setting, c.first, c.other); i == 1 && s == nil {
				continue // the first counts
			}
			doc, err := Read([]byte(`{"a":1,"b":2}`))
			if err != nil {
				t.Fatal(err)
			}
			b := Build("vendor", doc, Options{})
			set := b.Set
			if _, later, _ := find(c.setting); later {
				set = b.Keep
			}
			set(c.setting, order[0], "a", doc.Root().Get("a"))
			set(c.setting, order[1], "b", doc.Root().Get("b"))
			x, err := b.Finish()
			if err != nil {
				t.Fatal(err)
			}
			section, field, _ := strings.Cut(string(c.setting), ".")
			got := x.Kept[c.setting]
			if got == nil {
				got = b.data[section][field]
			}
			if got != c.want || len(x.Named) != c.named {
				t.Errorf("%s: %v and %v: %v, %q", c.setting, order[0], order[1], got, x.Named)
			}
		}
	}
}

// Each setting to come is of no section that is there, and each flag and number of one that is there says which is the stricter one, or is
// known to have none.
func TestOrders(t *testing.T) {
	for s := range Coming {
		if _, known := policy.Find(s); known {
			t.Errorf("%s has come", s)
		}
	}
	for _, s := range policy.Names() {
		row, _ := policy.Find(s)
		if (row.Shape.Type == "boolean" || row.Shape.Type == "integer") && row.Order == policy.NoOrder && s != "dlp.quarantine_days" {
			t.Errorf("%s", s)
		}
	}
}

// What is done to the whole machine is done if the operator has said so, and said to be partial then.
func TestWhole(t *testing.T) {
	rows := []Row{{Name: "app", Field: "copy", Setting: "dlp.clipboard_sharing", How: Forbids, Whole: "all programs"}}
	for _, whole := range []bool{false, true} {
		doc, err := Read([]byte(`{"copy":"1"}`))
		if err != nil {
			t.Fatal(err)
		}
		b := Build("vendor", doc, Options{Whole: whole, Source: "mine"})
		b.Identify("7")
		b.Fields(rows, "app", doc.Root())
		x, err := b.Finish()
		if err != nil {
			t.Fatal(err)
		}
		if set := strings.Contains(string(x.Document), `"clipboard_sharing":false`); set != whole || (len(x.Named) == 0) != whole || (len(x.Partial) == 1) != whole || x.Source != "mine" {
			t.Errorf("%v: %s %q %v", whole, x.Document, x.Named, x.Partial)
		}
	}
}

// What the parts say of themselves is said of the whole, with whose it is; what is in force no more says nothing.
func TestComposeKept(t *testing.T) {
	part := func(source, data string, kept map[enforce.Setting]any) Translation {
		x := asking(t, source, enforce.Enforce, data)
		x.Kept, x.Named, x.Partial = kept, []Unsupported{{Name: "N", Reason: "none"}}, map[enforce.Setting][]Unsupported{"dlp.print_allowed": {{Name: "P", Reason: source}}}
		return x
	}
	a := part("a", `{"dlp":{"print_allowed":false}}`, map[enforce.Setting]any{"apps.mode": "block", "apps.list": []string{"x", "y"}, "apps.usage": []any{1}, "passcode.min_length": int64(4)})
	b := part("b", `{"dlp":{"print_allowed":false}}`, map[enforce.Setting]any{"apps.mode": "block", "apps.list": []string{"y", "z"}, "apps.usage": []any{2}, "passcode.min_length": int64(8)})
	c := part("c", `{}`, map[enforce.Setting]any{"apps.mode": "allow", "apps.list": []string{"w"}, "passcode.history": int64(3)})
	gone := part("gone", `{"dlp":{"print_allowed":true}}`, map[enforce.Setting]any{"device.camera_allowed": false})
	gone.Released = true
	got, err := Compose("all", gone, a, b, c)
	if err != nil {
		t.Fatal(err)
	}
	want := map[enforce.Setting]any{"apps.mode": "block", "apps.list": []string{"x", "y", "z"}, "apps.usage": []any{1, 2}, "passcode.min_length": int64(4), "passcode.history": int64(3)}
	if !reflect.DeepEqual(got.Kept, want) {
		t.Errorf("%v", got.Kept)
	}
	if want := []Unsupported{{"a", "N", "none"}, {"b", "N", "none"}, {"b", "passcode.min_length", "another value comes first"}, {"c", "N", "none"}, {"c", "apps.list", "a list with the mode block comes first"}}; !slices.Equal(got.Named, want) {
		t.Errorf("%q", got.Named)
	}
	if want := map[enforce.Setting][]Unsupported{"dlp.print_allowed": {{"a", "P", "a"}}}; !reflect.DeepEqual(got.Partial, want) {
		t.Errorf("%v", got.Partial)
	}
}

// A document with too many values is none, wherever they are: it must not become a policy that asks for nothing.
func TestTooMany(t *testing.T) {
	doc, err := Read(fmt.Appendf(nil, `{"a":"[%s0]","b":"{\"c\":1}"}`, strings.Repeat("0,", maxLeaves)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Build("vendor", doc, Options{}).Finish(); err != nil {
		t.Errorf("nobody has looked into it: %v", err)
	}
	doc.Root().Get("a").Inside()
	if x, err := Build("vendor", doc, Options{}).Finish(); err == nil {
		t.Errorf("%s", x.Document)
	}
}

// An id is a value, and not what is in an object.
func TestEnvelope(t *testing.T) {
	doc, err := Read([]byte(`{"id":{"wipe":true},"name":"x","none":{}}`))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"id", "name", "none"} {
		doc.Root().Get(name).Envelope()
	}
	if x, err := Build("vendor", doc, Options{}).Finish(); err != nil || len(x.Named) != 1 || x.Named[0].Name != "id.wipe" {
		t.Errorf("%q %v", x.Named, err)
	}
}

// Who only watches has a say in the mode, also where what they ask for does not come to be; and of two lists of what alone is allowed the
// first counts.
func TestComposeMilder(t *testing.T) {
	a := asking(t, "a", enforce.Enforce, `{"dlp":{"clipboard_direction":"none","zones":{"work":{"executables":["/usr/bin/a"]}}}}`)
	b := asking(t, "b", enforce.Monitor, `{"dlp":{"clipboard_sharing":false}}`)
	a.Kept = map[enforce.Setting]any{"apps.mode": "allow", "apps.list": []string{"x"}, "browser.allowed_urls": []any{"u"}}
	b.Kept = map[enforce.Setting]any{"apps.mode": "allow", "apps.list": []string{"y"}, "browser.allowed_urls": []any{"v"}}
	got, err := Compose("all", a, b)
	if err != nil {
		t.Fatal(err)
	}
	d, err := policy.Decode(got.Document, policy.Options{Strict: true})
	if err != nil || d.Mode("dlp.clipboard_direction") != enforce.Monitor || d.Mode("dlp.clipboard_sharing") != enforce.Off {
		t.Errorf("%s %v", got.Document, err)
	}
	if !reflect.DeepEqual(got.Kept, a.Kept) || !strings.Contains(fmt.Sprint(got.Named), "asked for in enforce mode, and is in monitor mode") || strings.Count(fmt.Sprint(got.Named), "allow more than each") != 2 {
		t.Errorf("%v %q", got.Kept, got.Named)
	}
}

// What means something else beside other settings comes from one document, and what the others ask for of it is said.
func TestComposeClipboard(t *testing.T) {
	a := asking(t, "a", enforce.Enforce, `{"dlp":{"clipboard_direction":"personal_to_work","zones":{"work":{"executables":["/usr/bin/a"]}}}}`)
	b := asking(t, "b", enforce.Enforce, `{"dlp":{"clipboard_sharing":false,"print_allowed":false}}`)
	for _, c := range []struct {
		list []Translation
		want string
	}{
		{[]Translation{a, b}, "[dlp.clipboard_direction dlp.zones dlp.print_allowed]"}, {[]Translation{b, a}, "[dlp.clipboard_sharing dlp.print_allowed]"},
	} {
		got, err := Compose("all", c.list...)
		if err != nil {
			t.Fatal(err)
		}
		d, err := policy.Decode(got.Document, policy.Options{Strict: true})
		if err != nil {
			t.Fatal(err)
		}
		if fmt.Sprint(slices.Sorted(slices.Values(d.Settings()))) != fmt.Sprint(slices.Sorted(slices.Values(settingsOf(c.want)))) || len(got.Named) == 0 || got.Named[0].Source != c.list[1].Source {
			t.Errorf("%v %q", d.Settings(), got.Named)
		}
	}
}

func settingsOf(list string) (out []enforce.Setting) {
	for _, s := range strings.Fields(strings.Trim(list, "[]")) {
		out = append(out, enforce.Setting(s))
	}
	return out
}

// An error says where it is, and quotes nothing, which may be a password; nor does it print lines of its own.
func TestReadQuotesNothing(t *testing.T) {
	for _, doc := range []string{`{"password":"hunter2","password":"hunter3"}`, `{"vpnPsk":"hunter2`, "{\"a\\n\\nOK: hunted\":1,\"a\\n\\nOK: hunted\":2}"} {
		if _, err := Read([]byte(doc)); err == nil || strings.Contains(err.Error(), "hunter") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q", err)
		}
	}
	x, err := Build("vendor", must(t, `{"a b":1,"":2}`), Options{}).Finish()
	if err != nil || x.Named[0].Name != `""` || x.Named[1].Name != `"a b"` {
		t.Errorf("%q %v", x.Named, err)
	}
}

func must(t *testing.T, doc string) *Doc {
	t.Helper()
	d, err := Read([]byte(doc))
	if err != nil {
		t.Fatal(err)
	}
	return d
}
