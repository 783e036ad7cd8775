package api

import (
	"context"
	"encoding/json"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/coder/websocket"

	"github.com/warderd/warder/sync/protocol"
	"github.com/warderd/warder/sync/server/store"
)

// Timing of the sockets: the server asks, and drops a device that has been silent for two minutes.
const (
	pingEvery   = 55 * time.Second
	silence     = 2 * time.Minute
	nudgeEach   = 2 * time.Millisecond // per device: a change for many is spread over their number
	writeWait   = 10 * time.Second
	maxInbound  = 1 << 10
	nudgeBuffer = 4
)

// hub knows the sockets that are up.
type hub struct {
	mu    sync.Mutex
	conns map[string]chan protocol.Nudge
}

func (h *hub) add(id string) (chan protocol.Nudge, func()) {
	c := make(chan protocol.Nudge, nudgeBuffer)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.conns == nil {
		h.conns = map[string]chan protocol.Nudge{}
	}
	if old := h.conns[id]; old != nil {
		close(old) // one socket a device: the newest
	}
	h.conns[id] = c
	return c, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.conns[id] == c {
			delete(h.conns, id)
		}
	}
}

func (h *hub) connected(id string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.conns[id] != nil
}

// send never waits: a device whose buffer is full has a nudge coming anyway.
func (h *hub) send(id string, n protocol.Nudge) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if c := h.conns[id]; c != nil {
		select {
		case c <- n:
		default:
		}
	}
}

// nudge tells every connected device that a policy reaches.
func (a *API) nudge(p *store.Policy, _ time.Time) {
	ids, err := a.Store.DeviceIDs(context.Background(), p.ID)
	if err != nil {
		a.Log.Error("cannot nudge devices", "policy", p.ID, "error", err)
		return
	}
	within := int((time.Duration(len(ids)-1) * nudgeEach).Milliseconds())
	for _, id := range ids {
		a.hub.send(id, protocol.Nudge{Type: protocol.NudgeCheckIn, Reason: "policy_changed", Within: max(within, 0)})
	}
}

func push(a *API, q *request) (int, any, error) {
	if a.NoPush {
		return 0, nil, &problem{http.StatusNotFound, "no_push", "this server offers no socket"}
	}
	if q.device.State == "retired" {
		return 0, nil, &problem{http.StatusForbidden, protocol.CodeRetired, "this device is retired"}
	}
	c, err := websocket.Accept(q.w, q.Request, &websocket.AcceptOptions{CompressionMode: websocket.CompressionDisabled})
	if err != nil {
		return 0, nil, errHijacked // Accept has answered
	}
	defer c.CloseNow() //nolint:errcheck // the connection is gone either way
	c.SetReadLimit(maxInbound)
	nudges, leave := a.hub.add(q.device.ID)
	defer leave()
	ctx, stop := context.WithCancel(q.Context())
	defer stop()
	var heard atomic.Int64
	heard.Store(time.Now().UnixNano())
	go func() {
		defer stop()
		for {
			if _, _, err := c.Read(ctx); err != nil {
				return
			}
			heard.Store(time.Now().UnixNano())
		}
	}()
	ping := time.NewTicker(pingEvery)
	defer ping.Stop()
	for {
		select {
		case <-ctx.Done():
			return 0, nil, errHijacked
		case n, ok := <-nudges:
			if !ok || !writeNudge(ctx, c, n) {
				return 0, nil, errHijacked
			}
		case <-ping.C:
			if time.Since(time.Unix(0, heard.Load())) > silence || !writeNudge(ctx, c, protocol.Nudge{Type: protocol.NudgePing}) {
				return 0, nil, errHijacked
			}
		}
	}
}

func writeNudge(ctx context.Context, c *websocket.Conn, n protocol.Nudge) bool {
	b, _ := json.Marshal(n)
	ctx, cancel := context.WithTimeout(ctx, writeWait)
	defer cancel()
	return c.Write(ctx, websocket.MessageText, b) == nil
}

// latency is change → report received, on the server's clock alone.
type latency struct {
	mu sync.Mutex
	h  *hdrhistogram.Histogram
}

func (l *latency) record(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.h == nil {
		l.h = hdrhistogram.New(1, int64(30*24*time.Hour/time.Millisecond), 2)
	}
	_ = l.h.RecordValue(max(d.Milliseconds(), 1)) // beyond a month it says nothing
}

func (l *latency) summary() map[string]int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.h == nil {
		return map[string]int64{"count": 0}
	}
	return map[string]int64{"count": l.h.TotalCount(), "p50": l.h.ValueAtQuantile(50), "p90": l.h.ValueAtQuantile(90), "p99": l.h.ValueAtQuantile(99)}
}
