package usb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/platform"
)

// Ports is the only way to the files that say which devices the kernel may use. Guard and back end share it, so that a
// device is never written by both at once.
type Ports struct {
	Root    string                // of sysfs, "/sys"
	Gate    enforce.Gate          // before each write
	Release platform.ReleaseDisks // before a device with a disk is taken away; nil if nothing can be mounted
	// Taken is called for each device whose release has ended, without the device's lock: what is at its port now is
	// judged again. u is the device as it was, err why it could not be taken away.
	Taken func(u fact.USB, r platform.Released, err error)
	// Carries names the part of the running system that is on a device's disk, "" for none; nil: none is.
	Carries platform.CarriesSystem
	// Stays is asked at the end of a release whether the device may stay by now; nil: it may not.
	Stays   func(name string) bool
	DevRoot string // of the device nodes, "/dev"
	Option  Option // of the initramfs

	mu      sync.Mutex
	locks   map[string]*pathLock
	answers map[string][]fact.Interface // answers about MTP
	known   map[string]known            // what cannot change while a device stays at its port
	idle    map[string]time.Time        // not authorised when last read
	used    map[string]time.Time        // refused before and authorised now: since when, at the earliest
	usables map[string]time.Duration    // how long at most a refused device could be used before
	touch   atomic.Pointer[func(platform.Touch)]
	inodes  map[uint64]enforce.Key // the deciding files, as last listed

	hubs hubs

	releases map[string]*release
	stopping bool
	running  sync.WaitGroup
}

type pathLock struct {
	sync.Mutex
	users int
}

// lock prevents two concurrent writes to one device.
func (p *Ports) lock(path string) func() {
	p.mu.Lock()
	if p.locks == nil {
		p.locks = map[string]*pathLock{}
	}
	l := p.locks[path]
	if l == nil {
		l = &pathLock{}
		p.locks[path] = l
	}
	l.users++
	p.mu.Unlock()
	l.Lock()
	return func() {
		l.Unlock()
		p.mu.Lock()
		if l.users--; l.users == 0 {
			delete(p.locks, path)
		}
		p.mu.Unlock()
	}
}

func (p *Ports) devices() string     { return p.Root + "/bus/usb/devices" }
func (p *Ports) dir(n string) string { return p.devices() + "/" + n }
func (p *Ports) param() string {
	return p.Root + "/module/usbcore/parameters/authorized_default"
}
func (p *Ports) auth(n string) string { return p.dir(n) + "/authorized" }

// names lists the devices and root hubs that are present.
func (p *Ports) names() (devices, roots []string, err error) {
	all, err := os.ReadDir(p.devices())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil // a kernel without USB
	}
	for _, e := range all {
		if ok, root := deviceName(e.Name()); ok && root {
			roots = append(roots, e.Name())
		} else if ok {
			devices = append(devices, e.Name())
		}
	}
	return devices, roots, err
}

// read returns a device as its descriptors and its port describe it.
func (p *Ports) read(name string) (fact.USB, error) {
	d, err := p.open(name)
	if err != nil {
		return fact.USB{}, err
	}
	defer d.close()
	return p.readAt(d)
}

// readAt reads an open device as far as decisions need it.
func (p *Ports) readAt(d device) (fact.USB, error) {
	u, err := p.glance(d)
	if err != nil {
		return u, err
	}
	p.complete(d, &u)
	u.Authorized = d.authorized()
	return u, nil
}

// readAll is read, with what people want to see.
func (p *Ports) readAll(name string) (fact.USB, error) {
	d, err := p.open(name)
	if err != nil {
		return fact.USB{}, err
	}
	defer d.close()
	u, err := p.readAt(d)
	if err == nil {
		p.details(d, &u)
	}
	return u, err
}

// known is what was read of a device. The kernel gives a device a new number whenever it appears anew, also with other
// descriptors (usb_reset_and_verify_device in drivers/usb/core/hub.c). After lost announcements, everything is
// forgotten (Rescan).
type known struct {
	u     fact.USB
	is    bool
	whole bool // completed
	named bool // with details
}

// recollect returns what is known of a device. For one that has just arrived that is nothing: its number comes from the
// announcement, and what is remembered under it may belong to an earlier device.
func (p *Ports) recollect(d device, number int) known {
	p.mu.Lock()
	defer p.mu.Unlock()
	if k := p.known[d.name]; d.number == 0 && k.u.Number == number {
		return k
	}
	return known{}
}

