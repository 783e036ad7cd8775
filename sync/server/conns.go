package server

import (
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// conns keeps a server's connections below what its process may have open: past that nothing could be answered at
// all, and nothing written. Where one more comes than there may be, one that waits for nothing makes room: of the
// address that has the most of those, the one that has waited longest. Nobody is kept out by somebody who only keeps
// connections open.
type conns struct {
	net.Listener
	most int
	log  *slog.Logger
	said *rate.Limiter

	mu   sync.Mutex
	open map[net.Conn]*kept
	idle map[netip.Addr]int
}

// kept is one connection.
type kept struct {
	addr  netip.Addr
	idle  bool // between two requests, or before the first
	since time.Time
}

// young is how long a connection may take to its first request before it can make room for another.
const young = 2 * time.Second

// openFiles is what a server needs beside its connections: databases, logs, its own requests.
const openFiles = 160

// connsOf gives how many connections there may be where a process may have so many files open.
func connsOf(files uint64) int {
	return int(min(max(int64(min(files, 1<<24))-openFiles, int64(files)/2), 1<<24))
}

func keep(l net.Listener, most int, log *slog.Logger) *conns {
	return &conns{Listener: l, most: most, log: log, said: rate.NewLimiter(rate.Every(time.Minute), 1), open: map[net.Conn]*kept{}, idle: map[netip.Addr]int{}}
}

// Accept takes the next connection, and makes room for it where there is none.
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
				c.drop(conn)
			}}, nil
		}
		_ = conn.Close() // every one of them is being answered
	}
}

func (c *conns) room(conn net.Conn) bool {
	host, _, _ := net.SplitHostPort(conn.RemoteAddr().String())
	addr, _ := netip.ParseAddr(host)
	var victim net.Conn
	c.mu.Lock()
	full := len(c.open) >= c.most
	if full {
		victim = c.victim(time.Now())
		if victim != nil {
			c.drop(victim)
		}
	}
	if fits := !full || victim != nil; fits {
		c.open[conn] = &kept{addr, true, time.Now()}
		c.idle[addr]++
	}
	c.mu.Unlock()
	if full && c.said.Allow() {
		c.log.Warn("as many connections are open as this process may have; those that wait make room (raise LimitNOFILE)", "connections", c.most)
	}
	if victim != nil {
		_ = victim.Close()
	}
	return !full || victim != nil
}

// victim is the connection that makes room; nil where each is being answered. The caller holds the lock.
func (c *conns) victim(now time.Time) (out net.Conn) {
	most := 0
	for _, n := range c.idle {
		most = max(most, n)
	}
	var best *kept
	for conn, k := range c.open {
		if !k.idle || now.Sub(k.since) < young && c.idle[k.addr] < most {
			continue
		}
		if best == nil || c.idle[k.addr] > c.idle[best.addr] || c.idle[k.addr] == c.idle[best.addr] && k.since.Before(best.since) {
			out, best = conn, k
		}
	}
	return out
}

func (c *conns) drop(conn net.Conn) {
	k := c.open[conn]
	if k == nil {
		return
	}
	delete(c.open, conn)
	c.waits(k, false)
}

func (c *conns) waits(k *kept, is bool) {
	if k.idle == is {
		return
	}
	k.idle = is
	if is {
		c.idle[k.addr]++
	} else if c.idle[k.addr]--; c.idle[k.addr] == 0 {
		delete(c.idle, k.addr)
	}
}

// state is told by the HTTP server what becomes of a connection. A socket that was taken over is counted until it is
// closed, and never makes room.
func (c *conns) state(conn net.Conn, s http.ConnState) {
	if t, ok := conn.(interface{ NetConn() net.Conn }); ok { // that of TLS
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
		c.waits(k, false)
	case http.StateIdle:
		c.waits(k, true)
		k.since = time.Now()
	case http.StateClosed:
		c.drop(conn)
	case http.StateHijacked:
		c.waits(k, false)
	}
}

// counted tells when it is closed: of one that was taken over the HTTP server tells no more.
type counted struct {
	net.Conn
	once sync.Once
	gone func()
}

func (c *counted) Close() error {
	c.once.Do(c.gone)
	return c.Conn.Close()
}
