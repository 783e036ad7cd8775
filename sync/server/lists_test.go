package server

import (
	"database/sql"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/warderd/warder/enforce"
)

// field gives one field of each entry of a list.
func field(out map[string]any, name string) (list []string) {
	for _, x := range out["data"].([]any) {
		m := x.(map[string]any)
		if e, is := m["event"].(map[string]any); is && m[name] == nil {
			m = e
		}
		list = append(list, fmt.Sprint(m[name]))
	}
	return list
}

// Every list can be searched, sorted, filtered, and read on with a cursor.
func TestLists(t *testing.T) {
	both(t, func(t *testing.T, r *rig) {
		names := []string{"Anna's laptop", "bob-2", "Bob-1", "100%_sure", "zürich"}
		laptops := map[string]*laptop{}
		for _, n := range names {
			l := r.laptop(n)
			l.sync()
			laptops[n] = l
		}
		id := laptops["bob-2"].out.DeviceID
		r.ok(200, "PATCH", "/devices/"+id, `{"user":"bob","tags":["lab"]}`)
		r.ok(200, "PATCH", "/devices/"+laptops["Bob-1"].out.DeviceID, `{"user":"Ölpest <b>"}`)
		special := r.policy("Special rules", `"policy_data":{"usb":{"allowed":true}}`)
		r.policy("another", `"active":false,"policy_data":{"usb":{"allowed":true}}`)
		r.ok(200, "PUT", "/devices/"+id+"/policy", `{"policy_id":"`+special+`"}`)
		laptops["bob-2"].sync()
		list := func(path string) map[string]any { t.Helper(); return r.ok(200, "GET", path, "") }
		for _, c := range []struct {
			path, field string
			want        []string
		}{
			{"/devices?sort=name", "device_name", []string{"100%_sure", "Anna's laptop", "Bob-1", "bob-2", "zürich"}},
			{"/devices?sort=-name", "device_name", []string{"zürich", "bob-2", "Bob-1", "Anna's laptop", "100%_sure"}},
			{"/devices?sort=-enrolled_at", "device_name", []string{"zürich", "100%_sure", "Bob-1", "bob-2", "Anna's laptop"}},
			{"/devices?q=BOB&sort=name", "device_name", []string{"Bob-1", "bob-2"}},
			{"/devices?q=%25_", "device_name", []string{"100%_sure"}},
			{"/devices?q=Z%C3%9CR", "device_name", []string{"zürich"}},
			{"/devices?q=lab", "device_name", []string{"bob-2"}},
			{"/devices?policy_name=special", "device_name", []string{"bob-2"}},
			{"/devices?policy_name=nothing", "device_name", nil},
			{"/devices?status=offline", "device_name", nil},
			{"/devices?status=online&name=b&sort=name", "device_name", []string{"Bob-1", "bob-2"}},
			{"/policies?q=RULES", "name", []string{"Special rules"}},
			{"/policies?sort=-name", "name", []string{"Special rules", "Default Security Policy", "another"}},
			{"/policies?active=false", "name", []string{"another"}},
			{"/audit?action=policy.created&actor=ann@example.com", "subject", nil},
			{"/audit?q=lab&action=device.", "action", []string{"device.edited"}},
			{"/audit?q=%3CB%3E", "action", []string{"device.edited"}},
			{"/audit?q=%C3%96LPEST", "action", []string{"device.edited"}},
			{"/audit?q=%5Cu003c", "action", nil},
			{"/audit?until=2020-01-01T00:00:00Z", "action", nil},
			{"/enrollments?state=usable", "id", nil},
		} {
			got := field(list(c.path), c.field)
			if c.want == nil && strings.HasPrefix(c.path, "/audit?action") {
				if len(got) != 2 {
					t.Errorf("%s: %v", c.path, got)
				}
				continue
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("%s: %q, want %q", c.path, got, c.want)
			}
		}
		if n := num(list("/enrollments?state=used_up&created_by=ann@example.com"), "total"); n != 5 {
			t.Errorf("%v enrollment tokens are used up", n)
		}
		for _, bad := range []string{"/devices?sort=colour", "/devices?status=maybe", "/audit?since=yesterday", "/devices?cursor=!!",
			"/policies?cursor=e30", "/audit?cursor=LTE", "/events?cursor=bnVsbA", "/devices?cursor=e30",
			"/devices?sort=name&cursor=eyJuIjoxfQ", "/policies/policy-default/history?cursor=eyJuIjoxLCJzIjoiYXVkaXQifQ",
			"/devices?q=" + strings.Repeat("x", 300), "/policies?q=%00"} {
			if st, out := r.call(r.view, "GET", bad, ""); st != 400 || out["errors"] == nil {
				t.Errorf("%s: %d %v", bad, st, out)
			}
		}
		// Assignments are edited where they are.
		a := r.ok(201, "POST", "/assignments", `{"policy_id":"`+special+`","target":{"tag":"lab"},"priority":5}`)["id"].(string)
		r.ok(200, "PUT", "/assignments/"+a, `{"policy_id":"`+special+`","target":{"tag":"lab"},"priority":7,"compliance":"warn"}`)
		if got := r.ok(200, "GET", "/assignments/"+a, ""); num(got, "priority") != 7 || got["compliance"] != "warn" {
			t.Errorf("%v", got)
		}
		if got := field(list("/assignments?tag=lab&policy_id="+special+"&q=LAB"), "id"); !slices.Equal(got, []string{a}) {
			t.Errorf("%v", got)
		}
		if st, _ := r.call(r.admin, "PUT", "/assignments/none", `{"policy_id":"`+special+`","target":{},"priority":7}`); st != 404 {
			t.Error(st)
		}
		if st, out := r.call(r.admin, "PUT", "/assignments/"+a, `{"policy_id":"none","target":{},"priority":7}`); st != 400 {
			t.Error(st, out)
		}
	})
}

