package api

import (
	"context"
	"encoding/json"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/warderd/warder/sync/protocol"
	"github.com/warderd/warder/sync/server/store"
)

// bookSize is how many devices a node remembers, at about 2 KiB each. Another one costs a read.
const bookSize = 100_000

// entry is what this node knows of a device. What another node or an administrator changed makes it
// forgotten; what a device itself changed through another node is noticed by digests that differ,
// and read again.
type entry struct {
	mu   sync.Mutex
	d    *store.Device
	key  jose.JSONWebKey
	held protocol.Held
	run  protocol.Agent

	exceptions []protocol.Exception // the server's own that hold; read when Excepted says there may be
	until      time.Time            // of that list
}

// book remembers devices.
type book struct {
	a     *API
	cache *lru.Cache[string, *entry]
}

func (b *book) init(a *API) {
	b.a = a
	b.cache, _ = lru.New[string, *entry](bookSize) // fails for a size of 0 alone
}

func (b *book) find(ctx context.Context, id string) (*entry, error) {
	if e, ok := b.cache.Get(id); ok {
		return e, nil
	}
	if len(id) > 64 {
		return nil, store.ErrNotFound
	}
	e := &entry{}
	if err := b.load(ctx, id, e); err != nil {
		return nil, err
	}
	b.cache.Add(id, e)
	return e, nil
}

func (b *book) load(ctx context.Context, id string, e *entry) error {
	b.a.stats.loads.Inc()
	d, err := b.a.Store.Known(ctx, id)
	if err != nil {
		return err
	}
	if e.d == nil {
		if err := json.Unmarshal(d.Key, &e.key); err != nil {
			return err
		}
	}
	e.held, e.run = protocol.Held{}, protocol.Agent{}
	_ = json.Unmarshal(d.Report.Held, &e.held) // written by this server
	_ = json.Unmarshal(d.Report.Agent, &e.run)
	if e.d != nil {
		// Not written yet, and newer than what is.
		d.Counter, d.LastSeen = max(d.Counter, e.d.Counter), later(d.LastSeen, e.d.LastSeen)
		d.AssignedAt = later(d.AssignedAt, e.d.AssignedAt)
	} else if s, ok := b.a.batch.seenOf(d.N); ok {
		d.Counter, d.LastSeen, d.AssignedAt = max(d.Counter, s.Counter), later(d.LastSeen, s.At), later(d.AssignedAt, s.Assigned)
	}
	e.d, e.until = d, time.Time{}
	d.Held.Policy, d.Held.Version = e.held.ID, e.held.Version
	return nil
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

func (b *book) forget(id string) { b.cache.Remove(id) }

// lastSeen is newer here than in the database, where it waits to be written.
func (b *book) lastSeen(d *store.Device) time.Time {
	if s, ok := b.a.batch.seenOf(d.N); ok {
		return later(d.LastSeen, s.At)
	}
	return d.LastSeen
}
