// Package api is the policy server's HTTP interface: the Policies API with what administrators need beside it, and the
// device side of enrollment, check-in and push. routes.go shows all of it on one page; the OpenAPI document is made from
// the same table. The package owns shapes, status codes and who may do what. It stores nothing (sync/server/store does)
// and does not decide who gets which policy (sync/server/fleet does).
package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"
	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/semaphore"

	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/sync/protocol"
	"github.com/warderd/warder/sync/server/fleet"
	"github.com/warderd/warder/sync/server/store"
)

// Keys are the server's secrets as the API needs them; they may be rotated while it runs.
type Keys interface {
	Signing() *jose.JSONWebKey
	PolicyKeys() json.RawMessage
	RecoveryKey() json.RawMessage
	// Recovery is the counter of the recovery key's last statement.
	Recovery() uint64
	// Pinned is protocol.KeysDigest of PolicyKeys. Rotation returns the signed statement that updates a device with
	// another pin, or "".
	Pinned() string
	Rotation(pinned string) string
	CodeSecret(device string) []byte
	// Admin returns the subject and role of a bearer token, and when it ends. facade is the vendor whose calls it is for; "" for this API.
	Admin(token, facade string, now time.Time) (subject, role string, until time.Time, err error)
	CAPin() string
}

// API serves one store.
type API struct {
	beside sync.WaitGroup // goroutines that requests have started and do not wait for

	Store   *store.Store
	Keys    Keys
	Now     func() time.Time
	Log     *slog.Logger
	Version string
	// Interval is how often devices are told to poll.
	Interval time.Duration
	NoPush   bool
	TLS      bool          // the server itself uses TLS
	Retain   time.Duration // of events
	// Limits; 0 means the default.
	MaxInFlight, MaxSockets int
	Tick                    time.Duration // how often rollouts are checked
	// Trusted are the proxies whose X-Forwarded-For is believed.
	Trusted []string

	state    atomic.Pointer[fleet.State]
	catching sync.Mutex   // one goroutine at a time follows the change sequence
	read     int64        // the last change that was read; guarded by catching
	heard    atomic.Int64 // the last change that is in effect here
	dirty    bool         // a reload is wanted that has not succeeded yet; guarded by catching

	book      book
	batch     batch
	hub       hub
	latency   latency
	people    people
	stats     *stats
	limit     failures
	tickets   tickets
	openapi   []byte
	openapi30 []byte
	page      []byte

	inFlight  chan struct{}
	large     *semaphore.Weighted                     // bytes of large bodies that are being read
	questions chan struct{}                           // what-if, one at a time
	uploads   chan struct{}                           // of long lists, one at a time
	downloads downloads                               // of lists, by devices
	readings  downloads                               // of lists, by administrators
	contents  *lru.Cache[policy.ListUse, policy.List] // long lists that questions were about
	stopping  atomic.Bool

	pinging   sync.Mutex
	pinged    time.Time
	pingError error
}

