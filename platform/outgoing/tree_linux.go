package outgoing

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/warderd/warder/platform/paths"
)

// markDisk watches a whole file system, by a mount of it.
func (p *place) markDisk(fan int) error {
	at, err := unix.Open(p.root, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: p.root, Err: err}
	}
	defer unix.Close(at)
	st, err := statOf(at)
	if err != nil {
		return err
	}
	if st.mount != p.mount {
		return errors.New("something else is mounted over it")
	}
	return p.mark(fan, at, unix.FAN_MARK_FILESYSTEM, 0)
}

// mark watches what is written, and has who opens a file wait, or not any more, as is wanted now: walks take long, and an older one can
// come behind a newer one.
func (p *place) mark(fan, at int, how uint, also uint64) error {
	p.marks.Lock()
	defer p.marks.Unlock()
	p.mu.Lock()
	holds := p.holds
	p.mu.Unlock()
	path := fmt.Sprintf("/proc/self/fd/%d", at)
	mask := uint64(unix.FAN_CLOSE_WRITE) | also
	if holds {
		return unix.FanotifyMark(fan, unix.FAN_MARK_ADD|how, mask|unix.FAN_OPEN_PERM, unix.AT_FDCWD, path)
	}
	if err := unix.FanotifyMark(fan, unix.FAN_MARK_ADD|how, mask, unix.AT_FDCWD, path); err != nil {
		return err
	}
	if err := unix.FanotifyMark(fan, unix.FAN_MARK_REMOVE|how, unix.FAN_OPEN_PERM, unix.AT_FDCWD, path); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	return nil
}

var errMany = partial{fmt.Errorf("only %d directories of it are watched, and there are more", maxDirs)}

// walk is one look at what a place has.
type walk struct {
	p         *place
	fan, inot int // -1: directories are not marked
	since     time.Time
	mount     uint64
	left      int // names that may be looked at
	errs      []error
}

// markFolder watches a directory of a sync folder and those below it, and has what was written there since looked into.
func (p *place) markFolder(fan, inot int, path string, since time.Time) error {
	dir, err := paths.OpenDir(path)
	if err != nil {
		return err
	}
	st, err := statOf(int(dir.Fd())) //nolint:gosec // a descriptor
	if err != nil {
		_ = dir.Close()
		return err
	}
	if path == p.root {
		if st.id != p.id {
			_ = dir.Close()
			return errors.New("it is another directory by now")
		}
		p.mu.Lock()
		p.mount = st.mount
		p.mu.Unlock()
		if err := p.watchAbove(inot); err != nil {
			_ = dir.Close()
			return err
		}
	}
	w := &walk{p: p, fan: fan, inot: inot, since: since, mount: st.mount, left: maxWalk}
	return w.all(dir, path)
}

// watchAbove has inotify tell when a directory above the folder is moved: the folder has another path then.
func (p *place) watchAbove(inot int) error {
	for path := filepath.Dir(p.root); path != "/"; path = filepath.Dir(path) {
		dir, err := paths.OpenDir(path)
		if err != nil {
			return err
		}
		wd, err := unix.InotifyAddWatch(inot, fmt.Sprintf("/proc/self/fd/%d", dir.Fd()), unix.IN_MOVE_SELF|unix.IN_DELETE_SELF|unix.IN_ONLYDIR)
		_ = dir.Close()
		if err != nil {
			return err
		}
		p.mu.Lock()
		p.above[int32(wd)] = true //nolint:gosec // so it is
		p.mu.Unlock()
	}
	return nil
}

// all walks, and says what was left out.
func (w *walk) all(dir *os.File, path string) error {
	err := w.tree(dir, path, 0)
	if err == nil && w.left <= 0 {
		err = partial{fmt.Errorf("only %d names of it were looked at, and there are more", maxWalk)}
	}
	if err == nil && len(w.errs) > 0 {
		err = partial{w.errs[0]}
	}
	return err
}

// tree does one directory, which it closes.
func (w *walk) tree(dir *os.File, path string, depth int) error {
	defer dir.Close()
	p, at := w.p, int(dir.Fd()) //nolint:gosec // a descriptor
	if w.fan >= 0 {
		if err := p.mark(w.fan, at, 0, unix.FAN_EVENT_ON_CHILD); err != nil {
			return err
		}
		wd, err := unix.InotifyAddWatch(w.inot, fmt.Sprintf("/proc/self/fd/%d", at), unix.IN_CREATE|unix.IN_MOVED_TO|unix.IN_MOVE_SELF|unix.IN_DELETE_SELF|unix.IN_ONLYDIR)
		if err != nil {
			return err
		}
		p.mu.Lock()
		_, known := p.dirs[int32(wd)] //nolint:gosec // so it is
		many := !known && len(p.dirs) >= maxDirs
		if !known && !many && p.walking { // nobody has told that it came: what came with it is as old as it likes
			defer func(was time.Time) { w.since = was }(w.since)
			w.since = time.Time{}
		}
		if many {
			_, _ = unix.InotifyRmWatch(w.inot, uint32(wd)) //nolint:gosec // so it is
		} else {
			p.dirs[int32(wd)] = path //nolint:gosec // so it is
		}
		p.mu.Unlock()
		if many {
			return errMany
		}
	}
	for w.left > 0 && p.ctx.Err() == nil {
		list, err := dir.Readdirnames(min(1000, w.left))
		if err != nil && len(list) == 0 {
			if !errors.Is(err, io.EOF) {
				w.errs = append(w.errs, fmt.Errorf("a directory of it cannot be read: %w", err))
			}
			return nil
		}
		w.left -= len(list)
		for _, name := range list {
			if err := w.name(dir, path, name, depth); err != nil {
				return err
			}
		}
	}
	return nil
}

