package server

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/warderd/warder/sync/server/store/postgrestest"
)

// passcode is the body that the vendor's documentation prints, under the name of another payload.
const passcode = `{ "max_passcode_age": 150, "require_alphanumeric": true, "max_failed_attempts": 9, "min_passcode_length": 5, "min_complex_chars": 2, "no_of_passcode_maintained": 50, "allow_simple_value": false, "auto_lock_idle_for": 3, "max_grace_period": 0 }`

// zoho is one call with the cloud's scheme.
func (c *console) zoho(token, method, path, body string) (int, string, http.Header) {
	c.t.Helper()
	return c.ask("", method, path, body, "Authorization", "Zoho-oauthtoken "+token, "content-type", "application/json")
}

func (c *console) zohoWant(status int, body, method, path, send string) {
	c.t.Helper()
	if got, out, h := c.zoho(c.full, method, path, send); got != status || body != "*" && out != body || h.Get("Content-Type") != "application/json;charset=UTF-8" {
		c.t.Errorf("%s %s: %d %s %s\nwant %d %s", method, path, got, h.Get("Content-Type"), out, status, body)
	}
}

// The fourteen calls, as the vendor's documentation prints them, at both ends of each path.
func TestManageEngineSeed(t *testing.T) {
	at := time.UnixMilli(12312321312312)
	c := facaded(t, "manageengine", Options{HTTP: true, now: func() time.Time { return at }})
	const base = "/api/v1/mdm/profiles"
	shown := func(version, status int, word string, trashed bool, payloads ...string) string {
		return fmt.Sprintf(`{"creation_time":12312321312312,"last_modified_time":12312321312312,"profile_version":%d,"payloads":%s,"last_modified_by":1,`+
			`"profile_description":"Test IOS Restrictions Policy","created_by":1,"collection_id":%d,"profile_name":"IOS Restrictions Policy","profile_status":%q,"platform_type":1,`+
			`"is_moved_to_trash":%v,"profile_id":1,"scope":0,"profile_status_id":%d}`, version, strings.ReplaceAll(toJSON(append([]string{}, payloads...)), "null", "[]"), 1000+version, word, trashed, status)
	}
	const yet, done = "Yet To Deploy", "Published"
	c.zohoWant(200, `{"profiles":[]}`, "GET", base, "")
	c.zohoWant(200, shown(1, 1, yet, false), "POST", base, `{ "profile_name": "IOS Restrictions Policy", "profile_description": "Test IOS Restrictions Policy", "platform_type": 1, "scope": 0 }`)
	printed := strings.ReplaceAll(strings.TrimSuffix(strings.TrimSpace(passcode), " }"), " ", "") + `,"payload_id":1000001}`
	c.zohoWant(200, printed, "POST", base+"/1/payloads/restrictionspolicy/", passcode)
	c.zohoWant(200, `{"payload_name":"restrictionspolicy","payloaditems":["1000001"]}`, "GET", base+"/1/payloads/restrictionspolicy", "")
	c.zohoWant(200, `{"payloads":["restrictionspolicy"]}`, "GET", base+"/1/payloads/", "")
	c.zohoWant(200, printed, "GET", base+"/1/payloads/restrictionspolicy/payloaditems/1000001", "")
	c.zohoWant(200, strings.Replace(printed, ":150", ":100", 1), "PUT", base+"/1/payloads/restrictionspolicy/payloaditems/1000001", strings.Replace(passcode, ": 150", ": 100", 1))
	c.zohoWant(200, strings.Replace(printed, ":150", ":100", 1), "POST", base+"/1/publish", "")
	c.zohoWant(200, shown(1, 110, done, false, "restrictionspolicy"), "GET", base+"/1", "")
	c.zohoWant(200, strings.Replace(printed, ":150", ":100", 1), "PUT", base+"/1/update_all/", "")
	c.zohoWant(200, shown(1, 1, yet, false, "restrictionspolicy"), "PUT", base+"/1", `{ "profile_name": "IOS Restrictions Policy", "profile_description": "Test IOS Restrictions Policy" }`)
	c.zohoWant(200, "*", "POST", base+"/1/publish", "")
	c.zohoWant(200, `{"profiles":[`+shown(2, 110, done, false, "restrictionspolicy")+`]}`, "GET", base+"/", "")
	c.zohoWant(200, "*", "POST", base+"/1/payloads/passcodepolicy", passcode)
	c.zohoWant(200, `{"payload_name":"passcodepolicy","payloaditems":["1000002"]}`, "GET", base+"/1/payloads/passcodepolicy", "")
	c.zohoWant(200, strings.Replace(strings.Replace(printed, "1000001", "1000002", 1), "", "", 1), "DELETE", base+"/1/payloads/passcodepolicy/payloaditems/1000002", "")
	c.zohoWant(200, strings.Replace(printed, ":150", ":100", 1), "DELETE", base+"/1/payloads/restrictionspolicy", "")
	c.zohoWant(200, shown(2, 1, yet, true), "DELETE", base, `{ "profile_ids": [ 1 ] }`)
	c.zohoWant(200, `{"profiles":[]}`, "GET", base, "")
	c.zohoWant(200, `{"profiles":[`+shown(2, 1, yet, true)+`]}`, "GET", base+"?trashed=1", "")
	c.zohoWant(200, shown(2, 1, yet, true), "DELETE", base, `{ "profile_ids": [ "1" ] }`)
	c.zohoWant(404, `{"error_code":"COM0008","error_description":"profile 1 is not there"}`, "DELETE", base, `{ "profile_ids": [ 1 ] }`)
}