// A list that is read on from a cursor contains everything once, whatever is written meanwhile; with page numbers it
// does not.
func TestCursors(t *testing.T) {
	both(t, func(t *testing.T, r *rig) {
		var l *laptop
		for i := range 7 {
			l = r.laptop(fmt.Sprint("l", i))
			l.rep.Events = nil
			for k := range 5 {
				l.rep.Events = append(l.rep.Events, enforce.Event{Seq: uint64(k + 1), At: time.Now(), Kind: enforce.Denied,
					Setting: "usb.allowed", Subject: fmt.Sprintf("usb %d-%d", i, k)})
			}
			l.sync()
		}
		n := 0
		for _, c := range []struct{ path, id string }{{"/audit", "sequence"}, {"/devices?sort=-name", "id"}, {"/devices", "id"},
			{"/policies?sort=name", "id"}, {"/enrollments", "id"}, {"/events", "subject"}, {"/policies/policy-default/devices", "id"},
			{"/policies/policy-default/history", "version"}} {
			join := "?"
			if strings.Contains(c.path, "?") {
				join = "&"
			}
			before := field(r.ok(200, "GET", c.path+join+"page_size=100", ""), c.id)
			seen := map[string]int{}
			cursor, size := "", 3
			for {
				at := c.path + join + fmt.Sprint("page_size=", size)
				if cursor != "" {
					at += "&cursor=" + url.QueryEscape(cursor)
				}
				out := r.ok(200, "GET", at, "")
				for _, id := range field(out, c.id) {
					seen[id]++
				}
				// Something comes before what was read.
				n++
				r.policy(fmt.Sprint("0 new ", n), `"policy_data":{"usb":{"allowed":true}}`)
				r.ok(201, "POST", "/enrollments", `{}`)
				r.ok(200, "PUT", "/policies/policy-default", fmt.Sprintf(`{"description":"version %d"}`, n))
				next, more := out["next"].(string)
				if !more {
					break
				}
				if cursor = next; n > 200 {
					t.Fatalf("%s has no end", c.path)
				}
			}
			for _, id := range before {
				if seen[id] != 1 {
					t.Errorf("%s: %s came %d times", c.path, id, seen[id])
				}
			}
			for id, times := range seen {
				if times != 1 {
					t.Errorf("%s: %s came %d times", c.path, id, times)
				}
			}
		}
		events := r.ok(200, "GET", "/events?q=USB+6-&kind=denied&setting=usb.&device_id="+l.out.DeviceID, "")
		if got := field(events, "subject"); !slices.Equal(got, []string{"usb 6-4", "usb 6-3", "usb 6-2", "usb 6-1", "usb 6-0"}) {
			t.Errorf("%v", got)
		}
		if got := field(r.ok(200, "GET", "/events?kind=drift", ""), "subject"); len(got) != 0 {
			t.Errorf("%v", got)
		}
		if st, _ := r.call(r.view, "GET", "/events?device_id=none", ""); st != 404 {
			t.Error(st)
		}
	})
}

