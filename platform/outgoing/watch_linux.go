package outgoing

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/warderd/warder/platform/fanotify"
)

// inode is a file, as long as its file system is there.
type inode struct{ dev, ino uint64 }

// stamp is what changes with a file.
type stamp struct {
	size         int64
	mtime, ctime int64 // nanoseconds
}

func stampOf(st *unix.Stat_t) stamp {
	return stamp{st.Size, st.Mtim.Nano(), st.Ctim.Nano()}
}

// newest is when the file, or its name, was changed last.
func (s stamp) newest() time.Time { return time.Unix(0, max(s.mtime, s.ctime)) }

// watch is what is watched while anything is, and what is known of the files there.
type watch struct {
	g     *Guard
	log   *slog.Logger
	fan   int // fanotify
	names int // inotify: what comes into sync folders, and new directories there
	wake  int
	over  chan struct{} // closed once nothing listens any more
	begun time.Time
	last  time.Time // until then everything was looked into by the agent before this one

	mu     sync.Mutex
	closed bool
	failed bool // it ended by itself
	holds  bool // who opens a file waits
	places map[string]*place
	items  map[inode]*item
	asks   int
	clean  map[inode]stamp
	work   chan struct{} // something may have to be looked into
	takes  chan struct{} // something may have to be taken away
	dirs   map[int32]directory
	late   int

	arrivals chan arrival
	ctx      context.Context // ends with it
	end      context.CancelFunc
}

// directory is one of a sync folder.
type directory struct {
	place *place
	path  string
}

// openWatch begins to watch nothing yet.
func openWatch(g *Guard) (*watch, error) {
	const how = unix.FAN_CLASS_CONTENT | unix.FAN_CLOEXEC | unix.FAN_NONBLOCK | unix.FAN_UNLIMITED_MARKS
	fan, err := unix.FanotifyInit(how, unix.O_RDONLY|unix.O_LARGEFILE|unix.O_CLOEXEC|unix.O_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("files that are written cannot be watched (fanotify): %w", err)
	}
	names, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		_ = unix.Close(fan)
		return nil, fmt.Errorf("sync folders cannot be watched (inotify): %w", err)
	}
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		_, _ = unix.Close(fan), unix.Close(names)
		return nil, fmt.Errorf("files that are written cannot be watched: %w", err)
	}
	w := &watch{g: g, log: g.log, fan: fan, names: names, wake: wake, over: make(chan struct{}), begun: time.Now(), last: time.Now(), places: map[string]*place{}, items: map[inode]*item{},
		clean: map[inode]stamp{}, work: make(chan struct{}, 1), takes: make(chan struct{}, 1), dirs: map[int32]directory{}, arrivals: make(chan arrival, 1024)}
	w.ctx, w.end = context.WithCancel(context.Background())
	go w.listen()
	var all sync.WaitGroup
	all.Go(w.looking)
	all.Go(w.taking)
	all.Go(w.arriving)
	go func() {
		all.Wait()
		close(w.over)
	}()
	return w, nil
}

