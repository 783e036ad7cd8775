package datacontrol

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// ErrNone says that the compositor has neither protocol.
var ErrNone = errors.New("the compositor has no data-control protocol")

// ErrGone says that an offer was forgotten.
var ErrGone = errors.New("what was copied is not there any more")

// Offer is something that was copied.
type Offer struct {
	// Types are the names of its forms, such as text/html, MaxTypes of them at most; More says that there are more.
	Types []string
	More  bool

	id   uint32
	mu   sync.Mutex
	gone bool // it may not be named any more: the compositor would end the connection, or has another one under its number
}

// Event is a new selection, if it says nothing else.
type Event struct {
	Seat    uint32 // as the compositor numbers it
	Primary bool   // what is marked, and not what is copied
	Offer   *Offer // nil: there is nothing
	Ours    bool   // it is what Replace has put there
	Pong    bool   // it is no selection, but the answer to Ping
	Gone    bool   // the seat is not there any more
}

// Bounds.
const (
	MaxTypes   = 512
	maxType    = 255 // of a name, in bytes; a longer one counts as one more
	maxSeats   = 8
	maxOffers  = 64
	maxObjects = 4096
	writeWait  = 10 * time.Second // for a compositor that reads nothing
)

// Conn is a connection to a compositor. Next is for one goroutine, the others for any.
type Conn struct {
	wire    *wire
	manager uint32 // of data devices; 0: none
	version uint32 // its own
	seats   map[uint32]uint32
	// What the registry has named before there was a manager.
	early  []uint32
	offers map[uint32]*Offer
	ready  []Event

	mu      sync.Mutex
	next    uint32
	freed   []uint32
	kinds   map[uint32]kind   // of our objects
	devices map[uint32]uint32 // by seat
	tokens  map[string]bool   // what our sources are known by, until it has been seen
	sources map[uint32]string
}

type kind uint8

const (
	gone kind = iota
	callback
	manager
	seat
	device
	source
)

const (
	displayID, registryID = 1, 2
	firstServer           = 0xff000000 // what the compositor numbers itself
)

// Open connects to the compositor whose socket is at path.
func Open(ctx context.Context, path string) (*Conn, error) {
	var d net.Dialer
	n, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	c := connOf(n.(*net.UnixConn))
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	if err := c.begin(); err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}

func connOf(n *net.UnixConn) *Conn {
	return &Conn{wire: newWire(n), seats: map[uint32]uint32{}, offers: map[uint32]*Offer{}, next: registryID + 1,
		kinds: map[uint32]kind{}, devices: map[uint32]uint32{}, tokens: map[string]bool{}, sources: map[uint32]string{}}
}

// begin has the compositor name what it has.
func (c *Conn) begin() error {
	if err := c.wire.send(displayID, 1, -1, registryID); err != nil { // get_registry
		return err
	}
	if err := c.Ping(); err != nil {
		return err
	}
	for {
		e, err := c.wait()
		switch {
		case err != nil:
			return err
		case e.Pong && c.manager == 0:
			return ErrNone
		case e.Pong:
			return nil
		default: // of a device that there is already
			c.ready = append(c.ready, e)
		}
		if len(c.ready) > maxSeats*2 {
			return errWire
		}
	}
}

var errFinished = errors.New("the compositor has ended what it says of a seat")

// Close ends it: what Replace has put there is gone.
func (c *Conn) Close() error { return c.wire.conn.Close() }

// Ping asks for an Event with Pong.
func (c *Conn) Ping() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.wire.send(displayID, 0, -1, c.new(callback))
}

// new numbers an object. The caller has the lock, and keeps it until that is sent: a compositor wants new numbers in their order.
func (c *Conn) new(k kind) uint32 {
	id := c.next
	if n := len(c.freed); n > 0 {
		id, c.freed = c.freed[n-1], c.freed[:n-1]
	} else {
		c.next++
	}
	c.kinds[id] = k
	return id
}

// Next waits for what happens next.
func (c *Conn) Next() (Event, error) {
	if len(c.ready) > 0 {
		e := c.ready[0]
		c.ready = c.ready[1:]
		return e, nil
	}
	return c.wait()
}

func (c *Conn) wait() (Event, error) {
	for {
		m, err := c.wire.read()
		if err != nil {
			return Event{}, err
		}
		e, is, err := c.event(&m)
		if err != nil {
			c.wire.closeAll()
		}
		if err != nil || is {
			return e, err
		}
	}
}

// event takes one message in.
func (c *Conn) event(m *message) (e Event, is bool, err error) {
	if !c.bounded() {
		return e, false, fmt.Errorf("%w: more than %d objects", errWire, maxObjects)
	}
	switch {
	case m.object == displayID && m.opcode == 0: // error
		object, code, text := m.uint(), m.uint(), m.string()
		return e, false, fmt.Errorf("the compositor has ended the connection: object %d, code %d: %.200q", object, code, text)
	case m.object == displayID && m.opcode == 1: // delete_id
		id := m.uint()
		c.mu.Lock()
		if k, known := c.kinds[id]; known && (k == gone || k == callback) {
			delete(c.kinds, id)
			c.freed = append(c.freed, id)
		}
		c.mu.Unlock()
	case m.object == registryID && m.opcode == 0: // global
		err = c.global(m.uint(), m.string(), m.uint())
	case m.object == registryID: // global_remove: a device says itself that it has ended
		delete(c.seats, m.uint())
	case m.object >= firstServer:
		if o := c.offers[m.object]; o != nil && m.opcode == 0 { // offer
			o.add(m.string())
		}
	default:
		c.mu.Lock()
		k := c.kinds[m.object]
		c.mu.Unlock()
		switch k {
		case callback:
			return Event{Pong: true}, m.opcode == 0, m.err
		case device:
			e, is = c.deviceEvent(m)
		case source:
			err = c.sourceEvent(m)
		}
	}
	return e, is, errors.Join(err, m.err)
}

