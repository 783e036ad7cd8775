package server

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/sync/server/store/postgrestest"
)

// console is a façade as a client of the vendor's sees it.
type console struct {
	*rig
	at          string
	full, reads string // tokens
}

func facaded(t *testing.T, vendor string, o Options, more ...string) *console {
	t.Helper()
	f, err := ParseFacade(vendor + "=127.0.0.1:0" + strings.Join(append([]string{""}, more...), ","))
	if err != nil {
		t.Fatal(err)
	}
	c := &console{}
	o.Facades, o.FacadeReady = []Facade{f}, func(_, at string) { c.at = at }
	c.rig = start(t, o)
	now := time.Now()
	if o.now != nil {
		now = o.now()
	}
	keys := mustKeys(t, c.dir)
	c.full, _ = keys.token("ann@example.com", "admin", vendor, time.Hour, now)
	c.reads, _ = keys.token("vic@example.com", "viewer", vendor, time.Hour, now)
	return c
}

// ask is one call; headers come in pairs.
func (c *console) ask(token, method, path, body string, headers ...string) (int, string, http.Header) {
	c.t.Helper()
	q, _ := http.NewRequest(method, c.at+path, strings.NewReader(body))
	if token != "" {
		q.Header.Set("Authorization", "Bearer "+token)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		q.Header.Set(headers[i], headers[i+1])
	}
	client := *c.http()
	client.CheckRedirect = func(q *http.Request, _ []*http.Request) error { return http.ErrUseLastResponse }
	res, err := client.Do(q)
	if err != nil {
		c.t.Fatal(err)
	}
	defer res.Body.Close()
	b, _ := io.ReadAll(res.Body)
	return res.StatusCode, string(b), res.Header
}

// want is a call with an answer that is known.
func (c *console) want(status int, body, method, path, send string) {
	c.t.Helper()
	if got, out, _ := c.ask(c.full, method, path, send); got != status || body != "*" && out != body {
		c.t.Errorf("%s %s: %d %s\nwant %d %s", method, path, got, out, status, body)
	}
}

// The seed's policy is answered as it is printed there, at both ends of the path.
func TestWSO2Seed(t *testing.T) {
	sample, err := os.ReadFile("../dialect/wso2/testdata/sample.json")
	if err != nil {
		t.Fatal(err)
	}
	sample = bytes.TrimSpace(sample)
	at := time.Date(2016, 2, 25, 12, 0, 18, 0, time.UTC)
	c := facaded(t, "wso2", Options{HTTP: true, now: func() time.Time { return at }})
	c.want(200, `{"statusCode":201,"messageFromServer":"Policy has been added successfully."}`, "POST", "/mdm-admin/policies/inactive-policy", string(sample))
	for _, path := range []string{"/mdm-admin/policies/1", "/mdm-admin/policies/1/"} {
		status, out, h := c.ask(c.reads, "GET", path, "", "Content-Type", "application/json")
		if status != 200 || out != string(sample) || h.Get("Content-Type") != "application/json" {
			t.Errorf("%s: %d %s %v", path, status, out, h)
		}
	}
	c.want(200, "["+string(sample)+"]", "GET", "/mdm-admin/policies", "")
	c.want(200, `{"statusCode":200,"messageFromServer":"Sending all retrieved device policies.","responseContent":`+string(sample)+`}`, "GET", "/mdm-admin/policies/1?envelope=true", "")
	c.want(200, `{"statusCode":404,"messageFromServer":"Policy for ID 2 not found."}`, "GET", "/mdm-admin/policies/2?envelope=true", "")
	c.want(404, `{"statusCode":404,"messageFromServer":"Policy for ID 2 not found."}`, "GET", "/mdm-admin/policies/2", "")
	c.want(200, "1", "GET", "/mdm-admin/policies/count", "")
	newer := strings.NewReplacer(`{"id":1,"name":"android"}`, `"android"`, `"deviceTypeId":1`, `"deviceType":"android"`, "Feb 25, 2016 12:00:18 PM", "Thu, 25 Feb 2016 12:00:18 +0000").
		Replace(string(sample))
	c.want(200, newer, "GET", "/api/device-mgt/v1.0/policies/1", "")
	c.want(200, `{"policies":[],"count":1}`, "GET", "/api/device-mgt/v1.0/policies", "")
	c.want(200, `{"policies":[`+newer+`],"count":1}`, "GET", "/api/device-mgt/v1.0/policies?offset=0&limit=100", "")
	c.want(400, `{"code":400,"message":"Request parameter limit should be less than or equal to 100."}`, "GET", "/api/device-mgt/v1.0/policies?limit=101", "")
}