// close ends it. Who waits goes on, also if a file system keeps one of the workers: that is the one who listens to say.
func (w *watch) close() {
	w.mu.Lock()
	was, wake := w.closed, w.wake
	w.closed = true
	w.mu.Unlock()
	if was {
		return
	}
	_, _ = unix.Write(wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	w.nudge()
	select {
	case <-w.over:
	case <-time.After(10 * time.Second):
		w.log.Warn("a disk does not answer; a file on it that was being taken away stays where it is")
	}
}

// drop lets everybody go on, and closes what they were asked by. The caller has the lock.
func (w *watch) drop() {
	w.closed = true
	for id, it := range w.items {
		w.answer(it, true)
		if it.state != looking && !it.taking { // a worker has it, and closes it
			it.shut()
		}
		delete(w.items, id)
	}
	w.end()
	_, _, _ = unix.Close(w.fan), unix.Close(w.names), unix.Close(w.wake)
	w.fan, w.names, w.wake = -1, -1, -1
	close(w.arrivals)
}

// nudge has both workers see what there is to do.
func (w *watch) nudge() {
	for _, c := range []chan struct{}{w.work, w.takes} {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

// listen reads notices and questions, until it is closed.
func (w *watch) listen() {
	defer func() {
		w.mu.Lock()
		w.drop()
		w.mu.Unlock()
		w.nudge()
	}()
	b, names := make([]byte, fanotify.EventSize), make([]byte, 64<<10)
	wait := []unix.PollFd{{Fd: int32(w.fan), Events: unix.POLLIN}, {Fd: int32(w.names), Events: unix.POLLIN}, {Fd: int32(w.wake), Events: unix.POLLIN}} //nolint:gosec // descriptors
	for bad := 0; ; {
		for i := range wait {
			wait[i].Revents = 0
		}
		if _, err := unix.Poll(wait, -1); err != nil && !errors.Is(err, unix.EINTR) {
			w.fail(err)
			return
		}
		if wait[2].Revents != 0 {
			return
		}
		if wait[1].Revents != 0 {
			if n, err := unix.Read(w.names, names); err == nil {
				w.named(names[:n])
			}
		}
		if wait[0].Revents == 0 {
			continue
		}
		// One at a time: of several the kernel would hide that one of them could not be handed over.
		n, err := unix.Read(w.fan, b)
		switch {
		case err == nil && n == fanotify.EventSize:
			bad = 0
			w.notice(b)
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR), errors.Is(err, unix.ENOENT), errors.Is(err, unix.ESTALE):
			// Another thread of the kernel was faster, or what it was about has been removed. A question that cannot be handed over
			// is answered by the kernel: refused.
		case bad < 100:
			bad++
			w.behind("a notice cannot be read: " + fmt.Sprint(err))
			time.Sleep(time.Duration(bad) * time.Millisecond)
		default:
			w.fail(err)
			return
		}
	}
}

// fail notes that nothing is watched any more.
func (w *watch) fail(err error) {
	w.log.Error("files that are written are not watched any more", "error", err)
	w.mu.Lock()
	w.failed = true
	for _, p := range w.places {
		p.armed, p.why = false, "it is not watched any more: "+err.Error()
	}
	w.mu.Unlock()
	w.g.Look(true)
}

// notice looks at what one is about.
func (w *watch) notice(b []byte) {
	e, _, ok := fanotify.Parse(b)
	if !ok || e.Mask&unix.FAN_Q_OVERFLOW != 0 {
		w.behind("the kernel could not keep all notices")
	}
	if !ok || e.Fd < 0 {
		return
	}
	question := e.Mask&unix.FAN_OPEN_PERM != 0
	if question && int(e.Pid) == os.Getpid() {
		w.let(e.Fd, true)
		return
	}
	st, err := statOf(int(e.Fd))
	switch {
	case err == nil && st.Mode&unix.S_IFMT == unix.S_IFREG && question:
		w.asked(e.Fd, &st)
	case err == nil && st.Mode&unix.S_IFMT == unix.S_IFREG:
		w.written(os.NewFile(uintptr(e.Fd), "written"), e.Pid)
	case question:
		w.let(e.Fd, true)
	default:
		_ = unix.Close(int(e.Fd))
	}
}

// statOf is what the kernel knows of an open file by itself: a file system whose program does not answer is not asked.
func statOf(fd int) (st unix.Stat_t, err error) {
	var x unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_BASIC_STATS, &x); err != nil {
		return st, err
	}
	st.Dev, st.Ino, st.Mode, st.Uid, st.Gid = unix.Mkdev(x.Dev_major, x.Dev_minor), x.Ino, uint32(x.Mode), x.Uid, x.Gid
	st.Nlink, st.Size = uint64(x.Nlink), int64(x.Size) //nolint:gosec,unconvert // so it is; their types differ between systems
	st.Mtim = unix.NsecToTimespec(x.Mtime.Sec*1e9 + int64(x.Mtime.Nsec))
	st.Ctim = unix.NsecToTimespec(x.Ctime.Sec*1e9 + int64(x.Ctime.Nsec))
	return st, nil
}

// let answers a question.
func (w *watch) let(fd int32, allow bool) {
	_ = fanotify.Answer(w.fan, fd, allow)
	_ = unix.Close(int(fd))
}

// place finds the place of a file by what the kernel says about it. The caller has the lock.
func (w *watch) place(dev uint64, path string) *place {
	var best *place
	for _, p := range w.places {
		if p.app == "" && p.dev == dev {
			return p
		}
		if (path == p.root || strings.HasPrefix(path, p.root+"/")) && (best == nil || len(p.root) > len(best.root)) {
			best = p
		}
	}
	return best
}

// fresh reports whether a file has been changed since its place is watched, as far as that can be told: on a disk that another machine
// has written the times say nothing. The caller has the lock.
func (w *watch) fresh(p *place, s stamp) bool {
	switch {
	case p == nil:
		return !s.newest().Before(w.begun)
	case p.app == "":
		return p.behind && !s.newest().Before(p.since)
	}
	return !s.newest().Before(p.since)
}

// leadsTo reports whether a path is one of this machine's, and leads to a file. The path of a file that a sandboxed program has opened is
// one of the sandbox's; a file that one of our marks is about and that is in no place has left it, with a directory that was moved.
func leadsTo(path string, st *unix.Stat_t) bool {
	var there unix.Statx_t
	return strings.HasPrefix(path, "/") && unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW|unix.AT_STATX_DONT_SYNC, unix.STATX_INO, &there) == nil &&
		there.Ino == st.Ino && unix.Mkdev(there.Dev_major, there.Dev_minor) == st.Dev
}

