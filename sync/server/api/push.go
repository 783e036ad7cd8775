package api

import (
	"context"
	"encoding/json"
	"net/http"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/coder/websocket"

	"github.com/warderd/warder/sync/protocol"
	"github.com/warderd/warder/sync/server/fleet"
	"github.com/warderd/warder/sync/server/store"
)

// Timing of the sockets: the server asks, and drops a device that has been silent for two minutes.
const (
	pingEvery  = 55 * time.Second
	silence    = 2 * time.Minute
	nudgeEach  = 1700 * time.Microsecond // per device: a change for many is spread over their number
	writeWait  = 10 * time.Second
	closeWait  = 5 * time.Second // for telling all sockets that the server is stopping
	maxInbound = 1 << 10
	writers    = 16   // goroutines that write to all sockets
	restAfter  = 1000 // sockets since memory was last given back
)

// socket is one connected device. Its goroutine only reads. The next message to write is stored here; a newer nudge
// replaces an older one.
type socket struct {
	c       *websocket.Conn
	heard   atomic.Int64
	pinged  int64 // guarded by the hub, like the following fields
	noted   time.Time
	device  fleet.Device
	n       int64
	waiting *protocol.Nudge
	queued  bool
}

// hub knows the sockets that are up.
type hub struct {
	mu    sync.Mutex
	conns map[string]*socket
	queue chan *socket
	open  map[string]bool // rollouts whose window was open at the last check

	closed         bool
	before, rested int // sockets at the last round, and when memory was given back
	a              *API
	beside         sync.WaitGroup // the sockets' readers, and sockets that are being closed
}

func (h *hub) init(a *API) {
	h.a, h.conns, h.queue = a, map[string]*socket{}, make(chan *socket, 1<<16)
}

// add registers a socket; only the newest of a device is kept.
func (h *hub) add(s *socket, most int) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return false
	}
	old := h.conns[s.device.ID]
	if old == nil && len(h.conns) >= most {
		return false
	}
	if old != nil {
		h.beside.Go(func() { _ = old.c.CloseNow() }) // gone either way
	}
	s.pinged = time.Now().UnixNano()
	h.conns[s.device.ID] = s
	h.a.people.Connected(s.n, true)
	// In a goroutine of its own: the request's stack has grown during the handshake, and keeps the request alive, which
	// is not needed while the socket is up. This halves the cost of an idle socket. It is started with the lock, so
	// that end finds it.
	h.beside.Go(func() { s.read(h) })
	return true
}

// remove removes a socket, unless a newer one of the device has replaced it.
func (h *hub) remove(s *socket) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.conns[s.device.ID] == s {
		delete(h.conns, s.device.ID)
		h.a.people.Connected(s.n, false)
	}
}

// connected reports whether a device has a socket to this node.
func (h *hub) connected(id string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.conns[id] != nil
}

// each visits the connected devices, by number.
func (h *hub) each(f func(device int64)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.conns {
		f(s.n)
	}
}

// count is how many sockets are up.
func (h *hub) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.conns)
}

// update stores what decides about a connected device's policy.
func (h *hub) update(d *fleet.Device) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if s := h.conns[d.ID]; s != nil {
		s.device = *d
	}
}

// send queues a nudge and never waits. The caller has the lock.
func (h *hub) send(s *socket, n protocol.Nudge) {
	if s.waiting != nil && n.Type == protocol.NudgePing {
		return // a queued message already proves the server is alive
	}
	s.waiting = &n
	if s.queued {
		return
	}
	select {
	case h.queue <- s:
		s.queued = true
	default:
		s.waiting = nil // as many writes wait as there can be sockets: polling delivers it
	}
}

