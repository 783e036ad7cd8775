package mocana

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

// profile is what the console answers of a profile.
func profile(kind, data string) []byte {
	text, _ := json.Marshal(data)
	return fmt.Appendf(nil, `{"message":"","profiles":{"data":{"profile_data":%s,"profile_data_id":"d","profile_data_stamp":"2016-07-21 18:23:37.0"},"profile_desc":"","profile_id":"p","profile_name":"n","profile_type":%q,"profile_url":""},"status":"OK"}`, text, kind)
}

var mapped = dialect.Options{Apps: map[string][]string{"app": {"/usr/bin/b", "/usr/bin/a"}, "other": {"/usr/bin/a"}}}

// Which certificate is shown to whom: a rule that shows none comes first, and a star is what the vendor says that it is.
func TestCerts(t *testing.T) {
	x, d := translate(t, body(t, "sample.json"), dialect.Options{})
	want := []any{CertRule{[]string{"=www.acme.com"}, 0, false}, CertRule{[]string{"*.acme.com"}, 443, true}, CertRule{[]string{"acme.com"}, 8443, true}}
	if x.Released || x.Source != "mocana:8e5d187f-717f-4caa-83fb-2011cffe5124" || d.Name != "TestProfile" || len(d.Settings()) != 0 || !reflect.DeepEqual(x.Kept["browser.client_cert_rules"], want) || len(x.Named) != 3 {
		t.Errorf("%+v %q", x.Kept, x.Named)
	}
	for rule, why := range map[string]string{
		`{"host":"a*.acme.com","port":"","action":"noCertificate"}`:  "with * only at its beginning",
		`{"host":"acme.com","port":"*443","action":"noCertificate"}`: "port must be one, or *",
		`{"host":"acme.com","port":"0","action":"noCertificate"}`:    "port must be one, or *",
		`{"host":"acme.com","port":"","action":"ask"}`:               "action is not known",
		`{"host":"","port":"","action":"noCertificate"}`:             "must be the name of a host",
		`7`: "action is not known",
		`{"host":"*.","port":"","action":"useEnrollmentCertificate"}`: "must be the name of a host",
	} {
		if x, _ := translate(t, profile(certs, `{"clientCertsUrlMatchingRules":[`+rule+`]}`), dialect.Options{}); len(x.Kept) != 0 || !strings.Contains(fmt.Sprint(x.Named), why) {
			t.Errorf("%s: %v %q", rule, x.Kept, x.Named)
		}
	}
	if x, _ := translate(t, profile(certs, `{"clientCertsUrlMatchingRules":[{"host":"*","port":"*","action":"useEnrollmentCertificate","more":1}]}`), dialect.Options{}); len(x.Named) != 2 ||
		!reflect.DeepEqual(x.Kept["browser.client_cert_rules"], []any{CertRule{[]string{"*"}, 0, true}}) {
		t.Errorf("%v %q", x.Kept, x.Named)
	}
}

func TestBrowser(t *testing.T) {
	x, _ := translate(t, body(t, "browser.json"), dialect.Options{})
	if want := map[enforce.Setting]any{"browser.home_page": "https://intranet.example/", "browser.url_entry_allowed": false, "browser.history_allowed": false, "browser.bookmarks_allowed": true,
		"browser.bookmarks": []any{Bookmark{"Wiki", "https://wiki.example/"}}}; !reflect.DeepEqual(x.Kept, want) {
		t.Errorf("%+v", x.Kept)
	}
	if text := fmt.Sprint(x.Named); !strings.Contains(text, "browser.allow_search allow_url_entry is false") || !strings.Contains(text, "it would be of all browsers") || strings.Contains(text, "launcher") {
		t.Errorf("%s", text)
	}
}

// What may be copied where: the programs of an app are kept apart from all others, if it is said which they are.
func TestSharing(t *testing.T) {
	for data, want := range map[string]string{
		`{"copyBlocked":"1","pasteBlocked":"0"}`: "personal_to_work", `{"copyBlocked":"0","pasteBlocked":"1"}`: "work_to_personal", `{"copyBlocked":1,"pasteBlocked":"1","dragBlocked":"1"}`: "none",
		`{"copyBlocked":"0","pasteBlocked":"0"}`: "", `{}`: "", `{"copyBlocked":"maybe"}`: "", `{"pasteBlocked":null}`: "",
	} {
		x, d := translate(t, profile(sharing, data), mapped)
		if d.DLP.ClipboardDirection.V != want || (len(x.Partial) > 0) != (want != "") {
			t.Errorf("%s: %s %q", data, x.Document, x.Named)
		}
		if want != "" && !strings.Contains(string(x.Document), `"zones":{"work":{"executables":["/usr/bin/a","/usr/bin/b"]}}`) {
			t.Errorf("%s", x.Document)
		}
		if x, d := translate(t, profile(sharing, data), dialect.Options{}); len(d.Settings()) != 0 || want != "" && !strings.Contains(fmt.Sprint(x.Named), "which programs") {
			t.Errorf("%s: %s %q", data, x.Document, x.Named)
		}
	}
	for _, whole := range []bool{false, true} {
		x, d := translate(t, profile(sharing, `{"privacyScreen":"1","share_map_data":"0","webLinksBehavior":"useSystemDefaults","externalAppIDs":[],"new":[1,2]}`), dialect.Options{Whole: whole})
		if d.DLP.ScreenshotAllowed.Or(true) == whole || len(x.Named) != map[bool]int{false: 3, true: 2}[whole] {
			t.Errorf("%s %q", x.Document, x.Named)
		}
	}
}

