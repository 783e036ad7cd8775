package media

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/platform/durable"
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

// offs lists them. A note about a device that has gone, or has a driver again, is removed: the disk is judged as it comes.
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
		if _, err := os.Stat(o.Device + "/driver"); err == nil {
			_ = os.Remove(f)
			continue
		}
		out = append(out, o)
	}
	return out
}

// parseOff reads a note. The directory is root's alone to write.
func parseOff(b []byte, sys string) (o off, ok bool) {
	if json.Unmarshal(b, &o) != nil {
		return o, false
	}
	return o, strings.HasPrefix(o.Device, sys+"/devices/") && filepath.Clean(o.Device) == o.Device && len(o.Disk.Name) > 0 && len(o.Disk.Name) < 32 &&
		o.Disk.Name == filepath.Base(o.Disk.Name) && len(o.Disk.Serial) <= maxText && len(o.Disk.Model) <= maxText
}

// takeOff takes the driver off a disk, and leaves it so.
func (g *Guard) takeOff(d disk, x *fact.Medium) error {
	device, driver, err := g.driven(d)
	if err != nil {
		return err
	}
	if err := g.gate(enforce.Change{Key: external, Mode: enforce.Enforce}); err != nil {
		return err
	}
	b, err := json.Marshal(off{device, *x})
	if err != nil || g.run == "" {
		return errors.Join(err, errors.New("there is nowhere to note which disk it was"))
	}
	note := filepath.Join(g.run, offPrefix+filepath.Base(device))
	if err := durable.Write(note, b, 0o600); err != nil {
		return fmt.Errorf("which disk it was cannot be noted: %w", err)
	}
	if err := write(driver+"/unbind", filepath.Base(device)); err != nil {
		_ = os.Remove(note)
		return fmt.Errorf("its driver cannot be taken off it: %w", err)
	}
	if _, err := os.Stat(d.dir); err == nil {
		return errors.New("it is still there without its driver")
	}
	x.Refused, x.Open = fact.Is(true), false
	return nil
}

// away takes a disk away that is refused: at once, or once it has been emptied.
func (g *Guard) away(d disk, x *fact.Medium) error {
	if g.used(d) || x.USB != nil && g.leaves != nil && g.leaves(x.USB.Path) {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.take(d, *x)
		return nil
	}
	return g.takeOff(d, x)
}

// used reports whether a disk is mounted, or something rests on it: then it is emptied before it is taken away.
func (g *Guard) used(d disk) bool {
	all, err := g.mounts()
	names, _ := d.parts()
	on, _ := d.resting()
	return err != nil || len(d.mountsOf(all)) > 0 || len(on) > len(names)
}

// putBack gives the disks their driver back for which that is so.
func (m *Media) putBack(which func(*fact.Medium) bool) error {
	var errs []error
	for _, o := range m.offs() {
		if !which(&o.Disk) {
			continue
		}
		err := probe(o.Device)
		if _, is := os.Stat(o.Device + "/driver"); is != nil {
			errs = append(errs, fmt.Errorf("%s does not come back: %w", subject(&o.Disk), errors.Join(err, is)))
		}
	}
	_ = m.offs() // and their notes are not needed any more
	return errors.Join(errs...)
}

// listOff is what is done without programs.
func (m *Media) listOff(on bool) map[enforce.Key]enforce.Reading {
	if !on && len(m.offs()) == 0 {
		return map[enforce.Key]enforce.Reading{}
	}
	return map[enforce.Key]enforce.Reading{external: {State: enforce.Present, Value: refused, How: howOff}}
}

// standing adds the disks that have no driver to those that are there.
func (m *Media) standing(list []fact.Medium) []fact.Medium {
	for _, o := range m.offs() {
		x := o.Disk
		x.Held, x.Refused, x.Open, x.System = true, fact.Is(true), false, ""
		list = append(list, x)
	}
	return list
}
