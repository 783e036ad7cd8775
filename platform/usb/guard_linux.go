package usb

import (
	"context"
	"errors"
	"fmt"
	"path"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/platform"
	"github.com/warderd/warder/platform/uevent"
)

// Guard answers each device as it is plugged in.
type Guard struct {
	*Ports
	told atomic.Pointer[told]

	ruling atomic.Pointer[Ruling]
	work   sync.WaitGroup
	again  atomic.Bool // a rescan is about to begin
	met    struct {    // the last announcements acted on, indexed by their number modulo the length
		sync.Mutex
		last []uint64
	}
}

// maxMet is how far apart the readers can be. It is more than a socket of 8 MiB can queue, at a kilobyte each.
const maxMet = 1 << 13

// told receives what the guard does; nil until somebody listens.
type told struct {
	// hand receives each decision. It must not wait, because it is called with the device's lock.
	hand func(Decision)
	// gone is called for each device and root hub that went away, and each root hub that arrived.
	gone func(name string, came bool)
}

// hand passes a decision to whoever listens.
func (g *Guard) hand(d Decision) {
	if t := g.told.Load(); t != nil && t.hand != nil {
		t.hand(d)
	}
}

// gone reports that a device went away, or that a root hub came or went.
func (g *Guard) gone(name string, came bool) {
	if t := g.told.Load(); t != nil && t.gone != nil {
		t.gone(name, came)
	}
}

// Load replaces the ruling and judges everything present again. It returns when each device has been written and read
// back, except those whose disks are being emptied first.
func (g *Guard) Load(r Ruling) {
	g.ruling.Store(&r)
	g.Rescan()
}

// leaves reports whether a device, by its name, is refused or being taken away. It is asked by whoever would take its disks.
func (g *Guard) leaves(name string) bool {
	if ok, root := deviceName(name); !ok || root {
		return false
	}
	d, err := g.open(name)
	if err != nil {
		return true // it has gone
	}
	defer d.close()
	return g.releasing(name) || d.reading("authorized").Is("0")
}

// Rescan judges everything present: after announcements were lost, and after sleep.
func (g *Guard) Rescan() {
	names, _, err := g.names()
	if err != nil {
		return
	}
	var all sync.WaitGroup
	for _, n := range names {
		if g.releasing(n) {
			continue
		}
		all.Go(func() { g.handle(came{name: n}) })
	}
	all.Wait()
}

// Run reads the kernel's announcements until ctx ends, on two processors if there are two. The kernel wakes a reader on
// the processor that announces (a "sync" wake-up, because the announcer is expected to sleep at once), but then
// continues there to bind the device, for milliseconds. The reader on the other processor is free, and the first of the
// two acts.
func (g *Guard) Run(ctx context.Context) error {
	defer g.hubs.close()
	defer g.work.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cpus := processors()
	var sockets []source
	for range cpus {
		s, err := openSource(g.Ports.Root)
		if err != nil && len(sockets) == 0 {
			return fmt.Errorf("cannot listen to the kernel's USB events: %w", err)
		}
		if err == nil {
			sockets = append(sockets, s)
		}
	}
	l := &listeners{g: g, ctx: ctx, sockets: int32(len(sockets)), failed: make(chan error, 1)}
	var all sync.WaitGroup
	for i, s := range sockets {
		all.Go(func() {
			var mine sync.WaitGroup
			stop := context.AfterFunc(ctx, s.Stop)
			mine.Go(func() { l.listen(s, cpus[i], &mine) })
			mine.Wait()
			stop()
			_ = s.Close()
		})
	}
	var err error
	select {
	case err = <-l.failed:
	case <-ctx.Done():
	}
	cancel()
	all.Wait()
	return err
}

// processors are the processors that readers are bound to: two that share as little as possible, or -1 for any.
func processors() []int {
	var set unix.CPUSet
	if unix.SchedGetaffinity(0, &set) != nil || set.Count() < 2 {
		return []int{-1}
	}
	var all []int
	for i := 0; len(all) < set.Count(); i++ {
		if set.IsSet(i) {
			all = append(all, i)
		}
	}
	return []int{all[0], all[len(all)/2]}
}

// listeners read the sockets, each on its own thread. A reader judges an arriving device itself, because handing it to
// another thread would take longer than judging it. Meanwhile another reader always listens.
type listeners struct {
	g       *Guard
	ctx     context.Context
	sockets int32
	busy    atomic.Int32 // those that judge
	failed  chan error
}

// fail ends all readers with the first error.
func (l *listeners) fail(err error) {
	select {
	case l.failed <- err:
	default:
	}
}

// announcements are read one by one.
type announcements interface{ Read([]byte) (int, error) }

