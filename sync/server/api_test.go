package server

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/sync/checkin"
	"github.com/warderd/warder/sync/protocol"
	"github.com/warderd/warder/sync/server/store/postgrestest"
)

func TestMain(m *testing.M) {
	if served() {
		return
	}
	os.Exit(postgrestest.Main(m))
}

// both runs a test on a server with SQLite and on one with PostgreSQL.
func both(t *testing.T, f func(t *testing.T, r *rig)) {
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		f(t, start(t, Options{HTTP: true}))
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		f(t, start(t, Options{HTTP: true, Database: postgrestest.URL(t)}))
	})
}

// laptop is an enrolled device with what its agent would remember.
type laptop struct {
	r     *rig
	c     *checkin.Client
	out   protocol.EnrollResponse
	rep   protocol.Report
	last  protocol.Answer
	keys  []jose.JSONWebKey
	rules string
}

func (r *rig) laptop(name string) *laptop {
	c, out := r.device(name, "machine of "+name)
	keys, err := protocol.ParseKeys(out.PolicyKeys)
	if err != nil {
		r.t.Fatal(err)
	}
	l := &laptop{r: r, c: c, out: out, keys: keys}
	l.rep = protocol.Report{Epoch: "e", Agent: protocol.Agent{Machine: "machine of " + name, StartedAt: time.Unix(1_770_000_000, 0).UTC()},
		Pinned: protocol.KeysDigest(keys)}
	l.rep.Policy.State = "none"
	return l
}

// sync checks in until it has what it should have.
func (l *laptop) sync() protocol.PolicyState {
	l.r.t.Helper()
	for range 3 {
		a, err := l.c.Exchange(context.Background(), l.rep)
		if err != nil {
			l.r.t.Fatal(err)
		}
		l.last = a
		l.rep.Device, l.rep.Findings, l.rep.Events = nil, nil, nil
		if a.Keys != "" {
			set, err := protocol.VerifyKeys(a.Keys, l.keys)
			if err != nil {
				l.r.t.Fatal(err)
			}
			l.keys, _ = protocol.ParseKeys(set.PolicyKeys)
			l.rep.Pinned = protocol.KeysDigest(l.keys)
		}
		if a.Assignment == "" {
			break
		}
		as, err := protocol.VerifyAssignment(a.Assignment, l.keys, l.out.DeviceID, l.rep.Policy.Serial)
		if err != nil {
			l.r.t.Fatal(err)
		}
		l.rep.Policy = currentOf(l.r.t, as)
		l.rep.Policy.Exceptions = protocol.ExceptionsDigest(as.Exceptions)
		l.rules = string(as.Policy)
	}
	return l.rep.Policy
}

// says sends findings with the next check-in.
func (l *laptop) says(c enforce.Compliance) {
	l.r.t.Helper()
	list := []enforce.Finding{{Setting: "usb.allowed", Mode: enforce.Enforce, Compliance: c, Enforcement: enforce.Enforced}}
	l.rep.Findings, l.rep.FindingsDigest = &list, string(c)
	l.sync()
}

func (r *rig) policy(name, body string) string {
	r.t.Helper()
	return r.ok(201, "POST", "/policies", `{"name":"`+name+`",`+body+`}`)["id"].(string)
}

func num(m map[string]any, path ...string) float64 {
	var v any = m
	for _, p := range path {
		v = v.(map[string]any)[p]
	}
	n, _ := v.(float64)
	return n
}

