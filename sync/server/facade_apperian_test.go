package server

import (
	"encoding/json"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/warderd/warder/sync/server/api"
	"github.com/warderd/warder/sync/server/store/postgrestest"
)

// app is the vendor's id of an app in its documentation.
const app = "Da7X7EENA0D82j5vA9T5KQ"

// xtoken is one call with the vendor's header.
func (c *console) xtoken(token, method, path, body string) (int, string, http.Header) {
	c.t.Helper()
	return c.ask("", method, path, body, "X-TOKEN", token, "Content-Type", "application/json")
}

// ids are what is different each time.
var ids = regexp.MustCompile(`"id":"[A-Za-z0-9_-]{22}"`)

func (c *console) xwant(status int, body, method, path, send string) string {
	c.t.Helper()
	got, out, h := c.xtoken(c.full, method, path, send)
	kind := "application/json"
	if status == 204 {
		kind = ""
	}
	if got != status || body != "*" && ids.ReplaceAllString(out, `"id":"ID"`) != body || h.Get("Content-Type") != kind {
		c.t.Errorf("%s %s: %d %s %s\nwant %d %s", method, path, got, h.Get("Content-Type"), out, status, body)
	}
	return out
}

// What the vendor's documentation prints, at both ends of each path.
func TestApperianSeed(t *testing.T) {
	at := time.Date(2019, 2, 20, 20, 45, 48, 213000000, time.UTC)
	c := facaded(t, "apperian", Options{HTTP: true, now: func() time.Time { return at }}, "app:"+app+"=/usr/bin/mail")
	out := c.xwant(200, "*", "GET", "/v2/policies/", "")
	for _, part := range []string{`{"policies":[{"display_name":`, `"created":"2026-11-30T00:00:00.000000+00:00","auth_optional":true,"display_description":`,
		`"is_dynamic":true,"supports_ios":true,"configurable_fields":null,"supports_android":true,"configurations":[],"id":"`, `"policy_id":"com.apperian.app-usage"}`} {
		if !strings.Contains(out, part) {
			t.Errorf("%s lacks %s", out, part)
		}
	}
	out = c.xwant(200, "*", "GET", "/v2/policies/com.apperian.open-webpage-url", "")
	const fields = `"configurable_fields":{"open_webpage_frequency":{"label":"Frequency","type":"text","default":"1","validation":{"type":"number","required":true,"min":1}},` +
		`"open_webpage_url":{"label":"Web Page URL","type":"text","default":"","validation":{"type":"url","required":true}}}`
	if !strings.HasPrefix(out, `{"policy":{"display_name":"Open Web Page"`) || !strings.Contains(out, fields) {
		t.Error(out)
	}
	var p struct{ Policy struct{ ID string } }
	if json.Unmarshal([]byte(out), &p) != nil || len(p.Policy.ID) != 22 || c.xwant(200, "*", "GET", "/v2/policies/"+p.Policy.ID+"/", "") != out {
		t.Error("not by its id")
	}

	// Presets; the documentation makes one with GET and a body.
	const preset = `{"enabled_by_default": true, "name": "Configuration2", "configuration": { "open_webpage_url": "https://www.google.com", "open_webpage_frequency": "1" }}`
	const conf = `"configuration":{"open_webpage_url":"https://www.google.com","open_webpage_frequency":"1"}`
	out = c.xwant(200, `{"configuration":{"name":"Configuration2","enabled_by_default":true,`+conf+`,"id":"ID","policy_id":"com.apperian.open-webpage-url"}}`, "GET",
		"/v2/policies/com.apperian.open-webpage-url/configurations/", preset)
	id := regexp.MustCompile(`"id":"([^"]*)"`).FindStringSubmatch(out)[1]
	const shown = `"created_time":"2019-02-20T20:45:48.213000+00:00",` + conf + `,"id":"ID","policy_id":"com.apperian.open-webpage-url"}`
	c.xwant(200, `{"configuration":{"name":"Configuration2","auth_required":true,"enabled_by_default":true,"is_a_preset":true,`+shown+`}`, "GET", "/v2/policies/configurations/"+id+"/", "")
	c.xwant(200, `{"configuration":{"name":"Configuration1","auth_required":true,"enabled_by_default":true,`+shown+`}`, "PUT", "/v2/policies/configurations/com.apperian.open-webpage-url/",
		strings.Replace(preset, "Configuration2", "Configuration1", 1))
	c.xwant(200, `{"configuration":{"name":"Configuration1","auth_required":true,"enabled_by_default":false,`+shown+`}`, "PUT", "/v2/policies/configurations/"+id, `{"enabled_by_default": false}`)
	if out := c.xwant(200, "*", "GET", "/v2/policies/com.apperian.open-webpage-url/", ""); !strings.Contains(out, `"configurations":[{"name":"Configuration1",`) || !strings.Contains(out, `"is_a_preset":true`) {
		t.Error(out)
	}
	c.xwant(200, "*", "POST", "/v2/policies/com.apperian.open-webpage-url/configurations", preset)
	c.xwant(400, `{"error":"com.apperian.open-webpage-url has 2 presets: say which one by its id"}`, "PUT", "/v2/policies/configurations/com.apperian.open-webpage-url/", preset)
	c.xwant(204, "", "DELETE", "/v2/policies/configurations/"+id+"/", "")
	c.xwant(404, "*", "GET", "/v2/policies/configurations/"+id, "")

	out = c.xwant(200, "*", "POST", "/v2/policies/com.apperian.app-usage/configurations", `{"name":"x"}`)
	id = regexp.MustCompile(`"id":"([^"]*)"`).FindStringSubmatch(out)[1]
	if out := c.xwant(200, "*", "PUT", "/v2/policies/configurations/"+id, `{"name":null}`); !strings.Contains(out, `"name":null`) {
		t.Error(out)
	}

	// An app.
	const path = "/v2/applications/" + app + "/policies"
	c.xwant(200, `{"status":{"code":0,"description":"NO POLICIES"},"previous_version_configurations":[],"configurations":[]}`, "GET", path+"/", "")
	const sent = `{"configurations":[{"policy_id":"com.apperian.app-usage"},{"policy_id":"com.apperian.collect-crash-reports"},
		{"policy_id":"com.apperian.access-control","configuration":{"access_date_range":{"start":"2017-11-16","end":"2017-11-21"}}}]}`
	const answered = `{"configurations":[{"id":"ID","policy_id":"com.apperian.app-usage"},{"id":"ID","policy_id":"com.apperian.collect-crash-reports","auth_required":true},` +
		`{"configuration":{"access_date_range":{"start":"11/16/2017","end":"11/21/2017"}},"id":"ID","policy_id":"com.apperian.access-control"}]}`
	c.xwant(202, answered, "POST", path, sent)
	c.xwant(200, answered, "POST", path+"/", sent)
	c.xwant(200, `{"status":{"code":1,"description":"POLICIES AND SIGNED"},"previous_version_configurations":[],"configurations":[`+
		`{"policy_id":"com.apperian.app-usage","configuration":null,"id":"ID","auth_required":true},{"policy_id":"com.apperian.collect-crash-reports","configuration":null,"id":"ID","auth_required":true},`+
		`{"policy_id":"com.apperian.access-control","configuration":{"access_date_range":{"start":"11/16/2017","end":"11/21/2017"}},"id":"ID","auth_required":true}]}`, "GET", path, "")
	for _, body := range []string{ // both forms of the documentation
		`{"configurations": [ { "name": "Configuration1", "auth_required": true, "enabled_by_default": true, "created_time": "2017-11-29T22:05:59.986464+00:00", "configuration": { "open_webpage_frequency": "4", "open_webpage_url": "http://www.google.com" }, "id": "h5hgeFbQQUYdoMpbLHCFeA", "policy_id": "com.apperian.open-webpage-url" }, {"policy_id": "com.apperian.app-usage"} ] }`,
		`{"configurations": [ {"policy_id": "com.apperian.open-webpage-url", "configuration": { "open_webpage_frequency": "4", "open_webpage_url": "http://www.google.com" }}, {"policy_id": "com.apperian.app-usage"} ] }`} {
		c.xwant(200, `{"configurations":[{"configuration":{"open_webpage_frequency":"4","open_webpage_url":"http://www.google.com"},"id":"ID","policy_id":"com.apperian.open-webpage-url","auth_required":true},`+
			`{"id":"ID","policy_id":"com.apperian.app-usage"}]}`, "POST", path, body)
	}
	c.xwant(200, `{"configurations":[]}`, "POST", path, `{"configurations":[]}`)
	if out := c.xwant(200, "*", "GET", path, ""); !strings.Contains(out, "open-webpage-url") {
		t.Error("an empty list does something")
	}
	// What is ignored is ignored, whatever it is; what has no counterpart stays as it was written beside days that are printed.
	if out := c.xwant(200, "*", "POST", path, `{"configurations":[{"policy_id":"com.apperian.access-control","id":7,"configuration":{"access_date_range":{"start":"2017-11-16","END":"2017-11-17","end":"2030-11-21","x":{"a":"<b>"}}}}]}`); !strings.Contains(out, `{"start":"11/16/2017","END":"2017-11-17","end":"11/21/2030","x":{"a":"<b>"}}`) {
		t.Error(out)
	}
	c.xwant(204, "", "DELETE", path, "")
	c.xwant(204, "", "DELETE", path, "")
	c.xwant(202, "*", "POST", path, sent)
	for _, path := range []string{"/v2/users/authenticate/", "/users/authenticate", "/v1/users/authenticate"} {
		if status, out, _ := c.ask("", "POST", path, `{"user_id":"ann@example.com","password":"`+c.reads+`"}`); status != 200 || out != `{"token":"`+c.reads+`"}` {
			t.Errorf("%d %s", status, out)
		}
	}
	if status, out, _ := c.ask("", "POST", "/v2/users/authenticate/", `{"user_id":"ann@example.com","password":"guess"}`); status != 401 || !strings.HasPrefix(out, `{"error":"`) {
		t.Errorf("%d %s", status, out)
	}
}

