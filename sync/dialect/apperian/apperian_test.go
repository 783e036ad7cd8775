package apperian

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/warderd/warder/enforce"
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

// mapped says which programs the app of the vendor's examples is.
var mapped = dialect.Options{App: "Da7X7EENA0D82j5vA9T5KQ", Apps: map[string][]string{"Da7X7EENA0D82j5vA9T5KQ": {"/usr/bin/app"}, "other": {"/usr/bin/other"}}}

func translate(t testing.TB, body []byte, o dialect.Options) dialect.Translation {
	t.Helper()
	x, d := dialecttest.Translate(t, Translate, body, o)
	if len(d.Settings()) != 0 {
		t.Errorf("%s", x.Document) // all that it can ask for is of sections to come
	}
	return x
}

// applied is what is answered of an app to which something is applied.
func applied(code int, configurations string) []byte {
	return fmt.Appendf(nil, `{"status":{"code":%d,"description":"x"},"previous_version_configurations":[{"policy_id":"com.apperian.app-usage"}],"configurations":[%s]}`, code, configurations)
}

// inner is the list of an example that has no status.
func inner(t testing.TB, name string) string {
	t.Helper()
	s := string(body(t, name))
	return s[strings.Index(s, "[")+1 : strings.LastIndex(s, "]")]
}

func day(y int, m time.Month, d int) time.Time { return time.Date(y, m, d, 0, 0, 0, 0, time.UTC) }

// The vendor's examples.
func TestSample(t *testing.T) {
	app, programs := mapped.App, []string{"/usr/bin/app"}
	x := translate(t, body(t, "applied.json"), mapped)
	if x.Released || x.Source != "apperian:"+app || !reflect.DeepEqual(x.Kept, map[enforce.Setting]any{"apps.usage": []any{Usage{app, programs}},
		"apps.open_page": []any{Page{app, programs, "http://www.google.com", 1}}}) || len(x.Named) != 4 {
		t.Errorf("%+v", x)
	}
	for _, name := range []string{"apply.json", "answer.json"} {
		x := translate(t, applied(1, inner(t, name)), mapped)
		if want := []any{Window{app, programs, day(2017, 11, 16), day(2017, 11, 22), ""}}; !reflect.DeepEqual(x.Kept["apps.windows"], want) {
			t.Errorf("%s: %+v", name, x.Kept)
		}
	}
	x = translate(t, applied(1, inner(t, "whole.json")), mapped)
	if want := []any{Page{app, programs, "http://www.google.com", 4}}; !reflect.DeepEqual(x.Kept["apps.open_page"], want) {
		t.Errorf("%+v", x.Kept)
	}
	// Without the operator's word nothing is known of the app.
	x = translate(t, body(t, "applied.json"), dialect.Options{})
	if len(x.Kept) != 0 || x.Named[1].Reason != "it is not said which programs of a laptop the app is" {
		t.Errorf("%+v %q", x.Kept, x.Named)
	}
	if x, err := Translate(body(t, "applied.json"), dialect.Options{Apps: mapped.Apps}); err == nil {
		t.Errorf("it is about one of two apps: %v", x.Kept)
	}
	// What is in force nowhere, is half there, or has line breaks in texts.
	for _, name := range []string{"policies.json", "preset.json", "apply.json", "answer.json", "whole.json"} {
		if x, err := Translate(body(t, name), mapped); err == nil {
			t.Errorf("%s: %s", name, x.Document)
		}
	}
}

// What the status says of what is in force.
func TestStatus(t *testing.T) {
	for code, want := range map[int]string{-1: "stays", 0: "released", 1: "", 2: "stays", 3: "", 4: "released", 5: "not known"} {
		x, err := Translate(applied(code, inner(t, "apply.json")), mapped)
		switch {
		case want == "released":
			if err != nil || !x.Released {
				t.Errorf("%d: %v %v", code, x.Released, err)
			}
		case want != "":
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%d: %v", code, err)
			}
		case err != nil || x.Released:
			t.Errorf("%d: %v %v", code, x.Released, err)
		}
	}
}

