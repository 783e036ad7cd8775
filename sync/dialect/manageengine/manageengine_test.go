package manageengine

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

func body(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func translate(t testing.TB, body []byte, o dialect.Options) (dialect.Translation, *policy.Document) {
	t.Helper()
	return dialecttest.Translate(t, Translate, body, o)
}

func named(x dialect.Translation) map[string]string {
	out := map[string]string{}
	for _, u := range x.Named {
		out[u.Name] = u.Reason
	}
	return out
}

// published is a profile in force with one payload.
func with(payload, item, more string) []byte {
	return fmt.Appendf(nil, `{"profile_id":5,"profile_name":"p","profile_status_id":110,"payloads":[{"payload_name":%q,"payloaditems":[%s]}]%s}`, payload, item, more)
}

// The example of the vendor's documentation: it is not published, and its payloads are names alone.
func TestSample(t *testing.T) {
	x, d := translate(t, body(t, "sample.json"), dialect.Options{})
	if !x.Released || x.Source != "manageengine:12321312312" || len(d.Settings()) != 0 || d.Name != "IOS Restrictions Policy" || len(x.Named) != 2 {
		t.Errorf("%+v", x)
	}
	for what, doc := range map[string]string{
		"published, and its payloads are not there": strings.Replace(string(body(t, "sample.json")), `"profile_status_id": 1 `, `"profile_status_id": 110 `, 1),
		"a list":                 string(body(t, "list.json")),
		"a payload by itself":    string(body(t, "payload.json")),
		"names of payloads":      `{ "payloads": [ "restrictionspolicy", "passcodepolicy" ] }`,
		"numbers of payloads":    `{ "payload_name": "restrictionspolicy", "payloaditems": [ "9007199254741295" ] }`,
		"placeholders":           `{"field1":"value1","field2":"value2"}`,
		"it says not whether":    `{"profile_id":1,"payloads":[]}`,
		"a payload has no items": string(with("windowsrestrictionpolicy", "", "")),
		"no payloads":            `{"profile_id":1,"profile_status_id":110,"payloads":[]}`,
		"in the bin or not":      string(with("macfilevault", `{"encryption_settings_id":1}`, `,"is_moved_to_trash":"perhaps"`)),
		"numbers in the profile": `{"profile_id":1,"profile_status_id":110,"payloads":[{"payload_name":"x","payloaditems":["9007199254741295"]}]}`,
	} {
		if x, err := Translate([]byte(doc), dialect.Options{}); err == nil {
			t.Errorf("%s: %s", what, x.Document)
		}
	}
}

// The example of a passcode, where it belongs, and under the name under which the vendor prints it.
func TestPasscode(t *testing.T) {
	x, _ := translate(t, with("passcodepolicy", string(body(t, "payload.json")), ""), dialect.Options{})
	if want := map[enforce.Setting]any{"passcode.max_age_days": int64(150), "passcode.require_alphanumeric": true, "passcode.max_failed_attempts": int64(9), "passcode.min_length": int64(5),
		"passcode.min_special": int64(2), "passcode.history": int64(50), "passcode.allow_simple": false, "passcode.lock_after_minutes": int64(3), "passcode.lock_grace_minutes": int64(0)}; !reflect.DeepEqual(x.Kept, want) {
		t.Errorf("%v", x.Kept)
	}
	if why := named(x)["passcodepolicy.max_failed_attempts"]; !strings.Contains(why, "it wipes a device there") {
		t.Errorf("%q", why)
	}
	x, _ = translate(t, with("restrictionspolicy", string(body(t, "payload.json")), ""), dialect.Options{})
	if why := named(x)["restrictionspolicy.max_passcode_age"]; len(x.Kept) != 0 || why != "it is a field of passcodepolicy, and has no meaning here" {
		t.Errorf("%v %q", x.Kept, why)
	}
	for item, want := range map[string]string{`{"max_passcode_age":171}`: "must be a whole number from 1 to 170: 171", `{"max_failed_attempts":2}`: "must be a whole number from 3 to 9: 2", `{"min_passcode_length":"x"}`: "must be a whole number from 1 to 16: x"} {
		if x, _ := translate(t, with("passcodepolicy", item, ""), dialect.Options{}); len(x.Named) != 1 || x.Named[0].Reason != want || len(x.Kept) != 0 {
			t.Errorf("%s: %q", item, x.Named)
		}
	}
}

func TestMany(t *testing.T) {
	for _, whole := range []bool{false, true} {
		x, d := translate(t, body(t, "many.json"), dialect.Options{Whole: whole})
		if x.Released || x.Source != "manageengine:9007199254741295" || d.Mode("storage.encryption_required") != enforce.Enforce || !d.Storage.EncryptionRequired.V || d.Storage.CloudSyncAllowed.Or(true) ||
			d.DLP.ScreenshotAllowed.Or(true) || !d.DLP.ClipboardSharing.Or(false) || d.Storage.ExternalStorageAllowed.Or(true) || len(d.Network.BlockedDomains.V) != 3 || len(d.Settings()) != 6 {
			t.Errorf("%s %q", x.Document, x.Named)
		}
		if want := map[enforce.Setting]any{"device.camera_allowed": false, "passcode.min_length": int64(12), "passcode.history": int64(5), "passcode.max_failed_attempts": int64(4), "passcode.allow_simple": true,
			"passcode.lock_after_minutes": int64(1), "passcode.require_alphanumeric": true, "device.firewall_required": true, "browser.blocked_urls": []any{"https://news.example/sport"}}; !reflect.DeepEqual(x.Kept, want) {
			t.Errorf("%v", x.Kept)
		}
		list := named(x)
		for name, why := range map[string]string{
			"windowsrestrictionpolicy.allow_appstore_auto_update":                                     "no counterpart for manageengine:windowsrestrictionpolicy.allow_appstore_auto_update",
			"windowspasscodepolicy.pwd_enabled":                                                       unsure,
			"androidrestrictionspolicy.allow_microphone":                                              "is not known: 7",
			"macfirewallpolicy.block_all_incoming":                                                    "it is left to the user",
			"webcontentfilterpolicy.url":                                                              dialect.NoAddress,
			"windowswifipolicy.wifi_non_enterprise":                                                   "no section for it yet (connections.wifi)",
			"windowslockdownmodepolicy.policy_id":                                                     "no counterpart for manageengine:windowslockdownmodepolicy.policy_id",
			"chromesomething.x":                                                                       "no counterpart for manageengine:chromesomething.x",
			"windowscustompolicy:./Device/Vendor/MSFT/Policy/Config/Experience/AllowScreenCapture":    "it takes something away on Windows, and asks for nothing",
			"windowscustompolicy:./Device/Vendor/MSFT/Policy/Config/Security/RequireDeviceEncryption": "its data must be base64",
			"windowscustompolicy:./Device/Vendor/MSFT/RemoteWipe/doWipe":                              "no counterpart for manageengine:windowscustompolicy:./Device/Vendor/MSFT/RemoteWipe/doWipe",
			"windowscustompolicy:./Device/Vendor/MSFT/Policy/Config/Camera/AllowCamera":               "no section for it yet (device.camera_allowed)",
		} {
			if list[name] != why {
				t.Errorf("%s: %q", name, list[name])
			}
		}
		if _, refused := list["windowsrestrictionpolicy.disable_sd_card"]; refused == whole {
			t.Errorf("%v: %q", whole, list)
		}
		if text := fmt.Sprint(x.Named, x.Kept, string(x.Document)); strings.Contains(text, "secret") {
			t.Error("a password")
		}
		if want := []string{"android", "chrome", "ios", "mac", "windows"}; !slices.Equal(x.Selection.DeviceTypes, want) {
			t.Errorf("%q", x.Selection.DeviceTypes)
		}
	}
}

// What is in force is what is published, and not trashed.
func TestInForce(t *testing.T) {
	for more, released := range map[string]bool{``: false, `,"is_moved_to_trash":true`: true, `,"is_moved_to_trash":"false"`: false} {
		if x, _ := translate(t, with("macfilevault", `{"encryption_settings_id":1}`, more), dialect.Options{}); x.Released != released {
			t.Errorf("%s: %v", more, x.Released)
		}
	}
	for _, status := range []string{"1", `"1"`, "0", "111", `"?"`} {
		x, _ := translate(t, []byte(strings.Replace(string(with("macfilevault", `{"encryption_settings_id":1}`, "")), "110", status, 1)), dialect.Options{})
		if !x.Released {
			t.Errorf("%s is in force", status)
		}
	}
}

// A profile for a part of a device is carried for the whole machine if the operator has said so.
func TestScope(t *testing.T) {
	for _, c := range []struct {
		scope      string
		whole, set bool
	}{{"0", false, true}, {"1", false, false}, {"1", true, true}, {"2", false, false}, {"9", false, false}} {
		for _, p := range [][2]string{{"macfilevault", `{"encryption_settings_id":1}`}, {"macrestrictionspolicy", `{"allow_cloud_document_sync":false}`},
			{"webcontentfilterpolicy", `{"url_filter_type":false,"url_details":[{"url":"a.example"}]}`}} {
			x, d := translate(t, with(p[0], p[1], `,"scope":`+c.scope), dialect.Options{Whole: c.whole})
			if (len(d.Settings()) == 1) != c.set || (len(x.Named) == 0) != c.set {
				t.Errorf("%+v %s: %s %q", c, p[0], x.Document, x.Named)
			}
		}
	}
}

// What a profile for a part of a device allows is no permission for the whole machine either.
func TestScopeAllows(t *testing.T) {
	for _, whole := range []bool{false, true} {
		x, d := translate(t, with("windowsrestrictionpolicy", `{"allow_screen_capture":true}`, `,"scope":1`), dialect.Options{Whole: whole})
		if (len(d.Settings()) == 1) != whole || (len(x.Partial) == 1) != whole {
			t.Errorf("%s %q %v", x.Document, x.Named, x.Partial)
		}
	}
}

// The stamp is another one with anything else in a payload, carried or not.
func TestStamp(t *testing.T) {
	seen := map[string]string{}
	for _, p := range [][2]string{{"windowswifipolicy", `{"a":"x"}`}, {"windowswifipolicy", `{"a":"y"}`}, {"windowsrestrictionpolicy", `{"disable_sd_card":true}`}, {"windowsrestrictionpolicy", `{"disable_sd_card":false}`}} {
		x, _ := translate(t, with(p[0], p[1], ""), dialect.Options{})
		if before := seen[x.Stamp]; before != "" {
			t.Errorf("%s has the stamp of %s", p, before)
		}
		seen[x.Stamp] = fmt.Sprint(p)
	}
}

// A name that takes a quadratic time to be mapped is none.
func TestLongHost(t *testing.T) {
	var b strings.Builder
	for i := range 300_000 {
		b.WriteRune(rune(0x4e00 + i%20000))
	}
	if x, d := translate(t, with(webFilters[0], fmt.Sprintf(`{"url_filter_type":false,"url_details":[{"url":%q}]}`, b.String()), ""), dialect.Options{}); len(d.Settings()) != 0 || len(x.Named) == 0 {
		t.Errorf("%d", len(x.Document))
	}
}

// A list of what alone may be opened is a list for all programs, which the operator has to ask for.
func TestWebFilter(t *testing.T) {
	item := `{"url_filter_type":true,"url_details":[{"url":"https://www.Acme.example./"},{"url":"a.example:8443"},{"url":"b.example/x"},{"url":"user@c.example"}]}`
	for _, name := range webFilters {
		x, d := translate(t, with(name, item, ""), dialect.Options{Whole: true})
		if fmt.Sprint(d.Network.AllowedDomains.V) != "[www.acme.example =acme.example a.example b.example]" || len(x.Kept["browser.allowed_urls"].([]any)) != 2 || len(x.Partial["network.allowed_domains"]) != 2 {
			t.Errorf("%s %q %v", x.Document, x.Named, x.Kept)
		}
		if x, d = translate(t, with(name, item, ""), dialect.Options{}); len(d.Settings()) != 0 || len(x.Named) != 2 || strings.Contains(fmt.Sprint(x.Named), "user@") {
			t.Errorf("%s %q", x.Document, x.Named)
		}
	}
	// The name of a page is not that of all that end in the same.
	for address, want := range map[string]string{"https://www.com/": "[www.com]", "www.google.com": "[www.google.com =google.com]", "google.com": "[google.com]", "http://com": "[=com]", "http://[2001:db8::1]/": "[2001:db8::1]", "http://10.0.0.1": "[10.0.0.1]", "*.com": "[]", "=evil.example": "[]"} {
		if _, d := translate(t, with(webFilters[0], fmt.Sprintf(`{"url_filter_type":false,"url_details":[{"url":%q}]}`, address), ""), dialect.Options{}); fmt.Sprint(d.Network.BlockedDomains.V) != want {
			t.Errorf("%s: %v", address, d.Network.BlockedDomains.V)
		}
	}
	for _, item := range []string{`{"url_details":[{"url":"a.example"}]}`, `{"url_filter_type":"?","url_details":[{"url":"a.example"}]}`, `{"url_filter_type":true,"url_details":"a.example"}`,
		`{"url_filter_type":true,"url_details":["a.example"]}`, `{"url_filter_type":true}`, `{"url_filter_type":true,"url_details":[]}`} {
		if x, d := translate(t, with(webFilters[0], item, ""), dialect.Options{Whole: true}); len(d.Settings()) != 0 || len(x.Named) == 0 {
			t.Errorf("%s: %s %q", item, x.Document, x.Named)
		}
	}
}

func FuzzTranslate(f *testing.F) {
	for _, name := range []string{"sample.json", "many.json", "list.json"} {
		f.Add(body(f, name))
	}
	f.Add(with("passcodepolicy", string(body(f, "payload.json")), ""))
	f.Add(with("webcontentfilterpolicy", `{"url_filter_type":true,"create_bookmarks":true,"url_details":[{"url":"a.example","bookmark_title":"t"},3,{"url":null}]}`, `,"scope":1`))
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

// A number of settings is one of 1 or more; a path of Windows' is one for a device, and what is to be done with it is known.
func TestNumbersAndPaths(t *testing.T) {
	const shot = "./Device/Vendor/MSFT/Policy/Config/Experience/AllowScreenCapture"
	undone := fmt.Sprintf(`{"syncml_commands":[{"data":"MA==","action_type":0,"loc_uri":%q},{"action_type":2,"loc_uri":%[1]q}]}`, shot)
	if x, d := translate(t, with(custom, undone, ""), dialect.Options{}); len(d.Settings()) != 0 || len(x.Named) != 2 {
		t.Errorf("%s %q", x.Document, x.Named)
	}
	for id, want := range map[string]int{`1`: 1, `"7"`: 1, `0`: 0, `false`: 0, `{}`: 0, `null`: 0, `"-1"`: 0, `"x"`: 0, `{"a":1}`: 0} {
		x, d := translate(t, with("macfilevault", `{"encryption_settings_id":`+id+`}`, ""), dialect.Options{})
		if named := id == `"x"` || id == `{"a":1}`; len(d.Settings()) != want || (len(x.Named) > 0) != named {
			t.Errorf("%s: %s %q", id, x.Document, x.Named)
		}
	}
	for _, c := range []struct {
		action, uri string
		whole, set  bool
	}{
		{`"1"`, "./Device/Vendor/MSFT/Policy/Config/Experience/AllowScreenCapture", false, true}, {`0`, "./vendor/msft/policy/config/experience/allowscreencapture", false, true},
		{`9`, "./Device/Vendor/MSFT/Policy/Config/Experience/AllowScreenCapture", false, false}, {`null`, "./Device/Vendor/MSFT/Policy/Config/Experience/AllowScreenCapture", false, false},
		{`{"wipe":1}`, "./Device/Vendor/MSFT/Policy/Config/Experience/AllowScreenCapture", false, false}, {`1`, "junk/vendor/msft/policy/config/Experience/AllowScreenCapture", true, false},
		{`1`, "./User/Vendor/MSFT/Policy/Config/Experience/AllowScreenCapture", false, false}, {`1`, "./User/Vendor/MSFT/Policy/Config/Experience/AllowScreenCapture", true, true},
	} {
		x, d := translate(t, with(custom, fmt.Sprintf(`{"syncml_commands":[{"data":"MA==","action_type":%s,"loc_uri":%q}]}`, c.action, c.uri), ""), dialect.Options{Whole: c.whole})
		if (len(d.Settings()) == 1) != c.set || (len(x.Named) == 0) != c.set {
			t.Errorf("%+v: %s %q", c, x.Document, x.Named)
		}
	}
}
