package checkin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/warderd/warder/sync/protocol"
)

func TestCadence(t *testing.T) {
	random := 0.0
	c := NewCadence(func() float64 { return random })
	if d := c.Done(); d != 300*time.Second {
		t.Errorf("polling: %s", d)
	}
	c.Pushed = true
	if d := c.Done(); d != time.Hour {
		t.Errorf("with push: %s", d)
	}
	down := errors.New("down")
	want := []time.Duration{5, 10, 20, 40, 80, 160, 320, 640, 900, 900, 900}
	for i, w := range want {
		if d := c.Failed(down); d != w*time.Second {
			t.Errorf("failure %d: %s, want %s", i, d, w*time.Second)
		}
	}
	// Full jitter is added after the cap: a fleet must not come back all at once.
	random = 0.999
	if d := c.Failed(down); d < 29*time.Minute || d > 30*time.Minute {
		t.Errorf("jitter: %s", d)
	}
	for range 10_000 {
		if d := c.Failed(down); d > 2*maxDelay || d < maxDelay {
			t.Fatalf("after thousands of failures: %s", d)
		}
	}
	c.Done()
	random = 0
	if d := c.Failed(down); d != 5*time.Second {
		t.Errorf("after a success: %s", d)
	}
	if d := c.Failed(&StatusError{Code: 503, RetryAfter: 777 * time.Second}); d != 777*time.Second {
		t.Errorf("Retry-After: %s", d)
	}
	if d := c.Failed(&StatusError{Code: 401}); d != time.Hour {
		t.Errorf("401: %s", d)
	}
	if d := c.Failed(fmt.Errorf("x: %w", &StatusError{Code: 403})); d != time.Hour {
		t.Errorf("403: %s", d)
	}
	if d := c.Failed(&StatusError{Code: 400}); d != time.Hour { // with push: the next regular time
		t.Errorf("400: %s", d)
	}
	one, again, two := First("device-1", time.Minute), First("device-1", time.Minute), First("device-2", time.Minute)
	if one != again || one == two {
		t.Error("the first check-in is not spread predictably")
	}
}

func client(t *testing.T, h http.HandlerFunc) *Client {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	key, err := protocol.NewDeviceKey()
	if err != nil {
		t.Fatal(err)
	}
	c, err := NewClient(Server{URL: s.URL}, "d1", key, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// A wrong clock is no lock-out: the offset is learnt from the answer, and one retry uses it.
func TestClockIsLearnt(t *testing.T) {
	server := time.Now().Add(72 * time.Hour)
	calls := 0
	var c *Client
	c = client(t, func(w http.ResponseWriter, r *http.Request) {
		calls++
		token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
		body := make([]byte, r.ContentLength)
		_, _ = r.Body.Read(body)
		want, err := protocol.VerifyRequest(token, c.Key.Public(), "d1", "POST", r.URL.Path, server)
		if err == nil {
			err = protocol.VerifyBody(want, body)
		}
		if err != nil {
			w.WriteHeader(http.StatusUnauthorized)
			_ = json.NewEncoder(w).Encode(protocol.Problem{Error: &protocol.ProblemBody{Code: protocol.CodeClock, ServerTime: &server}})
			return
		}
		_, _ = w.Write([]byte(`{"ack_seq":3}`))
	})
	a, err := c.Exchange(context.Background(), protocol.Report{})
	if err != nil || a.AckSeq != 3 || calls != 2 || c.Offset() < 71*time.Hour {
		t.Errorf("%+v %v, %d calls, offset %s", a, err, calls, c.Offset())
	}
	if _, err := c.Exchange(context.Background(), protocol.Report{}); err != nil || calls != 3 {
		t.Errorf("the offset is not kept: %v, %d calls", err, calls)
	}
}

func TestCounterGrows(t *testing.T) {
	var seen []uint64
	c := client(t, func(w http.ResponseWriter, r *http.Request) {
		var in protocol.Report
		_ = json.NewDecoder(r.Body).Decode(&in)
		seen = append(seen, in.Counter)
		if len(seen) == 2 {
			w.WriteHeader(http.StatusConflict)
			_ = json.NewEncoder(w).Encode(protocol.Problem{Error: &protocol.ProblemBody{Code: protocol.CodeCounter,
				Counter: in.Counter + 1_000_000_000_000}})
			return
		}
		_, _ = w.Write([]byte(`{}`))
	})
	for range 3 {
		if _, err := c.Exchange(context.Background(), protocol.Report{}); err != nil {
			t.Fatal(err)
		}
	}
	for i := 1; i < len(seen); i++ {
		if seen[i] <= seen[i-1] {
			t.Errorf("counters %v", seen)
		}
	}
	if len(seen) != 4 || seen[2] != seen[1]+1_000_000_000_001 {
		t.Errorf("counters %v", seen)
	}
}

// Each way in which a server can misbehave has its own error.
func TestAnswers(t *testing.T) {
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		want   string
	}{
		"garbage": {func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>hotel")) }, "makes no sense"},
		"500":     {func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "out of order", 500) }, "500: out of order"},
		"429": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "60")
			w.WriteHeader(429)
		}, "try again in 1m0s"},
		"a problem": {func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(403)
			_, _ = w.Write([]byte(`{"error":{"code":"cloned","message":"two machines"}}`))
		}, "two machines"},
		"too large": {func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, protocol.MaxResponse+1)) }, "more than"},
		"a redirect": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://elsewhere.example/", http.StatusFound)
		}, "does not redirect"},
	} {
		_, err := client(t, c.answer).Exchange(context.Background(), protocol.Report{})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	var s *StatusError
	_, err := client(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", time.Now().Add(time.Hour).UTC().Format(http.TimeFormat))
		w.WriteHeader(503)
	}).Exchange(context.Background(), protocol.Report{})
	if !errors.As(err, &s) || s.RetryAfter < 59*time.Minute || s.RetryAfter > time.Hour {
		t.Errorf("Retry-After as a date: %v", err)
	}
}