// A list whose last entry is gone, or no longer matches the filter, continues after its position.
func TestCursorOfWhatIsGone(t *testing.T) {
	r := start(t, Options{HTTP: true})
	for range 10 {
		r.ok(201, "POST", "/enrollments", `{}`)
	}
	var seen []string
	cursor := ""
	for {
		out := r.ok(200, "GET", "/enrollments?state=usable&page_size=3&cursor="+url.QueryEscape(cursor), "")
		page := field(out, "id")
		seen = append(seen, page...)
		if len(page) > 0 {
			r.ok(200, "DELETE", "/enrollments/"+page[len(page)-1], "")
		}
		next, more := out["next"].(string)
		if !more {
			break
		}
		cursor = next
	}
	slices.Sort(seen)
	if len(slices.Compact(seen)) != 10 {
		t.Errorf("%d of 10 tokens came", len(slices.Compact(seen)))
	}
}

// A token is in the audit log once, even if it was made while no server ran; so is the download of a bundle.
func TestTokensAreAudited(t *testing.T) {
	r := start(t, Options{HTTP: true})
	keys := mustKeys(t, r.dir)
	if _, err := keys.Issue("ops@example.com", "viewer", "", "root (here)", time.Hour, time.Now()); err != nil {
		t.Fatal(err)
	}
	r.stop()
	if _, err := keys.Issue("late@example.com", "admin", "", "root (here)", time.Hour, time.Now()); err != nil {
		t.Fatal(err)
	}
	r.serve(Options{HTTP: true})
	var got []string
	for range 150 {
		if got = field(r.ok(200, "GET", "/tokens", ""), "subject"); len(got) == 2 {
			break
		}
		time.Sleep(200 * time.Millisecond)
	}
	slices.Sort(got)
	if !slices.Equal(got, []string{"late@example.com", "ops@example.com"}) {
		t.Errorf("%v", got)
	}
	if by := field(r.ok(200, "GET", "/audit?action=token.created&q=viewer", ""), "by"); !slices.Equal(by, []string{"root (here)"}) {
		t.Errorf("%v", by)
	}
}