// Groups, priorities and modes decide who gets what; after a delete the next one applies; changing the default is one
// write.
func TestAssignments(t *testing.T) {
	both(t, func(t *testing.T, r *rig) {
		a, b := r.laptop("a"), r.laptop("b")
		base := a.sync().ID
		if base != "policy-default" || b.sync().ID != base {
			t.Fatalf("%+v", base)
		}
		eng := r.policy("Engineering",
			`"compliance":"enforce","section_compliance":{"usb":"warn"},"policy_data":{"usb":{"allowed":true},`+
				`"dlp":{"print_allowed":false}}`)
		byod := r.policy("BYOD", `"policy_data":{"usb":{"allowed":true}}`)
		r.ok(200, "PATCH", "/devices/"+a.out.DeviceID, `{"tags":["eng","pilot"],"user":"ann@example.com","ownership":"BYOD"}`)
		low := r.ok(201, "POST", "/assignments", `{"policy_id":"`+byod+`","target":{"ownership":"BYOD"},"priority":10}`)["id"].(string)
		if got := a.sync().ID; got != byod {
			t.Errorf("ownership: %s", got)
		}
		r.ok(201, "POST", "/assignments", `{"policy_id":"`+eng+
			`","target":{"tag":"eng","platform":"linux"},"priority":20,"compliance":"monitor"}`)
		if got := a.sync().ID; got != eng {
			t.Errorf("priority: %s", got)
		}
		if !strings.Contains(a.rules, `"compliance":"monitor"`) || !strings.Contains(a.rules, `"usb":"monitor"`) {
			t.Errorf("the assignment's mode caps every section: %s", a.rules)
		}
		if got := b.sync().ID; got != base {
			t.Errorf("another device: %s", got)
		}
		for id, want := range map[string]float64{eng: 1, byod: 0, base: 1} {
			if got := num(r.ok(200, "GET", "/policies/"+id, ""), "device_count"); got != want {
				t.Errorf("%s: device_count %v, want %v", id, got, want)
			}
		}
		if list := r.ok(200, "GET", "/policies/"+eng+"/devices", ""); num(list, "total") != 1 ||
			list["data"].([]any)[0].(map[string]any)["id"] != a.out.DeviceID {
			t.Errorf("%v", list)
		}
		if list := r.ok(200, "GET", "/devices?tag=pilot&policy_id="+eng, ""); num(list, "total") != 1 {
			t.Errorf("%v", list)
		}
		// Its own policy beats the groups', unless its priority is lower.
		r.ok(200, "PUT", "/devices/"+a.out.DeviceID+"/policy", `{"policy_id":"`+byod+`"}`)
		if got := a.sync().ID; got != byod {
			t.Errorf("its own: %s", got)
		}
		r.ok(200, "PUT", "/devices/"+a.out.DeviceID+"/policy", `{"policy_id":"`+byod+`","priority":15}`)
		if got := a.sync().ID; got != eng {
			t.Errorf("its own with a low priority: %s", got)
		}
		// An inactive policy counts as absent; a deleted one, too, and its devices get another.
		r.ok(200, "PUT", "/policies/"+eng, `{"active":false}`)
		if got := a.sync().ID; got != byod {
			t.Errorf("inactive: %s", got)
		}
		r.ok(200, "PUT", "/policies/"+eng, `{"active":true}`)
		if got := a.sync().ID; got != eng {
			t.Errorf("active again: %s", got)
		}
		gone := r.ok(200, "DELETE", "/policies/"+eng, "")
		if gone["message"] != "policy deleted" || num(gone, "affected_devices") != 1 || gone["fallback_policy"] != base {
			t.Errorf("%v", gone)
		}
		if got := a.sync().ID; got != byod {
			t.Errorf("after the delete: %s", got)
		}
		r.ok(200, "DELETE", "/assignments/"+low, "")
		r.ok(200, "PUT", "/devices/"+a.out.DeviceID+"/policy", `{"policy_id":""}`)
		if got := a.sync().ID; got != base {
			t.Errorf("nothing of its own: %s", got)
		}
		r.ok(200, "PUT", "/policies/default", `{"policy_id":"`+byod+`"}`)
		if x, y := a.sync().ID, b.sync().ID; x != byod || y != byod {
			t.Errorf("a new default: %s %s", x, y)
		}
		if st, out := r.call(r.admin, "DELETE", "/policies/"+byod, ""); st != 409 {
			t.Errorf("the default is deleted: %d %v", st, out)
		}
	})
}