// All times from a server are bounded.
func TestBounds(t *testing.T) {
	for in, want := range map[int]time.Duration{0: DefaultInterval, -5: DefaultInterval, 1: 10 * time.Second, 60: time.Minute,
		86_401: 24 * time.Hour, 1 << 62: 24 * time.Hour} {
		if got := Bounded(in); got != want {
			t.Errorf("interval %d: %s, want %s", in, got, want)
		}
	}
	const day = 24 * time.Hour
	for in, want := range map[string]time.Duration{"": 0, "60": time.Minute, "-1": 0, "9999999999": day, "9223372036854775807": day,
		"99999999999999999999": 0, "soon": 0,
		"Thu, 26 Nov 2026 12:00:00 GMT": time.Hour, "Thu, 26 Nov 9999 12:00:00 GMT": day, "Thu, 26 Nov 1998 12:00:00 GMT": 0} {
		if got := retryAfter(in, "Thu, 26 Nov 2026 11:00:00 GMT"); got != want {
			t.Errorf("Retry-After %q: %s, want %s", in, got, want)
		}
	}
	// A counter, and a clock, that no server has.
	c := &Client{Now: time.Now}
	far := time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)
	for name, p := range map[string]protocol.ProblemBody{"counter": {Code: protocol.CodeCounter, Counter: 1 << 53},
		"clock": {Code: protocol.CodeClock, ServerTime: &far}, "no clock": {Code: protocol.CodeClock}} {
		if c.learn(&StatusError{Problem: p}) {
			t.Errorf("%s: it is believed", name)
		}
	}
}

func TestCheckURL(t *testing.T) {
	for url, ok := range map[string]bool{"https://x.example": true, "http://127.0.0.1:1": true, "http://localhost": true,
		"http://x.example": false, "ftp://x": false, "x.example": false, "": false} {
		if _, err := CheckURL(url); (err == nil) != ok {
			t.Errorf("%q: %v", url, err)
		}
	}
}

// The pinned authority, and no other, is trusted from the first request on.
func TestEnrollPin(t *testing.T) {
	s := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a request was sent past the pin") }))
	t.Cleanup(s.Close)
	key, _ := protocol.NewDeviceKey()
	for _, pin := range []string{"sha256:" + strings.Repeat("0", 64), "sha256:short", "nonsense"} {
		if _, _, err := Enroll(context.Background(), Server{URL: s.URL}, pin, "t", key, protocol.Host{}, "m"); err == nil {
			t.Errorf("%q passes", pin)
		}
	}
	if _, _, err := Enroll(context.Background(), Server{URL: s.URL}, "", "t", key, protocol.Host{}, "m"); err == nil {
		t.Error("without a pin an unknown authority passes")
	}
}