// A profile is in force when it is published, for whom it was assigned to here; a change when it is published again; nothing in the trash.
func TestManageEngineLife(t *testing.T) {
	for name, database := range map[string]bool{"sqlite": false, "postgres": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := Options{HTTP: true}
			if database {
				o.Database = postgrestest.URL(t)
			}
			c := facaded(t, "manageengine", o, "whole")
			l := c.laptop("a")
			before := l.sync()
			const base = "/api/v1/mdm/profiles"
			c.zohoWant(200, "*", "POST", base, `{"profile_name":"Sticks","platform_type":3}`)
			_, out, _ := c.zoho(c.full, "POST", base+"/1/payloads/windowsrestrictionpolicy", `{"disable_sd_card":true,"allow_screen_capture":false,"allow_cortana":false}`)
			var item struct {
				ID int64 `json:"payload_id"`
			}
			if json.Unmarshal([]byte(out), &item) != nil || item.ID == 0 {
				t.Fatal(out)
			}
			if list := toJSON(c.ok(200, "GET", "/policies", "")); strings.Contains(list, "manageengine:1") {
				t.Error("a profile is in force before it was published")
			}
			c.zohoWant(200, "*", "POST", base+"/1/publish", "")
			var id string
			for _, p := range c.ok(200, "GET", "/policies", "")["data"].([]any) {
				if m := p.(map[string]any); m["source"] == "manageengine:1" {
					id = m["id"].(string)
				}
			}
			if got := toJSON(c.ok(200, "GET", "/policies/"+id, "")); !strings.Contains(got, "allow_cortana") || !strings.Contains(got, `"version":1`) || !strings.Contains(got, "assign it here") {
				t.Errorf("%s", got)
			}
			if l.sync().ID != before.ID {
				t.Error("a profile is in force for those that nobody has given it to")
			}
			c.ok(201, "POST", "/assignments", `{"policy_id":"`+id+`","target":{"platform":"linux"},"priority":10}`)
			if l.sync().ID != id || !strings.Contains(l.rules, `"external_storage_allowed":false`) || !strings.Contains(l.rules, `"screenshot_allowed":false`) {
				t.Errorf("%s", l.rules)
			}
			c.zohoWant(200, "*", "PUT", fmt.Sprintf("%s/1/payloads/windowsrestrictionpolicy/payloaditems/%d", base, item.ID), `{"disable_sd_card":true,"payload_id":5}`)
			if l.sync(); !strings.Contains(l.rules, `"screenshot_allowed":false`) {
				t.Error("a change is in force before it was published")
			}
			c.zohoWant(200, "*", "POST", base+"/1/publish", "")
			if got := l.sync(); got.Version != 2 || strings.Contains(l.rules, "screenshot") {
				t.Errorf("%+v %s", got, l.rules)
			}
			if _, out, _ := c.zoho(c.reads, "GET", base+"/1?include=payloaditems", ""); !strings.Contains(out, `"payloads":[{"payload_name":"windowsrestrictionpolicy","payloaditems":[{"disable_sd_card":true,"payload_id":`) || !strings.Contains(out, `"profile_version":2`) {
				t.Error(out)
			}
			c.zohoWant(200, "*", "DELETE", base, `{"profile_ids":["1"]}`)
			if l.sync().ID != before.ID {
				t.Error("what is in the trash is in force")
			}
			c.zohoWant(409, `{"error_code":"COM0015","error_description":"the profile is in the trash"}`, "POST", base+"/1/publish", "")
			c.zohoWant(200, "*", "DELETE", base, `{"profile_ids":[1]}`)
			if list := toJSON(c.ok(200, "GET", "/policies", "")); strings.Contains(list, "manageengine:1") {
				t.Errorf("%s", list)
			}
			c.zohoWant(404, "*", "GET", base+"/1", "")
		})
	}
}