func (c *Conn) bounded() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.kinds) <= maxObjects && len(c.early) <= maxObjects
}

func (o *Offer) add(name string) {
	if len(o.Types) == MaxTypes || len(name) > maxType {
		o.More = true
		return
	}
	o.Types = append(o.Types, name)
}

// global takes in something that the compositor has.
func (c *Conn) global(name uint32, is string, version uint32) error {
	switch is {
	case "ext_data_control_manager_v1", "zwlr_data_control_manager_v1":
		if c.manager != 0 {
			return nil
		}
		if c.version = 2; is[0] == 'z' {
			c.version = min(version, 2)
		}
		bind := c.version
		if is[0] == 'e' {
			bind = 1 // and has what the other one has since 2
		}
		c.mu.Lock()
		c.manager = c.new(manager)
		err := c.wire.send(registryID, 0, -1, name, is, bind, c.manager)
		c.mu.Unlock()
		if err != nil {
			return err
		}
		for _, s := range c.early {
			if err := c.device(s); err != nil {
				return err
			}
		}
	case "wl_seat":
		if len(c.seats) == maxSeats {
			return nil
		}
		c.mu.Lock()
		id := c.new(seat)
		err := c.wire.send(registryID, 0, -1, name, is, uint32(1), id)
		c.mu.Unlock()
		if c.seats[name] = id; err != nil {
			return err
		}
		if c.manager == 0 {
			c.early = append(c.early, id)
			return nil
		}
		return c.device(id)
	}
	return nil
}

// device asks for what is copied at a seat.
func (c *Conn) device(of uint32) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	id := c.new(device)
	c.devices[of] = id
	return c.wire.send(c.manager, 1, -1, id, of) // get_data_device
}

func (c *Conn) deviceEvent(m *message) (e Event, is bool) {
	c.mu.Lock()
	for s, d := range c.devices {
		if d == m.object {
			e.Seat = s
		}
	}
	c.mu.Unlock()
	switch m.opcode {
	case 0: // data_offer
		id := m.uint()
		if len(c.offers) >= maxOffers {
			m.err = errors.Join(m.err, errWire)
			return e, false
		}
		c.offers[id] = &Offer{id: id}
	case 1, 3: // selection, primary_selection
		id := m.uint()
		e.Primary, e.Offer = m.opcode == 3, c.offers[id]
		delete(c.offers, id)
		if o := e.Offer; o != nil {
			e.Ours = c.ours(o)
		}
		return e, m.err == nil && (id == 0 || e.Offer != nil)
	case 2: // finished
		c.mu.Lock()
		delete(c.devices, e.Seat)
		c.kinds[m.object] = gone
		err := c.wire.send(m.object, 1, -1) // destroy
		c.mu.Unlock()
		for _, s := range c.seats {
			if s == e.Seat { // which is still there: begun anew, it may be looked at again
				err = errors.Join(err, errFinished)
			}
		}
		m.err = errors.Join(m.err, err)
		e.Gone = true
		return e, m.err == nil
	}
	return e, false
}

// ours reports whether an offer is what Replace has put there. What says so has not been told to anybody before, and counts once.
func (c *Conn) ours(o *Offer) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range o.Types {
		if c.tokens[t] {
			delete(c.tokens, t)
			return true
		}
	}
	return false
}

func (c *Conn) sourceEvent(m *message) error {
	switch m.opcode {
	case 0: // send: there is nothing in it
		_ = m.string()
		fd, err := c.wire.fd()
		if err != nil {
			return err
		}
		_ = unix.Close(fd)
	case 1: // cancelled
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.tokens, c.sources[m.object])
		delete(c.sources, m.object)
		c.kinds[m.object] = gone
		return c.wire.send(m.object, 1, -1) // destroy
	}
	return nil
}

// Receive asks for one form of something that was copied. Who has it writes it into what is returned.
func (c *Conn) Receive(o *Offer, name string) (*os.File, error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return nil, err
	}
	defer unix.Close(p[1])
	if _, err := unix.FcntlInt(uintptr(p[1]), unix.F_SETFL, 0); err != nil { // who writes need not expect that
		_ = unix.Close(p[0])
		return nil, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.gone {
		_ = unix.Close(p[0])
		return nil, ErrGone
	}
	if err := c.wire.send(o.id, 0, p[1], name); err != nil { // receive
		_ = unix.Close(p[0])
		return nil, err
	}
	return os.NewFile(uintptr(p[0]), "copied"), nil //nolint:gosec // a descriptor
}

// Forget says that nothing of it is wanted any more.
func (c *Conn) Forget(o *Offer) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.gone {
		return nil
	}
	o.gone = true
	return c.wire.send(o.id, 1, -1) // destroy
}

// Replace puts something in the place of what is copied at a seat that has no form anybody can paste: it is not empty, because clipboard
// managers put what was there before in the place of what is empty.
func (c *Conn) Replace(at uint32, primary bool) error {
	token := "application/x-warder-" + rand.Text()
	c.mu.Lock()
	defer c.mu.Unlock()
	d, known := c.devices[at]
	if !known || primary && c.version < 2 {
		return nil
	}
	id := c.new(source)
	c.tokens[token], c.sources[id] = true, token
	set := uint16(0) // set_selection
	if primary {
		set = 2
	}
	return errors.Join(c.wire.send(c.manager, 0, -1, id), c.wire.send(id, 0, -1, token), c.wire.send(d, set, -1, id))
}
