package api

import (
	"context"
	"errors"
	"math"
	"net/http"
	"sync"
	"time"

	"github.com/warderd/warder/sync/server/store"
)

// Writing of reports. A report with news waits for its commit, many in one transaction. A report without news leaves
// only its time, which is written now and then.
const (
	maxBatch   = 256
	maxWaiting = 4096
	// The time of a check-in without news is written after seenEvery, spread over the ticks: thirty thousand rows at
	// once would delay reports.
	seenEvery = 10 * time.Second
	seenTick  = 500 * time.Millisecond
)

type pending struct {
	rec  *store.Record
	done chan error
}

type batch struct {
	a    *API
	in   chan pending
	mu   sync.Mutex
	seen map[int64]store.Seen
	last map[int64]store.Seen // being written

	order []turn // of seen, the oldest first
}

// turn is a device, and since when its time waits to be written.
type turn struct {
	device int64
	since  time.Time
}

func (b *batch) init(a *API) {
	b.a, b.in, b.seen = a, make(chan pending, maxWaiting), map[int64]store.Seen{}
}

// put writes a report and waits until it is durable.
func (b *batch) put(ctx context.Context, rec *store.Record) error {
	p := pending{rec, make(chan error, 1)}
	select {
	case b.in <- p:
	default:
		return &problem{status: http.StatusServiceUnavailable, code: "busy",
			message: "too many reports are waiting to be written; try again later"}
	}
	select {
	case err := <-p.done:
		return err
	case <-ctx.Done():
		return ctx.Err() // it may still be written; the device sends it again
	}
}

// note remembers a check-in without news.
func (b *batch) note(s store.Seen) {
	b.mu.Lock()
	if old, ok := b.seen[s.Device]; ok {
		s = old.Then(s)
	} else {
		b.order = append(b.order, turn{s.Device, time.Now()})
	}
	b.seen[s.Device] = s
	b.mu.Unlock()
	b.a.people.noted(s)
}

// seenOf returns a device's time that is not written yet.
func (b *batch) seenOf(device int64) (store.Seen, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s, ok := b.seen[device]
	if !ok {
		s, ok = b.last[device]
	}
	return s, ok
}

// waiting is how many times wait to be written.
func (b *batch) waiting() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.seen)
}

// run writes until ctx ends, and then what is left.
func (b *batch) run(ctx context.Context) {
	flushed := make(chan struct{})
	go func() {
		defer close(flushed)
		t := time.NewTicker(seenTick)
		defer t.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-t.C:
				b.flush(context.WithoutCancel(ctx), b.share())
			}
		}
	}()
	var kept []pending // of devices that were in the previous batch
	for {
		list := kept
		if len(list) == 0 {
			select {
			case p := <-b.in:
				list = append(list, p)
			case <-ctx.Done():
				select {
				case p := <-b.in:
					list = append(list, p)
				default:
					<-flushed
					b.flush(context.WithoutCancel(ctx), math.MaxInt)
					return
				}
			}
		}
		for len(list) < maxBatch {
			select {
			case p := <-b.in:
				list = append(list, p)
				continue
			default:
			}
			break
		}
		kept = b.commit(context.WithoutCancel(ctx), list)
	}
}

// commit writes reports of different devices, and returns second reports of the same device.
func (b *batch) commit(ctx context.Context, list []pending) (kept []pending) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	taken := map[int64]bool{}
	var now []pending
	for _, p := range list {
		if taken[p.rec.Device] {
			kept = append(kept, p)
			continue
		}
		taken[p.rec.Device] = true
		now = append(now, p)
	}
	err := b.write(ctx, now)
	if err != nil && len(now) > 1 && ctx.Err() == nil {
		// One report that cannot be stored must not prevent the others.
		for _, p := range now {
			p.done <- b.write(ctx, []pending{p})
		}
		return kept
	}
	for _, p := range now {
		p.done <- err
	}
	return kept
}

// write writes reports in one transaction, and completes those who wait for them.
func (b *batch) write(ctx context.Context, list []pending) error {
	recs, events := make([]*store.Record, len(list)), 0
	for i, p := range list {
		recs[i] = p.rec
		events += len(p.rec.Events)
	}
	err := b.a.Store.PutRecords(ctx, recs)
	if err == nil {
		b.a.stats.batches.Observe(float64(len(list)))
		b.a.stats.events.Add(float64(events))
		for _, r := range recs {
			b.a.people.stored(r)
		}
	}
	return err
}

// share is how many times are written at this tick: those that have waited for seenEvery. So each device is written in
// its own turn, with the latest time.
func (b *batch) share() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	n := 0
	for n < len(b.order) && now.Sub(b.order[n].since) >= seenEvery-seenTick {
		n++
	}
	return n
}

// flush writes up to the given number of times of check-ins without news, the oldest first.
func (b *batch) flush(ctx context.Context, most int) {
	if most == 0 {
		return
	}
	b.mu.Lock()
	if most >= len(b.seen) {
		b.last, b.seen = b.seen, make(map[int64]store.Seen, len(b.seen))
	} else {
		b.last = make(map[int64]store.Seen, most)
		for len(b.last) < most && len(b.order) > 0 {
			n := b.order[0].device
			b.order = b.order[1:]
			if s, ok := b.seen[n]; ok {
				b.last[n] = s
				delete(b.seen, n)
			}
		}
	}
	if len(b.seen) == 0 {
		b.order = nil
	}
	list := make([]store.Seen, 0, len(b.last))
	for _, s := range b.last {
		list = append(list, s)
	}
	b.mu.Unlock()
	if len(list) == 0 {
		return
	}
	err := b.a.Store.PutSeen(ctx, list)
	if err != nil && !errors.Is(err, context.Canceled) {
		b.a.Log.Error("the times of check-ins could not be written", "error", err)
	}
	b.mu.Lock()
	if err != nil {
		for k, s := range b.last { // with the next ones
			if newer, is := b.seen[k]; is {
				s = s.Then(newer)
			} else {
				b.order = append(b.order, turn{k, time.Now()})
			}
			b.seen[k] = s
		}
	}
	b.last = nil
	b.mu.Unlock()
}
