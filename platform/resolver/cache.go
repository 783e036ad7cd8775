package resolver

import (
	"encoding/binary"
	"net/netip"
	"sync"
	"time"
)

// Bounds of the cache: entries and bytes. One of the oldest goes when it is full. An answer is kept for a minute at most: the
// same server's address may be another server on the next network.
const (
	maxEntries = 4096
	maxCached  = 4 << 20
	maxKept    = time.Minute
	maxTTL     = time.Hour
	maxNegTTL  = time.Minute
)

// entry is one answer.
type entry struct {
	msg     []byte
	ttls    []uint16 // where the times are
	born    time.Time
	expires time.Time
}

// cache keeps answers by what was asked of whom: the answer of one server is not another's.
type cache struct {
	mu    sync.RWMutex
	has   map[string]*entry
	order []string // oldest first, with gaps
	bytes int
}

// key writes what an answer depends on: the name, type, class, whether the sender knows EDNS, wants DNSSEC and checks it
// itself, and the server.
func (q *question) key(out []byte, server netip.AddrPort) []byte {
	k := append(out[:0], q.name...)
	k = append(k, 0)
	k = binary.BigEndian.AppendUint16(k, q.qtype)
	k = binary.BigEndian.AppendUint16(k, q.class)
	bits := byte(q.flags >> 4 & 3) // AD and CD
	if q.edns {
		bits |= 4
	}
	if q.do {
		bits |= 8
	}
	k = append(k, bits)
	a := server.Addr().As16()
	return binary.BigEndian.AppendUint16(append(k, a[:]...), server.Port())
}

// get writes a cached answer to a question into out; nil if there is none that fits.
func (c *cache) get(out, p []byte, q *question, key []byte, most int, now time.Time) []byte {
	c.mu.RLock()
	e := c.has[string(key)]
	c.mu.RUnlock()
	now = now.Round(0)
	if e == nil || !now.Before(e.expires) || now.Before(e.born) || len(e.msg) > most || len(e.msg) < q.end {
		return nil
	}
	n := append(out[:0], e.msg...)
	copy(n, p[:2])
	copy(n[headerLen:q.end], p[headerLen:q.end]) // the question as it was written this time
	n[2] = n[2]&^1 | p[2]&1                      // RD
	age := uint32(max(0, now.Sub(e.born)/time.Second))
	for _, at := range e.ttls {
		t := binary.BigEndian.Uint32(n[at:])
		binary.BigEndian.PutUint32(n[at:], max(t, age)-age)
	}
	return n
}

// put keeps an answer for a time.
func (c *cache) put(key, msg []byte, life time.Duration, now time.Time) {
	at, ok := ttls(msg)
	life, now = min(life, maxKept), now.Round(0) // the monotonic clock stands still while the machine sleeps
	if !ok || life <= 0 || len(msg) > maxCached/16 {
		return
	}
	e := &entry{msg: msg, ttls: at, born: now, expires: now.Add(life)}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.has == nil {
		c.has = map[string]*entry{}
	}
	k := string(key)
	if was := c.has[k]; was != nil {
		c.bytes -= len(was.msg) + len(k)
	} else {
		c.order = append(c.order, k)
	}
	c.has[k] = e
	c.bytes += len(msg) + len(k)
	for len(c.order) > 0 && (len(c.has) > maxEntries || c.bytes > maxCached) {
		oldest := c.order[0]
		c.order = c.order[1:]
		if was := c.has[oldest]; was != nil {
			c.bytes -= len(was.msg) + len(oldest)
			delete(c.has, oldest)
		}
	}
}

// clear forgets everything: other rules are in force.
func (c *cache) clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.has, c.order, c.bytes = nil, nil, 0
}

func (c *cache) len() int {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return len(c.has)
}