// Start reads who gets what and begins to follow changes. It returns when ctx ends and everything is written.
func (a *API) Start(ctx context.Context) (wait func(), err error) {
	if a.MaxInFlight == 0 {
		a.MaxInFlight = 2048
	}
	if a.MaxSockets == 0 {
		a.MaxSockets = 50_000
	}
	a.inFlight = make(chan struct{}, a.MaxInFlight)
	a.large = semaphore.NewWeighted(largeBodies)
	a.questions = make(chan struct{}, 1)
	a.uploads = make(chan struct{}, 1)
	a.contents, _ = lru.New[policy.ListUse, policy.List](2) // an error only of sizes below 1
	a.stats = newStats(a)
	a.book.init(a)
	a.batch.init(a)
	a.hub.init(a)
	a.people.init(a)
	if err := a.limit.init(a.Trusted); err != nil {
		return nil, err
	}
	if err := a.describe(); err != nil {
		return nil, err
	}
	list, _, err := a.Store.Audit(ctx, store.AuditFilter{}, 0, 1)
	if err != nil {
		return nil, err
	}
	if len(list) > 0 {
		a.read = list[0].Sequence
	}
	if err := a.reload(ctx); err != nil {
		return nil, err
	}
	if err := a.tickets.read(ctx, a); err != nil {
		return nil, err
	}
	a.heard.Store(a.read)
	var wg sync.WaitGroup
	// Accepted reports are written however the rest ends: the batch outlives the context until it is empty.
	writing, stop := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	go func() { defer close(done); a.batch.run(writing) }()
	wg.Go(func() { a.Store.Watch(ctx, 2*time.Second, a.follow) })
	wg.Go(func() { a.people.begin(ctx) })
	wg.Go(func() { a.tend(ctx) })
	wg.Go(func() { a.hub.ping(ctx) })
	return func() {
		wg.Wait()
		a.beside.Wait()
		a.hub.end()
		stop()
		<-done
	}, nil
}

// Stop tells sockets to reconnect, spread over a time, and refuses new requests.
func (a *API) Stop(spread time.Duration) {
	a.stopping.Store(true)
	a.hub.close(spread)
}

// follow reads the changes since the last one, this node's and others', and acts on them.
func (a *API) follow(ctx context.Context) {
	if err := a.catchUp(ctx); err != nil && ctx.Err() == nil {
		a.Log.Error("cannot follow changes", "error", err)
	}
}

// catchUp reads the changes since the last one, and acts on them; catching makes it one at a time.
func (a *API) catchUp(ctx context.Context) error {
	a.catching.Lock()
	defer a.catching.Unlock()
	const most = 1000
	for {
		list, err := a.Store.Changes(ctx, a.read, most)
		if err != nil {
			return err
		}
		var devices []string
		tickets := false
		for _, c := range list {
			switch c.Action {
			case "device.assigned", "device.edited", "device.retired", "device.cloned",
				"exception.granted", "exception.ended", "diagnostics.requested", "diagnostics.received":
				a.book.forget(c.Subject)
				if c.Action != "diagnostics.received" {
					a.hub.renew(ctx, a, c)
				}
				if strings.HasPrefix(c.Action, "device.") {
					devices = append(devices, c.Subject)
				}
			case "device.enrolled":
				devices = append(devices, c.Subject)
			case "enrollment.created", "enrollment.revoked":
				tickets = true
			case "keys.rotated", "tokens.rotated", "token.created", "diagnostics.downloaded", "vendor.written", "vendor.deleted":
			default:
				a.dirty = true // and stays so until a reload has succeeded
			}
		}
		if err := a.people.follow(ctx, devices); err != nil {
			return err
		}
		if tickets {
			if err := a.tickets.read(ctx, a); err != nil {
				return err
			}
		}
		if len(list) > 0 {
			a.read = list[len(list)-1].Sequence
		}
		if len(list) < most {
			break
		}
	}
	if a.dirty {
		if err := a.reload(ctx); err != nil {
			return err
		}
		a.dirty = false
	}
	// Not before: a check-in that was nudged for a change waits here until the change is in effect.
	a.heard.Store(a.read)
	return nil
}

// reload reads again who gets what (only those policies that changed), and nudges the connected devices for which it
// differs.
func (a *API) reload(ctx context.Context) error {
	st, err := a.Store.State(ctx, a.state.Load())
	if err != nil {
		return err
	}
	if before := a.state.Swap(st); before != nil {
		a.hub.changed(before, st, a.Now())
	}
	return nil
}

// changed is called after a change of this node's own, so that the next reader on this node sees it (read-your-writes).
func (a *API) changed(ctx context.Context) error { return a.catchUp(context.WithoutCancel(ctx)) }