// What a device reports is bounded, and an excess costs it nothing else: it receives its policy as before.
func TestQuota(t *testing.T) {
	r := start(t, Options{HTTP: true})
	l, honest := r.laptop("loud"), r.laptop("honest")
	l.sync()
	honest.sync()
	seq := uint64(0)
	for range 240 {
		seq++
		l.rep.Events = append(l.rep.Events, enforce.Event{Seq: seq, At: time.Now(), Kind: enforce.Denied, Setting: "usb.allowed",
			Subject: "usb 1-1", Reason: strings.Repeat("x", 30_000)})
	}
	if a, err := l.c.Exchange(t.Context(), l.rep); err != nil || a.AckSeq != seq {
		t.Fatal(a.AckSeq, err)
	}
	l.rep.Events = nil
	r.ok(200, "PUT", "/policies/policy-default", `{"policy_data":{"usb":{"allowed":true}}}`)
	if h := l.sync(); h.Version != 2 {
		t.Errorf("a loud device is not governed any more: %+v", h)
	}
	// Texts are bounded, and control nobody's terminal; invented names get no line of their own.
	l.rep.Events = []enforce.Event{{Seq: seq + 1, At: time.Now(), Kind: "x\x1b[31m", Setting: enforce.Setting(strings.Repeat("s", 70_000)),
		Subject: "a\x1b]0;title\x07b" + strings.Repeat("y", 1_000_000)}}
	list := []enforce.Finding{}
	for i := range 200 {
		list = append(list, enforce.Finding{Setting: enforce.Setting(fmt.Sprint("invented.", i)), Compliance: "bogus", Enforcement: "bogus",
			Reason: strings.Repeat("r", 1500) + "\u009b31m"})
	}
	l.rep.Findings, l.rep.FindingsDigest = &list, "f"
	l.sync()
	b, _ := json.Marshal(r.ok(200, "GET", "/devices/"+l.out.DeviceID+"/events?page_size=1", ""))
	if len(b) > 20_000 || strings.ContainsAny(string(b), "\x1b\x07") || strings.Contains(string(b), `\u001b`) {
		t.Errorf("%d bytes: %.300s", len(b), b)
	}
	if settings := fmt.Sprint(r.ok(200, "GET", "/compliance", "")["policies"]); strings.Contains(settings, "invented") ||
		!strings.Contains(settings, "setting:other") {
		t.Errorf("%s", settings)
	}
	// A device that reports without a pause receives its policy nevertheless, and not all of its reports are written.
	for i := range 100 {
		l.rep.Findings, l.rep.FindingsDigest = &[]enforce.Finding{}, fmt.Sprint(i)
		if _, err := l.c.Exchange(t.Context(), l.rep); err != nil {
			t.Fatal(err)
		}
	}
	r.ok(200, "PUT", "/policies/policy-default", `{"policy_data":{"usb":{"allowed":false}}}`)
	if h := l.sync(); h.Version != 3 {
		t.Errorf("a device that reports without a pause is not governed any more: %+v", h)
	}
	res, err := http.Get(r.url + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	metrics, _ := io.ReadAll(res.Body)
	if strings.Contains(string(metrics), "warder_device_quota_total 0\n") {
		t.Error("nothing was left unwritten")
	}
	// A setting is counted once, and a policy that never existed gets no line of its own.
	l.rep.Policy.ID = "an invented one"
	list = nil
	for i := range 500 {
		list = append(list, enforce.Finding{Setting: "usb.allowed",
			Compliance: []enforce.Compliance{enforce.Compliant, enforce.Noncompliant}[i%2], Enforcement: enforce.Enforced})
	}
	time.Sleep(1100 * time.Millisecond) // a report a second
	l.rep.Findings, l.rep.FindingsDigest = &list, "many"
	if _, err := l.c.Exchange(t.Context(), l.rep); err != nil {
		t.Fatal(err)
	}
	sum := fmt.Sprint(r.ok(200, "GET", "/compliance", "")["policies"])
	if strings.Contains(sum, "invented") || !strings.Contains(sum, "policy_id:unknown") ||
		!strings.Contains(sum, "noncompliant:1 setting:usb.allowed") {
		t.Errorf("%s", sum)
	}
	honest.says(enforce.Compliant)
}

// A server whose clock was set back shows no times in the future, and counts what it hears.
func TestNothingLiesAhead(t *testing.T) {
	var back atomic.Int64
	now := func() time.Time { return time.Now().Add(-time.Duration(back.Load())) }
	r := start(t, Options{HTTP: true, now: now})
	l := r.laptop("l")
	l.sync()
	l.says(enforce.Compliant)
	back.Store(int64(3 * time.Hour))
	r.admin, _ = mustKeys(t, r.dir).AdminToken("ann", "admin", 9*time.Hour, time.Now().Add(-4*time.Hour))
	last := func() time.Time {
		at, err := time.Parse(time.RFC3339, r.ok(200, "GET", "/devices/"+l.out.DeviceID, "")["last_sync"].(string))
		if err != nil {
			t.Fatal(err)
		}
		return at
	}
	if at := last(); at.After(now().Add(time.Second)) {
		t.Errorf("last_sync %s, and it is %s", at, now())
	}
	l.says(enforce.Noncompliant)
	if got := r.ok(200, "GET", "/compliance", ""); num(got, "noncompliant") != 1 {
		t.Errorf("%v", got)
	}
	r.stop()
	r.serve(Options{HTTP: true, now: now})
	if at := last(); at.After(now().Add(time.Second)) || at.Before(now().Add(-time.Minute)) {
		t.Errorf("after a restart: last_sync %s, and it is %s", at, now())
	}
}

// A stored policy that this version would no longer accept can be edited in every other field.
func TestOldPolicyIsEdited(t *testing.T) {
	r := start(t, Options{HTTP: true})
	id := r.policy("good", `"policy_data":{"usb":{"allowed":true}}`)
	r.stop()
	execSQL(t, r.dir, `UPDATE policies SET name = 'bad'||char(10)||'name' WHERE id = '`+id+`'`)
	r.serve(Options{HTTP: true})
	r.ok(200, "PUT", "/policies/"+id, `{"policy_data":{"usb":{"allowed":false}}}`)
	if st, _ := r.call(r.admin, "PUT", "/policies/"+id, `{"name":"bad\nname"}`); st != 400 {
		t.Errorf("a name with a line break is taken: %d", st)
	}
	r.ok(200, "PUT", "/policies/"+id, `{"name":"better"}`)
	if st, out := r.call(r.admin, "POST", "/policies", `{"name":"a\u001b[31mb","policy_data":{}}`); st != 400 ||
		!strings.Contains(fmt.Sprint(out), "name") {
		t.Errorf("%d %v", st, out)
	}
}

// What-if goes through the fleet in parts, and says where to continue.
func TestWhatIfSays(t *testing.T) {
	r := start(t, Options{HTTP: true})
	for i := range 3 {
		r.laptop(fmt.Sprint("l", i)).sync()
	}
	out := r.ok(200, "POST", "/policies/policy-default/whatif", `{"policy_data":{"usb":{"allowed":false}}}`)
	if num(out, "total") != 3 || num(out, "devices") != 3 || num(out, "left") != 0 || out["next"] != nil {
		t.Errorf("%v", out)
	}
	if st, out := r.call(r.view, "POST", "/policies/policy-default/whatif?cursor=xx", `{}`); st != 400 {
		t.Errorf("%d %v", st, out)
	}
}

func execSQL(t *testing.T, dir, text string) {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(dir, "server.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(text); err != nil {
		t.Fatal(err)
	}
}
