package server

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/sync/protocol"
	"github.com/warderd/warder/sync/server/api"
	"github.com/warderd/warder/sync/server/fleet"
)

// example is one request of the Policies API's documentation, unchanged, with its documented answer.
// testdata/policies-api.json has them all.
type example struct {
	Name    string
	Method  string
	Path    string
	Headers map[string]string
	Body    json.RawMessage
	Status  int
	Answer  json.RawMessage
	Exact   bool // the answer is identical
}

func examples(t *testing.T) (list []example) {
	t.Helper()
	b, err := os.ReadFile("testdata/policies-api.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &list); err != nil {
		t.Fatal(err)
	}
	if len(list) < 15 {
		t.Fatalf("only %d examples", len(list))
	}
	return list
}

// TestExamples sends every example verbatim, except host and token, and compares the answers with the documented ones:
// the same fields with the same types, and equal where nothing may differ. Both are checked against the OpenAPI
// document.
func TestExamples(t *testing.T) {
	r := start(t, Options{HTTP: true})
	seedPolicies(t, r)
	schemas := openAPI(t)
	for _, x := range examples(t) {
		t.Run(x.Name, func(t *testing.T) {
			req, _ := http.NewRequest(x.Method, r.url+x.Path, bytes.NewReader(x.Body))
			for k, v := range x.Headers {
				req.Header.Set(k, v)
			}
			req.Header.Set("Authorization", "Bearer "+r.admin)
			res, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			var got, want any
			if err := json.NewDecoder(res.Body).Decode(&got); err != nil {
				t.Fatal(err)
			}
			if res.StatusCode != x.Status {
				t.Fatalf("%d %v, want %d", res.StatusCode, got, x.Status)
			}
			if len(x.Answer) > 0 {
				if err := json.Unmarshal(x.Answer, &want); err != nil {
					t.Fatal(err)
				}
				for _, d := range differs("", want, got, x.Exact) {
					t.Error(d)
				}
			}
			schemas.check(t, x.Method, x.Path, x.Status, x.Body, want)
			schemas.check(t, x.Method, x.Path, x.Status, x.Body, got)
		})
	}
}