// tend does the regular work: stages of rollouts, pruning, the online mark of connected devices.
func (a *API) tend(ctx context.Context) {
	if a.Tick == 0 {
		a.Tick = 5 * time.Second
	}
	every := time.NewTicker(a.Tick)
	defer every.Stop()
	last := time.Time{}
	for {
		select {
		case <-ctx.Done():
			return
		case <-every.C:
		}
		a.advance(ctx)
		a.hub.windows(a)
		a.people.scan(ctx)
		if time.Since(last) < time.Hour {
			continue
		}
		last = time.Now()
		a.prune(ctx)
	}
}

// prune does the hourly work on the database: corrections, and the deletion of what is too old.
func (a *API) prune(ctx context.Context) {
	if err := a.Store.Reckon(ctx); err != nil && ctx.Err() == nil {
		a.Log.Error("cannot reckon how devices stand", "error", err)
	}
	if err := a.Store.Tidy(ctx, a.Now()); err != nil && ctx.Err() == nil {
		a.Log.Error("cannot tidy", "error", err)
	}
	a.people.dropStandings(ctx)
	if a.Retain <= 0 {
		return
	}
	for ctx.Err() == nil {
		more, err := a.Store.Prune(ctx, a.Now().Add(-a.Retain))
		if err != nil && ctx.Err() == nil {
			a.Log.Error("cannot prune events", "error", err)
		}
		if err != nil || !more {
			return
		}
		time.Sleep(50 * time.Millisecond) // writers come first
	}
}

// problem is an error with its status.
type problem struct {
	status        int
	code, message string
	errors        any // every error by field, if there is more to say
}

func (p *problem) Error() string { return p.message }

// detailed is an error whose body has more than code and message.
type detailed struct {
	status int
	body   any
}

func (d *detailed) Error() string { return "refused" }

// errHijacked means that the handler has taken the connection over.
var errHijacked = errors.New("hijacked")

// write encodes an answer, and returns the bytes for its idempotency key.
func (a *API) write(w http.ResponseWriter, status int, v any) []byte {
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false) // this is not HTML: "→" and ">" stay readable
	err := enc.Encode(v)
	b := bytes.TrimSuffix(out.Bytes(), []byte("\n"))
	if err != nil {
		a.Log.Error("cannot encode an answer", "error", err)
		status, b = http.StatusInternalServerError, []byte(`{"error":{"code":"internal","message":"internal error"}}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(b)
	return b
}

// answer turns an error into a status and a body. Every error of the API passes here.
func (a *API) answer(w http.ResponseWriter, id string, err error) (int, any) {
	body := func(code, message string, errs any) protocol.Problem {
		return protocol.Problem{Error: &protocol.ProblemBody{Code: code, Message: message, RequestID: id}, Errors: errs}
	}
	var p *problem
	var d *detailed
	switch {
	case errors.As(err, &d):
		return d.status, d.body
	case errors.As(err, &p):
		if p.status == http.StatusServiceUnavailable || p.status == http.StatusTooManyRequests {
			w.Header().Set("Retry-After", a.later())
		}
		return p.status, body(p.code, p.message, p.errors)
	case errors.Is(err, store.ErrNotFound):
		return http.StatusNotFound, body("not_found", "no such resource", nil)
	case errors.Is(err, store.ErrStale):
		return http.StatusConflict, body("stale_version", "it was changed at the same time; read it again", nil)
	case errors.Is(err, store.ErrInUse):
		return http.StatusConflict, body("in_use", err.Error(), nil)
	case errors.Is(err, store.ErrReused):
		return http.StatusConflict, body("idempotency_key_in_use",
			"a request with this Idempotency-Key was carried out at the same time; ask again", nil)
	default:
		if !errors.Is(err, context.Canceled) {
			a.Log.Error("request failed", "request", id, "error", err)
		}
		w.Header().Set("Retry-After", a.later())
		return http.StatusServiceUnavailable, body("unavailable", "the server cannot answer now", nil)
	}
}
