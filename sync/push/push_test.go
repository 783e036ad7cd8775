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
	return &Socket{URL: s.URL, Device: "d1", HTTP: s.Client(), Sign: func(m, p string, _ []byte) (string, error) { return m + " " + p, nil },
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

// A server that is silent for too long is dropped; its pings count as life.
func TestSilence(t *testing.T) {
	s, _, up := socket(t, func(ctx context.Context, c *websocket.Conn) {
		ctx = c.CloseRead(ctx)
		for range 3 {
			time.Sleep(60 * time.Millisecond)
			if c.Ping(ctx) != nil {
				return
			}
		}
		<-ctx.Done()
	})
	s.silence = 150 * time.Millisecond
	begun := time.Now()
	if !s.session(context.Background()) {
		t.Fatal("never up")
	}
	if lived := time.Since(begun); lived < 250*time.Millisecond {
		t.Errorf("dropped after %s although the server pinged", lived)
	}
	<-up
	if <-up {
		t.Error("still up")
	}
}

func FuzzNudge(f *testing.F) {
	f.Add([]byte(`{"type":"check_in","within_ms":5}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		n, err := parseNudge(b)
		if err == nil && (n.Type != "check_in" || n.Within < 0 || n.Within > 3_600_000) {
			t.Fatalf("%+v", n)
		}
	})
}