// glance reads a device's descriptors only.
func (p *Ports) glance(d device) (fact.USB, error) {
	n, err := d.which()
	if err != nil {
		return fact.USB{}, err
	}
	if k := p.recollect(d, n); k.is {
		u := k.u
		u.Interfaces = append([]fact.Interface(nil), u.Interfaces...)
		p.recall(&u)
		return u, nil
	}
	raw := make([]byte, 4096)
	m, err := d.slurp("descriptors", raw)
	if err == nil && m == len(raw) {
		raw = make([]byte, maxDescriptors+1)
		m, err = d.slurp("descriptors", raw)
	}
	if err != nil {
		return fact.USB{}, err
	}
	u := fact.USB{Path: d.name, Number: n}
	_, u.Root = deviceName(d.name)
	ParseDescriptors(raw[:m], &u)
	if d.number == 0 { // otherwise it is remembered when it is complete: after the decision
		p.remember(u, false, false)
	}
	p.recall(&u)
	return u, nil
}

// complete adds what a decision seldom needs: the serial, and whether the port is inside the machine.
func (p *Ports) complete(d device, u *fact.USB) {
	k := p.recollect(d, u.Number)
	if k.whole {
		u.Serial, u.Hardwired = k.u.Serial, k.u.Hardwired
		return
	}
	u.Serial, _ = d.text("serial")
	u.Hardwired = d.hardwired()
	p.remember(*u, true, k.named)
}

// remember keeps what was read. Interfaces are copied, because the caller may change them; answers about MTP are kept
// elsewhere.
func (p *Ports) remember(u fact.USB, whole, named bool) {
	u.Interfaces = append([]fact.Interface(nil), u.Interfaces...)
	for i := range u.Interfaces {
		u.Interfaces[i].MTP = fact.Known[bool]{}
	}
	u.Authorized = fact.Known[bool]{} // what the descriptors say about keyboards stays
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.known == nil || len(p.known) >= maxKnown {
		p.known = map[string]known{}
	}
	p.known[u.Path] = known{u, true, whole, named}
}

// maxKnown bounds what is remembered; a bus has at most 127 devices.
const maxKnown = 2048

// forget drops what was read of a device; of all devices if the name is "".
func (p *Ports) forget(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if name == "" {
		p.known, p.idle, p.used, p.usables = nil, nil, nil, nil
		return
	}
	delete(p.known, name)
	delete(p.idle, name)
	delete(p.used, name)
	delete(p.usables, name)
}

// maxAnswers bounds the remembered answers about MTP.
const maxAnswers = 256

// learn remembers a device's answers, and recall fills them in, so that the standing decision does not know less than
// the guard's.
func (p *Ports) learn(u *fact.USB) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.answers == nil || len(p.answers) >= maxAnswers {
		p.answers = map[string][]fact.Interface{}
	}
	p.answers[u.Key()+" "+u.ID()] = append([]fact.Interface{}, u.Interfaces...)
}

// recall fills in a device's remembered answers about MTP.
func (p *Ports) recall(u *fact.USB) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.answers) == 0 {
		return
	}
	if said := p.answers[u.Key()+" "+u.ID()]; len(said) == len(u.Interfaces) {
		for i := range said {
			u.Interfaces[i].MTP = said[i].MTP
		}
	}
}

// details adds what people want to see and no decision needs.
func (p *Ports) details(d device, u *fact.USB) {
	k := p.recollect(d, u.Number)
	if k.named {
		u.Name, u.Bus = k.u.Name, k.u.Bus
		return
	}
	defer func() { p.remember(*u, k.whole, true) }()
	maker, _ := d.text("manufacturer")
	product, _ := d.text("product")
	u.Name = enforce.Plain(strings.TrimSpace(maker + " " + product))
	bus, _ := d.text("busnum")
	u.Bus, _ = strconv.Atoi(bus)
}

// authorized reads whether the kernel may use a device.
func (d device) authorized() fact.Known[bool] {
	v, err := d.text("authorized")
	if err != nil {
		return fact.Unread[bool](err.Error())
	}
	return fact.Is(v != "0")
}