// What is applied to an app is a policy of ours, for whom it is assigned to here; what is removed is in force nowhere, and comes back when it is applied again.
func TestApperianLife(t *testing.T) {
	for name, database := range map[string]bool{"sqlite": false, "postgres": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := Options{HTTP: true}
			if database {
				o.Database = postgrestest.URL(t)
			}
			c := facaded(t, "apperian", o, "app:"+app+"=/usr/bin/mail", "app:"+app+"=/usr/lib/mail/mail")
			o.Facades = []Facade{{Vendor: "apperian", Listen: "127.0.0.1:0", FacadeOptions: api.FacadeOptions{Apps: map[string][]string{app: {"/usr/bin/mail"}}}}}
			o.FacadeReady = func(_, at string) { c.at = at }
			l := c.laptop("a")
			before := l.sync()
			const path = "/v2/applications/" + app + "/policies"
			c.xwant(202, "*", "POST", path, `{"configurations":[{"policy_id":"com.apperian.app-usage"},{"policy_id":"com.apperian.enterprise-sso"}]}`)
			var id string
			for _, p := range c.ok(200, "GET", "/policies", "")["data"].([]any) {
				if m := p.(map[string]any); m["source"] == "apperian:"+app {
					id = m["id"].(string)
				}
			}
			got := toJSON(c.ok(200, "GET", "/policies/"+id, ""))
			for _, part := range []string{"com.apperian.enterprise-sso", "no section for it yet", "assign it here"} {
				if !strings.Contains(got, part) {
					t.Errorf("%s lacks %s", got, part)
				}
			}
			c.ok(201, "POST", "/assignments", `{"policy_id":"`+id+`","target":{"platform":"linux"},"priority":10}`)
			if l.sync().ID != id {
				t.Error("it is not in force")
			}
			if status, _ := c.call(c.admin, "PUT", "/policies/"+id, `{"policy_data":{}}`); status != 409 {
				t.Errorf("%d", status)
			}
			// An app that the operator has taken out stays as it is, and can be removed.
			c.stop()
			c.serve(Options{HTTP: true, Facades: []Facade{{Vendor: "apperian", Listen: "127.0.0.1:0"}}, FacadeReady: func(_, at string) { c.at = at }, Database: o.Database})
			c.xwant(404, "*", "POST", path, `{"configurations":[{"policy_id":"com.apperian.app-usage"}]}`)
			if out := c.xwant(200, "*", "GET", path, ""); !strings.Contains(out, `"code":1`) {
				t.Error(out)
			}
			c.xwant(204, "", "DELETE", path, "")
			if got := toJSON(c.ok(200, "GET", "/policies/"+id, "")); !strings.Contains(got, `"active":false`) {
				t.Errorf("%s", got)
			}
			c.stop()
			c.serve(o)
			l = c.laptop("b")
			if l.sync().ID != before.ID {
				t.Error("what was removed is in force")
			}
			c.xwant(202, "*", "POST", path, `{"configurations":[{"policy_id":"com.apperian.app-usage"}]}`)
			if l.sync().ID != id {
				t.Error("what was applied again is not in force")
			}
		})
	}
}

