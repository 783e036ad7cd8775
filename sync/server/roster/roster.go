// Package roster is a node's in-memory copy of every device: who it is, which policy it should have, and its state.
// Lists, filters and sums come from it, so that reading the fleet costs no database queries and delays no device.
// sync/server/store fills it; what this node and others write keeps it current. It stores nothing and decides nothing
// itself.
//
// A device takes some 200 bytes, in chunks of some thousand that are locked at a time. Each chunk has sums over its
// devices, computed by the first reader and valid until one of its devices changes: a question about a hundred thousand
// devices mostly reads a hundred sums.
package roster

import (
	"runtime"
	"strings"
	"sync"
	"time"
	"unique"

	"github.com/warderd/warder/sync/server/fleet"
)

// text is a word that many devices share.
type text = unique.Handle[string]

// Row is a device as the database has it.
type Row struct {
	N    int64 // its number; devices are in the order of it
	ID   string
	Name string

	OS, Ownership, User string
	Tags                string // ",a,b,"
	Policy              string // its own
	Priority            int
	Compliance          string
	State               string
	Standing

	At, Fresh int64 // last heard of, and until when that counts; ms
	Enrolled  int64 // ms
}

// Standing is what a device last reported about itself.
type Standing struct {
	Current string // the policy
	Version int
	Hash    string // of its findings
	Rollup  string // "" if it has reported nothing
	Ended   bool   // its agent said that it is stopping
	Counter int64  // of the report: the highest is the last
}

// entry is a device as it is stored. The fields that most questions read come first and fill one cache line; the whole
// takes three.
type entry struct {
	state, policy, hash, rollup text
	effective                   text
	at, fresh                   int64
	version                     int32
	there, ended, connected     bool

	n, enrolled, counter int64 // counter is that of the report with this state
	id, name             string
	os, ownership, user  text
	tags, own, mode      text
	priority             int32
	_                    [20]byte
}

// chunk is a run of devices with consecutive numbers. Numbers are given out in order, so that few places stay empty.
type chunk struct {
	list [chunkSize]entry
	index
	mu   sync.RWMutex
	sums *sums // nil: to be computed
}

// chunkSize is how many devices are locked at a time.
const chunkSize = 1024

// Roster is all devices.
type Roster struct {
	mu     sync.RWMutex // of the list of chunks, and of numbers
	chunks []*chunk
	number map[string]int64 // of an id

	Now func() int64 // ms; nil: this machine's clock

	assigning sync.Mutex
	state     *fleet.State // from which effective was computed; guarded by assigning

	counting sync.Mutex
	counts   map[text]int // devices that are not retired, by effective policy
	total    int
}

// New is an empty one.
func New() *Roster {
	return &Roster{number: map[string]int64{}, counts: map[text]int{}, state: &fleet.State{}}
}

var (
	retired  = unique.Make("retired")
	enrolled = unique.Make("enrolled")
	nothing  = unique.Make("")
)

// at returns a device's chunk and its place in it; nil if there is none, unless it is to be created.
func (r *Roster) at(n int64, make bool) (*chunk, int) {
	k := int(n / chunkSize)
	r.mu.RLock()
	if k < len(r.chunks) && r.chunks[k] != nil {
		defer r.mu.RUnlock()
		return r.chunks[k], int(n % chunkSize)
	}
	r.mu.RUnlock()
	if !make || n < 0 {
		return nil, 0
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.chunks) <= k {
		r.chunks = append(r.chunks, nil)
	}
	if r.chunks[k] == nil {
		r.chunks[k] = &chunk{}
	}
	return r.chunks[k], int(n % chunkSize)
}

// Put stores devices as they are in the database, new ones and known ones. Later news that this node has heard is kept.
func (r *Roster) Put(rows []Row) {
	r.assigning.Lock()
	defer r.assigning.Unlock()
	m := memo{st: r.state}
	for i := range rows {
		r.put(&rows[i], &m)
	}
}

// put stores one row, and keeps later news that this node has heard.
func (r *Roster) put(x *Row, m *memo) {
	e := entry{there: true, n: x.N, at: x.At, fresh: x.Fresh, enrolled: x.Enrolled, id: x.ID, name: x.Name, os: unique.Make(x.OS),
		ownership: unique.Make(x.Ownership), user: unique.Make(x.User),
		tags: unique.Make(x.Tags), own: unique.Make(x.Policy), mode: unique.Make(x.Compliance), state: unique.Make(x.State),
		priority: int32(x.Priority)}
	e.stand(&x.Standing)
	e.effective = m.of(&e)
	c, i := r.at(x.N, true)
	c.mu.Lock()
	defer c.mu.Unlock()
	old := &c.list[i]
	if !old.there {
		r.mu.Lock()
		r.number[e.id] = e.n
		r.mu.Unlock()
	} else {
		// This node may have heard more while the row was on its way.
		if old.at > e.at && old.at <= r.now()+clockStep {
			e.at, e.fresh = old.at, old.fresh
		}
		if old.counter > e.counter {
			e.policy, e.version, e.hash, e.rollup, e.ended, e.counter = old.policy, old.version, old.hash, old.rollup, old.ended, old.counter
		}
		e.connected = old.connected
		r.count(old, -1)
	}
	if old.there {
		c.change(old, func(x *entry) { *x = e })
	} else {
		*old, c.sums = e, nil
	}
	c.set(i, old)
	r.count(old, 1)
}

// stand stores a standing in an entry.
func (e *entry) stand(s *Standing) {
	e.policy, e.version, e.hash, e.rollup, e.ended = unique.Make(s.Current), int32(s.Version), unique.Make(s.Hash),
		unique.Make(s.Rollup), s.Ended
	e.counter = s.Counter
}

