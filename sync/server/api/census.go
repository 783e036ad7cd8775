package api

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// census counts devices by policy, at most once per change in a small fleet, and in a large one now
// and then.
type census struct {
	mu     sync.Mutex
	stale  atomic.Bool
	count  map[string]int
	total  int
	at     time.Time
	took   time.Duration
	asking atomic.Bool
}

// A fleet of more than censusSmall devices whose counting took longer than censusQuick is counted in the
// background, at most every censusRest. Time alone does not tell: one slow count of a few devices on a busy
// machine would be believed for the next half minute.
const (
	censusSmall = 10_000
	censusQuick = 30 * time.Millisecond
	censusRest  = 30 * time.Second
)

func (a *API) counts(ctx context.Context) (map[string]int, int, error) {
	c := &a.census
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.count != nil && !c.stale.Load() {
		return c.count, c.total, nil
	}
	if c.count != nil && c.total > censusSmall && c.took > censusQuick {
		if time.Since(c.at) > censusRest && !a.stopping.Load() && c.asking.CompareAndSwap(false, true) {
			a.beside.Go(func() {
				defer c.asking.Store(false)
				ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
				defer cancel()
				if err := a.count(ctx, func(f func()) { c.mu.Lock(); defer c.mu.Unlock(); f() }); err != nil {
					a.Log.Error("cannot count devices", "error", err)
				}
			})
		}
		return c.count, c.total, nil
	}
	err := a.count(ctx, func(f func()) { f() })
	return c.count, c.total, err
}

func (a *API) count(ctx context.Context, locked func(func())) error {
	c := &a.census
	c.stale.Store(false)
	began := time.Now()
	count, err := a.Store.Census(ctx, a.state.Load())
	if err != nil {
		c.stale.Store(true)
		return err
	}
	locked(func() {
		c.count, c.total, c.at, c.took = count, 0, time.Now(), time.Since(began)
		for _, n := range count {
			c.total += n
		}
	})
	return nil
}
