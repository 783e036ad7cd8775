package api

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/sync/server/roster"
	"github.com/warderd/warder/sync/server/store"
)

// people is this node's in-memory copy of all devices, and how it is kept current.
type people struct {
	*roster.Roster
	a *API

	loaded chan struct{} // closed once all devices are loaded

	mu     sync.Mutex
	missed map[int64]bool // devices that were heard of before they were loaded
	bodies map[string][]stood

	// Following other nodes; used by one goroutine at a time.
	mark    int64
	taken   map[int64]int64 // read since the mark: devices, and the transaction that was seen
	scanned time.Time       // when the times of all devices were last read
}

// How the roster follows other nodes: device states that they write are read every two seconds, from a mark; the times
// at which devices were heard of every minute. That is well below the minutes for which a state counts as current.
const (
	rosterPage = 5000
	scanEvery  = time.Minute
)

func (p *people) init(a *API) {
	p.Roster, p.a, p.loaded, p.missed, p.bodies, p.taken = roster.New(), a, make(chan struct{}), map[int64]bool{}, map[string][]stood{},
		map[int64]int64{}
	p.Now = func() int64 { return a.Now().UnixMilli() }
}

// load fills it. Devices do not wait for that; readers of the fleet do.
func (p *people) load(ctx context.Context) error {
	began := time.Now()
	p.Assign(p.a.state.Load())
	_, mark, err := p.a.Store.Stood(ctx, 0)
	if err != nil {
		return err
	}
	p.mark, p.scanned = mark, p.a.Now()
	n := 0
	for after := int64(0); ; {
		list, err := p.a.Store.Roster(ctx, after, rosterPage)
		if err != nil {
			return err
		}
		if len(list) == 0 {
			break
		}
		p.Put(list)
		after, n = list[len(list)-1].N, n+len(list)
	}
	if err := p.mend(ctx); err != nil {
		return err
	}
	p.a.hub.each(func(device int64) { p.Connected(device, true) })
	close(p.loaded)
	if took := time.Since(began); took > time.Second {
		p.a.Log.Info("devices are in memory", "devices", n, "took", took.Round(time.Millisecond))
	}
	return nil
}

// begin loads it, and tries again for as long as the database cannot be read.
func (p *people) begin(ctx context.Context) {
	for ctx.Err() == nil {
		err := p.load(ctx)
		if err == nil {
			return
		}
		if ctx.Err() == nil {
			p.a.Log.Error("the devices cannot be read", "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(5 * time.Second):
		}
	}
}

// maxMissed bounds the devices that are read again one by one.
const maxMissed = 100_000

// miss records a device that was heard of while it was not loaded, or while its row may have been on its way.
func (p *people) miss(n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.missed) < maxMissed {
		p.missed[n] = true
	}
}

// mend reads those again.
func (p *people) mend(ctx context.Context) error {
	p.mu.Lock()
	again := slices.Collect(maps.Keys(p.missed))
	clear(p.missed)
	p.mu.Unlock()
	list, err := p.a.Store.RosterNumbers(ctx, again)
	if err != nil {
		for _, n := range again {
			p.miss(n)
		}
		return err
	}
	p.put(list)
	return nil
}

// put stores rows; a socket of theirs may be up already.
func (p *people) put(list []roster.Row) {
	p.Put(list)
	for i := range list {
		if p.a.hub.connected(list[i].ID) {
			p.Connected(list[i].N, true)
		}
	}
}

// stored applies a report that this node has written.
func (p *people) stored(rec *store.Record) {
	if rec.Moved != "" || rec.Old {
		return
	}
	if !p.Stand(rec.Device, roster.Standing{Current: rec.CurrentID, Version: rec.CurrentVersion, Hash: rec.Standing, Rollup: rec.Rollup,
		Ended: rec.Ended, Counter: int64(rec.Counter)}, rec.Findings != nil) {
		p.miss(rec.Device)
	}
}

// noted records when a device came to this node.
func (p *people) noted(s store.Seen) {
	if !p.Heard(s.Device, milli(s.At), milli(s.Fresh)) {
		p.miss(s.Device)
	}
}