// clockStep is more than two clocks of a fleet's nodes differ. A time further ahead was written under a clock that has
// been set back since. ms.
const clockStep = 2 * 60_000

func (r *Roster) now() int64 {
	if r.Now != nil {
		return r.Now()
	}
	return time.Now().UnixMilli()
}

// count updates the sums of devices by policy. The caller has the chunk's lock.
func (r *Roster) count(e *entry, by int) {
	if e.state == retired {
		return
	}
	r.counting.Lock()
	defer r.counting.Unlock()
	r.total += by
	if r.counts[e.effective] += by; r.counts[e.effective] == 0 {
		delete(r.counts, e.effective)
	}
}

// Counts returns how many devices that are not retired there are: by the policy that they should have, "" for none, and
// in all.
func (r *Roster) Counts() (by map[string]int, total int) {
	r.counting.Lock()
	defer r.counting.Unlock()
	by = make(map[string]int, len(r.counts))
	for p, n := range r.counts {
		by[p.Value()] = n
	}
	return by, r.total
}

// with runs f on a device, and reports whether it is known.
func (r *Roster) with(n int64, f func(*entry)) bool {
	c, i := r.at(n, false)
	if c == nil {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.list[i].there {
		return false
	}
	c.change(&c.list[i], f)
	return true
}

// Stand stores what a device reports; without findings, its hash and rollup stay. An earlier report changes nothing. It
// reports whether the device is known.
func (r *Roster) Stand(n int64, s Standing, findings bool) bool {
	return r.with(n, func(e *entry) {
		if s.Counter < e.counter {
			return
		}
		if !findings {
			s.Hash, s.Rollup = e.hash.Value(), e.rollup.Value()
		}
		e.stand(&s)
	})
}

// Heard stores when a device was heard of by this node, and until when that counts; both in ms. The latest call wins,
// whatever the clock says. It reports whether the device is known.
func (r *Roster) Heard(n, at, fresh int64) bool {
	return r.with(n, func(e *entry) { e.at, e.fresh = at, fresh })
}

// Merge stores when a device was heard of by any node, as the database has it. An earlier time changes nothing.
func (r *Roster) Merge(n, at, fresh int64) {
	r.with(n, func(e *entry) {
		if at > e.at || e.at > r.now()+clockStep {
			e.at, e.fresh = at, fresh
		}
	})
}

// Connected stores whether a device has a socket to this node.
func (r *Roster) Connected(n int64, is bool) {
	r.with(n, func(e *entry) { e.connected = is })
}

// memo computes which policy devices should have: many are alike in everything that decides.
type memo struct {
	st   *fleet.State
	seen map[alike]text
	tags map[text][]string
}

type alike struct {
	os, ownership, user, tags, own text
	priority                       int32
}

// of is the policy that a device should have.
func (m *memo) of(e *entry) text {
	k := alike{e.os, e.ownership, e.user, e.tags, e.own, e.priority}
	if p, ok := m.seen[k]; ok {
		return p
	}
	if m.seen == nil || len(m.seen) > 1<<16 {
		m.seen, m.tags = map[alike]text{}, map[text][]string{}
	}
	d := fleet.Device{OS: e.os.Value(), Ownership: e.ownership.Value(), User: e.user.Value(), Policy: e.own.Value(),
		Priority: int(e.priority)}
	tags, ok := m.tags[e.tags]
	if !ok {
		if t := strings.Trim(e.tags.Value(), ","); t != "" {
			tags = strings.Split(t, ",")
		}
		m.tags[e.tags] = tags
	}
	d.Tags = tags
	id, _ := m.st.Assigned(&d)
	p := unique.Make(id)
	m.seen[k] = p
	return p
}

// Assign computes again which policy each device should have, if that may differ.
func (r *Roster) Assign(st *fleet.State) {
	r.assigning.Lock()
	defer r.assigning.Unlock()
	if r.state == st {
		return
	}
	same := r.state.SameAssignments(st)
	r.state = st
	if same {
		return
	}
	m := memo{st: st}
	r.each(true, func(e *entry) bool {
		if p := m.of(e); p != e.effective {
			r.count(e, -1)
			e.effective = p
			r.count(e, 1)
		}
		return true
	})
}

// chunksFrom visits the chunks in order, from the one of a number on, until f says stop.
func (r *Roster) chunksFrom(from int64, f func(k int, c *chunk) bool) {
	for k := int(max(from, 0) / chunkSize); ; k++ {
		r.mu.RLock()
		if k >= len(r.chunks) {
			r.mu.RUnlock()
			return
		}
		c := r.chunks[k]
		r.mu.RUnlock()
		if c != nil && !f(k, c) {
			return
		}
		if k%4 == 3 {
			runtime.Gosched() // a device that waits for this processor comes first
		}
	}
}

// each visits all devices in order, locking a chunk at a time.
func (r *Roster) each(write bool, f func(*entry) bool) {
	r.chunksFrom(0, func(_ int, c *chunk) bool { return c.each(0, write, f) })
}

// each visits the devices of a chunk from a number on, with its lock, until f says stop.
func (c *chunk) each(from int64, write bool, f func(*entry) bool) bool {
	if write {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.sums = nil
	} else {
		c.mu.RLock()
		defer c.mu.RUnlock()
	}
	for i := range c.list {
		if e := &c.list[i]; e.there && e.n >= from && !f(e) {
			return false
		}
	}
	return true
}

// Number returns a device's number.
func (r *Roster) Number(id string) (int64, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	n, ok := r.number[id]
	return n, ok
}

// Name returns a device's id and name.
func (r *Roster) Name(n int64) (id, name string) {
	c, i := r.at(n, false)
	if c == nil {
		return "", ""
	}
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.list[i].id, c.list[i].name
}