func TestApperianRefuses(t *testing.T) {
	c := facaded(t, "apperian", Options{HTTP: true}, "app:"+app+"=/usr/bin/mail")
	const path = "/v2/applications/" + app + "/policies"
	for name, x := range map[string]struct {
		token, method, path, body string
		status                    int
		want                      string
	}{
		"no token":           {"", "GET", "/v2/policies", "", 401, `{"error":"`},
		"a wrong one":        {"yCczCnsNSJyW_3JyS6YwAQ", "GET", "/v2/policies", "", 401, `{"error":"`},
		"of the API":         {c.admin, "GET", "/v2/policies", "", 401, `--facade apperian`},
		"a user":             {c.reads, "GET", "/v2/policies", "", 200, `{"policies":[`},
		"a user, of an app":  {c.reads, "GET", path, "", 403, `{"error":"this needs the role admin`},
		"another app":        {c.full, "GET", "/v2/applications/other/policies", "", 404, `{"error":"there is no application`},
		"applied to another": {c.full, "POST", "/v2/applications/other/policies", `{"configurations":[{"policy_id":"com.apperian.app-usage"}]}`, 404, `app:ID=PATH`},
		"another policy":     {c.full, "GET", "/v2/policies/com.apperian.nothing/", "", 404, `there is no policy`},
		"applying another":   {c.full, "POST", path, `{"configurations":[{"policy_id":"com.apperian.nothing"}]}`, 400, `configurations[0].policy_id`},
		"twice":              {c.full, "POST", path, `{"configurations":[{"policy_id":"com.apperian.app-usage"},{"policy_id":"com.apperian.app-usage"}]}`, 400, `applied twice`},
		"a placeholder":      {c.full, "POST", path, `{"field1": "value1"}`, 400, `{"error":"configurations is required"}`},
		"cut":                {c.full, "POST", path, `{"configurations":[{"policy_id":"com.app`, 400, `{"error":"`},
		"a raw newline":      {c.full, "POST", path, "{\"configurations\":[{\"policy_id\":\"com.apperian\n.app-usage\"}]}", 400, `{"error":"`},
		"no range":           {c.full, "POST", path, `{"configurations":[{"policy_id":"com.apperian.access-control"}]}`, 400, `configurations[0].configuration is required`},
		"no day":             {c.full, "POST", path, `{"configurations":[{"policy_id":"com.apperian.access-control","configuration":{"access_date_range":{"start":"16.11.2017"}}}]}`, 400, `must be a day`},
		"the wrong way":      {c.full, "POST", path, `{"configurations":[{"policy_id":"com.apperian.access-control","configuration":{"access_date_range":{"start":"2017-11-16","end":"11/15/2017"}}}]}`, 400, `ends before it starts`},
		"never":              {c.full, "POST", path, `{"configurations":[{"policy_id":"com.apperian.open-webpage-url","configuration":{"open_webpage_frequency":"0","open_webpage_url":"https://x.example"}}]}`, 400, `from 1 on`},
		"no page":            {c.full, "POST", path, `{"configurations":[{"policy_id":"com.apperian.open-webpage-url","configuration":{"open_webpage_frequency":"1","open_webpage_url":"javascript:x"}}]}`, 400, `address of a web page`},
		"GET without a body": {c.full, "GET", "/v2/policies/com.apperian.app-usage/configurations/", "", 405, `{"error":"`},
		"GET by a user":      {c.reads, "GET", "/v2/policies/com.apperian.app-usage/configurations/", `{"name":"x"}`, 403, `needs the role admin`},
		"a preset's list":    {c.full, "POST", "/v2/policies/configurations/x", `{}`, 405, `{"error":"`},
		"below a policy":     {c.full, "GET", "/v2/policies/com.apperian.app-usage/x", "", 404, `no such resource`},
		"another case":       {c.full, "POST", path, `{"configurations":[{"policy_id":"com.apperian.app-usage","AUTH_required":true}]}`, 400, `{"error":"`},
		"HEAD with a body":   {c.full, "HEAD", "/v2/policies/com.apperian.app-usage/configurations/", `{"name":"x"}`, 405, ``},
		"DELETE by a policy": {c.full, "DELETE", "/v2/policies/configurations/com.apperian.app-usage/", "", 404, `there is no preset`},
		"a cut login":        {"", "POST", "/users/authenticate", `{"user_id":"x","pass`, 400, `not what this call takes`},
		"{} with a GET":      {c.full, "GET", "/v2/policies", `{}`, 200, `{"policies":[`},
		"no preset":          {c.full, "PUT", "/v2/policies/configurations/com.apperian.app-usage/", `{"name":"x"}`, 404, `there is no preset`},
		"an empty preset":    {c.full, "POST", "/v2/policies/com.apperian.app-usage/configurations/", `{"field1":"value1"}`, 400, `is required`},
		"too large":          {c.full, "POST", path, strings.Repeat(" ", 300<<10), 413, `{"error":"`},
		"method":             {c.full, "PATCH", path, "", 405, `{"error":"`},
		"other calls":        {c.full, "GET", "/v2/groups/", "", 404, `{"error":"`},
	} {
		headers := []string{}
		if x.token != "" {
			headers = []string{"X-TOKEN", x.token}
		}
		status, out, h := c.ask("", x.method, x.path, x.body, headers...)
		if status != x.status || !strings.Contains(out, x.want) || h.Get("Content-Type") != "application/json" {
			t.Errorf("%s: %d %s %s\nwant %d %s", name, status, h.Get("Content-Type"), out, x.status, x.want)
		}
	}
}
