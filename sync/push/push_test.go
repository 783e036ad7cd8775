package push

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/coder/websocket"
	"go.uber.org/goleak"

	"github.com/warderd/warder/sync/protocol"
)

func socket(t *testing.T, serve func(context.Context, *websocket.Conn)) (*Socket, chan protocol.Nudge, chan bool) {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer GET /api/v1/devices/d1/push" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer c.CloseNow() //nolint:errcheck // the test ends
		serve(r.Context(), c)
	}))
	t.Cleanup(s.Close)
	nudges, up := make(chan protocol.Nudge, 10), make(chan bool, 10)
	return &Socket{URL: s.URL, Device: "d1", HTTP: s.Client(),
		Sign:   func(m, p string, _ []byte) (string, error) { return m + " " + p, nil },
		Nudged: func(n protocol.Nudge) { nudges <- n }, Up: func(b bool) { up <- b }, random: func() float64 { return 0 }}, nudges, up
}

func TestNudges(t *testing.T) {
	s, nudges, up := socket(t, func(ctx context.Context, c *websocket.Conn) {
		for _, m := range []string{`garbage`, `{"type":"reboot"}`, `{"type":"check_in","reason":"policy_changed","within_ms":-5}`} {
			if c.Write(ctx, websocket.MessageText, []byte(m)) != nil {
				return
			}
		}
		_, _, _ = c.Read(ctx)
	})
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { s.Run(ctx); close(done) }()
	if !<-up {
		t.Error("not up")
	}
	if n := <-nudges; n.Reason != "policy_changed" || n.Within != 0 {
		t.Errorf("%+v", n)
	}
	cancel()
	<-done
	s.HTTP.CloseIdleConnections()
}

// A server that is silent for too long is dropped; its pings count as life, and are answered.
func TestSilence(t *testing.T) {
	answers := make(chan string, 1)
	s, _, up := socket(t, func(ctx context.Context, c *websocket.Conn) {
		_ = c.Write(ctx, websocket.MessageText, []byte(`{"type":"ping"}`))
		_, b, _ := c.Read(ctx)
		answers <- string(b)
		_, _, _ = c.Read(ctx)
	})
	now := time.Unix(0, 0)
	s.Now = func() time.Time { return now }
	done := make(chan bool)
	go func() { done <- s.session(context.Background()) }()
	if !<-up {
		t.Error("not up")
	}
	if got := <-answers; got != `{"type":"pong"}` {
		t.Errorf("answered %q", got)
	}
	s.mu.Lock()
	now = now.Add(Silence)
	s.mu.Unlock()
	s.Check()
	select {
	case <-done:
		t.Error("dropped too early")
	case <-time.After(50 * time.Millisecond):
	}
	s.mu.Lock()
	now = now.Add(time.Second)
	s.mu.Unlock()
	s.Check()
	if !<-done || <-up {
		t.Error("a silent server is not dropped")
	}
}

func FuzzNudge(f *testing.F) {
	f.Add([]byte(`{"type":"check_in","within_ms":5}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		n, err := parseNudge(b)
		if err == nil && (n.Type != "check_in" && n.Type != "ping" || n.Within < 0 || n.Within > 3_600_000) {
			t.Fatalf("%+v", n)
		}
	})
}