// A rollout reaches a share, stops by itself when too much goes wrong, and sends devices back.
func TestRollout(t *testing.T) {
	both(t, func(t *testing.T, r *rig) {
		var list []*laptop
		for i := range 18 { // so many that a share of none or all cannot be chance
			l := r.laptop(fmt.Sprint("l", i))
			l.sync()
			l.says(enforce.Compliant)
			list = append(list, l)
		}
		r.ok(200, "PATCH", "/devices/"+list[0].out.DeviceID, `{"tags":["pilot"]}`)
		versions := func() (n int) {
			for _, l := range list {
				if l.sync().Version == 2 {
					n++
				}
			}
			return n
		}
		o := r.ok(201, "POST", "/policies/policy-default/rollouts",
			`{"policy":{"compliance":"enforce","policy_data":{"usb":{"allowed":false}}},"stages":[{"percent":40,"wait_minutes":10},`+
				`{"percent":100}],"groups":[{"tag":"pilot"}],"min_devices":2}`)
		id := o["id"].(string)
		moved := versions()
		if moved < 2 || moved == len(list) || list[0].rep.Policy.Version != 2 {
			t.Fatalf("%d of %d moved, the pilot has %d", moved, len(list), list[0].rep.Policy.Version)
		}
		if again := versions(); again != moved {
			t.Errorf("%d and then %d: the share is not stable", moved, again)
		}
		if st, _ := r.call(r.admin, "PUT", "/policies/policy-default", `{"name":"x"}`); st != 409 {
			t.Errorf("a change beside a rollout: %d", st)
		}
		r.ok(200, "POST", "/rollouts/"+id+"/pause", "")
		if st, _ := r.call(r.admin, "POST", "/rollouts/"+id+"/pause", ""); st != 409 {
			t.Errorf("paused twice: %d", st)
		}
		fresh := r.laptop("late")
		if v := fresh.sync().Version; v != 1 {
			t.Errorf("moved while paused: version %d", v)
		}
		r.ok(200, "POST", "/rollouts/"+id+"/resume", "")
		for _, l := range list {
			if l.rep.Policy.Version == 2 {
				l.says(enforce.Noncompliant)
			}
		}
		for range 300 {
			if o = r.ok(200, "GET", "/rollouts/"+id, ""); o["state"] == "stopped" {
				break
			}
			time.Sleep(100 * time.Millisecond)
		}
		if o["state"] != "stopped" || !strings.Contains(o["reason"].(string), "noncompliant") || num(o, "devices", "noncompliant") < 2 {
			t.Fatalf("%v", o)
		}
		for _, l := range list {
			now := l.sync()
			for range 300 { // what a node decides in the background is read from the database before the node follows it
				if now.Version == 3 {
					break
				}
				time.Sleep(100 * time.Millisecond)
				now = l.sync()
			}
			if now.Version != 3 || strings.Contains(l.rules, `"allowed":false`) {
				t.Errorf("has version %d: %s", now.Version, l.rules)
			}
		}
		h := r.ok(200, "GET", "/policies/policy-default/history", "")["data"].([]any)
		if len(h) != 3 || !strings.Contains(fmt.Sprint(h[0]), "back to version 1") {
			t.Errorf("%v", h)
		}
		// One that goes well ends by itself.
		list = append(list, fresh)
		o = r.ok(201, "POST", "/policies/policy-default/rollouts",
			`{"policy":{"policy_data":{"usb":{"allowed":true}}},"stages":[{"percent":50},{"percent":100}]}`)
		time.Sleep(time.Second)
		if now := r.ok(200, "GET", "/rollouts/"+o["id"].(string), ""); now["state"] != "running" || num(now, "stage") != 1 {
			t.Errorf("a stage is left without a report: %v", now)
		}
		for range 300 {
			for _, l := range list {
				l.sync() // most have nothing new to report under it: they count as good
			}
			if o = r.ok(200, "GET", "/rollouts/"+o["id"].(string), ""); o["state"] == "done" {
				break
			}
			time.Sleep(100 * time.Millisecond)
		}
		if o["state"] != "done" || list[3].sync().Version != 4 {
			t.Errorf("%v", o)
		}
		for body, want := range map[string]string{
			`{"policy":{"policy_data":{"usb":{"allowed":false}}},"stages":[{"percent":50},{"percent":40}]}`: "stages[1].percent",
			`{"policy":{"policy_data":{"usb":{"allowed":false}}},"stages":[{"percent":50}]}`:                "100 percent",
			`{"policy":{"policy_data":{"usb":{"allowed":"no"}}},"stages":[{"percent":100}]}`:                "usb.allowed",
			`{"policy":{"policy_data":{"usb":{"allowed":true}}},"stages":[{"percent":100}]}`:                "nothing to roll out",
			`{"policy":{},"stages":[],"x":1}`:                        "x",
			`{"stages":[{"percent":100}]}`:                           "policy",
			`{"policy":{"policy_data":{}},"stages":[{"percent":0}]}`: "stages[0].percent",
		} {
			if st, out := r.call(r.admin, "POST", "/policies/policy-default/rollouts", body); st != 400 ||
				!strings.Contains(fmt.Sprint(out), want) {
				t.Errorf("%s: %d %v", body, st, out)
			}
		}
	})
}

// The answer is computed from what devices reported: findings and events that would differ.
func TestWhatIf(t *testing.T) {
	both(t, func(t *testing.T, r *rig) {
		l := r.laptop("l")
		stick := fact.USB{Path: "1-2", Number: 5, Vendor: 0x0951, Product: 0x1666, Serial: "S", Interfaces: []fact.Interface{{Class: 8}},
			Hardwired: fact.Is(false), Authorized: fact.Is(true)}
		facts := protocol.FactsOf(&fact.Machine{USB: fact.Is([]fact.USB{stick}), Controllers: fact.Is([]string{"usb1"}),
			Inputs: fact.Is(fact.Inputs{Keyboards: 1, Pointers: 1}), Capable: map[string]fact.Capability{"usb": {Level: "enforced"}}})
		raw, _ := json.Marshal(stick)
		l.rep.Device, l.rep.DeviceDigest = &facts, "f"
		l.rep.Events = []enforce.Event{{Seq: 1, At: time.Now(), Kind: enforce.Allowed, Setting: "usb.allowed_classes",
			Subject: "usb 1-2 0951:1666 S", Facts: enforce.Facts(raw)}, {Seq: 2, Kind: "held"}}
		l.sync()
		other := r.laptop("without facts")
		other.sync()
		blind := r.laptop("cannot read its bus")
		unread := protocol.FactsOf(&fact.Machine{USB: fact.Unread[[]fact.USB]("permission denied"), Controllers: fact.Is([]string{"usb1"}),
			Capable: map[string]fact.Capability{"usb.allowed": {Level: fact.Enforced}}})
		blind.rep.Device, blind.rep.DeviceDigest = &unread, "f"
		blind.sync()
		out := r.ok(200, "POST", "/policies/policy-default/whatif",
			`{"compliance":"enforce","policy_data":{"usb":{"allowed_classes":["hid"]}}}`)
		if num(out, "devices") != 3 || num(out, "judged") != 1 || num(out, "cannot_tell") != 2 || num(out, "affected") != 2 ||
			num(out, "events_flipped") != 1 || num(out, "newly_denied", "0951:1666") != 1 {
			t.Fatalf("%v", out)
		}
		d := out["data"].([]any)[0].(map[string]any)
		ev := d["events"].([]any)[0].(map[string]any)
		if ev["now"] != "allow" || ev["then"] != "deny" || !strings.Contains(ev["reason"].(string), "mass_storage") ||
			len(d["findings"].([]any)) == 0 {
			t.Errorf("%v", d)
		}
		if h := r.ok(200, "GET", "/policies/policy-default/history", ""); num(h, "total") != 1 {
			t.Error("a question was stored")
		}
		same := r.ok(200, "POST", "/policies/policy-default/whatif", `{}`)
		if num(same, "affected") != 0 {
			t.Errorf("%v", same)
		}
		if st, _ := r.call(r.view, "POST", "/policies/policy-default/whatif", `{"policy_data":{"usb":{"x":1}}}`); st != 400 {
			t.Errorf("an impossible candidate: %d", st)
		}
	})
}

