package server

import (
	"cmp"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// conns keeps a server's connections below the number of files that its process may open. Beyond that nothing could be
// answered, and nothing written. When a new connection exceeds the limit, others make room: first idle ones, of the
// address with the most of those, the longest idle first. If every connection is in the middle of a request (or
// pretends to be: one whose body does not arrive looks the same), those of the address with the most make room if it
// has more than half, or if they have taken long. So somebody who only keeps connections open locks nobody out.
type conns struct {
	net.Listener
	most int
	log  *slog.Logger
	said *rate.Limiter

	mu   sync.Mutex
	open map[net.Conn]*kept
}

// kept is one connection.
type kept struct {
	addr  netip.Prefix
	does  int8
	since time.Time // what it is doing
}

// What a connection is doing.
const (
	waits    int8 = iota // between two requests, or before the first
	asks                 // a request is being read or answered
	isSocket             // it was taken over: a push socket, of which there are at most MaxSockets
)

const (
	// young is how long a connection may be idle before it makes room for another, unless its address has the most.
	young = 2 * time.Second
	// long is longer than most requests take.
	long = 10 * time.Second

	// openFiles is what a server needs besides its connections: databases, logs, its own requests.
	openFiles = 160
)

// connsOf returns how many connections there may be if a process may open the given number of files.
func connsOf(files uint64) int {
	return int(min(max(int64(min(files, 1<<24))-openFiles, int64(min(files, 1<<24))/2), 1<<24))
}

func keep(l net.Listener, most int, log *slog.Logger) *conns {
	return &conns{Listener: l, most: most, log: log, said: rate.NewLimiter(rate.Every(time.Minute), 1), open: map[net.Conn]*kept{}}
}

// Accept takes the next connection, and makes room for it if there is none.
func (c *conns) Accept() (net.Conn, error) {
	for {
		conn, err := c.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if c.room(conn) {
			return &counted{Conn: conn, gone: func() {
				c.mu.Lock()
				defer c.mu.Unlock()
				delete(c.open, conn)
			}}, nil
		}
		_ = conn.Close() // nobody can make room
	}
}

// room makes room for one more connection; false if nobody can.
func (c *conns) room(conn net.Conn) bool {
	c.mu.Lock()
	full := len(c.open) >= c.most
	var victims []net.Conn
	if full {
		// Several at once, because finding them costs a full scan.
		if victims = c.victims(time.Now(), 1+c.most/64); len(victims) > 0 {
			for _, v := range victims {
				delete(c.open, v)
			}
		}
	}
	fits := !full || len(victims) > 0
	if fits {
		c.open[conn] = &kept{addressOf(conn), waits, time.Now()}
	}
	c.mu.Unlock()
	if full && c.said.Allow() {
		c.log.Warn("as many connections are open as this process may have; those that wait make room (raise LimitNOFILE)",
			"connections", c.most)
	}
	for _, v := range victims {
		_ = v.Close()
	}
	return fits
}

// addressOf is what a connection is counted under: an address, or the IPv6 network of one customer.
func addressOf(conn net.Conn) netip.Prefix {
	at, _ := netip.ParseAddrPort(conn.RemoteAddr().String())
	addr := at.Addr().Unmap().WithZone("")
	bits := addr.BitLen()
	if addr.Is6() {
		bits = 64
	}
	p, _ := addr.Prefix(bits)
	return p
}

// victims are the connections that make room, at most the given number. The caller has the lock.
func (c *conns) victims(now time.Time, most int) []net.Conn {
	type count struct{ waiting, all int }
	counts := map[netip.Prefix]*count{}
	worst := count{}
	for _, k := range c.open {
		n := counts[k.addr]
		if n == nil {
			n = &count{}
			counts[k.addr] = n
		}
		if k.does == waits {
			n.waiting++
		}
		if k.does != isSocket {
			n.all++
		}
		worst.waiting, worst.all = max(worst.waiting, n.waiting), max(worst.all, n.all)
	}
	type candidate struct {
		conn  net.Conn
		of    int // how many its address has
		since time.Time
	}
	var idle, busy []candidate
	for conn, k := range c.open {
		n := counts[k.addr]
		switch {
		case k.does == waits && (now.Sub(k.since) >= young || n.waiting == worst.waiting):
			idle = append(idle, candidate{conn, n.waiting, k.since})
		case k.does == asks && n.all == worst.all && (now.Sub(k.since) >= long || n.all > len(c.open)/2):
			busy = append(busy, candidate{conn, n.all, k.since})
		}
	}
	list := idle
	if len(list) == 0 {
		list, most = busy, 1
	}
	slices.SortFunc(list, func(a, b candidate) int { return cmp.Or(cmp.Compare(b.of, a.of), a.since.Compare(b.since)) })
	var out []net.Conn
	for _, v := range list[:min(most, len(list))] {
		out = append(out, v.conn)
	}
	return out
}

// state is called by the HTTP server when a connection changes its state. A socket that was taken over is counted until
// it is closed, and never makes room.
func (c *conns) state(conn net.Conn, s http.ConnState) {
	if t, ok := conn.(interface{ NetConn() net.Conn }); ok { // the TLS connection
		conn = t.NetConn()
	}
	if k, ok := conn.(*counted); ok {
		conn = k.Conn
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.open[conn]
	if k == nil {
		return
	}
	switch s {
	case http.StateActive:
		k.does, k.since = asks, time.Now()
	case http.StateIdle:
		k.does, k.since = waits, time.Now()
	case http.StateClosed:
		delete(c.open, conn)
	case http.StateHijacked:
		k.does = isSocket
	}
}

// counted reports when it is closed: the HTTP server no longer reports that for a connection that was taken over.
type counted struct {
	net.Conn
	once sync.Once
	gone func()
}

func (c *counted) Close() error {
	c.once.Do(c.gone)
	return c.Conn.Close()
}

// CloseWrite lets the HTTP server finish sending before it stops receiving. Otherwise a client that is still sending
// would lose the answer.
func (c *counted) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}
