package api

import (
	"context"
	"encoding/json"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"
	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/warderd/warder/sync/protocol"
	"github.com/warderd/warder/sync/server/store"
)

// bookSize is how many devices a node remembers, at about 2 KiB each. Any other device costs a read.
const bookSize = 100_000

// entry is what this node knows of a device. It is dropped when another node or an administrator changes the device.
// What the device itself changed through another node is noticed by different digests, and read again. After an hour it
// is read again anyway.
type entry struct {
	lock   chan struct{} // one request of a device at a time; contains a token while free
	queued atomic.Int32
	coming atomic.Int32 // bodies of this device that are being read

	id  string          // never changes, nor does the key
	key jose.JSONWebKey // set before ready is closed

	ready chan struct{}
	err   error

	d       *store.Device
	current protocol.PolicyState
	run     protocol.Agent
	loaded  time.Time

	exceptions []protocol.Exception // the server's current ones; read when Excepted says there may be some
	until      time.Time            // of that list

	quota quota
}

// Limits on one device's concurrent requests.
const (
	maxQueued = 4
	maxComing = 4 // an agent sends one report at a time, and sometimes a bundle beside it
	lockWait  = 10 * time.Second
	entryLife = time.Hour
)

// take locks a device for one request.
func (e *entry) take(ctx context.Context) error {
	if e.queued.Add(1) > maxQueued {
		e.queued.Add(-1)
		return &problem{status: http.StatusServiceUnavailable, code: "busy", message: "other requests of this device are being answered"}
	}
	defer e.queued.Add(-1)
	t := time.NewTimer(lockWait)
	defer t.Stop()
	select {
	case <-e.lock:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return &problem{status: http.StatusServiceUnavailable, code: "busy", message: "another request of this device is being answered"}
	}
}

func (e *entry) release() { e.lock <- struct{}{} }

// book remembers devices.
type book struct {
	a     *API
	cache *lru.Cache[string, *entry]
}

func (b *book) init(a *API) {
	b.a = a
	b.cache, _ = lru.New[string, *entry](bookSize) // only fails for a size of 0
}

// find returns a device, which another request may be loading. It is in the book before it is read, so that a change
// during the read drops it.
func (b *book) find(ctx context.Context, id string) (*entry, error) {
	e := &entry{lock: make(chan struct{}, 1), ready: make(chan struct{}), id: id}
	if old, ok, _ := b.cache.PeekOrAdd(id, e); ok {
		b.cache.Get(id) // marks it as recently used
		select {
		case <-old.ready:
			return old, old.err
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	// Not this caller's context: others wait for the same result.
	load, cancel := context.WithTimeout(context.WithoutCancel(ctx), lockWait)
	defer cancel()
	e.err = b.load(load, e)
	if e.err != nil {
		b.cache.Remove(id)
	}
	e.lock <- struct{}{}
	close(e.ready)
	return e, e.err
}

// load reads a device, or reads it again. The caller has locked it, or created it.
func (b *book) load(ctx context.Context, e *entry) error {
	b.a.stats.loads.Inc()
	d, err := b.a.Store.Known(ctx, e.id)
	if err != nil {
		return err
	}
	if e.d == nil {
		if err := json.Unmarshal(d.Key, &e.key); err != nil {
			return err
		}
	}
	e.current, e.run = protocol.PolicyState{}, protocol.Agent{}
	_ = json.Unmarshal(d.Report.Current, &e.current) // written by this server
	_ = json.Unmarshal(d.Report.Agent, &e.run)
	if e.d != nil {
		// Not written yet, and newer than what is stored.
		d.Counter, d.LastSeen = max(d.Counter, e.d.Counter), later(d.LastSeen, e.d.LastSeen)
		d.AssignedAt = later(d.AssignedAt, e.d.AssignedAt)
	} else if s, ok := b.a.batch.seenOf(d.N); ok {
		d.Counter, d.LastSeen, d.AssignedAt = max(d.Counter, s.Counter), later(d.LastSeen, s.At), later(d.AssignedAt, s.Assigned)
	}
	// Decoded above; the text of a hundred thousand of them need not be kept.
	d.Key, d.Host, d.Report.Current, d.Report.Agent = nil, nil, nil, nil
	e.d, e.until, e.loaded = d, time.Time{}, time.Now()
	d.Current.Policy, d.Current.Version = e.current.ID, e.current.Version
	return nil
}

// later returns the later of two times.
func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

func (b *book) knows(id string) bool { return b.cache.Contains(id) }

func (b *book) forget(id string) { b.cache.Remove(id) }

// seen is when a device was last heard of. It is newer here than in the database, where it waits to be written.
func (b *book) seen(d *store.Device) store.Seen {
	out := store.Seen{Device: d.N, At: d.LastSeen, Counter: d.Counter, Assigned: d.AssignedAt, Fresh: d.Fresh, Looked: d.Looked}
	if s, ok := b.a.batch.seenOf(d.N); ok {
		out = out.Then(s)
	}
	return out
}