// pathOf is the path of an open file, as the kernel has it.
func pathOf(fd int) string {
	path, _ := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	return path
}

// asked answers whoever opens a file, at once or later.
func (w *watch) asked(fd int32, st *unix.Stat_t) {
	id, now := inode{st.Dev, st.Ino}, stampOf(st)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed || !w.holds || st.Size == 0 {
		w.let(fd, true)
		return
	}
	it := w.items[id]
	if it == nil {
		if w.clean[id] == now {
			w.let(fd, true)
			return
		}
		path := pathOf(int(fd))
		p := w.place(st.Dev, path)
		if p == nil && leadsTo(path, st) || !w.fresh(p, now) {
			w.let(fd, true)
			return
		}
		// It was changed, and nobody has told so yet: it is still open, or was moved here.
		own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0) //nolint:gosec // a descriptor
		if err != nil || !w.room(true) {
			if err == nil {
				_ = unix.Close(own)
			}
			w.tooMany(fd)
			return
		}
		it = &item{inode: id, f: os.NewFile(uintptr(own), "asked"), path: path, place: p, who: writer{uid: st.Uid}, size: st.Size}
		w.items[id] = it
	}
	switch {
	case it.state == guilty: // also if it has been given other contents meanwhile: these are looked into once it is closed
		w.let(fd, false)
	case it.state == unknown:
		w.let(fd, w.g.lateIsFree())
	case w.asks >= maxAsks:
		w.tooMany(fd)
	default:
		it.asks = append(it.asks, fd)
		w.asks++
		if it.timer == nil {
			it.timer = time.AfterFunc(askWait, func() { w.expire(it) })
		}
		w.nudge()
	}
}