// seedPolicies makes the policies and the device that the examples name.
func seedPolicies(t *testing.T, r *rig) {
	t.Helper()
	s, err := OpenStore(context.Background(), r.dir, "", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, id := range []string{"policy-123", "policy-456", "policy-789", "550e8400-e29b-41d4-a716-446655440000"} {
		p := &fleet.Policy{ID: id, Organization: "org-123", Name: "Engineering Team Policy",
			Description: "Security policy for engineering devices", Active: true, Version: 1,
			Data: json.RawMessage(`{"dlp":{"clipboard_sharing":true},"usb":{"allowed":true}}`), CreatedAt: time.Now(),
			UpdatedAt: time.Now()}
		d, err := policy.Decode(p.Document(), policy.Options{Strict: true})
		if err != nil {
			t.Fatal(err)
		}
		p.Digest = d.Digest
		if err := s.PutPolicy(context.Background(), p, 0, policy.Diff(nil, d)); err != nil {
			t.Fatal(err)
		}
	}
	l := r.laptop("John's Laptop")
	r.ok(200, "PUT", "/devices/"+l.out.DeviceID+"/policy", `{"policy_id":"policy-456"}`)
	l.sync()
}

// differs names the fields of want that got lacks or has with another type; exact compares values.
func differs(at string, want, got any, exact bool) (out []string) {
	switch w := want.(type) {
	case map[string]any:
		g, ok := got.(map[string]any)
		if !ok {
			return []string{fmt.Sprintf("%s is %T, want an object", at, got)}
		}
		names := make([]string, 0, len(w))
		for n := range w {
			names = append(names, n)
		}
		sort.Strings(names)
		for _, n := range names {
			if _, ok := g[n]; !ok {
				out = append(out, fmt.Sprintf("%s.%s is missing", at, n))
				continue
			}
			if n == "policy_data" && !exact {
				continue // its content is the caller's
			}
			out = append(out, differs(at+"."+n, w[n], g[n], exact)...)
		}
		if exact && len(g) != len(w) {
			out = append(out, fmt.Sprintf("%s has %d fields, want %d: %v", at, len(g), len(w), g))
		}
	case []any:
		g, ok := got.([]any)
		if !ok {
			return []string{fmt.Sprintf("%s is %T, want a list", at, got)}
		}
		if len(w) > 0 && len(g) == 0 {
			return []string{at + " is empty"}
		}
		for i := range w {
			if i < len(g) {
				out = append(out, differs(fmt.Sprintf("%s[%d]", at, i), w[i], g[i], exact)...)
			}
		}
	case string:
		g, ok := got.(string)
		if !ok {
			return []string{fmt.Sprintf("%s is %T, want a text", at, got)}
		}
		if _, err := time.Parse("2006-01-02T15:04:05Z", w); err == nil {
			if _, err := time.Parse("2006-01-02T15:04:05Z", g); err != nil {
				out = append(out, fmt.Sprintf("%s is %q, want a time in UTC to the second", at, g))
			}
		}
		if exact && g != w {
			out = append(out, fmt.Sprintf("%s is %q, want %q", at, g, w))
		}
	default:
		if fmt.Sprintf("%T", want) != fmt.Sprintf("%T", got) || exact && want != got {
			out = append(out, fmt.Sprintf("%s is %v (%T), want %v", at, got, got, want))
		}
	}
	return out
}

// document is the OpenAPI document with its schemas compiled by an independent library.
type document struct {
	raw map[string]any
	c   *jsonschema.Compiler
}

func openAPI(t *testing.T) *document {
	t.Helper()
	b, err := api.Describe("test").MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	d := &document{raw: v.(map[string]any), c: jsonschema.NewCompiler()}
	d.c.AssertFormat()
	if err := d.c.AddResource("https://warder.invalid/openapi.json", v); err != nil {
		t.Fatal(err)
	}
	return d
}

// find returns the operation of a request, with the path template that matches best.
func (d *document) find(method, path string) (string, map[string]any) {
	path, _, _ = strings.Cut(path, "?")
	have := strings.Split(path, "/")
	best, score := "", -1
	for p := range d.raw["paths"].(map[string]any) {
		parts := strings.Split(p, "/")
		if len(parts) != len(have) {
			continue
		}
		n := 0
		for i := range parts {
			switch {
			case parts[i] == have[i]:
				n++
			case !strings.HasPrefix(parts[i], "{"):
				n = -1000
			}
		}
		if n > score {
			best, score = p, n
		}
	}
	if score < 0 {
		return "", nil
	}
	op, _ := d.raw["paths"].(map[string]any)[best].(map[string]any)[strings.ToLower(method)].(map[string]any)
	return best, op
}

func (d *document) check(t *testing.T, method, path string, status int, body json.RawMessage, answer any) {
	t.Helper()
	at, op := d.find(method, path)
	if op == nil {
		t.Errorf("%s %s is not in the document", method, path)
		return
	}
	base := "https://warder.invalid/openapi.json#/paths/" + strings.NewReplacer("~", "~0", "/", "~1", "{", "%7B", "}", "%7D").Replace(at) +
		"/" + strings.ToLower(method)
	if len(body) > 0 && status != 400 {
		s, err := d.c.Compile(base + "/requestBody/content/application~1json/schema")
		if err != nil {
			t.Fatal(err)
		}
		v, _ := jsonschema.UnmarshalJSON(bytes.NewReader(body))
		if err := s.Validate(v); err != nil {
			t.Errorf("the body: %v", err)
		}
	}
	if answer == nil {
		return
	}
	code := fmt.Sprint(status)
	if _, ok := op["responses"].(map[string]any)[code]; !ok {
		code = "default"
	}
	s, err := d.c.Compile(base + "/responses/" + code + "/content/application~1json/schema")
	if err != nil {
		t.Fatal(err)
	}
	b, _ := json.Marshal(answer)
	v, _ := jsonschema.UnmarshalJSON(bytes.NewReader(b))
	if err := s.Validate(v); err != nil {
		t.Errorf("the answer: %v", err)
	}
}

// The schema of policy_data names exactly the settings that the decoder knows.
func TestSchemaKnowsTheSettings(t *testing.T) {
	b, _ := api.Describe("test").MarshalJSON()
	var doc struct {
		Components struct {
			Schemas map[string]struct {
				Properties map[string]struct {
					Properties map[string]struct {
						Properties map[string]any `json:"properties"`
					} `json:"properties"`
				} `json:"properties"`
			} `json:"schemas"`
		} `json:"components"`
	}
	if err := json.Unmarshal(b, &doc); err != nil {
		t.Fatal(err)
	}
	var have, want []string
	for section, s := range doc.Components.Schemas["PolicyView"].Properties["policy_data"].Properties {
		for name := range s.Properties {
			have = append(have, section+"."+name)
		}
	}
	for _, n := range policy.Names() {
		want = append(want, string(n))
	}
	sort.Strings(have)
	sort.Strings(want)
	if strings.Join(have, " ") != strings.Join(want, " ") {
		t.Errorf("documented: %v\ndecoded: %v", have, want)
	}
}

// Every answer of the server fits the document, errors too.
func TestAnswersFitTheDocument(t *testing.T) {
	r := start(t, Options{HTTP: true})
	schemas := openAPI(t)
	l := r.laptop("l")
	l.sync()
	facts := protocol.FactsOf(&fact.Machine{USB: fact.Is([]fact.USB{{Path: "1-1", Interfaces: []fact.Interface{{Class: 8}}}}),
		Controllers: fact.Is([]string{"usb1"}), Inputs: fact.Unread[fact.Inputs]("no"),
		Capable: map[string]fact.Capability{"usb.allowed": {Level: fact.Enforced}}})
	facts.Health, facts.Codes = []string{"x"}, []string{"clock-wrong"}
	l.rep.Device, l.rep.DeviceDigest = &facts, "f"
	l.rep.Events = []enforce.Event{{Seq: 1, At: time.Now(), Kind: enforce.Denied, Setting: "usb.allowed", Mode: enforce.Enforce,
		Subject: "s", Section: "usb", Verdict: enforce.Verdict{WouldMode: enforce.Enforce}}}
	l.sync()
	l.says("noncompliant")
	dev := "/devices/" + l.out.DeviceID
	id := r.policy("p", `"compliance":"warn","section_compliance":{"usb":"monitor"},"policy_data":{"usb":{"allowed":true}}`)
	as := r.ok(201, "POST", "/assignments", `{"policy_id":"`+id+`","target":{"tag":"x"},"priority":1}`)["id"].(string)
	ex := r.ok(201, "POST", dev+"/exceptions", `{"usb":"0951:1666","minutes":5,"reason":"x"}`)["id"].(string)
	ro := r.ok(201, "POST", "/policies/"+id+"/rollouts",
		`{"policy":{"policy_data":{"usb":{"allowed":false}}},"stages":[{"percent":10,"wait_minutes":60},{"percent":100}],`+
			`"window":{"from":"08:00","to":"18:00","days":["mon"]}}`)["id"].(string)
	en := r.ok(201, "POST", "/enrollments", `{"uses":3,"hours":5,"note":"n","tags":["a"]}`)["id"].(string)
	for _, c := range []struct{ method, path, body string }{
		{"GET", "/policies", ""}, {"GET", "/policies/" + id, ""}, {"GET", "/policies/default", ""}, {"GET", "/policies/templates", ""},
		{"GET", "/templates/template-strict", ""},
		{"GET", "/policies/" + id + "/devices", ""}, {"GET", "/policies/" + id + "/history", ""},
		{"GET", "/policies/" + id + "/versions/1", ""}, {"GET", "/policies/" + id + "/compliance", ""},
		{"POST", "/policies/" + id + "/whatif", `{"policy_data":{"usb":{"allowed":false}}}`}, {"GET", "/policies/" + id + "/rollouts", ""},
		{"GET", "/rollouts/" + ro, ""},
		{"POST", "/rollouts/" + ro + "/pause", ""}, {"POST", "/rollouts/" + ro + "/resume", ""},
		{"POST", "/rollouts/" + ro + "/finish", ""}, {"POST", "/rollouts/" + ro + "/stop", ""},
		{"GET", "/assignments", ""}, {"DELETE", "/assignments/" + as, ""}, {"GET", "/devices", ""}, {"GET", dev, ""},
		{"PATCH", dev, `{"tags":["a"]}`}, {"GET", dev + "/events", ""},
		{"GET", dev + "/exceptions", ""}, {"DELETE", dev + "/exceptions/" + ex, ""}, {"GET", dev + "/diagnostics", ""},
		{"POST", dev + "/diagnostics", ""}, {"PUT", dev + "/policy", `{"policy_id":"` + id + `"}`},
		{"GET", "/enrollments", ""}, {"DELETE", "/enrollments/" + en, ""}, {"GET", "/compliance", ""}, {"GET", "/audit", ""},
		{"GET", "/latency", ""}, {"GET", "/policies/none", ""},
		{"POST", "/policies", `{"policy_data":{"usb":{"x":1}}}`}, {"DELETE", "/policies/" + id, ""}, {"DELETE", dev, ""},
		{"DELETE", "/policies/policy-default", ""},
	} {
		st, out := r.call(r.admin, c.method, c.path, c.body)
		if st >= 500 || st == 401 {
			t.Errorf("%s %s: %d %v", c.method, c.path, st, out)
		}
		body := json.RawMessage(c.body)
		if st >= 400 {
			body = nil
		}
		schemas.check(t, c.method, "/api/v1"+c.path, st, body, out)
	}
}

// TestDocumentedExamples: every operation with a body has an example, in the document and on its page, and a real
// server accepts it.
func TestDocumentedExamples(t *testing.T) {
	r := start(t, Options{HTTP: true})
	schemas := openAPI(t)
	l := r.laptop("laptop")
	id := r.policy("p", `"compliance":"monitor","policy_data":{"usb":{"allowed":true}}`)
	as := r.ok(201, "POST", "/assignments", `{"policy_id":"`+id+`","target":{"tag":"x"},"priority":1}`)["id"].(string)
	page := html.UnescapeString(readURL(t, r, "/docs"))
	var doc struct {
		Paths map[string]map[string]struct {
			RequestBody *struct {
				Content map[string]struct{ Example json.RawMessage }
			} `json:"requestBody"`
			Security []map[string]any
		}
	}
	if err := json.Unmarshal([]byte(readURL(t, r, "/openapi.json")), &doc); err != nil {
		t.Fatal(err)
	}
	n := 0
	// In order, so that a policy's rollouts come after the policy itself: it cannot be replaced while a rollout is under way.
	for _, path := range slices.Sorted(maps.Keys(doc.Paths)) {
		for _, method := range slices.Sorted(maps.Keys(doc.Paths[path])) {
			op := doc.Paths[path][method]
			if op.RequestBody == nil {
				continue
			}
			method = strings.ToUpper(method)
			if text, is := op.RequestBody.Content["text/plain"]; is {
				if len(text.Example) == 0 {
					t.Errorf("%s %s has no example", method, path)
				}
				continue // TestNameLists
			}
			example := op.RequestBody.Content["application/json"].Example
			if example == nil {
				t.Errorf("%s %s has no example", method, path)
				continue
			}
			if _, of := op.Security[0]["administrator"]; !of {
				continue // signed by a device
			}
			n++
			at := strings.TrimPrefix(path, "/api/v1")
			for from, to := range map[string]string{"/devices/{id}": "/devices/" + l.out.DeviceID, "/policies/{id}": "/policies/" + id,
				"/assignments/{id}": "/assignments/" + as} {
				at = strings.Replace(at, from, to, 1)
			}
			if !strings.Contains(page, "warder-server api "+method+" ") || !strings.Contains(page, "curl --cacert") {
				t.Errorf("the page has no example of %s %s", method, path)
			}
			st, out := r.call(r.admin, method, at, string(example))
			if st/100 != 2 {
				t.Errorf("%s %s: the example is answered %d %v", method, at, st, out)
			}
			schemas.check(t, method, "/api/v1"+at, st, example, out)
		}
	}
	if n < 12 {
		t.Errorf("only %d examples were tried", n)
	}
}

func readURL(t *testing.T, r *rig, path string) string {
	t.Helper()
	res, err := r.http().Get(r.url + path)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != 200 {
		t.Fatalf("%s: %d %v", path, res.StatusCode, err)
	}
	return string(b)
}