// What is done to an app there is done to the whole machine here, if the operator has said so.
func TestWhole(t *testing.T) {
	for _, c := range []struct {
		kind, data string
		want       enforce.Setting
	}{
		{dar, `{}`, "storage.encryption_required"}, {dar, `{"exceptions":[{"location":"sdcard"}],"null_cipher":"0"}`, "storage.encryption_required"}, {dar, `{"null_cipher":"1"}`, ""}, {dar, `{"null_cipher":"x"}`, ""}, {dar, `{"null_cipher":{}}`, "storage.encryption_required"}, {"DAR", `{}`, "storage.encryption_required"},
		{vpn, `{"vpnServerAddr":"172.16.31.2","vpnPsk":"hidden","vpnProtocol":"map","newKey":"hidden too"}`, "network.vpn_required"}, {vpn, `{"vpnServerAddr":""}`, ""}, {vpn, `{"vpnServerAddr":"0"}`, ""}, {vpn, `{"vpnServerAddr":"none"}`, ""}, {"VPN", `{"vpnServerAddr":"gw"}`, "network.vpn_required"}, {vpn, `{"vpnServerAddr":{"a":"hidden"}}`, ""},
	} {
		for _, whole := range []bool{false, true} {
			x, d := translate(t, profile(c.kind, c.data), dialect.Options{Whole: whole})
			var want []enforce.Setting
			if whole && c.want != "" {
				want = append(want, c.want)
			}
			if !slices.Equal(d.Settings(), want) || len(x.Partial) != len(want) {
				t.Errorf("%s %s: %s %v", c.kind, c.data, x.Document, x.Partial)
			}
			if text := fmt.Sprint(x.Named, x.Kept, string(x.Document)); strings.Contains(text, "hidden") {
				t.Errorf("a secret: %s", text)
			}
		}
	}
}

// The stamp is another one with anything else in a profile, carried or not, and with another kind.
func TestStamp(t *testing.T) {
	seen := map[string]string{}
	for _, p := range [][2]string{{vpn, `{"vpnServerAddr":"a"}`}, {vpn, `{"vpnServerAddr":"b"}`}, {"device_posture", `{"x":"1"}`}, {"device_posture", `{"x":"2"}`}, {"signing", `{"x":"2"}`}} {
		x, _ := translate(t, profile(p[0], p[1]), dialect.Options{})
		if before := seen[x.Stamp]; before != "" {
			t.Errorf("%s has the stamp of %s", p, before)
		}
		seen[x.Stamp] = fmt.Sprint(p)
	}
}

func TestOthers(t *testing.T) {
	x, _ := translate(t, profile("local_auth", `{"pass_alpha":"1","pass_alpha_lower":"0","pass_max_age":"129601","pass_history_enabled":"1","pass_history_count":"5","pass_invalid_action":"lockout","pass_invalid_retries":"4"}`), dialect.Options{})
	if want := map[enforce.Setting]any{"passcode.require_alphanumeric": true, "passcode.max_age_days": int64(90), "passcode.history": int64(5), "passcode.max_failed_attempts": int64(4)}; !reflect.DeepEqual(x.Kept, want) {
		t.Errorf("%+v", x.Kept)
	}
	x, _ = translate(t, profile("local_auth", `{"pass_history_enabled":"0","pass_history_count":"5","pass_invalid_action":"wipe","pass_invalid_retries":"4"}`), dialect.Options{})
	if text := fmt.Sprint(x.Named); len(x.Kept) != 1 || !strings.Contains(text, "not in force") || !strings.Contains(text, "does not wipe") || !strings.Contains(text, "it would be one for a while") {
		t.Errorf("%v %q", x.Kept, x.Named)
	}
	for _, kind := range []string{"device_posture", "end_user_license_agreement", "master", "signing", "something_new"} {
		x, d := translate(t, profile(kind, `{"a":"b","c":[]}`), mapped)
		if len(d.Settings()) != 0 || len(x.Kept) != 0 || len(x.Named) == 0 {
			t.Errorf("%s: %s %q", kind, x.Document, x.Named)
		}
	}
	x, d := translate(t, profile(trusted, `{"serverCertsList":["-----BEGIN"],"blockNetworkResources":"1"}`), mapped)
	if len(d.Settings()) != 0 || len(x.Named) != 2 || strings.Contains(fmt.Sprint(x.Named), "BEGIN") {
		t.Errorf("%q", x.Named)
	}
}

// What is no profile: the example of the documentation, which is cut off, a page to sign in, a catalogue, an error.
func TestRefused(t *testing.T) {
	for _, b := range []string{string(body(t, "cut.json")), `<html><body>Sign in</body></html>`, `{"message":"","profiles":[{"profile_id":"p","profile_type":"dar","data":{}}],"status":"OK"}`,
		strings.Replace(string(body(t, "sample.json")), `"OK"`, `"Error"`, 1), string(profile(dar, `{"exceptions":[`)), string(profile(dar, ``)), string(profile(dar, `[]`)), `{"message":"no such profile","status":"Error"}`,
		`{"app_policy":{"profile_id":"x"},"message":""}`} {
		if x, err := Translate([]byte(b), dialect.Options{}); err == nil {
			t.Errorf("%.80s: %s", b, x.Document)
		}
	}
}

func FuzzTranslate(f *testing.F) {
	f.Add(body(f, "sample.json"))
	f.Add(body(f, "browser.json"))
	for kind, data := range map[string]string{sharing: `{"copyBlocked":"1","privacyScreen":1}`, dar: `{"null_cipher":"0","exceptions":[]}`, vpn: `{"vpnServerAddr":"a","vpnPsk":"b"}`, "local_auth": `{"pass_max_age":"5","x":{}}`, trusted: `{"serverCertsList":[]}`} {
		f.Add(profile(kind, data))
	}
	dialecttest.Fuzz(f, Translate)
}
