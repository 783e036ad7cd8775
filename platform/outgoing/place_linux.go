package outgoing

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/platform/fanotify"
	"github.com/warderd/warder/platform/paths"
)

// place is where files leave the machine: a file system on an external disk, or a folder that a client copies. Its parts that change
// are the watch's, under its lock.
type place struct {
	key   string // of the file system's mount, or the folder
	disk  string // the file system's number, as the kernel has it: "8:1"
	name  string // for people
	app   string // the client's ID; "" for a disk
	root  string
	dev   uint64 // of the files on a disk
	mount int    // its number; 0 for a folder
	uid   uint32 // whose folder it is

	since  time.Time // what was written from then on is looked into
	armed  bool
	arming bool
	holds  bool
	behind bool // not all of what was written was noticed
	why    string
}

// called is the place for people.
func (p *place) called() string {
	if p == nil {
		return "a sync folder"
	}
	return p.name
}

// set says which places there are. What is new is watched; it returns when that is so, or has taken too long.
func (w *watch) set(list []*place, holds bool) {
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return
	}
	if w.holds && !holds {
		for _, it := range w.items {
			w.answer(it, true)
		}
		for _, it := range w.items {
			if it.state == guilty && !it.taking || it.state == unknown {
				w.forget(it, true)
			}
		}
	}
	w.holds = holds
	now := map[string]bool{}
	var todo []*place
	for _, p := range list {
		now[p.key] = true
		old := w.places[p.key]
		if old == nil {
			w.places[p.key], old = p, p
		}
		if (!old.armed || old.holds != holds) && !old.arming {
			old.arming = true
			todo = append(todo, old)
		}
	}
	for key, p := range w.places {
		if !now[key] {
			delete(w.places, key)
			for wd, d := range w.dirs {
				if d.place == p {
					_, _ = unix.InotifyRmWatch(w.names, uint32(wd)) //nolint:gosec // so it is
					delete(w.dirs, wd)
				}
			}
		}
	}
	w.mu.Unlock()
	done := make(chan struct{}, len(todo))
	for _, p := range todo {
		go func() {
			w.arm(p, holds)
			done <- struct{}{}
		}()
	}
	late := time.After(armWait)
	for range todo {
		select {
		case <-done:
		case <-late: // it goes on by itself, and is said to be unwatched until then
			return
		}
	}
}

// arm watches one place. A file system that does not answer keeps a goroutine of its own.
func (w *watch) arm(p *place, holds bool) {
	var dev uint64
	err := w.with(func(fan, names int) (err error) {
		if p.app == "" {
			dev, err = markDisk(fan, p, holds)
			return err
		}
		return w.markFolder(fan, names, p, p.root, holds)
	})
	w.mu.Lock()
	defer w.mu.Unlock()
	p.arming, p.armed, p.holds, p.why = false, err == nil, holds && err == nil, ""
	if p.dev = dev; err != nil {
		p.why = "it cannot be watched: " + err.Error()
	}
	if errors.Is(err, errMany) {
		p.armed, p.holds, p.why = true, holds, err.Error()
	}
	if p.armed && p.app == "" && p.since.Before(w.begun) {
		p.behind = true // what was written while no agent watched
	}
	w.nudge()
}

// with lends descriptors of its own to somebody who may take longer than ours live.
func (w *watch) with(do func(fan, names int) error) error {
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return errClosed
	}
	fan, err1 := unix.FcntlInt(uintptr(w.fan), unix.F_DUPFD_CLOEXEC, 0)     //nolint:gosec // a descriptor
	names, err2 := unix.FcntlInt(uintptr(w.names), unix.F_DUPFD_CLOEXEC, 0) //nolint:gosec // a descriptor
	w.mu.Unlock()
	defer func() { _, _ = unix.Close(fan), unix.Close(names) }()
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	return do(fan, names)
}

var errClosed = errors.New("nothing is watched any more")

// markDisk watches a whole file system, by a mount of it.
func markDisk(fan int, p *place, holds bool) (dev uint64, err error) {
	at, err := unix.Open(p.root, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, &os.PathError{Op: "open", Path: p.root, Err: err}
	}
	defer unix.Close(at)
	var st unix.Statx_t
	if err := unix.Statx(at, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_MNT_ID, &st); err != nil {
		return 0, err
	}
	if st.Mask&unix.STATX_MNT_ID != 0 && st.Mnt_id != uint64(p.mount) { //nolint:gosec // not negative
		return 0, fmt.Errorf("something else is mounted at %s by now", enforce.Plain(p.root))
	}
	return unix.Mkdev(st.Dev_major, st.Dev_minor), mark(fan, at, unix.FAN_MARK_FILESYSTEM, 0, holds)
}