func TestManageEngineRefuses(t *testing.T) {
	c := facaded(t, "manageengine", Options{HTTP: true})
	const base = "/api/v1/mdm/profiles"
	c.zohoWant(200, "*", "POST", base, `{"profile_name":"a","platform_type":1}`)
	for name, x := range map[string]struct {
		auth, method, path, body string
		status                   int
		want                     string
	}{
		"no token":            {"", "GET", base, "", 401, `{"error_code":"COM0013"`},
		"a wrong one":         {"Zoho-oauthtoken x.y.z", "GET", base, "", 401, `{"error_code":"COM0013"`},
		"of the API":          {"Zoho-oauthtoken " + c.admin, "GET", base, "", 401, `COM0013`},
		"another scheme":      {"Basic " + c.full, "GET", base, "", 401, `COM0013`},
		"who may only read":   {"Zoho-oauthtoken " + c.reads, "POST", base, `{}`, 403, `COM0013`},
		"the bare key":        {c.full, "GET", base, "", 200, `"profiles"`},
		"Bearer":              {"Bearer " + c.full, "GET", base, "", 200, `"profiles"`},
		"a placeholder":       {c.full, "POST", base, `{"field1":"value1","field2":"value2"}`, 400, `{"error_code":"COM0024","error_description":"profile_name is required"}`},
		"of a payload":        {c.full, "POST", base + "/1/payloads/restrictionspolicy", `{"field1":"value1","field2":"value2"}`, 400, `COM0006`},
		"of the trash":        {c.full, "DELETE", base, `{"field1":"value1","field2":"value2"}`, 400, `COM0024`},
		"cut":                 {c.full, "POST", base, `{"profile_name":`, 400, `COM0006`},
		"platform":            {c.full, "POST", base, `{"profile_name":"x"}`, 400, `platform_type is required`},
		"a large one":         {c.full, "POST", base, strings.Repeat(" ", 64<<10), 413, `COM0006`},
		"unknown":             {c.full, "GET", base + "/7", "", 404, `{"error_code":"COM0008","error_description":"7 is not there"}`},
		"an id that is none":  {c.full, "GET", base + "/seven", "", 404, `COM0008`},
		"no payload":          {c.full, "POST", base + "/1/publish", "", 409, `the profile has no payload`},
		"unpublished":         {c.full, "PUT", base + "/1/update_all", "", 409, `not published`},
		"age":                 {c.full, "POST", base + "/1/payloads/passcodepolicy", `{"max_passcode_age":171}`, 400, `max_passcode_age must be from 1 to 170`},
		"failures":            {c.full, "POST", base + "/1/payloads/passcodepolicy", `{"max_failed_attempts":2}`, 400, `max_failed_attempts must be from 3 to 9`},
		"length, as a text":   {c.full, "POST", base + "/1/payloads/passcodepolicy", `{"min_passcode_length":"17"}`, 400, `from 1 to 16`},
		"under another name":  {c.full, "POST", base + "/1/payloads/restrictionspolicy", `{"min_complex_chars":5}`, 400, `from 1 to 4`},
		"idle":                {c.full, "POST", base + "/1/payloads/passcodepolicy", `{"auto_lock_idle_for":7}`, 400, `one of 1, 2, 3, 4, 5, 10, 15`},
		"history":             {c.full, "POST", base + "/1/payloads/passcodepolicy", `{"no_of_passcode_maintained":51}`, 400, `from 1 to 50`},
		"grace":               {c.full, "POST", base + "/1/payloads/passcodepolicy", `{"max_grace_period":241}`, 400, `from 0 to 240`},
		"beyond":              {c.full, "POST", base + "/1/payloads/passcodepolicy", `{"max_grace_period":99999999999999999999}`, 400, `from 0 to 240`},
		"a word for a flag":   {c.full, "POST", base + "/1/payloads/windowsrestrictionpolicy", `{"disable_sd_card":"yess"}`, 400, `{"error_code":"COM0024","error_description":"disable_sd_card must be true or false"}`},
		"two names":           {c.full, "POST", base, `{"profile_name":"a","profile_name":"b","platform_type":1}`, 400, `COM0006`},
		"another case":        {c.full, "DELETE", base, `{"PROFILE_IDS":[1]}`, 400, `COM0006`},
		"two lists":           {c.full, "DELETE", base, `{"profile_ids":[1],"profile_ids":[4]}`, 400, `COM0006`},
		"a name of blanks":    {c.full, "POST", base, `{"profile_name":"  ","platform_type":1}`, 400, `COM0024`},
		"a platform":          {c.full, "POST", base, `{"profile_name":"x","platform_type":"ios"}`, 400, `platform_type must be`},
		"an id with a sign":   {c.full, "GET", base + "/+1", "", 404, `COM0008`},
		"half":                {c.full, "POST", base + "/1/payloads/passcodepolicy", `{"max_grace_period":1.5}`, 400, `whole number`},
		"a payload's name":    {c.full, "POST", base + "/1/payloads/Not%20One", `{}`, 404, `COM0008`},
		"a list":              {c.full, "POST", base + "/1/payloads/passcodepolicy", `[]`, 400, `COM0006`},
		"method":              {c.full, "PATCH", base + "/1", "", 405, `COM0006`},
		"limit":               {c.full, "GET", base + "?limit=0", "", 400, `limit must be`},
		"an item of another":  {c.full, "GET", base + "/1/payloads/passcodepolicy/payloaditems/9", "", 404, `COM0008`},
		"the calls of others": {c.full, "GET", "/mdm-admin/policies/1", "", 404, `COM0008`},
	} {
		headers := []string{}
		if x.auth != "" {
			headers = []string{"Authorization", x.auth}
		}
		status, out, h := c.ask("", x.method, x.path, x.body, headers...)
		if status != x.status || !strings.Contains(out, x.want) || h.Get("Content-Type") != "application/json;charset=UTF-8" {
			t.Errorf("%s: %d %s %s\nwant %d %s", name, status, h.Get("Content-Type"), out, x.status, x.want)
		}
	}
	c.zohoWant(200, "*", "POST", base+"/1/payloads/passcodepolicy", `{"max_passcode_age":-1,"min_passcode_length":""}`) // not configured
	if _, out, _ := c.ask("", "POST", "/oauth/v2/token?grant_type=refresh_token&refresh_token="+c.full+"&client_id=a&client_secret=b", ""); !strings.Contains(out, `{"access_token":"`+c.full+`"`) {
		t.Error(out)
	}
	for _, body := range []string{`{"error":"invalid_code"}`} {
		for _, query := range []string{"", "&refresh_token=guess"} {
			if status, out, _ := c.ask("", "POST", "/oauth/v2/token?grant_type=refresh_token"+query, ""); status != 200 || out != body {
				t.Errorf("%d %s", status, out)
			}
		}
	}
	// What was written comes back as it was, in its order, whatever is in it; other payloads have other bounds.
	for name, x := range map[string][2]string{
		"webcontentfilterpolicy": {`{"url_filter_type":false,"url_details":[{"url":"https://a.example/?q=1&b=<2>"}]}`, ""},
		"passcodepolicy":         {`{"min_passcode_length":5,"payload_id":7,"allow_simple_value":false,"max_passcode_age":1e2}`, `{"min_passcode_length":5,"allow_simple_value":false,"max_passcode_age":1e2}`},
		"androidpasscodepolicy":  {`{"min_complex_chars":0}`, ""}, "knoxpasscodepolicy": {`{"max_failed_attempts":10}`, ""},
	} {
		want := x[1]
		if want == "" {
			want = x[0]
		}
		want = strings.TrimSuffix(want, "}") + `,"payload_id":`
		status, out, _ := c.zoho(c.full, "POST", base+"/1/payloads/"+name, x[0])
		var item struct {
			ID int64 `json:"payload_id"`
		}
		if status != 200 || !strings.HasPrefix(out, want) || json.Unmarshal([]byte(out), &item) != nil {
			t.Errorf("%s: %d %s", name, status, out)
		}
		if _, again, _ := c.zoho(c.full, "GET", fmt.Sprintf("%s/1/payloads/%s/payloaditems/%d", base, name, item.ID), ""); again != out {
			t.Errorf("%s is %s", out, again)
		}
	}
	c.zohoWant(200, "*", "POST", base, `{"profile_name":"👩‍💻 a","profile_description":"two\nlines","platform_type":"1"}`)
	// Pages.
	for i := range 51 {
		c.zohoWant(200, "*", "POST", base, fmt.Sprintf(`{"profile_name":"p%d","platform_type":1}`, i))
	}
	_, out, _ := c.zoho(c.reads, "GET", base, "")
	if !strings.Contains(out, `{"metadata":{"total_record_count":53},"profiles":[`) || strings.Count(out, `"profile_id"`) != 50 || !strings.Contains(out, `/api/v1/mdm/profiles?limit=50&offset=50"`) {
		t.Errorf("%.200s … %.300s", out, out[max(0, len(out)-300):])
	}
	if _, out, _ := c.zoho(c.reads, "GET", base+"?limit=50&offset=50", ""); strings.Count(out, `"profile_id"`) != 3 || strings.Contains(out, "next") || !strings.Contains(out, "previous") {
		t.Error(out)
	}
}
