// Package push is the device's end of the nudge socket. It owns one connection and only says "check in now". Data stays
// on HTTP, and polling continues when the socket is not available.
package push

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"

	"github.com/warderd/warder/sync/protocol"
)

// Timing of the socket. The server checks that the device is alive by a message and not by a websocket ping: the
// library arms a timer for each pong, which wakes an idle laptop once more.
const (
	Silence  = 2 * time.Minute // a server silent for this long is dropped, at the next Check
	minDelay = 5 * time.Second
	maxDelay = 5 * time.Minute
	maxNudge = 4 << 10
)

// Socket maintains one connection.
type Socket struct {
	URL    string // of the server, http or https
	Device string
	HTTP   *http.Client
	Sign   func(method, path string, body []byte) (string, error)
	Nudged func(protocol.Nudge)
	Up     func(bool)

	Now    func() time.Time
	random func() float64

	mu     sync.Mutex
	heard  time.Time
	drop   context.CancelFunc
	within time.Duration // the server stopped and asked to come back at some moment within this
}

// Check drops the connection if the server has been silent for too long. The agent calls it when it is awake anyway.
func (s *Socket) Check() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.drop != nil && s.Now().Sub(s.heard) > Silence {
		s.drop()
	}
}

// Renew drops the connection and makes a new one soon. The agent calls it when the machine's network was changed: a
// connection from before may look alive and hear of nothing any more.
func (s *Socket) Renew() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.drop != nil {
		s.within = time.Millisecond
		s.drop()
	}
}

// beat records a sign of life, and how to drop the present connection.
func (s *Socket) beat(drop context.CancelFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.heard, s.drop = s.Now(), drop
}

// Run connects, and reconnects with full jitter, until ctx ends.
func (s *Socket) Run(ctx context.Context) {
	if s.random == nil {
		s.random = rand.Float64
	}
	if s.Now == nil {
		s.Now = time.Now
	}
	for failures := 0; ctx.Err() == nil; failures++ {
		if s.session(ctx) {
			failures = 0
		}
		delay := min(minDelay<<min(failures, 10), maxDelay)
		s.mu.Lock()
		if s.within > 0 {
			delay, s.within = s.within, 0
		}
		s.mu.Unlock()
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
	hctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	c, _, err := websocket.Dial(hctx, "ws"+strings.TrimPrefix(strings.TrimSuffix(s.URL, "/"), "http")+path, &websocket.DialOptions{
		HTTPClient: &dial, HTTPHeader: http.Header{"Authorization": {"Bearer " + token}},
	})
	cancel()
	if err != nil {
		return false
	}
	defer c.CloseNow() //nolint:errcheck // the connection is gone either way
	c.SetReadLimit(maxNudge)
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	s.beat(stop)
	defer s.beat(nil)
	s.Up(true)
	defer s.Up(false)
	for {
		_, b, err := c.Read(ctx)
		if err != nil {
			return true
		}
		s.beat(stop)
		n, err := parseNudge(b)
		switch {
		case err != nil:
		case n.Type == protocol.NudgePing:
			if c.Write(ctx, websocket.MessageText, pong) != nil {
				return true
			}
		case n.Type == protocol.NudgeReconnect:
			s.mu.Lock()
			s.within = time.Duration(n.Within) * time.Millisecond
			s.mu.Unlock()
			return true
		default:
			s.Nudged(n)
		}
	}
}

var pong = []byte(`{"type":"pong"}`)

// parseNudge decodes a message; unknown types are ignored by the caller.
func parseNudge(b []byte) (protocol.Nudge, error) {
	var n protocol.Nudge
	if err := json.Unmarshal(b, &n); err != nil {
		return n, fmt.Errorf("nudge: %w", err)
	}
	if n.Type != protocol.NudgeCheckIn && n.Type != protocol.NudgePing && n.Type != protocol.NudgeReconnect {
		return n, fmt.Errorf("nudge of unknown type %q", n.Type)
	}
	n.Within = min(max(n.Within, 0), int(time.Hour/time.Millisecond))
	return n, nil
}
