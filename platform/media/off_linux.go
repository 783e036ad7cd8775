package media

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/platform/durable"
	"golang.org/x/sys/unix"
)

// off is a disk whose driver is taken off it for as long as the policy refuses it: what is done where the kernel takes no programs that
// refuse disks (docs/decisions/0040). There is no such disk then, for nobody, also while the agent is dead. A note in memory says which,
// and what it was: an exception is given by its serial.
type off struct {
	Device string      `json:"device"` // that has no driver
	Disk   fact.Medium `json:"disk"`
}

const (
	offPrefix = "off."
	maxNote   = 64 << 10
	howOff    = "the agent, as disks come; and the list of disks"
)

// offs lists them. A note about a device that has gone is removed; one about a device that has a driver says nothing, and stays until it
// is replaced or put back: the driver may be coming off just now.
func (m *Media) offs() (out []off) {
	if m.run == "" {
		return nil
	}
	files, _ := filepath.Glob(filepath.Join(m.run, offPrefix+"*"))
	for _, f := range files {
		b, err := durable.Read(f, maxNote)
		o, ok := parseOff(b, m.sys)
		if err == nil && ok {
			_, err = os.Stat(o.Device)
		}
		if err != nil || !ok {
			_ = os.Remove(f)
			continue
		}
		if _, err := os.Stat(o.Device + "/driver"); err != nil {
			out = append(out, o)
		}
	}
	return out
}

// notes are the notes about a device, one for each disk that it has.
func (m *Media) notes(device, disk string) string {
	return filepath.Join(m.run, offPrefix+filepath.Base(device)+"."+disk)
}

// parseOff reads a note. The directory is root's alone to write.
func parseOff(b []byte, sys string) (o off, ok bool) {
	if json.Unmarshal(b, &o) != nil {
		return o, false
	}
	return o, strings.HasPrefix(o.Device, sys+"/devices/") && filepath.Clean(o.Device) == o.Device && len(o.Disk.Name) > 0 && len(o.Disk.Name) < 32 &&
		o.Disk.Name == filepath.Base(o.Disk.Name) && len(o.Disk.Serial) <= maxText && len(o.Disk.Model) <= maxText
}

// takeOff takes the driver off a disk, and leaves it so. Other disks of the same device (an NVMe has several) go with it.
func (g *Guard) takeOff(d disk, x *fact.Medium) error {
	device, driver, err := g.driven(d)
	if err != nil {
		return err
	}
	if err := g.gate(enforce.Change{Key: external, Mode: enforce.Enforce}); err != nil {
		return err
	}
	if g.run == "" {
		return errors.New("there is nowhere to note which disk it was")
	}
	g.offMu.Lock()
	if !g.offing.Load() || g.ctx.Err() != nil || g.unbinding[device] != nil {
		g.offMu.Unlock()
		return nil // given back meanwhile, or coming off already
	}
	if g.unbinding == nil {
		g.unbinding = map[string]chan struct{}{}
	}
	over := make(chan struct{})
	g.unbinding[device] = over
	g.offMu.Unlock()
	defer func() {
		g.offMu.Lock()
		delete(g.unbinding, device)
		g.offMu.Unlock()
		close(over)
	}()
	var notes []string
	undo := func(err error) error {
		for _, n := range notes {
			_ = os.Remove(n)
		}
		return err
	}
	for _, y := range g.beside(d, device) {
		is := *x
		if y.dir != d.dir {
			is = g.describe(y)
		}
		b, err := json.Marshal(off{device, is})
		if err != nil {
			return undo(err)
		}
		notes = append(notes, g.notes(device, y.name()))
		if err := durable.Write(notes[len(notes)-1], b, 0o600); err != nil {
			return undo(fmt.Errorf("which disk it was cannot be noted: %w", err))
		}
	}
	if err := write(driver+"/unbind", filepath.Base(device)); err != nil {
		return undo(fmt.Errorf("its driver cannot be taken off it: %w", err))
	}
	if _, err := os.Stat(d.dir); err == nil {
		return errors.New("it is still there without its driver")
	}
	x.Refused, x.Open = fact.Is(true), false
	return nil
}

// beside are the disks of a device, the given one first.
func (m *Media) beside(d disk, device string) []disk {
	out := []disk{d}
	list, _ := m.disks()
	for _, y := range list {
		if at, _, err := m.driven(y); err == nil && at == device && y.dir != d.dir {
			out = append(out, y)
		}
	}
	return out
}

