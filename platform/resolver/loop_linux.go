package resolver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"github.com/warderd/warder/platform/link"
)

// Sizes of the loop: packets in one system call, bytes of one question, questions on their way to servers, connections.
const (
	batch    = 64
	packet   = 1536
	maxAsked = 512
	maxConns = 64
	maxLoops = 4
)

// sockets are where questions come in: on every address of this machine, because a redirected question goes to the address
// that it comes from. The firewall lets nobody else in. They are open while names are judged in enforce mode.
type sockets struct {
	cancel context.CancelFunc
	all    sync.WaitGroup
	closed []interface{ Close() error }
	at     []string
}

// packets reads and writes many packets at a time. ipv4's and ipv6's messages are the same type.
type packets interface {
	ReadBatch([]ipv4.Message, int) (int, error)
	WriteBatch([]ipv4.Message, int) (int, error)
}

// listen opens the sockets and answers until they are closed. IPv6 may be missing on this machine.
func (r *Resolver) listen() (*sockets, error) {
	ctx, cancel := context.WithCancel(context.Background())
	s := &sockets{cancel: cancel}
	shared := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var failed error
		if err := c.Control(func(fd uintptr) {
			failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
		}); err != nil {
			return err
		}
		return failed
	}}
	fail := func(err error) (*sockets, error) {
		s.close()
		return nil, fmt.Errorf("the resolver cannot listen: %w", err)
	}
	for _, family := range []string{"4", "6"} {
		at := map[string]string{"4": "0.0.0.0", "6": "::"}[family]
		at = net.JoinHostPort(at, strconv.Itoa(link.ResolverPort))
		// Not shared: if something else listens there already, this fails.
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp"+family, at)
		if err != nil && family == "6" && missing(err) {
			continue
		}
		if err != nil {
			return fail(err)
		}
		s.closed = append(s.closed, l)
		s.all.Go(func() { r.accept(ctx, l) })
		loops := 1
		if family == "4" {
			loops = min(maxLoops, runtime.GOMAXPROCS(0))
		}
		for range loops {
			c, err := shared.ListenPacket(ctx, "udp"+family, at)
			if err != nil {
				return fail(err)
			}
			s.closed = append(s.closed, c)
			_ = c.(*net.UDPConn).SetReadBuffer(1 << 20)
			var p packets = ipv4.NewPacketConn(c)
			if family == "6" {
				p = ipv6.NewPacketConn(c)
			}
			s.all.Go(func() { r.loop(ctx, p) })
		}
		s.at = append(s.at, at)
	}
	return s, nil
}

// missing reports whether an address does not exist here: IPv6 is off.
func missing(err error) bool {
	return errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EAFNOSUPPORT)
}

func (s *sockets) close() {
	s.cancel()
	for _, c := range s.closed {
		_ = c.Close()
	}
	s.all.Wait()
}

// loop answers questions that come by UDP: what is refused and what is cached at once, and the rest in goroutines.
func (r *Resolver) loop(ctx context.Context, p packets) {
	in, out := make([]ipv4.Message, batch), make([]ipv4.Message, batch)
	outs := make([][]byte, batch)
	for i := range in {
		in[i].Buffers = [][]byte{make([]byte, packet)}
		outs[i] = make([]byte, 0, 2*packet)
		out[i].Buffers = make([][]byte, 1)
	}
	var scratch [256]byte
	var key [320]byte
	var q question
	for {
		n, err := p.ReadBatch(in, 0)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			r.count("socket errors")
			time.Sleep(time.Millisecond) // an error of one answer must not become a busy loop
			continue
		}
		ready := 0
		for i := range n {
			m := &in[i]
			from, ok := m.Addr.(*net.UDPAddr)
			if !ok || m.N >= packet {
				continue
			}
			b := m.Buffers[0][:m.N]
			if a := r.fast(outs[ready], b, from, &q, &scratch, key[:]); a != nil {
				outs[ready] = a
				out[ready].Buffers[0], out[ready].Addr = a, m.Addr
				ready++
				continue
			}
			r.later(ctx, p, append([]byte(nil), b...), from, &q)
		}
		for sent := 0; sent < ready; {
			k, err := p.WriteBatch(out[sent:ready], 0)
			if err != nil {
				k = 1 // that one cannot be sent; the others can
			}
			sent += max(k, 1)
		}
	}
}

// fast answers what needs no other server: refusals, and cached answers. nil: it takes longer, or is dropped.
func (r *Resolver) fast(out, p []byte, from *net.UDPAddr, q *question, scratch *[256]byte, key []byte) []byte {
	s := r.now.Load()
	if s == nil {
		return nil
	}
	if rcode, answer := q.parse(p, scratch); !answer || rcode != rcodeOK || !q.plain {
		return nil
	}
	if isLocal(q.text()) {
		return r.local(p, q, s.reach.Names) // whatever else goes on, the firewall has to know
	}
	if a := r.refuse(out, p, q, s); a != nil {
		return a
	}
	server := r.first(s, from)
	if !server.IsValid() {
		return nil
	}
	if a := r.cache.get(out, p, q, q.key(key, server), min(q.size, packet), time.Now()); a != nil {
		r.counts.cached.Add(1)
		return a
	}
	return nil
}