// renew stores what changed about one connected device, and nudges it.
func (h *hub) renew(ctx context.Context, a *API, change store.Change) {
	id := change.Subject
	if !h.connected(id) {
		return
	}
	if d, err := a.Store.Known(ctx, id); err == nil {
		var current protocol.PolicyState
		_ = json.Unmarshal(d.Report.Current, &current)
		d.Current.Policy, d.Current.Version = current.ID, current.Version
		h.update(&d.Device)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if s := h.conns[id]; s != nil {
		h.send(s, protocol.Nudge{Type: protocol.NudgeCheckIn, Reason: change.Action, Sequence: change.Sequence})
	}
}

// changed nudges the devices for which the answer differs, spread over their number.
func (h *hub) changed(before, after *fleet.State, now time.Time) {
	h.nudge(after.Sequence, func(d *fleet.Device) bool {
		was, had := before.Effective(d, now)
		is, has := after.Effective(d, now)
		return was != is || had != has
	})
}

// nudge sends the change's number to the connected devices for which differs says yes, spread over their number.
func (h *hub) nudge(sequence int64, differs func(*fleet.Device) bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var list []*socket
	for _, s := range h.conns {
		if differs(&s.device) {
			list = append(list, s)
		}
	}
	within := int((time.Duration(len(list)) * nudgeEach).Milliseconds())
	if len(list) < 2 {
		within = 0
	}
	for _, s := range list {
		h.send(s, protocol.Nudge{Type: protocol.NudgeCheckIn, Reason: "policy_changed", Within: within, Sequence: sequence})
	}
}

// windows nudges the devices that a rollout reaches now because its window has opened.
func (h *hub) windows(a *API) {
	st, now := a.state.Load(), a.Now()
	open, opened := map[string]bool{}, false
	for _, r := range st.Rollouts {
		open[r.ID] = r.Plan.Window.Open(now)
		was, known := h.open[r.ID]
		opened = opened || open[r.ID] && known && !was
	}
	h.open = open
	if opened {
		h.nudge(st.Sequence, func(d *fleet.Device) bool {
			v, ok := st.Effective(d, now)
			return ok && (v.Policy != d.Current.Policy || v.Version != d.Current.Version)
		})
	}
}

// ping runs the writers, asks each socket for a sign of life, and drops silent ones.
func (h *hub) ping(ctx context.Context) {
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for {
				select {
				case <-ctx.Done():
					return
				case s := <-h.queue:
					h.flush(s)
				}
			}
		})
	}
	t := time.NewTicker(5 * time.Second)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			wg.Wait()
			return
		case <-t.C:
			h.round(time.Now())
		}
	}
}

// round asks each socket for a sign of life when it is due, and closes silent ones.
func (h *hub) round(now time.Time) {
	h.mu.Lock()
	var dead []*socket
	var alive []store.Seen
	for _, s := range h.conns {
		if now.Sub(time.Unix(0, s.heard.Load())) > silence {
			dead = append(dead, s)
			continue
		}
		if now.Sub(time.Unix(0, s.pinged)) >= pingEvery {
			s.pinged = now.UnixNano()
			h.send(s, protocol.Nudge{Type: protocol.NudgePing})
			if s.noted.IsZero() || now.Sub(s.noted) >= min(h.a.Interval, notedEvery) {
				// Dated when it was heard.
				s.noted = now
				heard := h.a.Now().Add(-now.Sub(time.Unix(0, s.heard.Load())))
				alive = append(alive, store.Seen{Device: s.n, At: heard, Fresh: heard.Add(freshSocket)})
			}
		}
	}
	h.mu.Unlock()
	for _, s := range dead {
		_ = s.c.CloseNow()
	}
	h.rest()
	for _, s := range alive {
		h.a.batch.note(s)
	}
}

// rest gives memory back once many sockets have connected and no more do: handshakes leave several times the memory of
// idle sockets.
func (h *hub) rest() {
	n := h.count()
	grown, still := n-h.rested, n == h.before
	h.before = n
	if n < h.rested {
		h.rested = n
	}
	if still && grown > restAfter {
		h.rested = n
		debug.FreeOSMemory()
	}
}

// flush writes a socket's queued message.
func (h *hub) flush(s *socket) {
	h.mu.Lock()
	n := s.waiting
	s.waiting, s.queued = nil, false
	h.mu.Unlock()
	if n == nil {
		return
	}
	b, _ := json.Marshal(n)
	ctx, cancel := context.WithTimeout(context.Background(), writeWait)
	defer cancel()
	if s.c.Write(ctx, websocket.MessageText, b) != nil || n.Type == protocol.NudgeReconnect {
		_ = s.c.CloseNow()
		return
	}
	if n.Type == protocol.NudgeCheckIn {
		h.a.stats.nudges.Inc()
	}
}

