package wso2

import (
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
	"github.com/warderd/warder/sync/dialect/dialecttest"
)

// translate translates a body, and checks what is so of every one.
func translate(t testing.TB, body []byte) (dialect.Translation, *policy.Document) {
	t.Helper()
	return dialecttest.Translate(t, Translate, body, dialect.Options{Whole: true})
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
		"device.camera_allowed": false, "apps.mode": "block", "apps.list": []string{"com.example.game"}}; !reflect.DeepEqual(x.Kept, want) {
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
		"WIFI": "no section for it yet (connections.wifi)", "WIPE_DATA": "a policy does not wipe, lock, restart, release or update a device", "EMAIL": "no counterpart for wso2:EMAIL",
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
	for kind, want := range map[string]enforce.Mode{`"CORRECTIVE"`: enforce.Monitor, `"TESTING"`: enforce.Monitor, `"GENERAL"`: enforce.Enforce, `null`: enforce.Enforce} {
		if x, d := translate(t, with("ENCRYPT_STORAGE", `{"encrypted":true}`, `,"policyType":`+kind)); d.Mode("storage.encryption_required") != want || (len(x.Notes) > 0) != (want == enforce.Monitor) {
			t.Errorf("%s: %s %q", kind, d.Mode("storage.encryption_required"), x.Notes)
		}
	}
	if x, _ := translate(t, []byte(`{"id":5,"compliance":"enforce","profile":{"profileFeaturesList":[{"featureCode":"CAMERA"}]}}`)); len(x.Named) != 1 || x.Nothing() {
		t.Errorf("a feature that says nothing: %q", x.Named)
	}
	if x, _ := translate(t, []byte(`{"id":5,"compliance":"enforce","profile":{"profileFeaturesList":[]}}`)); !x.Nothing() {
		t.Error("it asks for something")
	}
}

// What is no policy is none: it is not an empty one, which would release a device.
func TestRefused(t *testing.T) {
	for _, body := range []string{`{"id":1,"profile":{"profileFeaturesList":null}}`, `{"id":1,"profile":{"profileFeaturesList":{"featureCode":"CAMERA"}}}`, `{"id":1,"profile":{"profileFeaturesList":"x"}}`,
		`{"id":1,"profile":{"profileFeaturesList":[` + strings.Repeat("1,", 30000) + `1]}}`, ``, `null`, `[]`, `{}`, `<html>`, `{"id":1}`, `{"id":1,"profile":null}`, `{"statusCode":404,"messageFromServer":"none"}`,
		`{"id":1,"profile":{"profileFeaturesList":[`, `{"id":1,"id":2,"profile":{"profileFeaturesList":[]}}`, string(body(t, "sample.json")[:300])} {
		if x, err := Translate([]byte(body), dialect.Options{}); err == nil {
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
	// What is between two features is not what is in one.
	two := `{"id":5,"profile":{"profileFeaturesList":[{"featureCode":"EMAIL","content":"y"},{"featureCode":"WIFI","content":"x"}]}}`
	one := `{"id":5,"profile":{"profileFeaturesList":[{"featureCode":"EMAIL\u0000\"y\"\u0001WIFI","content":"x"}]}}`
	if x, _ := translate(t, []byte(two)); true {
		if y, _ := translate(t, []byte(one)); x.Stamp == y.Stamp {
			t.Error("two features have the stamp of one")
		}
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
		`,"roles":["staff","staff"],"users":["anna"]`:                                    {Roles: []string{"staff"}, Users: []string{"anna"}},
		`,"roles":["ANY"],"deviceGroups":[{"id":-1,"name":"ANY"}],"ownershipType":"ANY"`: {},
		`,"roles":["ANY","staff"]`:                                                       {Unknown: true},
		`,"users":["any"]`:                                                               {Users: []string{"any"}},
		`,"devices":[{"deviceIdentifier":"a","name":"ANY"}]`:                             {Devices: []string{"a"}},
		`,"ownershipType":true`:                                                          {Unknown: true},
		`,"priorityId":-5`:                                                               {},
		`,"deviceGroups":[{"id":4,"name":"laptops"}],"ownershipType":"COPE"`:             {Groups: []string{"4"}, Ownership: "COPE"},
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

// Whatever comes, each leaf is one thing, and a field more changes nothing of what is known.
func FuzzTranslate(f *testing.F) {
	for _, name := range []string{"sample.json", "definition.json", "many.json"} {
		f.Add(body(f, name))
	}
	f.Add(with("CAMERA", `"{\"enabled\":\"{}\"}"`, `,"policyCriterias":[{"a":1}],"users":[{"id":[]}]`))
	dialecttest.Fuzz(f, Translate)
}

func BenchmarkTranslate(b *testing.B) {
	doc := body(b, "many.json")
	for b.Loop() {
		if _, err := Translate(doc, dialect.Options{}); err != nil {
			b.Fatal(err)
		}
	}
}
