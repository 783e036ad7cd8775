package server

import (
	"bytes"
	"encoding/json"
	"mime/multipart"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/warderd/warder/sync/server/store/postgrestest"
)

const mocanaBase = "/mocana-app-control/rest"

// parts is a body as curl -F sends it; a value that begins with @ is a file's.
func parts(t *testing.T, pairs ...string) (body, kind string) {
	t.Helper()
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	for i := 0; i+1 < len(pairs); i += 2 {
		text, file := strings.CutPrefix(pairs[i+1], "@")
		var err error
		if file {
			p, perr := w.CreateFormFile(pairs[i], "profile.json")
			if err = perr; err == nil {
				_, err = p.Write([]byte(text))
			}
		} else {
			err = w.WriteField(pairs[i], text)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	_ = w.Close()
	return b.String(), w.FormDataContentType()
}

// guids and stamps are what is different each time.
var (
	guids  = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`)
	stamps = regexp.MustCompile(`\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.0`)
)

// rest is one call with a session.
func (c *console) rest(token, method, path, body, kind string) (int, string, http.Header) {
	c.t.Helper()
	headers := []string{"Content-Type", kind}
	if token != "" {
		headers = append(headers, "Cookie", "JSESSIONID="+token)
	}
	return c.ask("", method, mocanaBase+path, body, headers...)
}

func (c *console) restWant(status int, want, method, path string, pairs ...string) string {
	c.t.Helper()
	body, kind := "", "application/x-www-form-urlencoded"
	if len(pairs) > 0 {
		body, kind = parts(c.t.(*testing.T), pairs...)
	}
	got, out, h := c.rest(c.full, method, path, body, kind)
	plain := stamps.ReplaceAllString(guids.ReplaceAllString(strings.ReplaceAll(out, c.at[len("http://"):], "HOST"), "GUID"), "STAMP")
	if got != status || want != "*" && plain != want || h.Get("Content-Type") != "application/json" {
		c.t.Errorf("%s %s: %d %s %s\nwant %d %s", method, path, got, h.Get("Content-Type"), plain, status, want)
	}
	return out
}

const rules = `{"clientCertsUrlMatchingRules":[{"host":"*.acme.com","port":"","action":"useEnrollmentCertificate"}]}`

// What the vendor's documentation prints, and both ends of each path.
func TestMocanaSeed(t *testing.T) {
	c := facaded(t, "mocana", Options{HTTP: true}, "app:mail=/usr/bin/mail")
	const url = "https://HOST/mocana-app-control/rest/"
	profile := func(kind, desc, data string) string {
		q, _ := json.Marshal(data)
		return `{"message":"","profiles":{"data":{"profile_data":` + strings.NewReplacer(`\u003c`, "<", `\u003e`, ">", `\u0026`, "&").Replace(string(q)) + `,"profile_data_id":"GUID","profile_data_stamp":"STAMP"},"profile_desc":"` + desc + `","profile_id":"GUID","profile_name":"TestProfile","profile_type":"` + kind + `","profile_url":"` + url + `profile/GUID"},"status":"OK"}`
	}
	out := c.restWant(200, profile("client_certs", "Default Profile", rules), "POST", "/profile", "name", "TestProfile", "type", "client_certs", "desc", "Default Profile", "data", rules)
	id := guids.FindAllString(out, -1)[1]
	dataID := guids.FindString(out)
	c.restWant(200, profile("client_certs", "Default Profile", rules), "GET", "/profile/"+id+"/")
	// As a file, and as a form.
	c.restWant(200, profile("data_sharing", "", `{"copyBlocked":"1"}`), "POST", "/profile/", "name", "TestProfile", "type", "data_sharing", "data", "@{ \"copyBlocked\": \"1\" }\n")
	if status, out, _ := c.rest(c.full, "POST", "/profile", "name=Encoded&type=dar&data="+"%7B%22darEnabled%22%3A%221%22%7D", "application/x-www-form-urlencoded"); status != 200 || !strings.Contains(out, `"profile_name":"Encoded"`) {
		t.Errorf("%d %s", status, out)
	}
	if out := c.restWant(200, "*", "GET", "/profile/catalog"); strings.Count(out, `"profile_type"`) != 3 || !strings.HasPrefix(out, `{"message":"","profiles":[{"data":`) {
		t.Error(out)
	}
	if out := c.restWant(200, "*", "GET", "/profile/catalog/client_certs/"); strings.Count(out, `"profile_type"`) != 1 {
		t.Error(out)
	}
	// Changed: other data with an id of its own; what was there can be read by its id.
	c.restWant(200, profile("client_certs", "Default Profile", `{"clientCertsUrlMatchingRules":[]}`), "POST", "/profile/"+id, "data", `{"clientCertsUrlMatchingRules":[]}`)
	c.restWant(200, profile("client_certs", "Default Profile", rules), "GET", "/profile/data/"+dataID)
	// Deleted: only the data can be read.
	c.restWant(200, `{"message":"","status":"OK"}`, "DELETE", "/profile/"+id)
	c.restWant(404, `{"message":"there is no profile \"GUID\"","status":"Error"}`, "GET", "/profile/"+id)
	c.restWant(200, profile("client_certs", "Default Profile", rules), "GET", "/profile/data/"+dataID+"/")
	if out := c.restWant(200, "*", "GET", "/profile/catalog"); strings.Contains(out, id) {
		t.Error(out)
	}

	// A browser's: the data is an object, and has the ids that the console makes.
	const site = `{"title":"Dev Team","sites":[{"name":"Wiki","url":"https://wiki.example/?a=1&b=<2>"}]}`
	out = c.restWant(200, `{"message":"","profiles":{"data":{"title":"Dev Team","sites":[{"name":"Wiki","url":"https://wiki.example/?a=1&b=<2>","icon_id":"","id":"GUID"}]},"profile_desc":"","profile_id":"GUID","profile_name":"B","profile_type":"browser","profile_url":"`+url+`profile/mocana-browser/GUID"},"status":"OK"}`,
		"POST", "/profile/mocana-browser/new", "profileName", "B", "profileDesc", "", "browser_profile_data", site)
	b := guids.FindAllString(out, -1)[1]
	if again := c.restWant(200, "*", "GET", "/profile/mocana-browser/"+b+"/"); again != out {
		t.Error(again)
	}
	if out := c.restWant(200, "*", "POST", "/profile/mocana-browser/"+b, "browser_profile_data", `{"title":"New","sites":[{"name":"Wiki","url":"https://wiki.example/","id":"mine","icon_id":"3b"}]}`); !strings.Contains(out, `"id":"mine","icon_id":"3b"`) {
		t.Error(out)
	}
	c.restWant(400, `{"message":"type browser has a call of its own, profile/mocana-browser/new","status":"Error"}`, "POST", "/profile", "name", "x", "type", "browser", "data", "{}")

	c.restWant(400, `{"message":"type browser has a call of its own, profile/mocana-browser/{GUID}","status":"Error"}`, "POST", "/profile/"+b, "data", `{"title":"x"}`)

	// A VPN's: the answer has no status, as there; to edit, all is given again.
	tunnel := []string{"profileName", "TestProfile psk", "profileDesc", "", "vpnServerAddr", "172.16.31.2", "vpnPsk", "psk", "vpnAuthMethod", "key"}
	out = c.restWant(200, `{"app_policy":{"profile_id":"GUID"},"message":""}`, "POST", "/app-policy/vpn-profile", append([]string{"profileId", ""}, tunnel...)...)
	v := guids.FindString(out)
	c.restWant(200, `{"app_policy":{"profile_id":"GUID"},"message":""}`, "POST", "/app-policy/vpn-profile/", "profileId", v, "profileName", "TestProfile psk", "vpnServerAddr", "172.16.31.3", "vpnAuthMethod", "key")
	c.restWant(200, "*", "POST", "/profile/"+v, "desc", "one", "data", `{"vpnServerAddr":"a","vpnPsk":"secret"}`)
	if out := c.restWant(200, "*", "POST", "/profile/"+v, "desc", ""); !strings.Contains(out, `"profile_desc":""`) || !strings.Contains(out, "secret") {
		t.Error(out)
	}
	if _, out, _ := c.rest(c.reads, "GET", "/profile/"+v, "", ""); strings.Contains(out, "secret") || !strings.Contains(out, `vpnPsk`) {
		t.Error(out)
	}
	c.restWant(200, `{"app_policy":{"profile_id":"GUID"},"message":""}`, "POST", "/app-policy/vpn-profile/", "profileId", v, "profileName", "TestProfile psk", "vpnServerAddr", "172.16.31.3", "vpnAuthMethod", "key")
	if out := c.restWant(200, "*", "GET", "/profile/"+v); !strings.Contains(out, `172.16.31.3`) || strings.Contains(out, "vpnPsk") {
		t.Error(out)
	}
}

// Logging in: the session is the token.
func TestMocanaLogin(t *testing.T) {
	c := facaded(t, "mocana", Options{HTTP: true})
	const check = "/user/ping/j_security_check"
	status, out, h := c.rest("", "POST", check, url.Values{"j_username": {"email01@qwe.com"}, "j_password": {c.reads}}.Encode(), "application/x-www-form-urlencoded")
	if status != 200 || !strings.HasPrefix(out, `{"message":"","status":"OK","user":[{"email":"vic@example.com","first_name":"","id":"`) {
		t.Errorf("%d %s", status, out)
	}
	cookie := h.Get("Set-Cookie")
	if !strings.HasPrefix(cookie, "JSESSIONID="+c.reads+"; Path=/mocana-app-control/rest; Expires=") || !strings.Contains(cookie, "HttpOnly; SameSite=Strict") {
		t.Error(cookie)
	}
	if status, out, _ := c.rest(c.reads, "GET", "/user/ping", "", ""); status != 200 || !strings.Contains(out, `"ua_admin":"0"`) {
		t.Errorf("%d %s", status, out)
	}
	if status, out, h := c.rest("", "GET", "/user/ping", "", ""); status != 401 || !strings.HasPrefix(out, "<!DOCTYPE html>") || h.Get("Content-Type") != "text/html;charset=UTF-8" || strings.Contains(out, "Bearer") {
		t.Errorf("%d %s", status, out)
	}
	if status, out, _ := c.ask("", "POST", mocanaBase+"/profile", "name=x&type=dar&data={}", "Cookie", "JSESSIONID="+c.full, "Content-Type", "application/x-www-form-urlencoded", "Origin", "https://evil.example.com"); status != 403 || !strings.Contains(out, `"status":"Error"`) {
		t.Errorf("%d %s", status, out)
	}
	body, kind := parts(t, "j_username", "a", "j_password", c.full)
	if status, out, _ := c.rest("", "POST", check, body, kind); status != 200 || !strings.Contains(out, `"ua_admin":"1"`) {
		t.Errorf("%d %s", status, out)
	}
	if status, _, _ := c.rest("", "POST", check+"?j_password="+c.full, "j_username=a", "application/x-www-form-urlencoded"); status != 401 {
		t.Errorf("a token in an address: %d", status)
	}
	if status, out, _ := c.rest("", "POST", check, "j_username=a&j_password=guess", "application/x-www-form-urlencoded"); status != 401 || !strings.Contains(out, `"status":"Error"`) {
		t.Errorf("%d %s", status, out)
	}
}

// An app is secured with profiles as they are then; that stays, also when they are changed and deleted, until it is secured anew.
func TestMocanaLife(t *testing.T) {
	for name, database := range map[string]bool{"sqlite": false, "postgres": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := Options{HTTP: true}
			if database {
				o.Database = postgrestest.URL(t)
			}
			c := facaded(t, "mocana", o, "app:mail=/usr/bin/mail", "whole")
			l := c.laptop("a")
			before := l.sync()
			id := guids.FindAllString(c.restWant(200, "*", "POST", "/profile", "name", "P", "type", "data_sharing", "data", `{"privacyScreen":"1","dragBlocked":"1"}`), -1)[1]
			c.restWant(400, `{"message":"data_sharing_profile_id is required: there is no such profile that is active, and no default of this type","status":"Error"}`, "POST", "/app-market/policy",
				"appID", "mail", "policyCodes[]", "POLICY_CODE_DATA_SHARING")
			c.restWant(404, "*", "POST", "/app-market/policy", "appID", "other", "policyCodes[]", "POLICY_CODE_DATA_SHARING")
			if list := toJSON(c.ok(200, "GET", "/policies", "")); strings.Contains(list, "mocana") {
				t.Error("a profile is in force by itself")
			}
			c.restWant(200, "*", "POST", "/app-market/policy", "appID", "mail", "policyCodes[]", "POLICY_CODE_MAP_NEXT", "policyCodes[]", "POLICY_CODE_DATA_SHARING", "data_sharing_profile_id", id)
			var policy string
			for _, p := range c.ok(200, "GET", "/policies", "")["data"].([]any) {
				if m := p.(map[string]any); m["source"] == "mocana:mail" {
					policy = m["id"].(string)
				}
			}
			c.ok(201, "POST", "/assignments", `{"policy_id":"`+policy+`","target":{},"priority":10}`)
			if l.sync().ID != policy || !strings.Contains(l.rules, `"screenshot_allowed":false`) {
				t.Errorf("%s", l.rules)
			}
			got := toJSON(c.ok(200, "GET", "/policies/"+policy, ""))
			for _, part := range []string{"dragBlocked", "POLICY_CODE_MAP_NEXT", "assign it here"} {
				if !strings.Contains(got, part) {
					t.Errorf("%s lacks %s", got, part)
				}
			}
			c.restWant(200, "*", "POST", "/profile/"+id, "data", `{"privacyScreen":"0"}`)
			if l.sync(); !strings.Contains(l.rules, `"screenshot_allowed":false`) {
				t.Error("a change reaches an app that was not secured anew")
			}
			out := c.restWant(200, "*", "GET", "/app-market/mail/")
			data := regexp.MustCompile(`"policy_profile_data":"([^"]*)"`).FindStringSubmatch(out)
			if !strings.Contains(out, `"policy_code":"POLICY_CODE_DATA_SHARING","policy_data":"{\"data_sharing_profile_id\":\"`+id+`\"}"`) || data == nil {
				t.Fatal(out)
			}
			c.restWant(200, "*", "DELETE", "/profile/"+id)
			if l.sync(); l.rep.Policy.ID != policy || !strings.Contains(l.rules, `"screenshot_allowed":false`) {
				t.Error("what was archived is not in force any more")
			}
			if out := c.restWant(200, "*", "GET", "/profile/data/"+data[1]); !strings.Contains(out, `{\"privacyScreen\":\"1\",\"dragBlocked\":\"1\"}`) {
				t.Error(out)
			}
			c.restWant(400, "*", "POST", "/app-market/policy", "appID", "mail", "policyCodes[]", "POLICY_CODE_DATA_SHARING", "data_sharing_profile_id", id)
			// The default of a type is taken where no profile is named.
			next := guids.FindAllString(c.restWant(200, "*", "POST", "/profile", "name", "P", "type", "data_sharing", "data", `{"privacyScreen":"0"}`), -1)[1]
			c.restWant(200, `{"message":"","settings":[{"code":"OPT_CODE_DATA_SHARING_DEFAULT_PROFILE","string_data":"GUID"}],"status":"OK"}`, "POST", "/settings/data-sharing-default-profile", "profile_id", next)
			if l.sync(); !strings.Contains(l.rules, `"screenshot_allowed":false`) {
				t.Error("a default secures an app by itself")
			}
			if out := c.restWant(200, "*", "GET", "/settings/data_sharing-default-profile/"); !strings.Contains(out, next) {
				t.Error(out)
			}
			c.restWant(200, "*", "POST", "/app-market/policy", "appID", "mail", "policyCodes[]", "POLICY_CODE_DATA_SHARING")
			if l.sync(); strings.Contains(l.rules, `"screenshot_allowed":false`) {
				t.Errorf("%s", l.rules)
			}
			// One of several is taken off, by its code or its id, and the others stay; inline data can be read by its id.
			out = c.restWant(200, "*", "POST", "/app-market/policy", "appID", "mail", "policyCodes[]", "POLICY_CODE_DATA_SHARING", "policyCodes[]", "POLICY_CODE_DAR", "dar_profile_data", `{"darEnabled":"1"}`, "data_sharing_profile_data", `{"privacyScreen":"1"}`)
			inline := regexp.MustCompile(`"policy_profile_data":"([^"]*)"`).FindAllStringSubmatch(out, -1)
			if len(inline) != 2 || strings.Contains(out, "data_sharing_profile_id") {
				t.Fatal(out)
			}
			for _, m := range inline {
				c.restWant(200, "*", "GET", "/profile/data/"+m[1])
			}
			c.restWant(200, `{"message":"","status":"OK"}`, "DELETE", "/app-market/policy/mail", "policyCodes[]", "POLICY_CODE_DAR")
			if l.sync(); !strings.Contains(l.rules, `"screenshot_allowed":false`) || strings.Contains(l.rules, "encryption") {
				t.Errorf("%s", l.rules)
			}
			c.restWant(200, `{"message":"","status":"OK"}`, "DELETE", "/app-market/policy/mail")
			if l.sync().ID != before.ID {
				t.Error("what was taken off is in force")
			}
		})
	}
}

func TestMocanaRefuses(t *testing.T) {
	c := facaded(t, "mocana", Options{HTTP: true}, "app:mail=/usr/bin/mail")
	c.restWant(200, "*", "POST", "/profile", "name", "taken", "type", "dar", "data", "{}")
	for name, x := range map[string]struct {
		token, method, path string
		pairs               []string
		status              int
		want                string
	}{
		"a wrong session":    {"x.y.z", "GET", "/profile/catalog", nil, 401, "<!DOCTYPE html>"},
		"of the API":         {c.admin, "GET", "/profile/catalog", nil, 401, "<!DOCTYPE html>"},
		"who may only read":  {c.reads, "POST", "/profile", []string{"name", "x", "type", "dar", "data", "{}"}, 403, `"status":"Error"`},
		"cut":                {c.full, "POST", "/profile", []string{"name", "x", "type", "client_certs", "data", `{"clientCertsUrlMatchingRules":[`}, 400, `{"message":"data must be an object in JSON","status":"Error"}`},
		"no data":            {c.full, "POST", "/profile", []string{"name", "x", "type", "dar"}, 400, `data is required`},
		"a placeholder":      {c.full, "POST", "/profile", []string{"field1", "value1"}, 400, `data is required`},
		"a list":             {c.full, "POST", "/profile", []string{"name", "x", "type", "dar", "data", "[]"}, 400, `must be an object`},
		"no name":            {c.full, "POST", "/profile", []string{"type", "dar", "data", "{}"}, 400, `name must`},
		"twice":              {c.full, "POST", "/profile", []string{"name", "x", "name", "y", "type", "dar", "data", "{}"}, 400, `comes twice`},
		"a name again":       {c.full, "POST", "/profile", []string{"name", "taken", "type", "dar", "data", "{}"}, 409, `there is a profile`},
		"too large":          {c.full, "POST", "/profile", []string{"name", "x", "type", "dar", "data", strings.Repeat(" ", 300<<10)}, 413, `"status":"Error"`},
		"no profile":         {c.full, "GET", "/profile/nothing", nil, 404, `there is no profile`},
		"no app":             {c.full, "GET", "/app-market/other", nil, 404, `app:ID=PATH`},
		"no policy":          {c.full, "POST", "/app-market/policy", []string{"appID", "mail", "policyCodes[]", "POLICY_CODE_NOTHING"}, 400, `is no policy`},
		"no server":          {c.full, "POST", "/app-policy/vpn-profile", []string{"profileName", "x"}, 400, `vpnServerAddr is required`},
		"a field for naught": {c.full, "POST", "/app-market/policy", []string{"appID", "mail", "policyCodes[]", "POLICY_CODE_MAP_NEXT", "data_sharing_profile_id", "x"}, 400, `is of no policy that is named here`},
		"taken off, unknown": {c.full, "DELETE", "/app-market/policy/mail", []string{"policyCode", "POLICY_CODE_DAR"}, 400, `is not what this call takes`},
		"taken off, no code": {c.full, "DELETE", "/app-market/policy/mail", []string{"policyCodes[]", "POLICY_CODE_NONE"}, 400, `is no policy`},
		"not UTF-8":          {c.full, "POST", "/profile", []string{"name", "a\xff", "type", "dar", "data", "{}"}, 400, `UTF-8`},
		"no setting":         {c.full, "GET", "/settings/nothing", nil, 404, `"status":"Error"`},
		"method":             {c.full, "PATCH", "/profile", nil, 405, `"status":"Error"`},
	} {
		body, kind := "", ""
		if x.pairs != nil {
			body, kind = parts(t, x.pairs...)
		}
		if status, out, _ := c.rest(x.token, x.method, x.path, body, kind); status != x.status || !strings.Contains(out, x.want) {
			t.Errorf("%s: %d %s\nwant %d %s", name, status, out, x.status, x.want)
		}
	}
	if status, out, _ := c.rest(c.full, "POST", "/profile", "--x\r\nnonsense", "multipart/form-data; boundary=x"); status != 400 || !strings.Contains(out, "cannot be read") {
		t.Errorf("%d %s", status, out)
	}
}