// write and writeTo are the only writes to sysfs in this package. write writes an open file of a device.
func (p *Ports) write(fd int, path string, c enforce.Change) error {
	if err := p.Gate(c); err != nil {
		return err
	}
	if err := spill(fd, c.To.Value); err != nil {
		return &fs.PathError{Op: "write", Path: path, Err: err}
	}
	return nil
}

// writeTo writes one of the kernel's defaults.
func (p *Ports) writeTo(path string, c enforce.Change) error {
	if err := p.Gate(c); err != nil {
		return err
	}
	fd, err := openat(unix.AT_FDCWD, path, unix.O_WRONLY|unix.O_TRUNC)
	if err != nil {
		return &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	if err := spill(fd, c.To.Value); err != nil {
		return &fs.PathError{Op: "write", Path: path, Err: err}
	}
	return nil
}

// authorize makes the kernel use a device, or stop using it. A device with a working disk is emptied first, in the
// background: the answer is then Releasing. wrote is false if nothing had to be changed. The caller has the device's
// lock.
func (p *Ports) authorize(d device, c enforce.Change) (done enforce.Reading, wrote bool, err error) {
	fd, shut, err := d.edit()
	if err != nil {
		before := d.reading("authorized")
		if before.Is(c.To.Value) || before.State == enforce.Absent {
			return before, false, nil
		}
		return before, true, err
	}
	defer shut()
	before := d.read(fd)
	if before.Is(c.To.Value) || before.State == enforce.Absent {
		return before, false, nil
	}
	if c.To.Value == "0" && p.Release != nil && hasDisk(d.dir) {
		// The gate is asked before anything is emptied, and again before the write.
		if err := p.Gate(c); err != nil {
			return before, true, err
		}
		if err := p.begin(d.name, c); err != nil {
			return before, true, err
		}
		return before, true, &Releasing{d.name}
	}
	done, err = p.set(d, fd, c)
	return done, true, err
}

// read reads the open authorized, as evidence.
func (d device) read(fd int) enforce.Reading {
	b := make([]byte, 64)
	n, err := drain(fd, b)
	return readingOf(d.dir+"/authorized", string(bytes.TrimRight(b[:n], "\n")), err)
}

// set writes the open authorized, and reads it back.
func (p *Ports) set(d device, fd int, c enforce.Change) (enforce.Reading, error) {
	refused := p.refusing(d, c.To)
	if err := p.write(fd, p.auth(d.name), c); err != nil {
		refused(false)
		return d.reading("authorized"), err
	}
	refused(true)
	after := d.read(fd)
	if after.State == enforce.Present && !after.Is(c.To.Value) {
		return after, fmt.Errorf("%s reads %s after %s was written", p.auth(d.name), after, c.To.Value)
	}
	if after.Is("0") {
		if driver := p.bound(d.name); driver != "" {
			return after, fmt.Errorf("%s is not authorized, and driver %s is still bound", d.name, driver)
		}
	}
	return after, nil
}

// bound names a driver that is still bound to an interface of a device, or "".
func (p *Ports) bound(name string) string {
	dirs, _ := filepath.Glob(p.dir(name) + "/" + name + ":*/driver")
	for _, d := range dirs {
		if to, err := os.Readlink(d); err == nil {
			return filepath.Base(to)
		}
	}
	return ""
}

// unplugged tells a device that went away while it was read from one that cannot be read.
func unplugged(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO)
}

// Observe fills in the snapshot's USB part.
func (p *Ports) Observe(_ context.Context, m *fact.Machine) error {
	names, roots, err := p.names()
	if err != nil {
		m.USB, m.Controllers = fact.Unread[[]fact.USB](err.Error()), fact.Unread[[]string](err.Error())
		return err
	}
	m.Controllers = fact.Is(roots)
	list := make([]fact.USB, 0, len(names)+len(roots))
	for _, n := range append(roots, names...) {
		u, err := p.readAll(n)
		if unplugged(err) {
			continue
		}
		if err != nil {
			m.USB = fact.Unread[[]fact.USB](fmt.Sprintf("%s: %v", n, err))
			return err
		}
		list = append(list, u)
	}
	m.USB = fact.Is(list)
	return nil
}

// now is the clock for latencies: only differences of its values mean anything. It makes one system call, where
// time.Now makes two.
func now() time.Time { return began.Add(time.Since(began)) }

var began = time.Now()