func TestExceptionsOnTheWire(t *testing.T) {
	both(t, func(t *testing.T, r *rig) {
		l := r.laptop("l")
		before := l.sync()
		x := r.ok(201, "POST", "/devices/"+l.out.DeviceID+"/exceptions", `{"usb":"0951:1666:S","minutes":60,"reason":"slides"}`)
		after := l.sync()
		if after.Exceptions == "" || after.Serial <= before.Serial || after.Digest != before.Digest {
			t.Errorf("%+v, then %+v", before, after)
		}
		l.sync()
		if l.last.Assignment != "" {
			t.Error("sent again without news")
		}
		if d := r.ok(200, "GET", "/devices/"+l.out.DeviceID, ""); len(d["exceptions"].([]any)) != 1 {
			t.Errorf("%v", d)
		}
		r.ok(200, "DELETE", "/devices/"+l.out.DeviceID+"/exceptions/"+x["id"].(string), "")
		if got := l.sync(); got.Exceptions != "" {
			t.Errorf("%+v", got)
		}
		for _, bad := range []string{`{"usb":"0951:*","minutes":5,"reason":"x"}`, `{"usb":"0951:1666","minutes":0,"reason":"x"}`,
			`{"usb":"0951:1666","minutes":5}`, `{"usb":"0951:1666","minutes":5,"reason":"x\u001b"}`} {
			if st, out := r.call(r.admin, "POST", "/devices/"+l.out.DeviceID+"/exceptions", bad); st != 400 {
				t.Errorf("%s: %d %v", bad, st, out)
			}
		}
		code := r.ok(201, "POST", "/devices/"+l.out.DeviceID+"/exceptions",
			`{"usb":"0951:1666:S","minutes":60,"reason":"offline","offline":true}`)["code"].(string)
		list := r.ok(200, "GET", "/devices/"+l.out.DeviceID+"/exceptions", "")["data"].([]any)
		if x := list[0].(map[string]any); x["current"] != false || x["state"] != "code_issued" {
			t.Errorf("a code that nobody has used yet is %v, %v", x["current"], x["state"])
		}
		if len(code) != 31 {
			t.Errorf("code %q", code)
		}
		if strings.Contains(fmt.Sprint(r.ok(200, "GET", "/devices/"+l.out.DeviceID+"/exceptions", "")), code) {
			t.Error("a code is shown twice")
		}
	})
}

// Two agents with one key: another machine id, or runs that take turns.
func TestClones(t *testing.T) {
	both(t, func(t *testing.T, r *rig) {
		l := r.laptop("l")
		l.sync()
		run := func(name string) error {
			rep := l.rep
			rep.Agent.Run = name
			_, err := l.c.Exchange(context.Background(), rep)
			return err
		}
		// Restarts are not clones.
		for _, name := range []string{"a", "b", "b", "c"} {
			if err := run(name); err != nil {
				t.Fatal(err)
			}
		}
		// An image with the machine's id: the two take turns.
		if err := run("d"); err != nil {
			t.Fatal(err)
		}
		if err := run("c"); err == nil || !strings.Contains(err.Error(), "enroll") {
			t.Errorf("a run that was over is back: %v", err)
		}
		if err := run("d"); err == nil {
			t.Error("the other one goes on")
		}
		if d := r.ok(200, "GET", "/devices/"+l.out.DeviceID, ""); d["state"] != "cloned" {
			t.Errorf("%v", d["state"])
		}
	})
}