// source delivers announcements. Stop ends a Read that waits; Close is called when nobody reads any more.
type source interface {
	announcements
	Stop()
	Close() error
}

// openSource listens to the kernel. A build for demonstrations listens to a simulated bus (simulate_linux.go).
var openSource = func(string) (source, error) { return uevent.Open() }

// listen reads one socket until ctx ends. It hands the socket over if it is the last one listening.
func (l *listeners) listen(s announcements, cpu int, all *sync.WaitGroup) {
	if cpu >= 0 {
		runtime.LockOSThread() // the thread ends with it
		var set unix.CPUSet
		set.Set(cpu)
		_ = unix.SchedSetaffinity(0, &set) // without it, this thread is as fast as others
		// A higher priority than whatever else a plug starts: udev runs its rules on both processors.
		_ = unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), -20)
	}
	// The collector halves a stack that is less than a quarter used, and growing it again takes longer than judging a
	// device.
	var room [16 << 10]byte
	defer runtime.KeepAlive(&room)
	g, b := l.g, make([]byte, uevent.Max+1)
	for {
		n, err := s.Read(b)
		switch {
		case l.ctx.Err() != nil:
			return
		case errors.Is(err, unix.ENOBUFS):
			// Announcements were lost: judge everything anew.
			g.forget("")
			if g.again.Swap(true) {
				continue // the other reader has lost some, too
			}
			g.work.Go(func() {
				g.again.Store(false) // what is lost from here on causes another rescan
				g.Rescan()
			})
			continue
		case err != nil:
			l.fail(fmt.Errorf("cannot read the kernel's USB events: %w", err))
			return
		}
		c, ok := g.dispatch(b[:n])
		if !ok {
			continue
		}
		last := l.busy.Add(1) >= l.sockets
		if last {
			all.Go(func() { l.listen(s, cpu, all) })
		}
		g.handle(c)
		l.busy.Add(-1)
		if last {
			return
		}
	}
}

// first reports whether an announcement is new: each reader receives each.
func (g *Guard) first(seq uint64) bool {
	if seq == 0 {
		return true
	}
	g.met.Lock()
	defer g.met.Unlock()
	if g.met.last == nil {
		g.met.last = make([]uint64, maxMet)
	}
	at := &g.met.last[seq%maxMet]
	if *at == seq {
		return false
	}
	*at = seq
	return true
}

// came is a device that has just arrived, as announced; or a device that is present, with only its name.
type came struct {
	name, path string
	number     int
	at         time.Time // when the announcement was read; zero without one
}

// dispatch passes an arriving device on to be judged. Only "add" counts: acting on "change" would let a refused device
// in again.
func (g *Guard) dispatch(b []byte) (came, bool) {
	u, err := uevent.Parse(b)
	if err != nil || u.Subsystem != "usb" {
		return came{}, false
	}
	if u.Devtype == "usb_interface" && u.Action == "add" {
		g.interfaces(&u)
		return came{}, false
	}
	if u.Devtype != "usb_device" {
		return came{}, false
	}
	name := path.Base(u.Path)
	ok, root := deviceName(name)
	if !ok || !g.first(u.Seq) {
		return came{}, false
	}
	switch {
	case u.Synthetic && u.Action == "add" && !root:
		return came{name: name}, true // it is judged again, as after a rescan
	case u.Synthetic:
	case u.Action == "remove":
		g.forget(name)
		g.gone(name, false)
	case u.Action == "add" && root:
		g.gone(name, true)
	case u.Action == "add":
		g.forget(name)
		return came{name, u.Path, u.Number, now()}, true
	}
	return came{}, false
}

// handle judges one device and applies the verdict. If another device is at its port by now, that one is judged, and
// again when its own announcement comes.
func (g *Guard) handle(c came) {
	if !g.judge(c) {
		g.forget(c.name)
		g.judge(came{name: c.name})
	}
}