// away has a disk taken away that is refused: at once, or once it has been emptied. It is waited for a moment: a disk that does not
// answer keeps nobody else waiting.
func (g *Guard) away(d disk, x *fact.Medium) error {
	g.mu.Lock()
	done := g.take(d, *x, false)
	g.mu.Unlock()
	if done == nil {
		return nil // that is under way
	}
	select {
	case <-done:
	case <-time.After(awayWait):
		return nil // it is told once it is done
	}
	if _, err := os.Stat(d.dir); err == nil {
		return errors.New("its driver is still on it")
	}
	x.Refused, x.Open = fact.Is(true), false
	return nil
}

// awayWait is how long others wait for a disk whose driver is coming off.
const awayWait = 2 * time.Second

// used reports whether a disk, or another one of the same device, is mounted in some namespace, or something rests on it: then it is
// emptied before it is taken away.
func (g *Guard) used(d disk) bool {
	all, err := g.mounts()
	device, _, none := g.driven(d)
	if err != nil || none != nil {
		return true
	}
	for _, y := range g.beside(d, device) {
		names, _ := y.parts()
		on, _ := y.resting()
		if len(y.mountsOf(all)) > 0 || len(on) > len(names) {
			return true
		}
		// The kernel's own answer: whoever mounts a disk or a part of it has it for themselves.
		fd, err := unix.Open("/dev/"+y.name(), unix.O_RDONLY|unix.O_EXCL|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
		if err == nil {
			_ = unix.Close(fd)
		} else if errors.Is(err, unix.EBUSY) {
			return true
		}
	}
	return false
}

// putBack gives the disks their driver back for which that is so. It is waited for a moment.
func (m *Media) putBack(which func(*fact.Medium) bool) error {
	if m.run == "" {
		return nil
	}
	var all sync.WaitGroup
	var mu sync.Mutex
	var errs []error
	begun := map[string]bool{}
	var before sync.WaitGroup
	for _, over := range m.comingOff() { // comes off before it is put back
		before.Go(func() { <-over })
	}
	within(wakeWait, &before)
	mute := m.comingOff() // they do not answer, and are judged again
	for _, o := range m.offs() {
		if mute[o.Device] != nil {
			continue
		}
		if !which(&o.Disk) {
			continue
		}
		note := m.notes(o.Device, o.Disk.Name)
		if begun[o.Device] {
			continue
		}
		begun[o.Device] = true
		mu.Lock()
		at := len(errs)
		errs = append(errs, fmt.Errorf("%s does not answer", subject(&o.Disk)))
		mu.Unlock()
		all.Go(func() {
			err := probe(o.Device)
			if _, is := os.Stat(o.Device + "/driver"); is != nil {
				err = fmt.Errorf("%s does not come back: %w", subject(&o.Disk), errors.Join(err, is))
			} else {
				err = nil
				_ = os.Remove(note)
			}
			mu.Lock()
			errs[at] = err
			mu.Unlock()
		})
	}
	within(wakeWait, &all)
	m.tidy()
	mu.Lock()
	defer mu.Unlock()
	return errors.Join(slices.Clone(errs)...)
}

// tidy removes notes about devices that have a driver.
func (m *Media) tidy() {
	coming := m.comingOff()
	files, _ := filepath.Glob(filepath.Join(m.run, offPrefix+"*"))
	for _, f := range files {
		b, err := durable.Read(f, maxNote)
		o, ok := parseOff(b, m.sys)
		if _, is := os.Stat(o.Device + "/driver"); err != nil || !ok || is == nil && coming[o.Device] == nil {
			_ = os.Remove(f)
		}
	}
}

// comingOff are the devices whose driver is coming off.
func (m *Media) comingOff() map[string]chan struct{} {
	m.offMu.Lock()
	defer m.offMu.Unlock()
	return maps.Clone(m.unbinding)
}

// listOff is what is done without programs. Where there could be some, it is not what is wanted.
func (m *Media) listOff() map[enforce.Key]enforce.Reading {
	left := len(m.offs()) > 0
	if !left && !m.offing.Load() {
		return map[enforce.Key]enforce.Reading{}
	}
	value := refused
	if !m.cannot.Load() {
		value = "changed: disks have no driver, and others are not refused"
	}
	return map[enforce.Key]enforce.Reading{external: {State: enforce.Present, Value: value, How: howOff}}
}

// standing adds the disks that have no driver to those that are there.
func (m *Media) standing(list []fact.Medium) []fact.Medium {
	for _, o := range m.offs() {
		x := o.Disk
		x.Held, x.Off, x.Refused, x.Open, x.System = true, true, fact.Is(true), false, ""
		list = append(list, x)
	}
	return list
}