// A change is carried out once per idempotency key, also for two requests at once.
func TestIdempotencyKeys(t *testing.T) {
	both(t, func(t *testing.T, r *rig) {
		body := `{"name":"once","policy_data":{}}`
		st, first := r.call(r.admin, "POST", "/policies", body, "Idempotency-Key", "k1")
		if st != 201 {
			t.Fatal(st, first)
		}
		st, again := r.call(r.admin, "POST", "/policies", body, "Idempotency-Key", "k1")
		if st != 201 || again["id"] != first["id"] || r.answer.Get("Idempotency-Replayed") != "true" {
			t.Errorf("%d %v", st, again)
		}
		if st, _ := r.call(r.admin, "POST", "/policies", `{"name":"other","policy_data":{}}`, "Idempotency-Key", "k1"); st != 422 {
			t.Errorf("another request under the key: %d", st)
		}
		if st, _ := r.call(r.admin, "POST", "/policies", body, "Idempotency-Key", strings.Repeat("x", 200)); st != 400 {
			t.Errorf("a long key: %d", st)
		}
		done := make(chan int, 8)
		for range 8 {
			go func() {
				req, _ := http.NewRequest("POST", r.url+"/api/v1/policies", strings.NewReader(body))
				req.Header.Set("Authorization", "Bearer "+r.admin)
				req.Header.Set("Idempotency-Key", "k2")
				res, err := http.DefaultClient.Do(req)
				if err != nil {
					done <- 0
					return
				}
				_ = res.Body.Close()
				done <- res.StatusCode
			}()
		}
		for range 8 {
			if st := <-done; st != 201 && st != 409 {
				t.Errorf("status %d", st)
			}
		}
		if list := r.ok(200, "GET", "/policies", ""); num(list, "total") != 3 {
			t.Errorf("%v policies, want the default and two", list["total"])
		}
	})
}

func TestPreconditions(t *testing.T) {
	r := start(t, Options{HTTP: true})
	id := r.policy("p", `"policy_data":{}`)
	r.ok(200, "GET", "/policies/"+id, "")
	tag := r.answer.Get("ETag")
	if tag != `"1"` {
		t.Fatalf("ETag %q", tag)
	}
	if st, _ := r.call(r.admin, "PUT", "/policies/"+id, `{"name":"a"}`, "If-Match", tag); st != 200 || r.answer.Get("ETag") != `"2"` {
		t.Errorf("%d %s", st, r.answer.Get("ETag"))
	}
	if st, _ := r.call(r.admin, "PUT", "/policies/"+id, `{"name":"b"}`, "If-Match", tag); st != 412 {
		t.Errorf("a stale ETag: %d", st)
	}
	if st, _ := r.call(r.admin, "DELETE", "/policies/"+id, "", "If-Match", tag); st != 412 {
		t.Errorf("a stale delete: %d", st)
	}
	if st, _ := r.call(r.admin, "PUT", "/policies/"+id, `{"name":"b"}`, "If-Match", "nonsense"); st != 412 {
		t.Errorf("%d", st)
	}
	if st, _ := r.call(r.admin, "GET", "/policies", "", "X-Request-Id", "my-request.1"); st != 200 ||
		r.answer.Get("X-Request-Id") != "my-request.1" {
		t.Errorf("%v", r.answer)
	}
	if r.call(r.admin, "GET", "/policies/none", "", "X-Request-Id", "bad id"); r.answer.Get("X-Request-Id") == "" ||
		strings.Contains(r.answer.Get("X-Request-Id"), " ") {
		t.Errorf("%v", r.answer)
	}
}