// media is a policy about sticks, as a console of each kind sends it.
func media(compliance, more string) string {
	return `{"policyName":"Sticks","description":"","compliance":"` + compliance + `","ownershipType":"ANY","active":true,"profile":{"profileName":"Sticks","deviceType":"linux",` +
		`"profileFeaturesList":[{"featureCode":"DISALLOW_MOUNT_PHYSICAL_MEDIA","deviceType":"linux","content":{"enabled":true}}` + more + `]},"roles":["ANY"],"users":[]}`
}

// A policy that is written there reaches devices when changes are applied, in each mode, and how they comply comes back.
func TestWSO2Life(t *testing.T) {
	either := func(f func(*testing.T, Options)) {
		t.Run("sqlite", func(t *testing.T) { t.Parallel(); f(t, Options{HTTP: true}) })
		t.Run("postgres", func(t *testing.T) { t.Parallel(); f(t, Options{HTTP: true, Database: postgrestest.URL(t)}) })
	}
	either(func(t *testing.T, o Options) {
		c := facaded(t, "wso2", o)
		l := c.laptop("a")
		before := l.sync()
		const base = "/api/device-mgt/v1.0/policies"
		status, out, h := c.ask(c.full, "POST", base, media("enforce", ""))
		if status != 201 || !strings.HasSuffix(h.Get("Location"), base+"/1") || !strings.Contains(out, `"content":"{\"enabled\":true}"`) {
			t.Fatalf("%d %s", status, out)
		}
		device := l.out.DeviceID
		at := func(path string) (int, string) {
			status, out, _ := c.ask(c.reads, "GET", strings.ReplaceAll(path, "ID", device), "")
			return status, out
		}
		if got := l.sync(); got.ID != before.ID {
			t.Error("a policy is in force before changes were applied")
		}
		if status, out := at("/api/device-mgt/v1.0/devices/linux/ID/effective-policy"); status != 200 || out != "null" {
			t.Errorf("%d %s", status, out)
		}
		if status, out := at(base + "/effective-policy/linux/ID"); status != 404 || out != `{"message":"No policy found for device ID '`+device+`'`+device+`"}` {
			t.Errorf("%d %s", status, out)
		}
		if status, out := at("/mdm-admin/policies/linux/ID/active-policy"); status != 204 || out != "" {
			t.Errorf("%d %s", status, out)
		}
		for i, mode := range []string{"enforce", "warn", "monitor"} {
			if i > 0 {
				c.want(200, `"Policy has successfully been updated."`, "PUT", base+"/1", media(mode, ""))
				if l.sync(); strings.Contains(l.rules, `"compliance":"`+mode) {
					t.Errorf("%s before changes were applied: %s", mode, l.rules)
				}
			}
			c.want(200, `"Changes have been successfully updated."`, "PUT", base+"/apply-changes", "")
			if got := l.sync(); got.Version != i+1 || !strings.Contains(l.rules, `"external_storage_allowed":false`) || !strings.Contains(l.rules, `"compliance":"`+mode+`"`) {
				t.Errorf("%s: %+v %s", mode, got, l.rules)
			}
			if status, out := at(base + "/effective-policy/linux/ID/"); status != 200 || !strings.Contains(out, `"compliance":"`+mode+`"`) || !strings.Contains(out, `"updated":false`) {
				t.Errorf("%d %s", status, out)
			}
		}
		data := func() string {
			l.sync()
			_, out := at("/api/device-mgt/v1.0/devices/linux/ID/compliance-data")
			return out
		}
		says := func(of enforce.Setting, compliance enforce.Compliance, reason string) {
			list := []enforce.Finding{{Setting: of, Mode: enforce.Monitor, Compliance: compliance, Enforcement: enforce.Observed, Reason: reason}}
			l.rep.Findings, l.rep.FindingsDigest = &list, string(compliance)+reason
		}
		if out := data(); !strings.Contains(out, `"status":false`) || !strings.Contains(out, "DISALLOW_MOUNT_PHYSICAL_MEDIA") {
			t.Errorf("what is not known is compliant: %s", out)
		}
		says("storage.external_storage_allowed", enforce.Compliant, "")
		if out := data(); !strings.Contains(out, `"complianceFeatures":[],"status":true`) || !strings.HasPrefix(out, `{"deviceID":"`+device+`"`) || !strings.Contains(out, `"policyId":1`) {
			t.Errorf("%s", out)
		}
		says("storage.external_storage_allowed", enforce.Noncompliant, "mmcblk0 can be opened")
		if out := data(); !strings.Contains(out, `{"featureCode":"DISALLOW_MOUNT_PHYSICAL_MEDIA","compliance":false,"message":"storage.external_storage_allowed: noncompliant: mmcblk0 can be opened"}`) ||
			!strings.Contains(out, `"lastFailedTime"`) {
			t.Errorf("%s", out)
		}
		says("usb.allowed", enforce.Compliant, "")
		if out := data(); !strings.Contains(out, `external_storage_allowed: not reported`) {
			t.Errorf("%s", out)
		}
		if _, out := at("/mdm-admin/policies/linux/ID"); !strings.HasPrefix(out, `{"id":`) || !strings.Contains(out, `"complianceFeatures"`) {
			t.Errorf("%s", out)
		}
		if _, out := at("/api/device-mgt/v1.0/devices/windows/ID/compliance-data"); out != `{"deviceID":"`+device+`"}` {
			t.Errorf("of another type: %s", out)
		}
		for path, want := range map[string]int{"linux/ID": 200, "windows/ID": 204, "linux/nobody": 204} {
			if status, out := at("/api/device-mgt/v1.0/devices/" + path + "/status"); status != want || out != "" {
				t.Errorf("%s: %d %s", path, status, out)
			}
		}

		// It is a policy of ours, which is changed there alone, and says what it was made of.
		id := l.rep.Policy.ID
		got := c.ok(200, "GET", "/policies/"+id, "")
		if got["source"] != "wso2:1" || got["version"] != 3.0 {
			t.Errorf("%v", got)
		}
		for path, body := range map[string]string{"/policies/" + id: `{"policy_data":{}}`, "/policies/" + id + "/rollouts": `{"policy":{"policy_data":{}},"stages":[{"percent":100}]}`} {
			method := map[bool]string{true: "POST", false: "PUT"}[strings.HasSuffix(path, "rollouts")]
			if status, out := c.call(c.admin, method, path, body); status != 409 || !strings.Contains(toJSON(out), "foreign_source") {
				t.Errorf("%s: %d %v", path, status, out)
			}
		}
		c.ok(200, "POST", "/policies/"+id+"/whatif", `{"policy_data":{}}`)
		c.ok(200, "POST", "/policies/"+id+"/whatif", toJSON(c.ok(200, "GET", "/policies/"+id, ""))) // as it was read

		// What no laptop can do is said: to those who write it, and of each device.
		c.want(200, "*", "PUT", base+"/1", media("enforce", `,{"featureCode":"CAMERA","deviceType":"linux","content":{"enabled":false}},{"featureCode":"NFC_OFF","content":"{\"enabled\":true}"}`))
		c.want(200, "*", "PUT", base+"/apply-changes", "")
		says("storage.external_storage_allowed", enforce.Compliant, "again")
		if out := data(); !strings.Contains(out, `{"featureCode":"CAMERA","compliance":false,"message":"CAMERA: no section for it yet (device.camera_allowed)"}`) || !strings.Contains(out, `"featureCode":"NFC_OFF","compliance":false`) ||
			strings.Contains(out, "PHYSICAL_MEDIA") {
			t.Errorf("%s", out)
		}
		if got := toJSON(c.ok(200, "GET", "/policies/"+id, "")); !strings.Contains(got, `"source_report":{"unsupported":[`) || !strings.Contains(got, "NFC_OFF") {
			t.Errorf("%s", got)
		}

		// The first of two by priority; a type that nobody has mapped, a role, and what is removed.
		c.want(201, "*", "POST", base, strings.Replace(media("enforce", ""), `"Sticks","description"`, `"Second","description"`, 1))
		c.want(200, "*", "PUT", base+"/apply-changes", "")
		if l.sync().ID != id {
			t.Error("the second policy comes first")
		}
		c.want(200, `"Policy Priorities successfully updated."`, "PUT", base+"/priorities", `[{"id":1,"priority":2},{"id":2,"priority":1}]`)
		if l.sync().ID != id {
			t.Error("priorities are in force before changes were applied")
		}
		c.want(200, "*", "PUT", base+"/apply-changes", "")
		second := l.sync().ID
		if second == id {
			t.Error("the priorities are not in force")
		}
		c.want(200, "*", "PUT", base+"/2", strings.Replace(media("enforce", ""), `["ANY"]`, `["Internal/Sales"]`, 1))
		c.want(200, "*", "PUT", base+"/apply-changes", "")
		if l.sync().ID != id {
			t.Error("it is for another role")
		}
		c.ok(200, "PATCH", "/devices/"+device, `{"tags":["role:internal_2f_sales"]}`)
		if l.sync().ID != second {
			t.Error("it is for the device's role")
		}
		c.want(200, `"Selected policies have been successfully deactivated"`, "POST", base+"/deactivate-policy", "[2]")
		c.want(200, "*", "PUT", base+"/apply-changes", "")
		if l.sync().ID != id {
			t.Error("what is not active is in force")
		}
		c.want(404, `{"message":"Selected policies have not been activated"}`, "POST", base+"/activate-policy", "[7]")
		c.want(400, `{"message":"Policies with the policy ID 7 doesn't exist"}`, "POST", base+"/remove-policy", "[1,7]")
		c.want(200, `"Policies have been successfully deleted"`, "POST", base+"/remove-policy", "[1]")
		if l.sync().ID != before.ID {
			t.Error("what was removed is in force")
		}
		c.want(404, `{"message":"No policy found with the id '1'"}`, "GET", base+"/1", "")
		c.want(201, "*", "POST", base, media("enforce", ""))
		c.want(200, "*", "GET", base+"/3", "") // a number is not given twice
		c.want(200, "*", "PUT", base+"/3", strings.ReplaceAll(media("enforce", ""), `"linux"`, `"android"`))
		c.want(200, "*", "PUT", base+"/apply-changes", "")
		if l.sync().ID != before.ID {
			t.Error("a type of device that nobody has mapped")
		}
		// Who deletes it here has deleted it there; no policy is left that nobody can take away.
		c.want(200, "*", "PUT", base+"/3", media("enforce", ""))
		c.want(200, "*", "PUT", base+"/apply-changes", "")
		third := l.sync().ID
		if third == before.ID {
			t.Fatal("the third policy is not in force")
		}
		if status, out := c.call(c.admin, "PUT", "/policies/default", `{"policy_id":"`+third+`"}`); status != 409 || !strings.Contains(toJSON(out), "foreign_source") {
			t.Errorf("%d %v", status, out)
		}
		c.ok(200, "DELETE", "/policies/"+third, "")
		for range 2 {
			c.want(200, "*", "PUT", base+"/apply-changes", "")
		}
		if list := toJSON(c.ok(200, "GET", "/policies", "")); l.sync().ID != before.ID || strings.Contains(list, "wso2:3") {
			t.Errorf("%s", list)
		}
		c.want(404, "*", "GET", base+"/3", "")
		c.want(200, "*", "GET", base+"?limit=100", "")

		// An assignment that was made here stays, whatever is applied there; equal priorities are in the order of their numbers.
		c.want(201, "*", "POST", base, strings.Replace(media("monitor", ""), `["ANY"]`, `["nobody"]`, 1))
		c.want(201, "*", "POST", base, media("warn", ""))
		c.want(200, "*", "PUT", base+"/priorities", `[{"id":4,"priority":5000},{"id":5,"priority":5000}]`)
		c.want(200, "*", "PUT", base+"/apply-changes", "")
		fifth := l.sync().ID
		var fourth string
		for _, p := range c.ok(200, "GET", "/policies", "")["data"].([]any) {
			if m := p.(map[string]any); m["source"] == "wso2:4" {
				fourth = m["id"].(string)
			}
		}
		c.ok(201, "POST", "/assignments", `{"policy_id":"`+fourth+`","target":{"platform":"linux"},"priority":1000}`)
		if l.sync().ID != fourth {
			t.Error("an assignment of ours")
		}
		c.want(200, "*", "PUT", base+"/4", strings.Replace(media("monitor", `,{"featureCode":"CAMERA","deviceType":"linux","content":{"enabled":true}}`), `["ANY"]`, `["others"]`, 1))
		c.want(200, "*", "PUT", base+"/apply-changes", "")
		if l.sync().ID != fourth {
			t.Error("an assignment of ours is gone")
		}
		c.want(200, "*", "POST", base+"/remove-policy", "[4]")
		if l.sync().ID != fifth {
			t.Error("the fifth is in force again")
		}

		// What was reported of the version before says nothing of this one; what is not printed again is named, too.
		says("storage.external_storage_allowed", enforce.Compliant, "v1")
		if out := data(); !strings.Contains(out, `"status":true`) {
			t.Errorf("%s", out)
		}
		c.want(200, "*", "PUT", base+"/5", strings.Replace(media("warn", `,{"featureCode":"ENCRYPT_STORAGE","content":{"encrypted":true}},{"featureCode":"CAMERA","deviceType":"linux","content":{},"correctiveActions":[{"a":1}]}`), `"roles"`, `"geofence":5,"roles"`, 1))
		c.want(200, "*", "PUT", base+"/apply-changes", "")
		if _, out := at("/api/device-mgt/v1.0/devices/linux/ID/compliance-data"); !strings.Contains(out, `"status":false`) || !strings.Contains(out, "has not reported this version") {
			t.Errorf("%s", out)
		}
		if got := toJSON(c.ok(200, "GET", "/policies/"+fifth, "")["source_report"]); !strings.Contains(got, "geofence") || !strings.Contains(got, "correctiveActions") {
			t.Errorf("%s", got)
		}
		c.want(200, "*", "PUT", base+"/5", strings.Replace(media("warn", ""), `["ANY"]`, `["a\nb"]`, 1))
		c.want(200, "*", "PUT", base+"/apply-changes", "")
		if l.sync().ID != before.ID {
			t.Error("a name that is nobody's")
		}
		// What is said twice of a feature is named.
		c.want(200, "*", "PUT", base+"/5", strings.Replace(media("warn", ""), `"content":`, `"payLoad":{"enabled":false},"content":`, 1))
		c.want(200, "*", "PUT", base+"/apply-changes", "")
		if got := toJSON(c.ok(200, "GET", "/policies/"+fifth, "")["source_report"]); !strings.Contains(got, "payLoad") {
			t.Errorf("%s", got)
		}
		// One tag for two names; payLoad instead of content; the façade's own groups are changed there alone.
		c.want(200, "*", "PUT", base+"/5", strings.Replace(strings.Replace(media("warn", ""), `["ANY"]`, `["Ops","Sales"]`, 1), `"content":`, `"content":"","payLoad":`, 1))
		c.want(200, "*", "PUT", base+"/apply-changes", "")
		groups := func() (ids []string, all string) {
			list := c.ok(200, "GET", "/assignments", "")
			for _, x := range list["data"].([]any) {
				if id := x.(map[string]any)["id"].(string); strings.HasPrefix(id, "vendor-") {
					ids = append(ids, id)
				}
			}
			return ids, toJSON(list)
		}
		if ids, all := groups(); len(ids) != 2 || !strings.Contains(all, "role:ops") {
			t.Errorf("%s", all)
		}
		c.want(200, "*", "PUT", base+"/5", strings.Replace(strings.Replace(media("warn", ""), `["ANY"]`, `["sales","Sales"]`, 1), `"content":`, `"payLoad":null,"content":`, 1))
		c.want(200, "*", "PUT", base+"/apply-changes", "")
		ids, all := groups()
		if len(ids) != 1 || strings.Contains(all, "role:ops") {
			t.Fatalf("%s", all)
		}
		if status, out := c.call(c.admin, "DELETE", "/assignments/"+ids[0], ""); status != 409 || !strings.Contains(toJSON(out), "foreign_source") {
			t.Errorf("%d %v", status, out)
		}
		c.ok(200, "PATCH", "/devices/"+device, `{"tags":["role:sales"]}`)
		if l.sync().ID != fifth || !strings.Contains(l.rules, `"external_storage_allowed":false`) {
			t.Errorf("%s", l.rules)
		}
		says("storage.external_storage_allowed", enforce.Compliant, "payload")
		if out := data(); !strings.Contains(out, `"status":true`) {
			t.Errorf("%s", out)
		}
		audit := toJSON(c.ok(200, "GET", "/audit?actor=ann@example.com&page_size=100", ""))
		for _, part := range []string{"vendor.written", "wso2:2", "vendor.deleted", "policy.created", "storage.external_storage_allowed"} {
			if !strings.Contains(audit, part) {
				t.Errorf("the audit log lacks %s", part)
			}
		}
	})
}

