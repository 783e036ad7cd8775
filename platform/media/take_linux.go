package media

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/platform"
)

// take empties a disk that may be open since before it was refused, and ends whatever has it open: its driver is taken off it
// and put back, so that it comes back as a disk that nobody has opened. A disk whose USB device is being taken away goes with
// it. done is closed once that is so; nil: it is not begun. used says that it may be in use; otherwise it is found out, and one that is
// not is not emptied. The caller has the lock.
func (g *Guard) take(d disk, x fact.Medium, used bool) (done chan struct{}) {
	key := x.Key()
	g.moving.Lock()
	defer g.moving.Unlock()
	if g.taking[key] != nil || g.ctx.Err() != nil || g.release == nil {
		return nil
	}
	w := &platform.Work{Subject: x.Name, What: "emptying it before it is taken away", Since: time.Now()}
	g.taking[key] = w
	done = make(chan struct{})
	g.all.Go(func() {
		defer close(done)
		defer func() {
			g.moving.Lock()
			delete(g.taking, key)
			g.moving.Unlock()
			g.Look(true)
		}()
		if x.USB != nil && !g.stays(d, x.USB.Path) {
			return
		}
		var out platform.Released
		used := used || g.used(d)
		if used {
			var finish func()
			out, finish = g.release(g.ctx, d.device, func(step string) {
				g.moving.Lock()
				w.Step = step
				g.moving.Unlock()
			})
			defer finish()
		}
		if g.ctx.Err() != nil || !g.same(d, x) {
			return // the agent stops, or it has gone
		}
		// Meanwhile it may have been allowed, or have become the system's.
		if r := g.ruling.Load(); r == nil || !r.act || r.judge.Judge(g.now(d)).Allow {
			return
		}
		end := g.replace
		if g.cannot.Load() {
			end = func(d disk) error { return g.takeOff(d, &x) }
		}
		err := end(d)
		if used || err != nil || time.Since(w.Since) > awayWait { // otherwise the disk's own event says it
			g.taken(x, out, err, used)
		}
		if err != nil {
			time.AfterFunc(takeAgain, func() {
				if g.ctx.Err() == nil && g.same(d, x) {
					_ = g.judge(d, time.Time{})
				}
			})
		}
	})
	return done
}

// takeAgain is when it is tried again with a disk whose driver stayed on it.
const takeAgain = time.Minute

// leaveWait bounds how long a USB device that is refused may take to go. Emptying its disks takes at most five minutes.
const leaveWait = 6 * time.Minute

// stays waits until a disk's USB device has gone, or reports that it stays.
func (g *Guard) stays(d disk, usb string) bool {
	for end := time.Now().Add(leaveWait); g.leaves != nil && g.leaves(usb) && time.Now().Before(end); {
		if _, err := os.Stat(d.dir); err != nil {
			return false
		}
		select {
		case <-g.ctx.Done():
			return false
		case <-time.After(100 * time.Millisecond):
		}
	}
	_, err := os.Stat(d.dir)
	return err == nil
}

// same reports whether the disk that was judged is still there.
func (g *Guard) same(d disk, x fact.Medium) bool { return g.now(d).Key() == x.Key() }

// now reads a disk as it is.
func (g *Guard) now(d disk) *fact.Medium {
	g.mu.Lock()
	defer g.mu.Unlock()
	k, why := g.opened()
	x := g.describe(d)
	g.add(&x, d, k, why)
	return &x
}

// taken tells what became of a disk.
func (g *Guard) taken(x fact.Medium, out platform.Released, err error, used bool) {
	r := g.ruling.Load()
	if r == nil {
		return
	}
	v := r.judge.Judge(&x)
	d := platform.Decision{Section: setting.Section(), Key: enforce.Key{Kind: "media.disk", ID: x.Key() + " taken"}, Subject: subject(&x), Verdict: v, Fact: &x,
		Reason: func() (string, string) { return r.judge.Reason(v, &x) }, Err: err, Forced: out.Forced, Done: reading(&x)}
	d.Note = "it may have been open before: it was emptied, and its driver taken off it and put back"
	switch {
	case g.cannot.Load() && used:
		d.Note = "it was in use: it was emptied, and its driver taken off it"
	case g.cannot.Load():
		d.Note = "its driver was taken off it"
	}
	if out.Note != "" {
		d.Note += "; " + enforce.Plain(out.Note)
	}
	g.Hand(d)
}