// Whatever is in a body, it is refused with the field named, and changes nothing.
func TestStrictBodies(t *testing.T) {
	r := start(t, Options{HTTP: true})
	deep := strings.Repeat(`{"a":`, 30) + "1" + strings.Repeat("}", 30)
	for _, c := range []struct {
		method, path, body, want string
		status                   int
	}{
		{"PUT", "/policies/default", `{"policy_id":"x","y":1}`, "y", 400},
		{"PUT", "/policies/default", `{"policy_id":"x"} {}`, "nothing after it", 400},
		{"PUT", "/policies/default", `{"policy_id":"x","policy_id":"y"}`, "policy_id", 400},
		{"PUT", "/policies/default", `{"policy_id":1}`, "policy_id", 400},
		{"PUT", "/policies/default", `{"Policy_ID":"policy-default"}`, "Policy_ID", 400},
		{"PUT", "/policies/policy-default", `{"id":"policy-other"}`, "id", 400},
		{"PUT", "/policies/policy-default", `{"name":"a\u0000b"}`, "name", 400},
		{"GET", "/policies/%00", ``, "no such", 404},
		{"GET", "/devices?name=%00", ``, "name", 400},
		{"POST", "/rollouts/none/pause", `{"x":1}`, "no body", 400},
		{"PUT", "/policies/default", `{}`, "policy_id", 400},
		{"PUT", "/policies/default", `[]`, "object", 400},
		{"PUT", "/policies/default", ``, "JSON", 400},
		{"PUT", "/policies/default", "{\"policy_id\":\"\xff\"}", "UTF-8", 400},
		{"POST", "/assignments", deep, "nested", 400},
		{"POST", "/policies", deep, "nested", 400},
		{"POST", "/assignments", `{"policy_id":"` + strings.Repeat("x", 2<<20) + `"}`, "1048576", 413},
		{"POST", "/assignments", `{"policy_id":"policy-default","priority":1.5,"target":{}}`, "priority", 400},
		{"POST", "/assignments", `{"policy_id":"policy-default","priority":1,"target":{"tag":"No Good"}}`, "target.tag", 400},
		{"POST", "/enrollments", `{"uses":0}`, "uses", 400},
		{"POST", "/enrollments", `{"tags":["a","a"]}`, "tags[1]", 400},
		{"POST", "/enrollments", `{"policy_id":"none"}`, "policy_id", 400},
		{"PATCH", "/devices/none", `{"tags":[]}`, "no such", 404},
		{"PUT", "/policies/policy-default", `{"policy_data":{"usb":{"alowed":true}}}`, "usb.alowed", 400},
		{"PUT", "/policies/policy-default", `{"active":false}`, "default", 409},
		{"POST", "/policies/from-template", `{"template_id":"none","name":"x"}`, "template_id", 400},
		{"POST", "/policies/from-template", `{"template_id":"template-strict","name":"x","customizations":{"usb":{"allowed":"x"}}}`,
			"usb.allowed", 400},
		{"POST", "/policies/from-template", `{"template_id":"template-strict","name":"x","customizations":{"usb":{"surprise":true}}}`,
			"usb.surprise", 400},
		{"GET", "/policies?page=%zz", ``, "query", 400},
		{"GET", "/policies?pages=1", ``, "pages", 400},
		{"GET", "/devices?platform=beos", ``, "platform", 400},
		{"PATCH", "/policies", ``, "GET, POST", 405},
	} {
		st, out := r.call(r.admin, c.method, c.path, c.body)
		if st != c.status || !strings.Contains(fmt.Sprint(out), c.want) || out["error"] == nil {
			t.Errorf("%s %s %.60s: %d %v, want %d naming %q", c.method, c.path, c.body, st, out, c.status, c.want)
		}
	}
	if h := r.ok(200, "GET", "/audit", ""); num(h, "total") != 2 {
		t.Errorf("something was changed: %v", h)
	}
}

// A template supplies what a body leaves out, or sets to null; except the mode: it begins in monitor unless the body
// says otherwise.
func TestFromTemplate(t *testing.T) {
	r := start(t, Options{HTTP: true})
	whole := r.ok(200, "GET", "/templates/template-strict", "")
	for _, rest := range []string{``, `,"compliance":null,"description":null,"organization_id":null,"section_compliance":null`} {
		made := r.ok(201, "POST", "/policies/from-template",
			`{"template_id":"template-strict","name":"x"`+rest+`,"customizations":{"usb":{"whitelist":["046d:c52b"]}}}`)
		p := r.ok(200, "GET", "/policies/"+made["id"].(string), "")
		if p["name"] != "x" || p["description"] != whole["description"] || p["compliance"] != "monitor" || p["organization_id"] != "" ||
			p["section_compliance"] != nil {
			t.Errorf("%s: %v", rest, p)
		}
		usb := p["policy_data"].(map[string]any)["usb"].(map[string]any)
		under := whole["policy_data"].(map[string]any)["usb"].(map[string]any)
		if fmt.Sprint(usb["whitelist"]) != "[046d:c52b]" || len(usb) < len(under) {
			t.Errorf("customizations are not laid over it: %v", usb)
		}
	}
	made := r.ok(201, "POST", "/policies/from-template", `{"template_id":"template-strict","name":"y","compliance":"enforce"}`)
	if p := r.ok(200, "GET", "/policies/"+made["id"].(string), ""); p["compliance"] != "enforce" {
		t.Errorf("a mode that is asked for: %v", p["compliance"])
	}
	st, out := r.call(r.admin, "POST", "/policies/from-template", `{"template_id":"template-strict","name":""}`)
	if text := fmt.Sprint(out); st != 400 || !strings.Contains(text, "name") || strings.Contains(text, "null") {
		t.Errorf("%d %v", st, out)
	}
}