// mark watches what is written, and has who opens a file wait, or not any more.
func mark(fan, at int, how uint, also uint64, holds bool) error {
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

var errMany = fmt.Errorf("only %d directories of sync folders are watched, and there are more", maxDirs)

// markFolder watches a directory of a sync folder and those below it, and looks at what was written there since.
func (w *watch) markFolder(fan, names int, p *place, path string, holds bool) error {
	root, err := paths.OpenDir(path)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(root.Fd()), &st); err != nil { //nolint:gosec // a descriptor
		_ = root.Close()
		return err
	}
	left := maxWalk
	err = w.markTree(fan, names, p, root, path, st.Dev, holds, 0, &left)
	if err == nil && left <= 0 {
		err = fmt.Errorf("only %d names of it were looked at, and there are more", maxWalk)
	}
	return err
}

// markTree does it for one directory, which it closes.
func (w *watch) markTree(fan, names int, p *place, dir *os.File, path string, dev uint64, holds bool, depth int, left *int) error {
	defer dir.Close()
	at := int(dir.Fd()) //nolint:gosec // a descriptor
	if err := mark(fan, at, 0, unix.FAN_EVENT_ON_CHILD, holds); err != nil {
		return err
	}
	wd, err := unix.InotifyAddWatch(names, fmt.Sprintf("/proc/self/fd/%d", at), unix.IN_CREATE|unix.IN_MOVED_TO|unix.IN_ONLYDIR)
	if err != nil {
		return err
	}
	w.mu.Lock()
	_, known := w.dirs[int32(wd)] //nolint:gosec // so it is
	many := !known && len(w.dirs) >= maxDirs
	if many {
		_, _ = unix.InotifyRmWatch(names, uint32(wd)) //nolint:gosec // so it is
	} else {
		w.dirs[int32(wd)] = directory{p, path} //nolint:gosec // so it is
	}
	w.mu.Unlock()
	if many {
		return errMany
	}
	var errs []error
	for *left > 0 {
		list, err := dir.Readdirnames(min(1000, *left))
		if len(list) == 0 || err != nil {
			break
		}
		*left -= len(list)
		for _, name := range list {
			var st unix.Stat_t
			if unix.Fstatat(at, name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil || st.Dev != dev {
				continue
			}
			switch st.Mode & unix.S_IFMT {
			case unix.S_IFDIR:
				if depth >= maxDepth {
					errs = append(errs, fmt.Errorf("it has directories in each other that are more than %d deep", maxDepth))
					continue
				}
				fd, err := unix.Openat(at, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
				if err != nil {
					continue // it has gone
				}
				if err := w.markTree(fan, names, p, os.NewFile(uintptr(fd), name), path+"/"+name, dev, holds, depth+1, left); err != nil { //nolint:gosec // a descriptor
					errs = append(errs, err)
					if errors.Is(err, errMany) {
						return err
					}
				}
			case unix.S_IFREG:
				if !stampOf(&st).newest().Before(p.since) {
					w.came(dir, name)
				}
			}
		}
	}
	return errors.Join(errs...)
}

// came has a file looked into that was found.
func (w *watch) came(dir *os.File, name string) {
	f, _, err := openFile(dir, name)
	if err != nil {
		return
	}
	for range 1000 { // while there is no room: it is this walk that waits
		w.mu.Lock()
		full := !w.closed && !w.room(false)
		w.mu.Unlock()
		if !full {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	w.written(f, 0)
}

// catchUp looks for what was written and not noticed.
func (w *watch) catchUp(p *place) {
	w.mu.Lock()
	since, app, root, dev, holds := p.since, p.app, p.root, p.dev, w.holds
	p.arming = true
	w.mu.Unlock()
	go func() {
		if app != "" {
			w.arm(p, holds)
			return
		}
		dir, err := paths.OpenDir(root)
		if err == nil {
			left := maxWalk
			w.walk(dir, dev, since, 0, &left)
			if left <= 0 {
				err = fmt.Errorf("only %d names of it were looked at after notices were lost, and there are more", maxWalk)
			}
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		if p.arming = false; err != nil {
			p.why = err.Error()
		}
		w.nudge()
	}()
}

// walk looks for files that were changed since, in a directory of a disk, which it closes.
func (w *watch) walk(dir *os.File, dev uint64, since time.Time, depth int, left *int) {
	defer dir.Close()
	at := int(dir.Fd()) //nolint:gosec // a descriptor
	for *left > 0 {
		list, err := dir.Readdirnames(min(1000, *left))
		if len(list) == 0 || err != nil {
			return
		}
		*left -= len(list)
		for _, name := range list {
			var st unix.Stat_t
			if unix.Fstatat(at, name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil || st.Dev != dev {
				continue
			}
			switch st.Mode & unix.S_IFMT {
			case unix.S_IFDIR:
				fd, err := unix.Openat(at, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
				if err == nil && depth < maxDepth {
					w.walk(os.NewFile(uintptr(fd), name), dev, since, depth+1, left) //nolint:gosec // a descriptor
				} else if err == nil {
					_ = unix.Close(fd)
				}
			case unix.S_IFREG:
				if at := stampOf(&st).newest(); !at.Before(since) && !at.After(time.Now().Add(time.Minute)) {
					w.came(dir, name)
				}
			}
		}
	}
}

// named reads what inotify(7) says: what has come into directories of sync folders.
func (w *watch) named(b []byte) {
	for len(b) >= unix.SizeofInotifyEvent {
		e := binary.NativeEndian
		wd, mask, n := int32(e.Uint32(b)), e.Uint32(b[4:]), int(e.Uint32(b[12:])) //nolint:gosec // so it is
		b = b[unix.SizeofInotifyEvent:]
		if n < 0 || n > len(b) {
			return
		}
		raw, _, _ := bytes.Cut(b[:n], []byte{0})
		b = b[n:]
		if mask&unix.IN_Q_OVERFLOW != 0 {
			w.behind("the kernel could not keep all names")
			continue
		}
		w.mu.Lock()
		d, ok := w.dirs[wd]
		if mask&unix.IN_IGNORED != 0 {
			delete(w.dirs, wd)
			ok = false
		}
		w.mu.Unlock()
		if ok && len(raw) > 0 {
			w.arrive(d, string(raw), mask&unix.IN_ISDIR != 0)
		}
	}
}

// arrive looks at what has come, in the background: the one who listens may not open what is watched.
func (w *watch) arrive(d directory, name string, isDir bool) {
	select {
	case w.arrivals <- arrival{d, name, isDir}:
	default:
		w.mu.Lock()
		d.place.behind = true
		w.mu.Unlock()
		w.nudge()
	}
}

type arrival struct {
	directory
	name  string
	isDir bool
}

// arriving looks at what has come, one after the other.
func (w *watch) arriving() {
	for a := range w.arrivals {
		w.mu.Lock()
		p := w.places[a.place.key]
		holds, closed := w.holds, w.closed
		w.mu.Unlock()
		switch {
		case closed || p != a.place:
		case a.isDir:
			err := w.with(func(fan, names int) error { return w.markFolder(fan, names, p, a.path+"/"+a.name, holds) })
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				w.mu.Lock()
				p.why = fmt.Sprintf("a directory of it cannot be watched: %v", err)
				w.mu.Unlock()
			}
		default:
			if dir, err := paths.OpenDir(a.path); err == nil {
				w.came(dir, a.name)
				_ = dir.Close()
			}
		}
	}
}

// marked lists what the kernel says is watched: file systems by the numbers of their devices, and how many directories.
func (w *watch) marked() (disks map[string]bool, dirs int, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return nil, 0, errClosed
	}
	marks, err := fanotify.Marks(w.fan)
	disks = map[string]bool{}
	for _, m := range marks {
		switch {
		case m.Mask&unix.FAN_CLOSE_WRITE == 0:
		case m.Ino == 0:
			disks[fmt.Sprintf("%d:%d", m.Dev>>20, m.Dev&(1<<20-1))] = m.Mask&unix.FAN_OPEN_PERM != 0
		default:
			dirs++
		}
	}
	return disks, dirs, err
}