// milli is a time in ms; 0 for the zero time.
func milli(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

// follow applies changes to these devices, and what other nodes have written.
func (p *people) follow(ctx context.Context, changed []string) error {
	if len(changed) > 0 {
		list, err := p.a.Store.RosterOf(ctx, changed)
		if err != nil {
			return err
		}
		p.put(list)
		for _, x := range list {
			if !p.in() {
				p.miss(x.N) // a page that was read earlier may arrive later
			}
		}
	}
	if !p.in() {
		return nil
	}
	if err := p.mend(ctx); err != nil {
		return err
	}
	list, mark, err := p.a.Store.Stood(ctx, p.mark)
	if err != nil {
		return err
	}
	for _, x := range list {
		// A transaction that stays open anywhere in the cluster keeps the mark where it is.
		if p.taken[x.Device] == x.Changed {
			continue
		}
		p.taken[x.Device] = x.Changed
		if !p.Stand(x.Device, x.Standing, true) {
			p.miss(x.Device)
		}
	}
	if mark != p.mark {
		maps.DeleteFunc(p.taken, func(_, changed int64) bool { return changed < mark })
		p.mark = mark
	}
	return nil
}

// in reports whether all devices are loaded.
func (p *people) in() bool {
	select {
	case <-p.loaded:
		return true
	default:
		return false
	}
}

// scan reads when all devices were heard of, by any node.
func (p *people) scan(ctx context.Context) {
	now := p.a.Now()
	if !p.a.Store.Shared() || !p.in() || now.Sub(p.scanned) < scanEvery && now.After(p.scanned) {
		return
	}
	since := p.scanned.Add(-scanEvery)
	if err := p.a.Store.Heard(ctx, since.UnixMilli(), func(n, at, fresh int64) { p.Merge(n, at, fresh) }); err != nil {
		if ctx.Err() == nil {
			p.a.Log.Error("cannot read when devices were heard of", "error", err)
		}
		return
	}
	p.scanned = now
}

// ready waits until all devices are loaded, with this node's own changes.
func (a *API) ready(ctx context.Context) (*roster.Roster, error) {
	if !a.people.in() {
		t := time.NewTimer(lockWait)
		defer t.Stop()
		select {
		case <-a.people.loaded:
		case <-t.C:
			return nil, &problem{status: 503, code: "busy", message: "this node is still reading the devices; ask again in a moment"}
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if a.Store.Last() > a.heard.Load() {
		if err := a.catchUp(context.WithoutCancel(ctx)); err != nil {
			return nil, err
		}
	}
	a.people.Assign(a.state.Load())
	return a.people.Roster, nil
}

// clock says which times count as current now.
func (a *API) clock(now time.Time) roster.Clock {
	return roster.Clock{Now: now.UnixMilli(), Most: a.most(now).UnixMilli(), Online: now.Add(-3 * a.Interval).UnixMilli()}
}

// counts returns how many devices there are by policy, and in all.
func (a *API) counts(ctx context.Context) (map[string]int, int, error) {
	r, err := a.ready(ctx)
	if err != nil {
		return nil, 0, err
	}
	by, total := r.Counts()
	return by, total, nil
}

// said returns what findings with these hashes say.
func (p *people) said(ctx context.Context, sums []roster.Sum) (map[string][]stood, error) {
	out := map[string][]stood{}
	var unknown []string
	p.mu.Lock()
	for _, s := range sums {
		if list, ok := p.bodies[s.Hash]; ok {
			out[s.Hash] = list
		} else if _, asked := out[s.Hash]; !asked {
			out[s.Hash] = nil
			unknown = append(unknown, s.Hash)
		}
	}
	p.mu.Unlock()
	if len(unknown) == 0 {
		return out, nil
	}
	bodies, err := p.a.Store.Bodies(ctx, unknown)
	if err != nil {
		return nil, err
	}
	for _, hash := range unknown {
		body, ok := bodies[hash]
		if !ok { // dropped, although a device still has this state
			body, _ = p.again(ctx, hash)
		}
		if body != "" {
			list, err := readStanding(body)
			if err != nil {
				p.a.Log.Error("what findings say cannot be read", "standing", hash, "error", err)
			}
			out[hash] = list
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.bodies) > 10_000 {
		clear(p.bodies)
	}
	for _, hash := range unknown {
		p.bodies[hash] = out[hash]
	}
	return out, nil
}

// again recomputes them from a device's own findings if they were dropped.
func (p *people) again(ctx context.Context, hash string) (body string, ok bool) {
	n, ok := p.First(hash)
	if !ok {
		return "", false
	}
	raw, err := p.a.Store.Findings(ctx, n)
	var list []enforce.Finding
	if err != nil || json.Unmarshal(raw, &list) != nil {
		return "", false
	}
	got, body := standing(list)
	return body, got == hash
}

// dropStandings drops states that no device has any more.
func (p *people) dropStandings(ctx context.Context) {
	r, err := p.a.ready(ctx)
	if err == nil {
		err = p.a.Store.DropStandings(ctx, r.Hashes())
	}
	if err != nil && ctx.Err() == nil {
		p.a.Log.Error("cannot drop what no device says", "error", err)
	}
}
