// Package library keeps the long lists of names that policies refer to, as files below the state directory: one directory for
// each list, and in it the packed text of each version that is needed, named by the digest of that text. A file is verified
// against its digest whenever it is read, so that nothing which is damaged or changed is ever used. All lists of a document
// together have a bound, because they are in memory; and a list is not stored where that would fill the disk. It decides
// nothing: the agent says what is needed.
package library

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/platform/durable"
	"github.com/warderd/warder/sync/checkin"
	"github.com/warderd/warder/sync/protocol"
)

// Library is the lists of one device.
type Library struct {
	Dir string
	// Read reads the text of a list, as its section does.
	Read func(in io.Reader, u policy.ListUse, most int) (policy.List, error)

	mu   sync.Mutex
	open map[policy.ListUse]policy.List // read, and in use or about to be
}

const (
	packed = ".zst"
	part   = ".part" // after the digest and the ETag of what it is a part of
)

func (l *Library) file(r policy.ListRef) string { return filepath.Join(l.Dir, r.ID, r.SHA256+packed) }

// Attach returns the document with those of its lists that are of use here: each in the version that the document names, or
// else in the one that was used last. why says why a version is not here. It also returns the lists that have to be fetched.
func (l *Library) Attach(d *policy.Document, uses []policy.ListUse, why func(policy.ListRef) string) (*policy.Document, []policy.ListUse) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(uses) == 0 {
		l.open = nil
		return d, nil
	}
	used, have := map[policy.ListUse]policy.List{}, map[policy.ListUse]policy.Content{}
	var missing []policy.ListUse
	room := policy.MaxListNames
	for _, u := range uses {
		list, err := l.get(u, room)
		if err == nil {
			used[u], have[u] = list, policy.Content{List: list, SHA256: u.SHA256}
			room -= list.Len()
			if _, err := os.Stat(l.mark(u)); err != nil { // it is in force for this setting; while this runs, l.open says so, too
				_ = os.MkdirAll(filepath.Dir(l.mark(u)), 0o700)
				_ = os.WriteFile(l.mark(u), nil, 0o600)
			}
			continue
		}
		c := policy.Content{Why: why(u.ListRef)}
		if errors.Is(err, policy.ErrTooMany) {
			c.Why = err.Error()
		} else {
			missing = append(missing, u)
		}
		for _, older := range l.older(u) {
			o := policy.ListUse{ListRef: older, Setting: u.Setting}
			if list, err := l.get(o, room); err == nil {
				used[o], c.List, c.SHA256 = list, list, older.SHA256
				room -= list.Len()
				break
			}
		}
		have[u] = c
	}
	l.open = used
	return d.WithLists(have), missing
}

// get reads a version of a list that is here, unless it has been read already. A damaged file is removed. The same text may
// be here as another list's: the digest is what counts.
func (l *Library) get(u policy.ListUse, most int) (policy.List, error) {
	if list, ok := l.open[u]; ok && list.Len() <= most {
		return list, nil
	}
	var first error
	for _, path := range l.texts(u.ListRef) {
		list, err := l.read(path, u, most)
		if err == nil {
			return list, nil
		}
		var unread *fs.PathError // the file may be good
		if !errors.As(err, &unread) && !errors.Is(err, policy.ErrTooMany) {
			_ = os.Remove(path)
		}
		if first == nil {
			first = err
		}
	}
	return nil, first
}

// texts are the files that may have a list's text: its own, and other lists' with the same digest.
func (l *Library) texts(r policy.ListRef) []string {
	own := l.file(r)
	same, _ := filepath.Glob(filepath.Join(l.Dir, "*", r.SHA256+packed))
	return append([]string{own}, slices.DeleteFunc(same, func(p string) bool { return p == own })...)
}

// read reads a packed file, and verifies it.
func (l *Library) read(path string, u policy.ListUse, most int) (policy.List, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := protocol.UnpackList(f)
	if err != nil {
		return nil, err
	}
	defer text.Close()
	return l.Read(text, u, most)
}

// mark is the file that says that a version was in force for a setting: what was blocked must not be allowed while the next
// version is on its way.
func (l *Library) mark(u policy.ListUse) string {
	return filepath.Join(l.Dir, u.ID, u.SHA256+"."+string(u.Setting))
}

// older are the other versions of a list that are here and were in force for the same setting, the newest first.
func (l *Library) older(u policy.ListUse) (out []policy.ListRef) {
	r := u.ListRef
	for o := range l.open {
		if o.ID == u.ID && o.Setting == u.Setting && o.SHA256 != u.SHA256 {
			out = append(out, o.ListRef)
		}
	}
	entries, _ := os.ReadDir(filepath.Join(l.Dir, r.ID))
	type dated struct {
		policy.ListRef
		at int64
	}
	var list []dated
	for _, e := range entries {
		digest, is := strings.CutSuffix(e.Name(), "."+string(u.Setting)) // the text may be another list's file
		if info, err := e.Info(); is && digest != r.SHA256 && err == nil {
			list = append(list, dated{policy.ListRef{ID: r.ID, SHA256: digest}, info.ModTime().UnixNano()})
		}
	}
	slices.SortFunc(list, func(a, b dated) int { return int(max(-1, min(1, b.at-a.at))) })
	for _, x := range list {
		out = append(out, x.ListRef)
	}
	return out
}

