package usb

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"sort"
	"strconv"
	"time"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
)

// release is one device whose disks are being emptied before it is taken away.
type release struct {
	Progress
	cancel context.CancelFunc
}

// hasDisk reports whether a device of sysfs has a block device. It only asks the kernel.
func hasDisk(dir string) bool {
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return false
	}
	found := false
	_ = filepath.WalkDir(real, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.IsDir() && filepath.Base(filepath.Dir(path)) == "block" {
			found = true
			return filepath.SkipAll
		}
		return nil
	})
	return found
}

var errStopping = errors.New("the agent is stopping")

// begin starts a release, unless one of this device is under way. The caller has the device's lock.
func (p *Ports) begin(name string, c enforce.Change) error {
	u, err := p.readAll(name)
	if err != nil {
		return err
	}
	if u.Key() != c.Key.ID {
		return fmt.Errorf("%s stands at the port of %s by now; it is judged on its own", u.Key(), c.Key.ID)
	}
	dir, err := filepath.EvalSymlinks(p.dir(name))
	if err != nil {
		return err
	}
	if p.Carries != nil {
		if place := p.Carries(dir); place != "" {
			return fmt.Errorf("%s is on its disk: it is not taken away from the running system", place)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopping {
		return errStopping
	}
	if p.releases[name] != nil {
		return nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &release{Progress: Progress{Device: name, Since: time.Now()}, cancel: cancel}
	if p.releases == nil {
		p.releases = map[string]*release{}
	}
	p.releases[name] = r
	p.running.Go(func() {
		defer cancel()
		out, finish := p.Release(ctx, dir, func(step string) {
			p.mu.Lock()
			defer p.mu.Unlock()
			r.Step = step
		})
		err := p.take(ctx, &u, c)
		finish()
		p.mu.Lock()
		delete(p.releases, name)
		stopping := p.stopping
		p.mu.Unlock()
		if p.Taken != nil && !stopping {
			p.Taken(u, out, err)
		}
	})
	return nil
}

// take ends a release by taking the device away. If it may stay by now, it goes and comes back at once, because its
// file systems were taken from under their mounts.
func (p *Ports) take(ctx context.Context, u *fact.USB, c enforce.Change) error {
	name := u.Path
	defer p.lock(name)()
	d, err := p.open(name)
	if err != nil {
		return nil // unplugged meanwhile
	}
	defer d.close()
	if n, err := d.text("devnum"); err != nil || n != strconv.Itoa(u.Number) || ctx.Err() != nil {
		return nil // another one, or the agent stops
	}
	stay := p.Stays != nil && p.Stays(name)
	fd, shut, err := d.edit()
	if err != nil {
		return err
	}
	defer shut()
	_, err = p.set(d, fd, c)
	if stay {
		back := c
		back.From, back.To, back.Baseline = c.To, enforce.Reading{Value: "1", State: enforce.Present}, true
		_, err = p.set(d, fd, back)
	}
	return err
}

// releasing reports whether a device is being emptied. Other code does not wait for that: the device is judged again at
// the end.
func (p *Ports) releasing(name string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.releases[name] != nil
}

// Releases lists what is being emptied now, by device.
func (p *Ports) Releases() []Progress {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []Progress
	for _, r := range p.releases {
		out = append(out, r.Progress)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Device < out[j].Device })
	return out
}

// Stop ends every release without taking the device away, and begins no more.
func (p *Ports) Stop() {
	p.mu.Lock()
	p.stopping = true
	for _, r := range p.releases {
		r.cancel()
	}
	p.mu.Unlock()
	p.running.Wait()
}