// driven is the device nearest above a disk that has a driver, and that driver's directory.
func (m *Media) driven(d disk) (device, driver string, err error) {
	at := d.device
	if sub := m.subsystem(d); sub != "" {
		at = sub
	}
	for range 3 {
		if to, err := filepath.EvalSymlinks(at + "/driver"); err == nil {
			return at, to, nil
		}
		at = filepath.Dir(at)
	}
	return "", "", errors.New("no driver is found that could be taken off it")
}

// replace takes the driver off a disk and puts it back. What had the disk open has a dead one then.
func (g *Guard) replace(d disk) error {
	device, driver, err := g.driven(d)
	if err != nil {
		return err
	}
	if err := g.gate(enforce.Change{Key: external, Mode: enforce.Enforce}); err != nil {
		return err
	}
	g.note(device)
	defer g.resume()
	if err := write(driver+"/unbind", filepath.Base(device)); err != nil {
		return fmt.Errorf("its driver cannot be taken off it: %w", err)
	}
	return probe(device)
}

// probe has the kernel look for a device's driver.
func probe(device string) error {
	bus, err := filepath.EvalSymlinks(device + "/subsystem")
	if err != nil {
		return err
	}
	return write(bus+"/drivers_probe", filepath.Base(device))
}

func write(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

const notePrefix = "driverless."

// note stores which device is without its driver, for as long as that is so: whoever comes next puts it back (resume).
func (m *Media) note(device string) {
	if m.run != "" { // in memory: after a restart of the machine there is nothing to do
		_ = os.WriteFile(filepath.Join(m.run, notePrefix+filepath.Base(device)), []byte(device), 0o600)
	}
}

// resume puts drivers back that were taken off.
func (m *Media) resume() {
	if m.run == "" {
		return
	}
	files, _ := filepath.Glob(filepath.Join(m.run, notePrefix+"*"))
	for _, f := range files {
		b, err := os.ReadFile(f)
		device := string(b)
		if err != nil || !strings.HasPrefix(device, m.sys+"/devices/") || filepath.Clean(device) != device {
			_ = os.Remove(f)
			continue
		}
		if _, err := os.Stat(device); err == nil {
			if _, err := os.Stat(device + "/driver"); err != nil {
				_ = probe(device)
			}
			if _, err := os.Stat(device + "/driver"); err != nil {
				continue // tried again later
			}
		}
		_ = os.Remove(f)
	}
}

// Work lists the disks that are being taken away.
func (g *Guard) Work() []platform.Work {
	g.moving.Lock()
	defer g.moving.Unlock()
	var out []platform.Work
	for _, w := range g.taking {
		out = append(out, *w)
	}
	return out
}

// stopWait bounds how long it is waited for: a disk that does not answer can keep a call in the kernel.
const stopWait = 10 * time.Second

// Stop ends the work in the background.
func (g *Guard) Stop() {
	g.stop()
	within(stopWait, &g.all)
}

// refusedNow are the disks that the kernel refuses. The caller has the lock.
func (m *Media) refusedNow() []disk {
	list, _ := m.disks()
	k, _ := m.opened()
	if k == nil {
		k = m.set // not pinned any more, and still in force
	}
	if k == nil {
		return nil
	}
	return slices.DeleteFunc(list, func(d disk) bool {
		x := m.describe(d)
		m.add(&x, d, k, nil)
		return !x.Refused.OK || !x.Refused.V
	})
}

// wake makes a disk that was refused what it would have been: its partitions are read, and other programs are told to look.
func (m *Media) wake(d disk) {
	if names, _ := d.parts(); len(names) == 1 {
		if fd, err := unix.Open("/dev/"+d.name(), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0); err == nil {
			_ = unix.IoctlSetInt(fd, unix.BLKRRPART, 0)
			_ = unix.Close(fd)
		}
	}
	_ = write(d.dir+"/uevent", "change")
	list, _ := filepath.Glob(d.dir + "/*/partition")
	for _, p := range list {
		_ = write(filepath.Dir(p)+"/uevent", "change")
	}
}
