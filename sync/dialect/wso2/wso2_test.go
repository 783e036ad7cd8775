package wso2

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/sync/dialect"
)

// translate translates a body, and checks what is so of every one: each leaf is exactly one thing, and nothing is asked for that was not.
func translate(t testing.TB, body []byte) (dialect.Translation, *policy.Document) {
	t.Helper()
	x, err := Translate(body)
	if err != nil {
		t.Fatalf("%v: %s", err, body)
	}
	d, err := policy.Decode(x.Document, policy.Options{Strict: true})
	if err != nil {
		t.Fatalf("%v: %s", err, x.Document)
	}
	if err := exact(x, body, d); err != nil {
		t.Fatalf("%v\n%s", err, body)
	}
	return x, d
}

// exact says what of a translation is not as it has to be.
func exact(x dialect.Translation, body []byte, d *policy.Document) error {
	var v any
	if err := json.Unmarshal(body, &v); err != nil {
		return err
	}
	inside := map[string]bool{}
	for _, l := range x.Leaves {
		if l.Fate == dialect.Unread || l.Path == "" {
			return fmt.Errorf("%q is %s", l.Path, l.Fate)
		}
		if l.Fate == dialect.Sentinel && !quiet(at(v, l.Path)) {
			return fmt.Errorf("%q is said to be not configured, and is %v", l.Path, at(v, l.Path))
		}
		if text, _, is := strings.Cut(l.Path, "»"); is {
			inside[text] = true
		}
		if l.Fate == dialect.Translated && l.Setting != "compliance" && d.Mode(l.Setting) == enforce.Off {
			return fmt.Errorf("%q is said to be %s, which is not in the policy", l.Path, l.Setting)
		}
	}
	n := leaves(v)
	for path := range inside { // a text counts as what is in it
		text, is := at(v, path).(string)
		if !is {
			n = -1 // its path was cut, or made safe
			break
		}
		var in any
		if err := json.Unmarshal([]byte(text), &in); err != nil {
			return fmt.Errorf("%q: %w", path, err)
		}
		n += leaves(in) - 1
	}
	if n >= 0 && len(x.Leaves) != n {
		return fmt.Errorf("%d leaves, of %d", len(x.Leaves), n)
	}
	for _, s := range d.Settings() {
		if !slices.ContainsFunc(x.Leaves, func(l dialect.Leaf) bool { return l.Setting == s }) {
			return fmt.Errorf("%s is asked for by no leaf", s)
		}
	}
	return nil
}

// at is what a document has at a place, or a place that the test cannot follow: a name with a point in it.
func at(v any, path string) any {
	for len(path) > 0 {
		if rest, is := strings.CutPrefix(path, "»"); is {
			text, _ := v.(string)
			if json.Unmarshal([]byte(text), &v) != nil {
				return lost{}
			}
			path = rest
			continue
		}
		end := strings.IndexAny(path[1:], ".[»") + 1
		if end == 0 {
			end = len(path)
		}
		var i int
		name := strings.TrimPrefix(path[:end], ".")
		m, object := v.(map[string]any)
		list, _ := v.([]any)
		value, has := m[name]
		switch n, _ := fmt.Sscanf(name, "[%d]", &i); {
		case object && has:
			v = value
		case n == 1 && i < len(list):
			v = list[i]
		default:
			return lost{}
		}
		path = path[end:]
	}
	return v
}

type lost struct{}

// quiet reports whether a value can mean "not configured".
func quiet(v any) bool {
	switch x := v.(type) {
	case lost, nil:
		return true
	case bool:
		return !x
	case map[string]any:
		return len(x) == 0
	case []any:
		return len(x) == 0
	}
	return slices.Contains([]string{"", "--", "-1", "0", "false"}, strings.ToLower(strings.TrimSpace(fmt.Sprint(v))))
}

// leaves counts those of a value, by itself.
func leaves(v any) (n int) {
	switch x := v.(type) {
	case map[string]any:
		for _, y := range x {
			n += leaves(y)
		}
	case []any:
		for _, y := range x {
			n += leaves(y)
		}
	}
	return max(n, 1)
}