func toJSON(v any) string {
	b, _ := json.Marshal(v)
	return string(b)
}

// Each refusal is in the words of what was called, and changes nothing.
func TestWSO2Refuses(t *testing.T) {
	c := facaded(t, "wso2", Options{HTTP: true}, "android:linux", "envelope")
	const v1, old = "/api/device-mgt/v1.0/policies", "/mdm-admin/policies"
	for name, x := range map[string]struct {
		token, method, path, body, accept string
		status                            int
		kind, want                        string
	}{
		"no token":               {"", "GET", v1, "", "application/json", 401, "application/json", `{"fault":{"code":900902,"message":"Missing Credentials"`},
		"no token, XML":          {"", "GET", v1, "", "", 401, "application/xml", `<ams:fault xmlns:ams="http://wso2.org/apimanager/security"><ams:code>900902</ams:code>`},
		"a wrong one":            {"x.y.z", "GET", v1, "", "application/json", 401, "application/json", `{"fault":{"code":900901,"message":"Invalid Credentials"`},
		"of the API":             {c.admin, "GET", v1, "", "application/json", 401, "application/json", `--facade wso2`},
		"old":                    {"x.y.z", "GET", old, "", "", 401, "application/xml", "the token is not one"},
		"old, no token":          {"", "GET", old, "", "", 401, "application/xml", "Failed to load an appropriate authenticator to authenticate the request"},
		"a name in another case": {c.full, "POST", v1, strings.Replace(media("enforce", ""), `"users":[]`, `"Roles":["x"]`, 1), "", 400, "application/json", `400_Roles`},
		"two lists":              {c.full, "POST", v1 + "/remove-policy", `[1] [2]`, "", 400, "application/json", `Malformed`},
		"an offset":              {c.full, "GET", v1 + "?offset=-1", "", "", 400, "application/json", `{"code":400,"message":"Request parameter offset is s negative value."}`},
		"who may only read":      {c.reads, "POST", v1, media("enforce", ""), "application/json", 403, "application/json", `"code":900910`},
		"old, who may only read": {c.reads, "POST", old + "/active-policy", media("enforce", ""), "", 403, "application/json", `{"errorMessage":"this needs the role admin`},
		"too large":              {c.full, "POST", v1, strings.Repeat(" ", 300<<10), "", 413, "application/json", `{"code":413,"message":"Request Entity Too Large"`},
		"a placeholder":          {c.full, "POST", v1, `{"field1": "value1"}`, "", 400, "application/json", `"errorItems":[{"code":"400_policyName","message":"policyName: size must be between 1 and 45"}]`},
		"old, a placeholder":     {c.full, "POST", old + "/active-policy", `{"field1": "value1"}`, "", 400, "application/json", `{"errorMessage":"policyName: size must`},
		"cut":                    {c.full, "POST", v1, media("enforce", "")[:200], "", 400, "application/json", `{"code":400,"message":"Bad Request","description":"Malformed request body.","moreInfo":"","errorItems":[]}`},
		"empty":                  {c.full, "POST", v1, "", "", 400, "application/json", `Policy is empty.`},
		"null":                   {c.full, "POST", v1, "null", "", 400, "application/json", `"code":400`},
		"a list":                 {c.full, "POST", v1, "[]", "", 400, "application/json", `"code":400`},
		"no features":            {c.full, "POST", v1, `{"policyName":"x","profile":{"deviceType":"linux","profileFeaturesList":[]}}`, "", 400, "application/json", `400_profile.profileFeaturesList`},
		"no code":                {c.full, "POST", v1, `{"policyName":"x","profile":{"deviceType":"linux","profileFeaturesList":[{"content":{}}]}}`, "", 400, "application/json", `profileFeaturesList[0].featureCode`},
		"ownership":              {c.full, "POST", v1, `{"policyName":"x","ownershipType":"MINE","profile":{"deviceType":"linux","profileFeaturesList":[{"featureCode":"X"}]}}`, "", 400, "application/json", `400_ownershipType`},
		"no ids":                 {c.full, "POST", v1 + "/remove-policy", `[]`, "", 400, "application/json", `Policy Id list is empty.`},
		"ids that are none":      {c.full, "POST", v1 + "/remove-policy", `["x"]`, "", 400, "application/json", `Malformed`},
		"unknown":                {c.full, "GET", "/api/device-mgt/v1.0/nothing", "", "", 404, "application/json", `{"code":404`},
		"unclean":                {c.full, "GET", "//api/device-mgt/v1.0/policies", "", "", 404, "application/json", `{"code":404`},
		"method":                 {c.full, "DELETE", v1 + "/1", "", "", 405, "application/json", `{"code":405`},
		"of this server":         {c.full, "GET", "/api/v1/policies", "", "", 404, "application/json", `{"code":404`},
		"an id that is none":     {c.full, "GET", v1 + "/one", "", "", 404, "application/json", `{"message":"No policy found with the id 'one'"}`},
		"one too large":          {c.full, "GET", v1 + "/99999999999999999999", "", "", 404, "application/json", `No policy found`},
		"priorities":             {c.full, "PUT", v1 + "/priorities", `[{"id":7,"priority":1}]`, "", 404, "application/json", `{"code":400,"message":"Policy priorities did not update. Bad Request."}`},
	} {
		headers := []string{}
		if x.accept != "" {
			headers = []string{"Accept", x.accept}
		}
		status, out, h := c.ask(x.token, x.method, x.path, x.body, headers...)
		if status != x.status || !strings.Contains(out, x.want) || !strings.HasPrefix(h.Get("Content-Type"), x.kind) {
			t.Errorf("%s: %d %s %s\nwant %d %s %s", name, status, h.Get("Content-Type"), out, x.status, x.kind, x.want)
		}
	}
	c.want(200, `{"statusCode":200,"messageFromServer":"Sending all retrieved device policies.","responseContent":[]}`, "GET", old, "")
	// A token for this façade opens nothing else.
	if status, out := c.call(c.full, "GET", "/policies", ""); status != 401 || !strings.Contains(toJSON(out), "alone") {
		t.Errorf("%d %v", status, out)
	}
	// Guessing is slow, and whoever has a token is not delayed.
	limited := false
	for range 40 {
		status, out, h := c.ask("x.y.z", "GET", v1, "", "Accept", "application/json")
		if status == 429 {
			limited = true
			if !strings.Contains(out, `{"fault":{"code":900800,"message":"Message throttled out"`) || h.Get("Retry-After") == "" {
				t.Errorf("%s %v", out, h)
			}
		}
	}
	if !limited {
		t.Error("guessing is not slowed down")
	}
	c.want(200, "*", "GET", v1, "")
}

