package desktop

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/platform"
	"github.com/warderd/warder/platform/owned"
)

// Capability keeps desktops from offering pictures of the screen.
func Capability(h platform.Host) platform.Capability {
	s := newSettings("/", h)
	s.off = h.Sysfs != "/sys"
	c := platform.Capability{Name: name, Observers: []platform.Observer{s}, Backends: []platform.Backend{s}}
	if h.Desks != nil && !s.off {
		c.Guards = []platform.Guard{&Guard{s: s, poke: make(chan struct{}, 1)}}
	}
	return c
}

// Settings are the settings of desktops, one resource for each desktop.
type Settings struct {
	root, proc string
	gate       enforce.Gate
	desks      platform.Desks
	off        bool // this machine is made of files
	stamp      func() (boot string, since time.Duration)
	run        string // a directory of ours that a boot empties

	shell string // the file of GNOME Shell

	checked string // what dconf had read when it said last that all is as it should be
	program string // of the portals, as it was looked at last, and what was found
	reads   bool
	// What was compared last: a database and its sources.
	compared string
	sameAs   bool

	mu   sync.Mutex
	last map[string]string // what was read or written last, by desktop
	more chan struct{}     // a directory was made
}

func newSettings(root string, h platform.Host) *Settings {
	return &Settings{root: root, proc: h.Proc, gate: h.Gate, desks: h.Desks, stamp: bootNow, run: h.Run, shell: gnomeShell, last: map[string]string{}, more: make(chan struct{}, 1)}
}

// other is what settings of ours are that have something else in them.
const other = "something else"

// part is one desktop's.
type part struct {
	id, name string
	// here reports whether the desktop is installed, and taken why its files are somebody else's or cannot do it; "" if they can.
	here  func() bool
	taken func(context.Context) string
	// read reads what is there: the value, "" for nothing of ours.
	read          func(context.Context) (string, error)
	write, remove func(context.Context) error
	// programs are the files of those that read the settings when they start; late reports whether one of them has those of before.
	programs []string
	late     func(pid int) (bool, error)
	// how is where it was read, and dirs are where its files are.
	how  string
	dirs func() []string
}

func (s *Settings) parts() []part { return []part{s.gnome(), s.portal()} }

func (s *Settings) part(id string) (part, bool) {
	list := s.parts()
	i := slices.IndexFunc(list, func(p part) bool { return p.id == id })
	if i < 0 || s.off {
		return part{}, false
	}
	return list[i], true
}

func (s *Settings) at(path string) string { return filepath.Join(s.root, path) }

// Kinds is the one kind. The files stay until they are removed.
func (s *Settings) Kinds() []platform.Kind {
	return []platform.Kind{{Name: kind, Life: platform.Disk, Made: true}}
}

// Observe lists the desktops, and what runs with the settings of before.
func (s *Settings) Observe(ctx context.Context, m *fact.Machine) error {
	out := fact.Desktops{Files: []fact.DesktopFile{}}
	if s.off {
		m.Desktops = fact.Is(out)
		return nil
	}
	s.mu.Lock()
	for _, p := range s.parts() {
		if p.here() {
			out.Files = append(out.Files, fact.DesktopFile{ID: p.id, Name: p.name, Taken: p.taken(ctx)})
		}
	}
	s.mu.Unlock()
	late, err := s.late(ctx)
	if err != nil {
		m.Desktops = fact.Unread[fact.Desktops](err.Error())
		return err
	}
	out.Pending = late
	m.Desktops = fact.Is(out)
	return nil
}

// List reads our files, also those of desktops that are not there any more.
func (s *Settings) List(ctx context.Context) (map[enforce.Key]enforce.Reading, error) {
	out := map[enforce.Key]enforce.Reading{}
	if s.off {
		return out, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.last)
	for _, p := range s.parts() {
		value, err := p.read(ctx)
		key := enforce.Key{Kind: kind, ID: p.id}
		switch {
		case err != nil:
			out[key] = enforce.Reading{State: enforce.Unknown, How: p.how + ": " + err.Error()}
		case value != "":
			out[key] = enforce.Reading{State: enforce.Present, Value: enforce.Value(value), How: p.how}
			s.last[p.id] = value
		}
	}
	return out, nil
}

// Apply writes and removes files.
func (s *Settings) Apply(ctx context.Context, changes []enforce.Change) map[enforce.Key]error {
	failed := map[enforce.Key]error{}
	for _, c := range changes {
		if err := s.change(ctx, c); err != nil {
			failed[c.Key] = err
		}
	}
	return failed
}

func (s *Settings) change(ctx context.Context, c enforce.Change) error {
	p, ok := s.part(c.Key.ID)
	if !ok || c.Key.Kind != kind {
		return fmt.Errorf("there is no %s", c.Key)
	}
	if err := s.gate(c); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.To.State == enforce.Absent {
		delete(s.last, p.id)
		return p.remove(ctx)
	}
	if c.To.Value != fact.NoScreenshots {
		return fmt.Errorf("%q is no setting of a desktop", c.To.Value)
	}
	if why := p.taken(ctx); why != "" {
		return errors.New(why)
	}
	err := p.write(ctx)
	if err == nil {
		s.last[p.id] = string(c.To.Value)
	}
	select {
	case s.more <- struct{}{}:
	default:
	}
	return err
}

// Watch reports settings of ours that are not as they were left.
func (s *Settings) Watch(ctx context.Context, changed func(platform.Touch)) error {
	dirs := func() (out []string) {
		if s.off {
			return nil
		}
		for _, p := range s.parts() {
			out = append(out, p.dirs()...)
		}
		return out
	}
	return owned.Watch(ctx, dirs, s.more, func() {
		for _, id := range s.others(ctx) {
			changed(platform.Touch{Key: enforce.Key{Kind: kind, ID: id}})
		}
	})
}

// others are the desktops whose settings are not as they were read or written last.
func (s *Settings) others(ctx context.Context) (out []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.parts() {
		if value, err := p.read(ctx); err != nil || value != s.last[p.id] {
			out = append(out, p.id)
		}
	}
	return out
}

// Guard looks whether somebody has logged in or out, and whether the settings hold there by now.
type Guard struct {
	platform.Listener
	s *Settings

	mu    sync.Mutex
	about bool
	poke  chan struct{}
}

// Section names the section whose rules it uses.
func (g *Guard) Section() string { return setting.Section() }

// Load notes whether there is anything to look for.
func (g *Guard) Load(r platform.Rules) error {
	x, ok := r.(interface{ AboutTools() bool })
	g.mu.Lock()
	g.about = ok && x.AboutTools()
	g.mu.Unlock()
	select {
	case g.poke <- struct{}{}:
	default:
	}
	return nil
}

// glance is how often it looks.
const glance = 10 * time.Second

// Run looks until ctx ends; while there is nothing to look for, nothing wakes it.
func (g *Guard) Run(ctx context.Context) error {
	before := []string{"not looked yet"}
	var due <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-g.poke:
		case <-due:
		}
		g.mu.Lock()
		about := g.about
		g.mu.Unlock()
		if due = nil; !about {
			continue
		}
		due = time.After(glance)
		now, err := g.s.late(ctx)
		if err != nil {
			now = append(now, err.Error())
		}
		for _, d := range g.s.desks.List(name) {
			now = append(now, d.ID+" "+d.Type)
		}
		if !slices.Equal(before, now) {
			before = now
			g.Look(true)
		}
	}
}

// Work lists nothing, and Stop has nothing to end.
func (g *Guard) Work() []platform.Work { return nil }

// Stop has nothing to end.
func (g *Guard) Stop() {}