func body(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The example of the vendor's documentation, as the console sends it and as it is printed.
func TestSample(t *testing.T) {
	var stamps []string
	for _, name := range []string{"sample.json", "definition.json"} {
		x, d := translate(t, body(t, name))
		if !x.Released || x.Source != "wso2:1" || len(d.Settings()) != 0 || d.Name != "Camera" || x.Kept["device.camera_allowed"] != true {
			t.Errorf("%s: %+v", name, x)
		}
		if want := []dialect.Unsupported{{Name: "CAMERA", Reason: "no section for it yet (device.camera_allowed)"}}; !reflect.DeepEqual(x.Named, want) {
			t.Errorf("%s: %q", name, x.Named)
		}
		if s := x.Selection; !slices.Equal(s.DeviceTypes, []string{"android"}) || s.Priority != 1 || s.Ownership != "" {
			t.Errorf("%s: %+v", name, s)
		}
		stamps = append(stamps, x.Stamp)
	}
	if stamps[0] != stamps[1] || stamps[0] == "" {
		t.Errorf("%q", stamps)
	}
}

// Every kind of feature, and every way of writing a value.
func TestMany(t *testing.T) {
	x, d := translate(t, body(t, "many.json"))
	if x.Released || d.Mode("storage.encryption_required") != enforce.Warn || !slices.Equal(x.Selection.Roles, []string{"staff"}) {
		t.Errorf("%+v", x)
	}
	if !d.Storage.EncryptionRequired.V || d.Storage.ExternalStorageAllowed.Or(true) || d.DLP.ClipboardSharing.Or(true) || d.DLP.ScreenshotAllowed.Or(true) || !d.Storage.CloudSyncAllowed.Or(false) || len(d.Settings()) != 5 {
		t.Errorf("%s", x.Document)
	}
	if want := map[enforce.Setting]any{"passcode.allow_simple": true, "passcode.require_alphanumeric": true, "passcode.min_length": int64(5), "passcode.max_failed_attempts": int64(4),
		"device.camera_allowed": false, "apps.mode": "block", "apps.list": "com.example.game"}; !reflect.DeepEqual(x.Kept, want) {
		t.Errorf("%+v", x.Kept)
	}
	named := map[string]string{}
	for _, u := range x.Named {
		named[u.Name] = u.Reason
	}
	if !slices.Contains(x.Named, dialect.Unsupported{Name: "CAMERA", Reason: "no counterpart for wso2:CAMERA"}) { // its content is no JSON
		t.Errorf("%q", x.Named)
	}
	for name, why := range map[string]string{
		"PASSCODE_POLICY.minLength": "no section for it yet (passcode.min_length)", "RESTRICTION.allowAirDrop": "no counterpart for wso2:RESTRICTION.allowAirDrop",
		"WIFI": "no section for it yet (connections.wifi)", "WIPE_DATA": never, "EMAIL": "no counterpart for wso2:EMAIL",
		"SOMETHING_NEW": "no counterpart for wso2:SOMETHING_NEW", "SET_SCREEN_CAPTURE_DISABLED": "must be true or false: maybe",
	} {
		if named[name] != why {
			t.Errorf("%s: %q", name, named[name])
		}
	}
	if text := fmt.Sprint(x.Named, x.Kept); strings.Contains(text, "secret") {
		t.Errorf("a password: %s", text)
	}
	fates := map[dialect.Fate]int{}
	for _, l := range x.Leaves {
		fates[l.Fate]++
	}
	for _, f := range []dialect.Fate{dialect.Translated, dialect.Named, dialect.Sentinel, dialect.Envelope} {
		if fates[f] == 0 {
			t.Errorf("none is %s", f)
		}
	}
}

// with is a policy with one feature.
func with(code, content string, more string) []byte {
	return []byte(fmt.Sprintf(`{"id":5,"active":true,"compliance":"enforce","profile":{"profileFeaturesList":[{"featureCode":%q,"content":%s}]}%s}`, code, content, more))
}

// What a value means, as an object, as a text, and with a number or a word for it.
func TestValues(t *testing.T) {
	for _, c := range []struct {
		code, content string
		setting       enforce.Setting // "": it asks for nothing
		want          bool
		named         bool
	}{
		{"DISALLOW_MOUNT_PHYSICAL_MEDIA", `{"enabled":true}`, "storage.external_storage_allowed", false, false},
		{"DISALLOW_MOUNT_PHYSICAL_MEDIA", `"{\"enabled\":\"true\"}"`, "storage.external_storage_allowed", false, false},
		{"DISALLOW_MOUNT_PHYSICAL_MEDIA", `{"enabled":1}`, "storage.external_storage_allowed", false, false},
		{"DISALLOW_MOUNT_PHYSICAL_MEDIA", `{"enabled":false}`, "", false, false},
		{"DISALLOW_MOUNT_PHYSICAL_MEDIA", `{"enabled":" FALSE"}`, "", false, false},
		{"DISALLOW_MOUNT_PHYSICAL_MEDIA", `{"enabled":null}`, "", false, false},
		{"DISALLOW_MOUNT_PHYSICAL_MEDIA", `{"":1}`, "", false, true},
		{"DISALLOW_MOUNT_PHYSICAL_MEDIA", `{"enabled":"--"}`, "", false, false},
		{"DISALLOW_MOUNT_PHYSICAL_MEDIA", `null`, "", false, false},
		{"DISALLOW_MOUNT_PHYSICAL_MEDIA", `"{}"`, "", false, false},
		{"DISALLOW_MOUNT_PHYSICAL_MEDIA", `{"enabled":2}`, "", false, true},
		{"DISALLOW_MOUNT_PHYSICAL_MEDIA", `{"enabled":{"a":true}}`, "", false, true},
		{"DISALLOW_MOUNT_PHYSICAL_MEDIA", `true`, "", false, true},
		{"disallow_mount_physical_media", `{"enabled":true}`, "", false, true},
		{"DISALLOW_MOUNT_PHYSICAL_MEDIA", `[{"enabled":false}]`, "", false, true},
		{"DISALLOW_MOUNT_PHYSICAL_MEDIA", `{"enabled":true,"more":[1]}`, "storage.external_storage_allowed", false, true},
		{"DISALLOW_ADJUST_VOLUME", `{"enabled":false}`, "", false, false}, // a box that is not ticked, whatever it is
		{"DISALLOW_ADJUST_VOLUME", `{"enabled":true}`, "", false, true},
		{"DISALLOW_SMS", `"{\"enabled\":false}"`, "", false, false},
		{"DISALLOW_SMS", `{"enabled":true}`, "", false, true},
		{"WIPE_DATA", `null`, "", false, true},
		{"SOMETHING", `null`, "", false, true},
		{"PASSCODE_POLICY", `{"minLength":5.0}`, "", false, true},
		{"PASSCODE_POLICY", `{"minLength":5.5}`, "", false, true},
		{"BLACKLIST_APPLICATIONS", `{"appIdentifiers":"com.evil"}`, "", false, true},
		{"ENCRYPT_STORAGE", `{"encrypted":false}`, "storage.encryption_required", false, false},
		{"ENCRYPT_STORAGE", `{"encrypted":"TRUE"}`, "storage.encryption_required", true, false},
		{"ENCRYPT_STORAGE", `{"encrypted":-1}`, "", false, false},
		{"RESTRICTION", `{"allowScreenShot":true}`, "dlp.screenshot_allowed", true, false},
	} {
		x, d := translate(t, with(c.code, c.content, ""))
		var set []enforce.Setting
		if c.setting != "" {
			set = []enforce.Setting{c.setting}
		}
		if !slices.Equal(d.Settings(), set) || (len(x.Named) > 0) != c.named {
			t.Errorf("%s %s: %s, %q", c.code, c.content, x.Document, x.Named)
			continue
		}
		if len(set) > 0 && !strings.Contains(string(x.Document), fmt.Sprintf("%q:%t", strings.SplitN(string(c.setting), ".", 2)[1], c.want)) {
			t.Errorf("%s %s: %s", c.code, c.content, x.Document)
		}
	}
	// Of two that speak of the same, the stricter one counts, in either order.
	for _, order := range [][2]string{{"RESTRICTION", "SET_SCREEN_CAPTURE_DISABLED"}, {"SET_SCREEN_CAPTURE_DISABLED", "RESTRICTION"}} {
		content := map[string]string{"RESTRICTION": `{"allowScreenShot":true}`, "SET_SCREEN_CAPTURE_DISABLED": `{"enabled":true}`}
		_, d := translate(t, []byte(fmt.Sprintf(`{"id":5,"compliance":"enforce","profile":{"profileFeaturesList":[{"featureCode":%q,"content":%s},{"featureCode":%q,"content":%s}]}}`,
			order[0], content[order[0]], order[1], content[order[1]])))
		if d.DLP.ScreenshotAllowed.Or(true) {
			t.Errorf("%q: it is allowed", order)
		}
	}
}

// The mode is the console's; one that is not known only watches, and that is said.
func TestModes(t *testing.T) {
	for word, want := range map[string]enforce.Mode{`"enforce"`: enforce.Enforce, `"Warning"`: enforce.Warn, `"warn"`: enforce.Warn, `"monitor"`: enforce.Monitor, `"remediate"`: enforce.Monitor, `""`: enforce.Monitor, `null`: enforce.Monitor, `7`: enforce.Monitor} {
		body := []byte(fmt.Sprintf(`{"id":5,"compliance":%s,"profile":{"profileFeaturesList":[{"featureCode":"ENCRYPT_STORAGE","content":{"encrypted":true}}]}}`, word))
		x, d := translate(t, body)
		said := slices.ContainsFunc(x.Named, func(u dialect.Unsupported) bool { return u.Name == "compliance" })
		if known := want != enforce.Monitor || word == `"monitor"`; d.Mode("storage.encryption_required") != want || said == known {
			t.Errorf("%s: %s, %q", word, d.Mode("storage.encryption_required"), x.Named)
		}
	}
	if _, d := translate(t, with("ENCRYPT_STORAGE", `{"encrypted":true}`, `,"policyType":"CORRECTIVE"`)); d.Mode("storage.encryption_required") != enforce.Monitor {
		t.Error("a corrective policy is enforced")
	}
}

// What is no policy is none: it is not an empty one, which would release a device.
func TestRefused(t *testing.T) {
	for _, body := range []string{`{"id":1,"profile":{"profileFeaturesList":null}}`, `{"id":1,"profile":{"profileFeaturesList":{"featureCode":"CAMERA"}}}`, `{"id":1,"profile":{"profileFeaturesList":"x"}}`,
		`{"id":1,"profile":{"profileFeaturesList":[` + strings.Repeat("1,", 30000) + `1]}}`, ``, `null`, `[]`, `{}`, `<html>`, `{"id":1}`, `{"id":1,"profile":null}`, `{"statusCode":404,"messageFromServer":"none"}`,
		`{"id":1,"profile":{"profileFeaturesList":[`, `{"id":1,"id":2,"profile":{"profileFeaturesList":[]}}`, string(body(t, "sample.json")[:300])} {
		if x, err := Translate([]byte(body)); err == nil {
			t.Errorf("%q: %s", body, x.Document)
		}
	}
}

// The stamp is another one if something else is asked for, and the same however it is written.
func TestStamp(t *testing.T) {
	of := func(code, content string) string { x, _ := translate(t, with(code, content, "")); return x.Stamp }
	same := of("CAMERA", `{"enabled":true}`)
	if of("CAMERA", `"{ \"enabled\" : true }"`) != same || of("CAMERA", `{"enabled":false}`) == same || of("AUTO_TIME", `{"enabled":true}`) == same {
		t.Error("stamps")
	}
	// Nor is it the same in another mode, if it is in force nowhere, or for others.
	body := string(with("ENCRYPT_STORAGE", `{"encrypted":true}`, `,"roles":["staff"]`))
	before, _ := translate(t, []byte(body))
	for old, now := range map[string]string{`"compliance":"enforce"`: `"compliance":"warn"`, `"active":true`: `"active":false`, `"roles":["staff"]`: `"roles":["ANY"]`} {
		if x, _ := translate(t, []byte(strings.Replace(body, old, now, 1))); x.Stamp == before.Stamp {
			t.Errorf("the same with %s", now)
		}
	}
}

// Whom it is for is kept; where that is not understood, it is for nobody.
func TestSelection(t *testing.T) {
	for more, want := range map[string]dialect.Selection{
		``:                         {},
		`,"roles":[],"users":null`: {},
		`,"roles":["staff","staff"],"users":["anna"]`:                                                  {Roles: []string{"staff"}, Users: []string{"anna"}},
		`,"roles":["ANY"],"deviceGroups":[{"id":-1,"name":"ANY"}],"ownershipType":"ANY"`:               {},
		`,"deviceGroups":[{"id":4,"name":"laptops"}],"ownershipType":"COPE"`:                           {Groups: []string{"4"}, Ownership: "COPE"},
		`,"devices":[{"name":"Nexus","deviceIdentifier":"a"},{"name":"Nexus","deviceIdentifier":"b"}]`: {Devices: []string{"a", "b"}},
		`,"users":"anna"`:                   {Unknown: true},
		`,"roles":[{"roleName":"staff"}]`:   {Unknown: true},
		`,"deviceGroups":{"name":"g"}`:      {Unknown: true},
		`,"policyCriterias":[{"name":"x"}]`: {Unknown: true},
	} {
		if x, _ := translate(t, with("CAMERA", `{"enabled":true}`, more)); !reflect.DeepEqual(x.Selection, want) {
			t.Errorf("%s: %+v", more, x.Selection)
		}
	}
	for kind, want := range map[string][]string{`{"id":2}`: {"windows"}, `"ios"`: {"ios"}, `{"id":1,"name":"android"}`: {"android"}, `{"id":9}`: nil} {
		x, _ := translate(t, fmt.Appendf(nil, `{"id":1,"compliance":"warn","profile":{"deviceType":%s,"profileFeaturesList":[]}}`, kind))
		if !slices.Equal(x.Selection.DeviceTypes, want) || x.Selection.Unknown != (want == nil) {
			t.Errorf("%s: %+v", kind, x.Selection)
		}
	}
}

// Each setting of the catalogue is one of a policy, or of a section that is yet to come.
func TestRows(t *testing.T) {
	seen := map[string]bool{}
	for _, r := range Rows {
		if seen[r.Code+"."+r.Field] {
			t.Errorf("%s.%s is there twice", r.Code, r.Field)
		}
		seen[r.Code+"."+r.Field] = true
		_, known := policy.Find(r.Setting)
		if r.Setting != "" && known == r.Later {
			t.Errorf("%s: %s is known: %v, later: %v", r.Code, r.Setting, known, r.Later)
		}
	}
}

// Whatever comes, each leaf is one thing, and a field more changes nothing of what is known.
func FuzzTranslate(f *testing.F) {
	for _, name := range []string{"sample.json", "definition.json", "many.json"} {
		f.Add(body(f, name))
	}
	f.Add(with("CAMERA", `"{\"enabled\":\"{}\"}"`, `,"policyCriterias":[{"a":1}],"users":[{"id":[]}]`))
	f.Fuzz(func(t *testing.T, b []byte) {
		x, err := Translate(b)
		if err != nil {
			return
		}
		d, err := policy.Decode(x.Document, policy.Options{Strict: true})
		if err != nil {
			t.Fatal(err)
		}
		if err := exact(x, b, d); err != nil {
			t.Fatal(err)
		}
		var top map[string]any
		dec := json.NewDecoder(strings.NewReader(string(b)))
		dec.UseNumber()
		if dec.Decode(&top) != nil || top["zz_new"] != nil {
			return
		}
		top["zz_new"] = map[string]any{"enabled": true, "compliance": "enforce"}
		more, err := json.Marshal(top)
		if err != nil {
			t.Fatal(err)
		}
		y, err := Translate(more)
		if err != nil {
			return // it has become too large
		}
		if string(y.Document) != string(x.Document) || y.Stamp != x.Stamp || len(y.Named) != len(x.Named)+2 {
			t.Fatalf("%s\n%s\n%q", x.Document, y.Document, y.Named)
		}
	})
}

func BenchmarkTranslate(b *testing.B) {
	doc := body(b, "many.json")
	for b.Loop() {
		if _, err := Translate(doc); err != nil {
			b.Fatal(err)
		}
	}
}