// The password, a client's secret and the access token are one token of ours.
func TestWSO2Login(t *testing.T) {
	c := facaded(t, "wso2", Options{HTTP: true})
	form := []string{"Content-Type", "application/x-www-form-urlencoded"}
	get := func(status int, path, body string, headers ...string) map[string]any {
		t.Helper()
		got, out, h := c.ask("", "POST", path, body, headers...)
		var m map[string]any
		if json.Unmarshal([]byte(out), &m) != nil || got != status || h.Get("Content-Type") != "application/json" {
			t.Fatalf("%s: %d %s %s", path, got, h.Get("Content-Type"), out)
		}
		return m
	}
	m := get(200, "/oauth2/token", "grant_type=password&username=admin&password="+c.reads+"&scope=perm:policies:get-details", form...)
	if m["access_token"] != c.reads || m["refresh_token"] != c.reads || m["token_type"] != "Bearer" || m["scope"] != "perm:policies:get-details" || m["expires_in"].(float64) < 3000 {
		t.Errorf("%v", m)
	}
	if m := get(200, "/oauth2/token", "grant_type=refresh_token&refresh_token="+c.full, form...); m["access_token"] != c.full {
		t.Errorf("%v", m)
	}
	basic := func(user, password string) string {
		q, _ := http.NewRequest("GET", "/", nil)
		q.SetBasicAuth(user, password)
		return q.Header.Get("Authorization")
	}
	m = get(201, "/api-application-registration/register", `{"applicationName":"script","tags":["device_management"],"isAllowedToAllDomains":false}`, "Authorization", basic("admin", c.full))
	if m["client_secret"] != c.full || m["client_id"] != "warder_admin_script" {
		t.Errorf("%v", m)
	}
	m = get(200, "/oauth2/token/", "grant_type=client_credentials", append(form, "Authorization", basic(m["client_id"].(string), m["client_secret"].(string)))...)
	if m["access_token"] != c.full || m["refresh_token"] != nil {
		t.Errorf("%v", m)
	}
	if m := get(201, "/dynamic-client-web/register", `{"clientName":"device","owner":"admin","grantType":"password","callbackUrl":"www.example.com","saasApp":"true"}`); m["client_name"] != "admin_device" {
		t.Errorf("%v", m)
	}
	if status, _, _ := c.ask("", "POST", "/oauth2/token?password="+c.full, "grant_type=password", form...); status != 400 {
		t.Errorf("a token in an address: %d", status)
	}
	for body, want := range map[string]string{"grant_type=password&username=a&password=guess": `Provided Authorization Grant is invalid invalid_grant`,
		"grant_type=magic": "Unsupported grant_type value unsupported_grant_type", "": "Missing parameters: grant_type invalid_request",
		"grant_type=password&password=" + c.admin: "Provided Authorization Grant is invalid invalid_grant"} {
		m := get(400, "/oauth2/token", body, form...)
		if got := m["error_description"].(string) + " " + m["error"].(string); got != want {
			t.Errorf("%s: %s", body, got)
		}
	}
	if m := get(401, "/oauth2/token", "grant_type=client_credentials", append(form, "Authorization", basic("a", "guess"))...); m["error"] != "invalid_client" {
		t.Errorf("%v", m)
	}
	if status, out, _ := c.ask("", "POST", "/api-application-registration/register", `{"applicationName":"x","tags":["a"]}`, "Authorization", basic("a", "b")); status/100 != 4 || strings.Contains(out, "client_secret") {
		t.Errorf("%d %s", status, out)
	}
}

func TestParseFacade(t *testing.T) {
	for s, want := range map[string]string{"wso2": "VENDOR=ADDRESS", "acme=:1": "one of", "wso2=9443": "host:port", "wso2=:9443,android:solaris": "android:solaris",
		"wso2=:9443,": `received ""`, "wso2=:9443,:linux": ":linux",
		"apperian=:1,app:x=/": "app:x=/", "apperian=:1,app:x=/a/../b": "app:x", "apperian=:1,app:x=a": "app:x", "apperian=:1,app:x=/a,app:x=/a": "app:x", "manageengine=:1,app:x=/a": "app:x", "manageengine=:1,android:linux": "android"} {
		if _, err := ParseFacade(s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", s, err)
		}
	}
	f, err := ParseFacade("wso2=[::1]:9443,Android:linux,android:windows,whole,envelope")
	if err != nil || len(f.Types["android"]) != 2 || !f.Whole || !f.Enveloped {
		t.Errorf("%+v %v", f, err)
	}
}