// Days, texts and numbers as the vendor writes them, and what is none.
func TestValues(t *testing.T) {
	windows := func(conf string) (dialect.Translation, []any) {
		x := translate(t, applied(1, `{"policy_id":"com.apperian.access-control","configuration":`+conf+`}`), mapped)
		list, _ := x.Kept["apps.windows"].([]any)
		return x, list
	}
	for conf, want := range map[string]Window{
		`{"access_date_range":{"start":"11/16/2017","end":""},"user_message":"Ask ann"}`: {NotBefore: day(2017, 11, 16), Message: "Ask ann"},
		`{"access_date_range":{"start":null,"end":"2017-11-16"}}`:                        {NotAfter: day(2017, 11, 17)},
		`{"access_date_range":{"start":"2017-11-16","end":"2017-11-16"}}`:                {NotBefore: day(2017, 11, 16), NotAfter: day(2017, 11, 17)},
	} {
		want.App, want.Programs = mapped.App, mapped.Apps[mapped.App]
		if x, list := windows(conf); len(list) != 1 || !reflect.DeepEqual(list[0], want) {
			t.Errorf("%s: %+v %q", conf, list, x.Named)
		}
	}
	for conf, why := range map[string]string{
		`{"access_date_range":{"start":"16.11.2017","end":""}}`:           "must be dates",
		`{"access_date_range":{"start":"2017-11-17","end":"2017-11-16"}}`: "ends before it begins",
		`{"access_date_range":"2017"}`:                                    "must have a start and an end",
		`{"user_message":"x"}`:                                            "must have a start and an end",
		`{"access_date_range":{"start":"","end":""},"user_message":"x"}`:  "no dates",
		`"2017"`: "must be an object",
	} {
		if x, list := windows(conf); len(list) != 0 || !strings.Contains(fmt.Sprint(x.Named), why) {
			t.Errorf("%s: %+v %q", conf, list, x.Named)
		}
	}
	for conf, why := range map[string]string{
		`{"open_webpage_url":"javascript:alert(1)","open_webpage_frequency":"1"}`: "must be the address of a web page",
		`{"open_webpage_url":"https://a.example","open_webpage_frequency":"0"}`:   "must be a whole number of 1 or more",
		`null`: "must be the address",
	} {
		if x := translate(t, applied(1, `{"policy_id":"com.apperian.open-webpage-url","configuration":`+conf+`}`), mapped); len(x.Kept) != 0 || !strings.Contains(fmt.Sprint(x.Named), why) {
			t.Errorf("%s: %+v %q", conf, x.Kept, x.Named)
		}
	}
	stamp := func(start string) string {
		return translate(t, applied(1, `{"policy_id":"com.apperian.access-control","configuration":{"access_date_range":{"start":"`+start+`","end":""}}}`), dialect.Options{}).Stamp
	}
	if stamp("2017-11-16") == stamp("2018-11-16") {
		t.Error("the same stamp, with other days")
	}
	if x := translate(t, applied(1, `{"policy_id":"com.apperian.open-webpage-url","configuration":{"open_webpage_url":"https://ann:pw@x.example/","open_webpage_frequency":"1"}},{"policy_id":"com.apperian.open-webpage-url","configuration":{"open_webpage_url":"https://x.example/","open_webpage_frequency":"1"}}`), mapped); len(x.Kept) != 1 ||
		strings.Contains(fmt.Sprint(x.Named), "pw@") {
		t.Errorf("%v %q", x.Kept, x.Named) // a wrong one does not stand in the way of a right one
	}
	if x := translate(t, applied(1, `{"policy_id":"com.apperian.access-control","configuration":{"access_date_range":null,"user_message":null}}`), mapped); len(x.Named) != 0 {
		t.Errorf("%q", x.Named)
	}
	x := translate(t, applied(1, `{"policy_id":"com.apperian.data-wipe"},{"policy_id":"com.acme.new","configuration":{"a":1}},{"policy_id":"com.apperian.app-usage"},{"policy_id":"com.apperian.app-usage"},7,{"policy_id":"com.apperian.jailbreak-and-root-protection"}`), mapped)
	if len(x.Kept) != 2 || x.Kept["posture.integrity_required"] != true || len(x.Named) != 7 || !strings.Contains(fmt.Sprint(x.Named), "does not wipe") {
		t.Errorf("%+v %q", x.Kept, x.Named)
	}
}

func FuzzTranslate(f *testing.F) {
	f.Add(body(f, "applied.json"))
	f.Add(applied(1, inner(f, "answer.json")))
	f.Add(applied(4, inner(f, "whole.json")+`,{"policy_id":"x","configuration":"{\"a\":[]}"},3`))
	dialecttest.Fuzz(f, Translate)
}