// zones counts the questions on their way by the last two labels of their names, so that one domain whose servers are silent
// does not take all places.
type zones struct {
	mu sync.Mutex
	n  map[string]int
}

// enter counts one more; false if there are most already.
func (z *zones) enter(zone string, most int) bool {
	z.mu.Lock()
	defer z.mu.Unlock()
	if z.n[zone] >= most {
		return false
	}
	if z.n == nil {
		z.n = map[string]int{}
	}
	z.n[zone]++
	return true
}

func (z *zones) leave(zone string) {
	z.mu.Lock()
	defer z.mu.Unlock()
	if z.n[zone]--; z.n[zone] <= 0 {
		delete(z.n, zone)
	}
}

// zoneOf is the last two labels of a name.
func zoneOf(name string) string {
	if i := strings.LastIndexByte(name, '.'); i > 0 {
		if i = strings.LastIndexByte(name[:i], '.'); i >= 0 {
			return name[i+1:]
		}
	}
	return name
}

// later answers a question in a goroutine of its own. Beyond a bound, questions are dropped: programs ask again.
func (r *Resolver) later(ctx context.Context, p packets, b []byte, from *net.UDPAddr, q *question) {
	zone, most := strings.Clone(zoneOf(q.text())), maxAsked
	if len(r.room) > maxAsked/4 {
		most = maxAsked / 8
	}
	if !r.zones.enter(zone, most) {
		r.count("dropped")
		return
	}
	select {
	case r.room <- struct{}{}:
	default:
		r.zones.leave(zone)
		r.count("dropped")
		return
	}
	to := *from
	go func() {
		defer func() { <-r.room; r.zones.leave(zone) }()
		a := r.serve(ctx, b, to.AddrPort(), false)
		if a == nil || ctx.Err() != nil {
			return
		}
		_, _ = p.WriteBatch([]ipv4.Message{{Buffers: [][]byte{a}, Addr: &to}}, 0)
	}()
}

// idle is how long a connection may be silent.
const idle = 3 * time.Second

// callers are the connections that are open. When there are too many, the one that has waited longest for a question makes room:
// somebody who holds connections open shuts nobody out.
type callers struct {
	mu   sync.Mutex
	list map[net.Conn]*caller
}

// caller is one of them.
type caller struct {
	since  time.Time // of its last question, or of its beginning
	served bool      // it waits for an answer, not we for a question
}

// enter adds a connection.
func (c *callers) enter(conn net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.list == nil {
		c.list = map[net.Conn]*caller{}
	}
	if len(c.list) >= maxConns {
		// Of those that are served the longest, too, if there are no others: a question that has an answer takes no seconds.
		var longest net.Conn
		for x, s := range c.list {
			if l := c.list[longest]; l == nil || l.served && !s.served || l.served == s.served && s.since.Before(l.since) {
				longest = x
			}
		}
		_ = longest.Close()
		delete(c.list, longest)
	}
	c.list[conn] = &caller{since: time.Now()}
}

// serving notes whether a connection is being served.
func (c *callers) serving(conn net.Conn, served bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.list[conn]; s != nil {
		s.since, s.served = time.Now(), served
	}
}

func (c *callers) leave(conn net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.list, conn)
}

// accept answers questions that come by TCP.
func (r *Resolver) accept(ctx context.Context, l net.Listener) {
	var room callers
	var all sync.WaitGroup
	defer all.Wait()
	for {
		c, err := l.Accept()
		if ctx.Err() != nil {
			if err == nil {
				_ = c.Close()
			}
			return
		}
		if err != nil {
			r.count("socket errors")
			time.Sleep(10 * time.Millisecond)
			continue
		}
		room.enter(c)
		all.Go(func() {
			defer room.leave(c)
			defer c.Close()
			defer context.AfterFunc(ctx, func() { _ = c.Close() })()
			from, ok := c.RemoteAddr().(*net.TCPAddr)
			if !ok {
				return
			}
			for {
				_ = c.SetDeadline(time.Now().Add(idle))
				b, err := readTCP(c)
				if err != nil {
					return
				}
				_ = c.SetDeadline(time.Now().Add(idle + maxServers*tcpWait))
				room.serving(c, true)
				if a := r.serve(ctx, b, from.AddrPort(), true); a == nil || writeTCP(c, a) != nil {
					return
				}
				room.serving(c, false)
			}
		})
	}
}
