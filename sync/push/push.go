// Package push is the device's end of the nudge socket. It owns one connection and says only
// "check in now"; data stays on HTTP, and polling goes on where the socket cannot be had.
package push

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"

	"github.com/coder/websocket"

	"github.com/warderd/warder/sync/protocol"
)

// Timing of the socket. The server pings, so that an idle laptop is not woken by its own pings.
const (
	Silence  = 2 * time.Minute // a peer silent for this long is dropped
	minDelay = 5 * time.Second
	maxDelay = 5 * time.Minute
	maxNudge = 4 << 10
)

// Socket keeps one connection up.
type Socket struct {
	URL    string // of the server, http or https
	Device string
	HTTP   *http.Client
	Sign   func(method, path string, body []byte) (string, error)
	Nudged func(protocol.Nudge)
	Up     func(bool)

	random  func() float64
	silence time.Duration
}

// Run connects, and reconnects with full jitter, until the context ends.
func (s *Socket) Run(ctx context.Context) {
	if s.random == nil {
		s.random = rand.Float64
	}
	if s.silence == 0 {
		s.silence = Silence
	}
	for failures := 0; ctx.Err() == nil; failures++ {
		if s.session(ctx) {
			failures = 0
		}
		delay := min(minDelay<<min(failures, 10), maxDelay)
		select {
		case <-ctx.Done():
		case <-time.After(time.Duration(s.random()*float64(delay)) + minDelay/2):
		}
	}
}

// session is one connection; it reports whether it was up at all.
func (s *Socket) session(ctx context.Context) (up bool) {
	path := protocol.Base + "/devices/" + s.Device + "/push"
	token, err := s.Sign(http.MethodGet, path, nil)
	if err != nil {
		return false
	}
	dial := *s.HTTP
	dial.Timeout = 0 // the library bounds the handshake by its context
	heard := make(chan struct{}, 1)
	beat := func() {
		select {
		case heard <- struct{}{}:
		default:
		}
	}
	hctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	c, _, err := websocket.Dial(hctx, "ws"+strings.TrimPrefix(strings.TrimSuffix(s.URL, "/"), "http")+path, &websocket.DialOptions{
		HTTPClient: &dial, HTTPHeader: http.Header{"Authorization": {"Bearer " + token}},
		OnPingReceived: func(context.Context, []byte) bool { beat(); return true },
	})
	cancel()
	if err != nil {
		return false
	}
	defer c.CloseNow() //nolint:errcheck // the connection is gone either way
	c.SetReadLimit(maxNudge)
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	go s.watch(ctx, stop, heard)
	s.Up(true)
	defer s.Up(false)
	for {
		_, b, err := c.Read(ctx)
		if err != nil {
			return true
		}
		beat()
		if n, err := parseNudge(b); err == nil {
			s.Nudged(n)
		}
	}
}

// watch drops a server that has been silent for too long.
func (s *Socket) watch(ctx context.Context, drop func(), heard <-chan struct{}) {
	t := time.NewTimer(s.silence)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-heard:
			t.Reset(s.silence)
		case <-t.C:
			drop()
			return
		}
	}
}

func parseNudge(b []byte) (protocol.Nudge, error) {
	var n protocol.Nudge
	if err := json.Unmarshal(b, &n); err != nil {
		return n, fmt.Errorf("nudge: %w", err)
	}
	if n.Type != "check_in" {
		return n, fmt.Errorf("nudge of unknown type %q", n.Type)
	}
	n.Within = min(max(n.Within, 0), int(time.Hour/time.Millisecond))
	return n, nil
}