// Which tokens are accepted, and for what.
func TestTokens(t *testing.T) {
	r := start(t, Options{HTTP: true})
	keys, err := LoadKeys(r.dir)
	if err != nil {
		t.Fatal(err)
	}
	secret := keys.admin[0].Key
	now := time.Now()
	forge := func(alg jose.SignatureAlgorithm, key any, c AdminClaims) string {
		s, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, nil)
		if err != nil {
			t.Fatal(err)
		}
		out, err := jwt.Signed(s).Claims(c).Serialize()
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	good := AdminClaims{jwt.Claims{Subject: "ann", Audience: jwt.Audience{adminAudience},
		Expiry: jwt.NewNumericDate(now.Add(time.Hour))}, "admin", ""}
	other, expired, forever, foreign, role := good, good, good, good, good
	other.Audience = jwt.Audience{"other"}
	expired.Expiry = jwt.NewNumericDate(now.Add(-time.Minute))
	forever.Expiry = nil
	foreign.Audience = nil
	role.Role = "root"
	for name, c := range map[string]struct {
		token string
		want  int
	}{
		"good":           {forge(jose.HS256, secret, good), 200},
		"HS512":          {forge(jose.HS512, append(secret, secret...), good), 401},
		"another key":    {forge(jose.HS256, make([]byte, 32), good), 401},
		"other audience": {forge(jose.HS256, secret, other), 401},
		"no audience":    {forge(jose.HS256, secret, foreign), 401},
		"expired":        {forge(jose.HS256, secret, expired), 401},
		"no expiry":      {forge(jose.HS256, secret, forever), 401},
		"unknown role":   {forge(jose.HS256, secret, role), 401},
		"none":           {"eyJhbGciOiJub25lIn0." + strings.Split(forge(jose.HS256, secret, good), ".")[1] + ".", 401},
		"empty":          {" ", 401},
	} {
		if st, out := r.call(c.token, "GET", "/policies", ""); st != c.want {
			t.Errorf("%s: %d %v", name, st, out)
		}
	}
	// Rotated: the previous one stays valid, the one before that does not; with drop, only new ones are.
	if err := keys.RotateAdmin(false); err != nil {
		t.Fatal(err)
	}
	second, _ := keys.AdminToken("ann", "admin", time.Hour, now)
	time.Sleep(2500 * time.Millisecond) // the server looks every two seconds
	for _, tok := range []string{r.admin, second} {
		if st, _ := r.call(tok, "GET", "/policies", ""); st != 200 {
			t.Errorf("after a rotation: %d", st)
		}
	}
	if err := keys.RotateAdmin(true); err != nil {
		t.Fatal(err)
	}
	third, _ := keys.AdminToken("ann", "admin", time.Hour, now)
	time.Sleep(2500 * time.Millisecond)
	for tok, want := range map[string]int{r.admin: 401, second: 401, third: 200} {
		if st, _ := r.call(tok, "GET", "/policies", ""); st != want {
			t.Errorf("after a drop: %d, want %d", st, want)
		}
	}
	// Guessing is slowed down, and a valid token is not.
	limited := false
	for range 100 {
		st, _ := r.call("guess", "GET", "/policies", "")
		limited = limited || st == 429 && r.answer.Get("Retry-After") != ""
	}
	if st, _ := r.call(third, "GET", "/policies", ""); !limited || st != 200 {
		t.Errorf("limited %v, a valid token %d", limited, st)
	}
	if info, err := os.Stat(filepath.Join(r.dir, "admin.key")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info, err)
	}
}

// Compliance is summed up by policy and setting; devices are found by it.
func TestCompliance(t *testing.T) {
	both(t, func(t *testing.T, r *rig) {
		for i, c := range []enforce.Compliance{enforce.Compliant, enforce.Compliant, enforce.Noncompliant, enforce.Uncertain} {
			l := r.laptop(fmt.Sprint("l", i))
			l.sync()
			l.says(c)
		}
		r.laptop("silent").sync()
		out := r.ok(200, "GET", "/compliance", "")
		if num(out, "devices") != 5 || num(out, "reported") != 4 || num(out, "compliant") != 2 || num(out, "noncompliant") != 1 ||
			num(out, "unknown") != 1 {
			t.Errorf("%v", out)
		}
		p := r.ok(200, "GET", "/policies/policy-default/compliance", "")
		s := p["settings"].([]any)[0].(map[string]any)
		if s["setting"] != "usb.allowed" || num(s, "compliant") != 2 || num(s, "modes", "enforce") != 4 {
			t.Errorf("%v", p)
		}
		if list := r.ok(200, "GET", "/devices?compliance=noncompliant", ""); num(list, "total") != 1 {
			t.Errorf("%v", list)
		}
	})
}