// name looks at one name in a directory.
func (w *walk) name(dir *os.File, path, name string, depth int) error {
	at := int(dir.Fd()) //nolint:gosec // a descriptor
	var st unix.Stat_t
	if unix.Fstatat(at, name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil {
		return nil //nolint:nilerr // it has gone
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		fd, _ := unix.Openat(at, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if fd < 0 {
			return nil // it has gone
		}
		sub := os.NewFile(uintptr(fd), name) //nolint:gosec // a descriptor
		switch x, err := statOf(fd); {
		case err != nil:
			_ = sub.Close()
		case x.mount != w.mount:
			w.errs = append(w.errs, errors.New("something else is mounted in it, which is not watched"))
			_ = sub.Close()
		case depth >= maxDepth:
			w.errs = append(w.errs, fmt.Errorf("it has directories in each other that are more than %d deep", maxDepth))
			_ = sub.Close()
		default:
			return w.tree(sub, path+"/"+name, depth+1)
		}
	case unix.S_IFREG:
		// Each by itself: one of them is as its owner likes. On a disk they may be another machine's, which is ahead.
		is := func(at time.Time) bool {
			return !at.Before(w.since) && (w.p.app != "" || !at.After(time.Now().Add(time.Minute)))
		}
		if st.Size > 0 && (is(time.Unix(st.Mtim.Unix())) || is(time.Unix(st.Ctim.Unix()))) && !w.p.isClean(&st) {
			w.p.came(dir, name)
		}
	}
	return nil
}

// isClean reports whether a file was looked into, and nothing was found.
func (p *place) isClean(st *unix.Stat_t) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	at, is := p.clean[inode{st.Dev, st.Ino}]
	return is && at == stamp{st.Size, st.Mtim.Nano(), st.Ctim.Nano()}
}

// came has a file looked into that was found.
func (p *place) came(dir *os.File, name string) {
	var f *os.File
	var err error
	for range leaseTries { // somebody may have a lease on it
		if f, _, err = openFile(dir, name); !errors.Is(err, unix.EWOULDBLOCK) {
			break
		}
		time.Sleep(leasePause)
	}
	if errors.Is(err, unix.EWOULDBLOCK) {
		time.AfterFunc(time.Second, func() { p.lost("somebody has a lease on a file") })
	}
	if err != nil {
		return
	}
	p.written(f, 0)
}

// catchUp looks for what was written and not noticed.
func (p *place) catchUp() {
	began := time.Now()
	p.mu.Lock()
	since := p.since
	p.mu.Unlock()
	var err error
	if p.app != "" {
		err = p.with(func(fan, inot int) error { return p.markFolder(fan, inot, p.root, since) })
	} else if dir, wrong := paths.OpenDir(p.root); wrong != nil {
		err = wrong
	} else if st, wrong := statOf(int(dir.Fd())); wrong != nil { //nolint:gosec // a descriptor
		err = errors.Join(wrong, dir.Close())
	} else {
		err = (&walk{p: p, fan: -1, inot: -1, since: since, mount: st.mount, left: maxWalk}).all(dir, p.root)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	// Who has it begin again and again, by whatever, keeps it busy for a tenth of the time, and not with the same files.
	if p.pause *= 2; began.Sub(p.walked) > time.Minute {
		p.pause = 0
	}
	p.pause = min(max(p.pause, walkPause), maxWalkPause)
	p.walked = time.Now()
	p.nextWalk = p.walked.Add(max(p.pause, 10*p.walked.Sub(began)))
	if p.walking = false; err != nil {
		p.why = err.Error()
	}
	p.nudge()
}

// arriving looks at what has come, one after the other. What comes with a directory is looked into however old it is.
func (p *place) arriving() {
	for a := range p.arrivals {
		p.mu.Lock()
		ended := p.ended
		p.mu.Unlock()
		var err error
		switch {
		case ended:
		case a.isDir:
			err = p.with(func(fan, inot int) error { return p.markFolder(fan, inot, a.path(), time.Time{}) })
		default:
			var dir *os.File
			if dir, err = paths.OpenDir(a.dir); err == nil {
				p.came(dir, a.name)
				_ = dir.Close()
			}
		}
		var partly partial
		gone := !errors.As(err, &partly) && !errors.Is(err, unix.ENOSPC)
		p.mu.Lock()
		if a.isDir {
			if p.pending[a.path()]--; p.pending[a.path()] <= 0 {
				delete(p.pending, a.path())
			}
		}
		if err != nil && !gone {
			p.why = err.Error()
		}
		p.mu.Unlock()
		p.coming.Add(-1)
		p.nudge()
	}
}