// close tells all sockets to reconnect within a time, and waits until they were told.
func (h *hub) close(spread time.Duration) {
	h.mu.Lock()
	h.closed = true
	all := make([]*socket, 0, len(h.conns))
	for _, s := range h.conns {
		all = append(all, s)
		s.waiting, s.queued = &protocol.Nudge{Type: protocol.NudgeReconnect, Within: int(spread.Milliseconds())}, true
	}
	h.mu.Unlock()
	// Dead connections must not delay the stop.
	t := time.AfterFunc(closeWait, func() {
		for _, s := range all {
			_ = s.c.CloseNow()
		}
	})
	defer t.Stop()
	var wg sync.WaitGroup
	for part := range slices.Chunk(all, len(all)/writers+1) {
		wg.Go(func() {
			for _, s := range part {
				h.flush(s)
			}
		})
	}
	wg.Wait()
}

// end closes every socket and waits for their readers. No socket can be added any more: the hub is closed, or the
// context of everything that could add one has ended.
func (h *hub) end() {
	h.mu.Lock()
	h.closed = true
	all := make([]*socket, 0, len(h.conns))
	for _, s := range h.conns {
		all = append(all, s)
	}
	h.mu.Unlock()
	for part := range slices.Chunk(all, len(all)/writers+1) {
		h.beside.Go(func() {
			for _, s := range part {
				_ = s.c.CloseNow()
			}
		})
	}
	h.beside.Wait()
}

// push answers GET /devices/{id}/push by taking the connection over as a websocket.
func push(a *API, q *request) (struct{}, error) {
	var none struct{}
	if a.NoPush {
		return none, &problem{status: http.StatusNotFound, code: "no_push", message: "this server offers no socket"}
	}
	if a.stopping.Load() {
		return none, errStopping
	}
	e := q.known
	if e.d.State == store.Retired {
		return none, &problem{status: http.StatusForbidden, code: protocol.CodeRetired, message: "this device is retired"}
	}
	s := &socket{device: e.d.Device, n: e.d.N}
	if a.hub.count() >= a.MaxSockets && !a.hub.connected(e.d.ID) {
		return none, &problem{status: http.StatusServiceUnavailable, code: "busy",
			message: "this node has the most sockets that it accepts"}
	}
	c, err := websocket.Accept(q.w, q.Request, &websocket.AcceptOptions{CompressionMode: websocket.CompressionDisabled})
	if err != nil {
		return none, errHijacked // Accept has answered
	}
	c.SetReadLimit(maxInbound)
	s.c = c
	s.heard.Store(time.Now().UnixNano())
	if !a.hub.add(s, a.MaxSockets) { // the last place went to another, or the server is stopping
		_ = c.CloseNow()
		return none, errHijacked
	}
	return none, errHijacked
}

// read reads signs of life until there are none.
func (s *socket) read(h *hub) {
	defer h.remove(s)
	defer s.c.CloseNow() //nolint:errcheck // the connection is gone either way
	for {
		if _, _, err := s.c.Read(context.Background()); err != nil {
			return
		}
		s.heard.Store(time.Now().UnixNano())
	}
}

// latency is the time from a change to its report, by the server's clock alone.
type latency struct {
	mu sync.Mutex
	h  *hdrhistogram.Histogram
}

// record adds one measurement.
func (l *latency) record(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.h == nil {
		l.h = hdrhistogram.New(1, int64(30*24*time.Hour/time.Millisecond), 2)
	}
	_ = l.h.RecordValue(max(d.Milliseconds(), 1)) // after a month it means nothing
}

// latencyView sums up how long changes took to be reported, in milliseconds.
type latencyView struct {
	Change latencyMS `json:"change_to_report_ms"`
}

type latencyMS struct {
	Count int64 `json:"count"`
	P50   int64 `json:"p50"`
	P90   int64 `json:"p90"`
	P99   int64 `json:"p99"`
}

// getLatency answers GET /latency.
func getLatency(a *API, _ *request) (latencyView, error) {
	l := &a.latency
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.h == nil {
		return latencyView{}, nil
	}
	return latencyView{latencyMS{l.h.TotalCount(), l.h.ValueAtQuantile(50), l.h.ValueAtQuantile(90), l.h.ValueAtQuantile(99)}}, nil
}