// Fetch brings a version of a list here. What an earlier try has brought is not fetched again. The text is verified before it
// gets its name; the list is then ready to be attached.
func (l *Library) Fetch(ctx context.Context, u policy.ListUse,
	from func(context.Context, string, checkin.Part, func(checkin.Part) (io.Writer, error)) error) error {
	dir := filepath.Join(l.Dir, u.ID)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if list, err := l.read(l.file(u.ListRef), u, policy.MaxListNames); err == nil { // another setting names it, too
		l.ready(u, list)
		return nil
	}
	path, have := l.begun(u.ListRef)
	var f *os.File
	err := from(ctx, u.SHA256, have, func(p checkin.Part) (io.Writer, error) {
		next := filepath.Join(dir, u.SHA256+"."+strings.Trim(p.ETag, `"`)+part)
		if path != "" && path != next {
			_ = os.Remove(path)
		}
		path = next
		if f != nil {
			_ = f.Close()
		}
		var err error
		_ = os.MkdirAll(dir, 0o700) // it was removed if nothing else came meanwhile
		if f, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600); err != nil {
			return nil, err
		}
		if err := f.Truncate(p.Size); err != nil {
			return nil, err
		}
		_, err = f.Seek(p.Size, io.SeekStart)
		return &careful{f: f}, err
	})
	if f != nil {
		err = errors.Join(err, f.Sync(), f.Close())
	}
	if errors.Is(err, errNoRoom) || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		_ = os.Remove(path) // others need what is left
	}
	if err != nil {
		return err
	}
	list, err := l.read(path, u, policy.MaxListNames)
	if err != nil {
		_ = os.Remove(path) // the next try begins anew
		return fmt.Errorf("what came is not the list: %w", err)
	}
	if err := durable.Move(path, l.file(u.ListRef)); err != nil {
		return err
	}
	l.ready(u, list)
	return nil
}

// ready keeps a list that was read until it is attached.
func (l *Library) ready(u policy.ListUse, list policy.List) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open == nil {
		l.open = map[policy.ListUse]policy.List{}
	}
	l.open[u] = list
}

// reserve is what has to stay free on the disk: identity, ledger and events are written there, too, and so is the policy that
// takes a list away.
var reserve int64 = 32 << 20

var errNoRoom = fmt.Errorf("there is no room for it on the disk: %d MiB have to stay free", reserve>>20)

// careful writes a file as long as there is room on the disk.
type careful struct {
	f       *os.File
	checked int64 // bytes until it is looked at again
}

// Write writes.
func (c *careful) Write(b []byte) (int, error) {
	if c.checked -= int64(len(b)); c.checked <= 0 {
		if free, known := durable.Free(c.f.Name()); known && free < reserve {
			return 0, errNoRoom
		}
		c.checked = 1 << 20
	}
	return c.f.Write(b)
}

// begun is what an earlier try has brought of a list.
func (l *Library) begun(r policy.ListRef) (path string, have checkin.Part) {
	list, _ := filepath.Glob(filepath.Join(l.Dir, r.ID, r.SHA256+".*"+part))
	for _, p := range list {
		tag := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(p), r.SHA256+"."), part)
		if info, err := os.Stat(p); err == nil && path == "" {
			path, have = p, checkin.Part{ETag: `"` + tag + `"`, Size: info.Size()}
			continue
		}
		_ = os.Remove(p)
	}
	return path, have
}

// Names is how many names the lists have that are read.
func (l *Library) Names() (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, list := range l.open {
		n += list.Len()
	}
	return n
}

// Keep removes every file that is not of one of these lists, except versions that are in use now.
func (l *Library) Keep(needed []policy.ListUse) {
	l.mu.Lock()
	defer l.mu.Unlock()
	keep := map[string]bool{}
	for _, u := range needed {
		keep[u.SHA256] = true
	}
	for u := range l.open {
		keep[u.SHA256] = true
	}
	lists, _ := os.ReadDir(l.Dir)
	for _, dir := range lists {
		files, _ := os.ReadDir(filepath.Join(l.Dir, dir.Name()))
		for _, f := range files {
			digest, _, _ := strings.Cut(f.Name(), ".")
			if !keep[digest] {
				_ = os.Remove(filepath.Join(l.Dir, dir.Name(), f.Name()))
			}
		}
		_ = os.Remove(filepath.Join(l.Dir, dir.Name())) // if it is empty
	}
}

// Clear removes all lists.
func (l *Library) Clear() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open = nil
	return os.RemoveAll(l.Dir)
}

// Here is how many bytes of a list are here, and whether that is all of it.
func (l *Library) Here(r policy.ListRef) (bytes int64, whole bool) {
	if info, err := os.Stat(l.file(r)); err == nil {
		return info.Size(), true
	}
	_, have := l.begun(r)
	return have.Size, false
}

// Line is the line of a list's text on which a name stands; 0 if it does not.
func (l *Library) Line(r policy.ListRef, name string) int {
	for _, path := range l.texts(r) {
		if n := lineIn(path, name); n > 0 {
			return n
		}
	}
	return 0
}

func lineIn(path, name string) int {
	f, err := os.Open(path)
	if err != nil {
		return 0
	}
	defer f.Close()
	text, err := protocol.UnpackList(f)
	if err != nil {
		return 0
	}
	defer text.Close()
	lines := bufio.NewScanner(text)
	for n := 1; lines.Scan(); n++ {
		if string(lines.Bytes()) == name {
			return n
		}
	}
	return 0
}