// room makes sure that one more file can be known. Of those that wait each is open, and those that are held are many if somebody wants
// them to be; what is forgotten is found again. For somebody who waits, a file goes for which nobody does. The caller has the lock.
func (w *watch) room(waits bool) bool {
	if len(w.items) < maxItems {
		return true
	}
	held := 0
	var idle, kept *item
	for _, it := range w.items {
		switch {
		case it.state == guilty && !it.taking, it.state == unknown:
			held++
			kept = it
		case it.state == waiting && len(it.asks) == 0:
			idle = it
		}
	}
	if len(w.items)-held < maxItems {
		if held >= maxHeld {
			w.lose(kept)
		}
		return true
	}
	if !waits || idle == nil {
		return false
	}
	w.lose(idle)
	return true
}

// lose forgets a file that has to be looked into, for now. The caller has the lock.
func (w *watch) lose(it *item) {
	if it.place != nil {
		it.place.behind = true
	}
	w.forget(it, false)
}

// tooMany answers a question for which there is no room. The caller has the lock.
func (w *watch) tooMany(fd int32) {
	free := w.g.lateIsFree()
	if free {
		w.late++
	}
	w.let(fd, free)
}

// expire answers who has waited for long enough.
func (w *watch) expire(it *item) {
	w.mu.Lock()
	defer w.mu.Unlock()
	it.timer = nil
	if len(it.asks) == 0 || w.closed {
		return
	}
	free := w.g.lateIsFree()
	if free {
		w.late++
		go w.g.tellLate(*it, "who opened it was let through after "+askWait.String()+", as dlp.scan_timeout says")
	}
	w.answer(it, free)
}

// answer answers everybody who waits for a file. The caller has the lock.
func (w *watch) answer(it *item, allow bool) {
	for _, fd := range it.asks {
		w.let(fd, allow)
		w.asks--
	}
	it.asks = nil
	if it.timer != nil {
		it.timer.Stop()
		it.timer = nil
	}
}

// written notes a file that was closed after it was written, or has come.
func (w *watch) written(f *os.File, pid int32) {
	path := pathOf(int(f.Fd())) //nolint:gosec // a descriptor
	w.mu.Lock()
	defer w.mu.Unlock()
	st, err := statOf(int(f.Fd())) //nolint:gosec // a descriptor
	if err != nil {                // as it is now: an earlier notice may be about a later state
		_ = f.Close()
		return
	}
	id, now := inode{st.Dev, st.Ino}, stampOf(&st)
	it := w.items[id]
	if it != nil && it.taking {
		_ = f.Close() // that was us
		return
	}
	if it != nil && st.Size == 0 && it.state != looking {
		w.answer(it, true) // there is nothing in it any more
		it.shut()
		delete(w.items, id)
		it = nil
	}
	p := w.place(st.Dev, path)
	if w.closed || st.Size == 0 || st.Nlink == 0 || w.clean[id] == now || p == nil && leadsTo(path, &st) {
		_ = f.Close()
		return
	}
	switch {
	case it == nil && !w.room(false):
		_ = f.Close()
		if p != nil {
			p.behind = true
		}
		w.nudge()
		return
	case it == nil:
		it = &item{inode: id}
		w.items[id] = it
	case it.state == guilty && it.stamp == now, it.state == waiting: // our own look at it; it waits already
		_ = f.Close()
		return
	case it.state == looking:
		it.again = true
		_ = f.Close()
		return
	}
	it.shut()
	it.f, it.path, it.place, it.size, it.state, it.wait = f, path, p, st.Size, waiting, 0
	it.who = writer{uid: st.Uid}
	if pid > 0 {
		it.who = writerOf(pid)
	}
	if h, _, err := unix.NameToHandleAt(int(f.Fd()), "", unix.AT_EMPTY_PATH); err == nil && p != nil && p.app == "" { //nolint:gosec // a descriptor
		it.handle = &h
	}
	w.nudge()
}

// behind notes that not all was noticed. What was written meanwhile is looked for.
func (w *watch) behind(why string) {
	w.mu.Lock()
	first := true
	for _, p := range w.places {
		first = first && !p.behind
		p.behind = true
	}
	w.mu.Unlock()
	if first {
		w.log.Warn("files that were written are looked for anew", "error", why)
	}
	w.nudge()
}
