package browser

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/platform"
	"github.com/warderd/warder/platform/durable"
	"github.com/warderd/warder/platform/owned"
)

// Capability sets policies of browsers.
func Capability(h platform.Host) platform.Capability {
	f := newFiles("/", h.Gate)
	f.off = h.Sysfs != "/sys"
	return platform.Capability{Name: name, Observers: []platform.Observer{f}, Backends: []platform.Backend{f}}
}

// Files are the policies of browsers, one resource for each browser.
type Files struct {
	root string
	gate enforce.Gate
	off  bool // this machine is made of files

	mu   sync.Mutex
	last map[string]string // what was read or written last, by browser
	more chan struct{}     // a directory was made
}

func newFiles(root string, gate enforce.Gate) *Files {
	return &Files{root: root, gate: gate, last: map[string]string{}, more: make(chan struct{}, 1)}
}

// other is what a file of our name is that has something else in it.
const other = "something else"

// Kinds is the one kind. The files stay until they are removed.
func (f *Files) Kinds() []platform.Kind {
	return []platform.Kind{{Name: kind, Life: platform.Disk, Made: true, Join: join}}
}

// join is one file of what two settings want of a browser.
func join(a, b enforce.Want) (enforce.Want, bool) {
	p1, s1, ok1 := fact.ParseBrowserPolicy(string(a.Value))
	p2, s2, ok2 := fact.ParseBrowserPolicy(string(b.Value))
	a.Value = enforce.Value(fact.BrowserPolicy(p1 || p2, s1 || s2))
	return a, ok1 && ok2
}

func (f *Files) at(path string) string { return filepath.Join(f.root, path) }

// here reports whether a browser is installed.
func (f *Files) here(b *browser) bool {
	for _, p := range b.programs {
		if _, err := os.Stat(f.at(p)); err == nil {
			return true
		}
	}
	return false
}

// read reads a browser's file: its value, "" if it is not there. ours is false for one that somebody else has written where there can be
// only one.
func (f *Files) read(b *browser) (value string, ours bool, err error) {
	text, absent, err := owned.Read(f.at(b.file))
	switch {
	case absent:
		return "", true, nil
	case errors.Is(err, owned.ErrForeign):
		return other, !b.one, nil
	case err != nil:
		return "", false, err
	}
	if v, is := b.value(text); is {
		return v, true, nil
	}
	return other, !b.one, nil
}

// taken reports whether the only file that a browser reads is somebody else's, or would hide one that is.
func (f *Files) taken(b *browser) bool {
	value, ours, err := f.read(b)
	if err != nil || !ours {
		return true
	}
	if value == "" {
		for _, p := range b.hides {
			if _, err := os.Lstat(f.at(p)); err == nil {
				return true
			}
		}
	}
	return false
}

// Observe lists the browsers.
func (f *Files) Observe(_ context.Context, m *fact.Machine) error {
	list := []fact.Browser{}
	for i := range browsers {
		if b := &browsers[i]; !f.off && f.here(b) {
			list = append(list, fact.Browser{ID: b.id, Name: b.name, Taken: b.one && f.taken(b)})
		}
	}
	m.Browsers = fact.Is(list)
	return nil
}

// List reads our files, also of browsers that are not there any more.
func (f *Files) List(context.Context) (map[enforce.Key]enforce.Reading, error) {
	out := map[enforce.Key]enforce.Reading{}
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.last)
	for i := range browsers {
		b := &browsers[i]
		if f.off {
			break
		}
		value, ours, err := f.read(b)
		key, how := enforce.Key{Kind: kind, ID: b.id}, b.file
		switch {
		case err != nil:
			out[key] = enforce.Reading{State: enforce.Unknown, How: how + ": " + err.Error()}
		case value != "" && ours:
			out[key] = enforce.Reading{State: enforce.Present, Value: enforce.Value(value), How: how}
			f.last[b.id] = value
		}
	}
	return out, nil
}

// Apply writes and removes files.
func (f *Files) Apply(_ context.Context, changes []enforce.Change) map[enforce.Key]error {
	failed := map[enforce.Key]error{}
	for _, c := range changes {
		if err := f.change(c); err != nil {
			failed[c.Key] = err
		}
	}
	return failed
}

func (f *Files) change(c enforce.Change) error {
	var b *browser
	for i := range browsers {
		if browsers[i].id == c.Key.ID {
			b = &browsers[i]
		}
	}
	if b == nil || c.Key.Kind != kind || f.off {
		return fmt.Errorf("there is no %s", c.Key)
	}
	if err := f.gate(c); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	_, ours, err := f.read(b)
	if err != nil {
		return err
	}
	path := f.at(b.file)
	if c.To.State == enforce.Absent {
		delete(f.last, b.id)
		if !ours {
			return nil // somebody has put theirs there
		}
		if err := durable.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		owned.RemoveDir(f.root, filepath.Dir(path))
		return nil
	}
	text, ok := b.contents(string(c.To.Value))
	if !ok {
		return fmt.Errorf("%q is no policy of a browser", c.To.Value)
	}
	if !ours {
		return fmt.Errorf("%s is somebody else's", b.file)
	}
	if err := owned.MakeDir(filepath.Dir(path)); err != nil {
		return err
	}
	if err := durable.Write(path, text, 0o644); err != nil {
		return err
	}
	f.last[b.id] = string(c.To.Value)
	select {
	case f.more <- struct{}{}:
	default:
	}
	return nil
}

// Watch reports files of ours that are not as they were left.
func (f *Files) Watch(ctx context.Context, changed func(platform.Touch)) error {
	dirs := func() (out []string) {
		for i := range browsers {
			if !f.off {
				out = append(out, filepath.Dir(f.at(browsers[i].file))) // where it is not there, there is no file of ours either
			}
		}
		return out
	}
	return owned.Watch(ctx, dirs, f.more, func() {
		for _, id := range f.others() {
			changed(platform.Touch{Key: enforce.Key{Kind: kind, ID: id}})
		}
	})
}

// others are the browsers whose files are not as they were read or written last.
func (f *Files) others() (out []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range browsers {
		b := &browsers[i]
		value, ours, err := f.read(b)
		if !ours {
			value = ""
		}
		if err != nil || value != f.last[b.id] {
			out = append(out, b.id)
		}
	}
	return out
}