// A newer agent's words are stored and shown unchanged; in sums over devices they count as unknown, and settings that
// this version does not know as "other". Invalid words are refused.
func TestWordsOfANewerAgent(t *testing.T) {
	both(t, func(t *testing.T, r *rig) {
		l := r.laptop("newer")
		path := "/api/v1/devices/" + l.out.DeviceID + "/checkin"
		counter := uint64(time.Now().UnixMilli()) + 1_000_000
		send := func(findings, events, device string) (int, string) {
			counter++
			current, _ := json.Marshal(l.rep.Policy)
			body := fmt.Sprintf(`{"counter":%d,"policy":%s,"agent":{"version":"9","machine":"machine of newer",`+
				`"started_at":"2026-01-01T00:00:00Z"},"device_digest":"d%d","device":%s,"findings_digest":"f%d","findings":%s,`+
				`"epoch":"e","events":%s,"more":{"x":[1]}}`,
				counter, current, counter, device, counter, findings, events)
			token, err := l.c.Sign("POST", path, []byte(body))
			if err != nil {
				t.Fatal(err)
			}
			req, _ := http.NewRequest("POST", r.url+path, strings.NewReader(body))
			req.Header.Set("Authorization", "Bearer "+token)
			res, err := r.http().Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			b, _ := io.ReadAll(res.Body)
			return res.StatusCode, string(b)
		}
		l.sync()
		const finding = `{"setting":"quantum.cats","mode":"persuade","compliance":"half","enforcement":"dreamt","reason":"r",` +
			`"colour":"blue"}`
		const known = `{"setting":"usb.allowed","mode":"enforce","compliance":"compliant","enforcement":"hoped","evidence":[{"key":"k",` +
			`"state":"wavering"}]}`
		const event = `{"seq":1,"at":"2026-01-01T00:00:00Z","setting":"quantum.cats","mode":"persuade","kind":"meowed","subject":"s",` +
			`"verdict":{"allow":true,"rule":{"line":1},"would":{"line":1},"guard":"the_cat"},"done":{"state":"wavering"},"mood":7}`
		if st, b := send("["+finding+","+known+"]", "["+event+"]",
			`{"host":{"name":"newer"},"cats":[{"name":"Tom"}],"capable":{"quantum.cats":{"level":"superb"}}}`); st != 200 {
			t.Fatalf("%d %s", st, b)
		}
		d := r.ok(200, "GET", "/devices/"+l.out.DeviceID, "")
		text, _ := json.Marshal(d)
		for _, word := range []string{`"persuade"`, `"half"`, `"dreamt"`, `"hoped"`, `"wavering"`, `"colour":"blue"`,
			`"rollup":{"compliance":"unknown"`} {
			if !strings.Contains(string(text), word) {
				t.Errorf("the device lacks %s: %s", word, text)
			}
		}
		text, _ = json.Marshal(r.ok(200, "GET", "/devices/"+l.out.DeviceID+"/events", ""))
		for _, word := range []string{`"persuade"`, `"meowed"`, `"the_cat"`, `"mood":7`, `"received_at"`, `"epoch":"e"`} {
			if !strings.Contains(string(text), word) {
				t.Errorf("the event lacks %s: %s", word, text)
			}
		}
		c := r.ok(200, "GET", "/compliance", "")
		text, _ = json.Marshal(c)
		if num(c, "unknown") != 1 || num(c, "compliant") != 0 || !strings.Contains(string(text), `"setting":"other"`) ||
			strings.Contains(string(text), "quantum") || strings.Contains(string(text), "persuade") ||
			strings.Contains(string(text), "hoped") {
			t.Errorf("%s", text)
		}
		// An invalid word does not make the device's report useless, and reaches nobody's terminal.
		bad := strings.Replace(strings.Replace(strings.Replace(finding, "persuade", strings.Repeat("x", 65), 1), "dreamt", `\u001b[31m`, 1),
			"quantum", strings.Repeat("q", 80), 1)
		worse := strings.Replace(strings.Replace(strings.Replace(event, `"seq":1`, `"seq":2`, 1), "the_cat", `a\u0007b`, 1), "wavering",
			strings.Repeat("w", 70), 1)
		long := strings.Replace(strings.Replace(event, `"seq":1`, `"seq":3`, 1), `"subject":"s"`,
			`"subject":"`+strings.Repeat("s", 100_000)+`"`, 1)
		longer := strings.Replace(strings.Replace(event, `"seq":1`, `"seq":4`, 1), `"mood":7`,
			`"mood":["`+strings.Repeat(strings.Repeat("m", 3000)+`","`, 30)+`"]`, 1)
		if st, b := send("["+bad+"]", "["+worse+","+long+","+longer+"]", "null"); st != 200 {
			t.Fatalf("%d %s", st, b)
		}
		text, _ = json.Marshal(r.ok(200, "GET", "/devices/"+l.out.DeviceID, ""))
		more, _ := json.Marshal(r.ok(200, "GET", "/devices/"+l.out.DeviceID+"/events", ""))
		for _, word := range []string{"xxxxx", "qqqqq", `[31m`, `a\u0007b`, "wwwww", "mmmmm"} {
			if strings.Contains(string(text)+string(more), word) {
				t.Errorf("%q is handed on: %s %s", word, text, more)
			}
		}
		if !strings.Contains(string(more), "an event of 90") || len(more) > 12_000 || !strings.Contains(string(more), `sss…"`) ||
			!strings.Contains(string(more), `"guard":"unknown"`) || !strings.Contains(string(text), `"setting":"unknown"`) {
			t.Errorf("%s %s", text, more)
		}
		// What is stored unchanged is read as strictly as the rest.
		for name, part := range map[string][2]string{
			"a part twice": {`[` + known + `],"findings":[null]`, `[]`}, "in another spelling": {`[` + known + `],"Findings":[null]`, `[]`},
			"null for a finding": {`[null]`, `[]`},
			"null for an event":  {`[]`, `[null]`}, "an event that is a number": {`[]`, `[5]`},
			"a field twice": {`[` + strings.Replace(known, `"mode":"enforce"`, `"mode":"\u001b","mode":"enforce"`, 1) + `]`, `[]`},
			"a deep one":    {`[]`, `[{"seq":9,"x":` + strings.Repeat("[", 50) + strings.Repeat("]", 50) + `}]`},
		} {
			if st, b := send(part[0], part[1], "null"); st != 400 {
				t.Errorf("%s: %d %s", name, st, b)
			}
		}
	})
}
