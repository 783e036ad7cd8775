package server

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/warderd/warder/sync/protocol"
)

// What one device reports never hides the others from an administrator: what could not be read again is refused with
// its field, and what an earlier version may have stored is shown as unreadable.
func TestUnreadableReports(t *testing.T) {
	r := start(t, Options{})
	good, _ := r.device("good", "m0")
	r.exchange(good, protocol.Report{Epoch: "e"})
	c, out := r.device("bad", "m1")
	var pad, names strings.Builder
	for i := range 12 {
		fmt.Fprintf(&pad, `,"x%d":"%s"`, i, strings.Repeat("x", 4000))
	}
	for i := range 5000 {
		fmt.Fprintf(&names, `"%d":0,`, i)
	}
	path := "/api/v1/devices/" + out.DeviceID + "/checkin"
	seen := func(when string) {
		t.Helper()
		for _, p := range []string{"/events", "/devices/" + out.DeviceID + "/events", "/devices/" + out.DeviceID, "/devices",
			"/compliance"} {
			if code, m := r.call(r.view, "GET", p, ""); code != 200 {
				t.Errorf("%s: GET %s: %d %v", when, p, code, m)
			}
		}
	}
	for _, x := range []struct{ rest, field string }{
		{`"events":[{"seq":1,"at":"2026-11-26T20:30:00+24:00"` + pad.String() + `}]`, "events[0].at"},
		{`"events":[{"seq":1,"at":"2026-11-26T20:30:00Z"},{"seq":2,"at":"2026-11-26T20:30:00+24:00"}]`, "events[1].at"},
		{`"events":[{"seq":1,"at":"2026-11-26T20:30:00Z","count":21000000000000000000}]`, "count"},
		{`"events":[{"seq":1,"at":"2026/11/26T20:30:00Z"}]`, "parsing time"},
		{`"findings_digest":"x","findings":[{"setting":"usb.allowed","since":"2026/11/26T20:30:00Z"}]`, "parsing time"},
		{`"findings_digest":"x","findings":[{"setting":"usb.allowed","since":"2026-11-26T20:30:00+24:00"}]`, "findings[0].since"},
		{`"findings_digest":"x","findings":[{"setting":"usb.allowed","compliance":"noncompliant","Compliance":"compliant"}]`,
			"appears more than once"},
		{`"events":[{"seq":7,"Seq":3,"at":"2026-11-26T20:30:00Z","kind":"denied","Kind":"drift"}]`, "appears more than once"},
		{`"x":{` + names.String() + `"last":0}`, "more than 4096 names"},
		{`"agent":{"started_at":"2026-11-26T20:30:00+24:00","run":"r"}`, "agent.started_at"},
	} {
		body := fmt.Appendf(nil, `{"counter":%d,"epoch":"e",%s}`, time.Now().UnixMilli(), x.rest)
		token, err := c.Sign("POST", path, body)
		if err != nil {
			t.Fatal(err)
		}
		req, _ := http.NewRequestWithContext(context.Background(), "POST", r.url+path, bytes.NewReader(body))
		req.Header.Set("Authorization", "Bearer "+token)
		req.Header.Set("Content-Type", "application/json")
		res, err := r.http().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if res.StatusCode != 400 || !strings.Contains(string(b), x.field) {
			t.Errorf("%.120s: %d %.200s, want 400 that names %q", x.rest, res.StatusCode, b, x.field)
		}
		seen(x.field)
	}
	// Stored nevertheless, by another version.
	r.exchange(c, protocol.Report{Epoch: "e2", Counter: uint64(time.Now().UnixMilli())})
	number := `(SELECT n FROM devices WHERE id = '` + out.DeviceID + `')`
	execSQL(t, r.dir, `INSERT INTO events (device, epoch, first, last, received, body) VALUES (`+number+
		`, 'e3', 1, 2, 1, '[{"seq":1,"at":"2026/11/26"},{"seq":2,"at":"2026-11-26T20:30:00Z","subject":"fine"}]')`)
	execSQL(t, r.dir, `INSERT INTO events (device, epoch, first, last, received, body) VALUES (`+number+`, 'e4', 1, 1, 2, '[,{}]')`)
	seen("stored")
	code, m := r.call(r.view, "GET", "/devices/"+out.DeviceID+"/events", "")
	if text := fmt.Sprint(m); code != 200 || strings.Count(text, "unreadable") != 2 || !strings.Contains(text, "fine") {
		t.Errorf("%d %v", code, m)
	}
}

// A device that sends bodies which never end takes a few places of its own, and nobody else's: another device checks in
// meanwhile, and the memory for bodies is bounded.
func TestBodiesThatDoNotEnd(t *testing.T) {
	r := start(t, Options{})
	good, _ := r.device("good", "m0")
	bad, out := r.device("bad", "m1")
	path := "/api/v1/devices/" + out.DeviceID + "/checkin"
	body := bytes.Repeat([]byte(" "), 1<<20)
	token, err := bad.Sign("POST", path, body)
	if err != nil {
		t.Fatal(err)
	}
	begin := func() (io.Closer, *bufio.Reader) {
		// this client's trust is not under test
		c, err := tls.Dial("tcp", strings.TrimPrefix(r.url, "https://"), &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(c,
			"POST %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n", path,
			token, len(body))
		_, _ = c.Write(body[:len(body)-1]) // all but the last byte
		return c, bufio.NewReader(c)
	}
	var open []io.Closer
	for range 4 {
		c, _ := begin()
		open = append(open, c)
	}
	refused := false
	for begun := time.Now(); !refused && time.Since(begun) < 30*time.Second; {
		c, answer := begin()
		open = append(open, c)
		res, err := http.ReadResponse(answer, nil)
		refused = err == nil && res.StatusCode == http.StatusTooManyRequests
		if err == nil {
			_ = res.Body.Close()
		}
	}
	if !refused {
		t.Error("a device may begin any number of bodies")
	}
	r.exchange(good, protocol.Report{Epoch: "e"})
	for _, c := range open {
		_ = c.Close()
	}
	// Its places are free again as soon as the connections are.
	for begun := time.Now(); ; time.Sleep(100 * time.Millisecond) {
		if _, err := bad.Exchange(context.Background(), protocol.Report{Epoch: "e"}); err == nil {
			return
		} else if time.Since(begun) > 30*time.Second {
			t.Fatal(err)
		}
	}
}