// judge reports whether the device was the announced one.
func (g *Guard) judge(c came) bool {
	// The ruling is read with the device's lock, so that whoever loads a new one judges the device again after this,
	// never before.
	defer g.lock(c.name)()
	r := g.ruling.Load()
	if r == nil {
		return true
	}
	at, err := g.meet(c, r.Act)
	if err != nil {
		return true // unplugged meanwhile
	}
	defer func() { at.close() }()
	u, err := g.look(at, r.Judge, !c.at.IsZero())
	if err != nil {
		return true
	}
	v := r.Judge.Judge(&u)
	if v.Ask && g.askMTP(at, &u) {
		v = r.Judge.Judge(&u)
	}
	d := Decision{Device: u, Verdict: v, By: r.Judge, Plugged: !c.at.IsZero(), Received: c.at, Decided: now()}
	d.Done = enforce.Reading{State: enforce.Unknown, How: g.auth(c.name)}
	if r.Act {
		want := enforce.Value("0")
		if v.Allow {
			want = "1"
		}
		d.Done, d.Err, d.Changed = g.carryOut(at, &u, v, want)
	} else {
		d.Done = at.reading("authorized")
	}
	var under *Releasing
	if errors.As(d.Err, &under) {
		return true // told when it ends
	}
	if !v.Allow {
		d.Usable = g.wasUsable(c.name)
	}
	d.Verified = now()
	if at, err = g.settle(at); err != nil {
		g.hand(d) // it is gone, or cannot be opened: nothing more is read, and nothing remembered
		return true
	}
	if n, err := at.text("devnum"); err == nil && n != strconv.Itoa(u.Number) {
		return false
	}
	at.number = 0 // it is the one
	g.saw(c.name, d.Done)
	g.complete(at, &d.Device)
	g.details(at, &d.Device)
	g.hand(d)
	return true
}

// thrifty is a judge that says in advance what it will not need to know: each file read delays the decision.
type thrifty interface {
	// Pins reports whether the serial of such a device can matter.
	Pins(vendor, product uint16) bool
	// Refuses reports whether a device would be refused if there were no guard.
	Refuses(*fact.USB) bool
}

// look reads a device as far as its judge needs. A device that has just arrived has the kernel's default: not
// authorised yet.
func (g *Guard) look(d device, j enforce.Judge[fact.USB], fresh bool) (fact.USB, error) {
	t, ok := j.(thrifty)
	if !ok || !fresh {
		return g.readAt(d)
	}
	u, err := g.glance(d)
	if err != nil {
		return u, err
	}
	if t.Pins(u.Vendor, u.Product) {
		u.Serial, _ = d.text("serial")
	}
	if t.Refuses(&u) {
		g.complete(d, &u)
		u.Authorized = d.authorized()
	}
	return u, nil
}

// Watch makes the guard handle the ends of releases.
func (g *Guard) Watch() {
	g.Stays, g.Taken = g.allows, g.taken
}

// allows reports whether the present ruling lets a device stay. An unreadable device is not known to be allowed. Before
// the first ruling nothing is: what is taken away then is taken by a plan, whose rules come next.
func (g *Guard) allows(name string) bool {
	r := g.ruling.Load()
	if r == nil {
		return false
	}
	if !r.Act {
		return true
	}
	u, err := g.read(name)
	return err == nil && r.Judge.Judge(&u).Allow
}

// taken reports what became of a device whose disks were emptied, and judges what is at its port now: it may have been
// pulled, or the policy may have changed.
func (g *Guard) taken(was fact.USB, out platform.Released, err error) {
	if !g.tell(was, out, err) {
		g.handle(came{name: was.Path})
	}
	g.gone(was.Path, true) // another look: what was taken away may have to be given back
}

// tell passes the decision on, and reports whether it is about what is at the port now.
func (g *Guard) tell(was fact.USB, out platform.Released, err error) bool {
	r := g.ruling.Load()
	if r == nil {
		return false
	}
	defer g.lock(was.Path)()
	at := now()
	d := Decision{Device: was, By: r.Judge, Decided: at, Verified: at, Err: err, Released: &out}
	u, rerr := g.readAll(was.Path)
	there := rerr == nil && u.Number == was.Number
	if there {
		d.Device, d.Done = u, reading(g.auth(u.Path))
	} else {
		d.Done = enforce.Reading{State: enforce.Absent, How: g.auth(was.Path)}
	}
	d.Verdict = r.Judge.Judge(&d.Device)
	refused := r.Act && !d.Verdict.Allow
	if !refused && !out.Forced {
		return false // not reported: it is judged as another device
	}
	d.Changed = refused && there
	if refused {
		d.Usable = g.wasUsable(was.Path)
	}
	g.hand(d)
	return refused && there
}

// carryOut writes a verdict, and returns what was read back, why it is not in effect, and whether anything was
// written.
func (g *Guard) carryOut(at device, u *fact.USB, v enforce.Verdict, want enforce.Value) (enforce.Reading, error, bool) {
	if u.Authorized.OK && u.Authorized.V == (want == "1") {
		return at.reading("authorized"), nil, false
	}
	c := enforce.Change{
		Key: enforce.Key{Kind: kindDevice, ID: u.Key()}, To: enforce.Reading{Value: want, State: enforce.Present},
		By: []enforce.Setting{v.Rule.Setting}, Mode: enforce.Enforce,
	}
	done, wrote, err := g.authorize(at, c)
	return done, err, wrote
}
