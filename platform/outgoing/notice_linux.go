package outgoing

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
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

// newest is when the file, or its name, was changed last.
func (s stamp) newest() time.Time { return time.Unix(0, max(s.mtime, s.ctime)) }

// stat is what the kernel knows of an open file.
type stat struct {
	id    inode
	stamp stamp
	mount uint64
	mode  uint32
	links uint32
	uid   uint32
}

// statOf is what the kernel knows of an open file by itself: a file system whose program does not answer is not asked.
func statOf(fd int) (s stat, err error) {
	var x unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_BASIC_STATS|unix.STATX_MNT_ID, &x); err != nil {
		return s, err
	}
	at := func(t unix.StatxTimestamp) int64 { return t.Sec*1e9 + int64(t.Nsec) }
	return stat{inode{unix.Mkdev(x.Dev_major, x.Dev_minor), x.Ino}, stamp{int64(x.Size), at(x.Mtime), at(x.Ctime)}, //nolint:gosec // not negative
		x.Mnt_id, uint32(x.Mode), x.Nlink, x.Uid}, nil
}

func (s *stat) regular() bool { return s.mode&unix.S_IFMT == unix.S_IFREG }

// listen reads notices and questions, until it is closed. It opens nothing itself, and asks no file system; the kernel may.
func (p *place) listen(fan, inot, wake int) {
	defer p.drop()
	b, names := make([]byte, fanotify.EventSize), make([]byte, 64<<10)
	wait := []unix.PollFd{{Fd: int32(fan), Events: unix.POLLIN}, {Fd: int32(inot), Events: unix.POLLIN}, {Fd: int32(wake), Events: unix.POLLIN}} //nolint:gosec // descriptors
	for {
		for i := range wait {
			wait[i].Revents = 0
		}
		if _, err := unix.Poll(wait, -1); err != nil && !errors.Is(err, unix.EINTR) {
			p.fail(err)
			return
		}
		if wait[2].Revents != 0 {
			return
		}
		if wait[1].Revents != 0 { // first: what has come is asked about after it has
			if n, err := unix.Read(inot, names); err == nil {
				p.named(names[:n])
			}
		}
		if wait[0].Revents == 0 {
			continue
		}
		// One at a time: of several the kernel would hide that one of them could not be handed over.
		n, err := unix.Read(fan, b)
		switch {
		case err == nil && n == fanotify.EventSize:
			p.notice(b)
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EBADF), errors.Is(err, unix.EINVAL), errors.Is(err, unix.EFAULT):
			p.fail(err)
			return
		default:
			// The file could not be opened for us: it was removed, somebody has a lease on it, it is a socket. If that was a question,
			// the kernel has answered it: refused. If it was a notice, the file is looked for.
			p.lost(fmt.Sprint("a notice cannot be read: ", err))
		}
	}
}

// fail notes that it is watched no more.
func (p *place) fail(err error) {
	p.log.Error("files that are written are not watched any more", "place", p.name, "error", err)
	p.g.Look(true)
}

// notice looks at what one is about.
func (p *place) notice(b []byte) {
	e, _, ok := fanotify.Parse(b)
	if !ok || e.Mask&unix.FAN_Q_OVERFLOW != 0 {
		p.lost("the kernel could not keep all notices")
	}
	if !ok || e.Fd < 0 {
		return
	}
	question := e.Mask&unix.FAN_OPEN_PERM != 0
	st, err := statOf(int(e.Fd))
	switch {
	case question && (int(e.Pid) == os.Getpid() || err != nil || !st.regular()):
		p.let(e.Fd, true)
	case question:
		p.asked(e.Fd, &st)
	case err == nil && st.regular():
		p.written(os.NewFile(uintptr(e.Fd), "written"), e.Pid)
	default:
		go unix.Close(int(e.Fd)) //nolint:errcheck // it was not written
	}
}

// let answers a question. Who listens does so, and whoever has the lock while it has not ended.
func (p *place) let(fd int32, allow bool) {
	_ = fanotify.Answer(p.fan, fd, allow)
	go unix.Close(int(fd)) //nolint:errcheck // it was not written
}

// later closes a file in the background: a FUSE file system is asked when that is done, and may not answer. Nobody who has the lock, or
// listens, may wait for that.
func later(f *os.File) { go f.Close() } //nolint:errcheck // it was not written

// pathOf is the path of an open file, as the kernel has it.
func pathOf(fd int) string {
	path, _ := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	return path
}

// under reports whether a path is in a directory.
func under(path, dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }

// left reports whether a file that one of our marks is about has left a sync folder, with a directory that was moved. It is known by the
// mount by which it was opened: only the paths of that one are ours. A sandboxed program has one of its own. The caller has the lock.
func (p *place) left(st *stat, path string) bool {
	return p.app != "" && !p.moved && st.mount == p.mount && !under(path, p.root)
}

// fresh reports whether a file has been changed since its place is watched, as far as that can be told: on a disk that another machine
// has written the times say nothing, unless notices were lost. The caller has the lock.
func (p *place) fresh(s stamp, path string) bool {
	if now := time.Now(); now.Before(p.since) {
		p.since = now // the clock was set back
	}
	for dir := range p.pending {
		if under(path, dir) {
			return true
		}
	}
	return (p.app != "" || p.behind || p.walking) && !s.newest().Before(p.since)
}

// asked answers whoever opens a file, at once or later.
func (p *place) asked(fd int32, st *stat) {
	path := pathOf(int(fd))
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended || !p.holds || st.stamp.size == 0 {
		p.let(fd, true)
		return
	}
	it := p.items[st.id]
	if it == nil {
		if at, is := p.clean[st.id]; is && at == st.stamp || p.left(st, path) || !p.fresh(st.stamp, path) {
			p.let(fd, true)
			return
		}
		// It was changed, and nobody has told so yet: it is still open, or was moved here.
		own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0) //nolint:gosec // a descriptor
		if err != nil || !p.room(true) {
			if err == nil {
				go unix.Close(own) //nolint:errcheck // it was not written
			}
			p.tooMany(fd, &item{inode: st.id, place: p, path: path, who: fanotify.Writer{UID: st.uid}, size: st.stamp.size, stamp: st.stamp})
			return
		}
		it = &item{inode: st.id, place: p, came: time.Now(), f: os.NewFile(uintptr(own), "asked"), path: path, who: fanotify.Writer{UID: st.uid}, size: st.stamp.size}
		it.known(st, own)
		p.items[st.id] = it
	}
	switch {
	case it.state == guilty: // also if it has been given other contents meanwhile: these are looked into once it is closed
		p.let(fd, false)
	case it.state == unknown:
		p.let(fd, p.g.lateIsFree())
	case p.asks >= maxAsks, len(it.asks) >= maxEach:
		p.tooMany(fd, it)
	default:
		it.asks = append(it.asks, fd)
		p.asks++
		if it.timer == nil {
			it.round++
			round := it.round
			it.timer = time.AfterFunc(askWait, func() { p.expire(it, round) })
			time.AfterFunc(patience, func() { p.g.preempt(it) })
		}
		if x, is := p.g.running.Load(it); is {
			x.(*run).wanted.Store(true)
		}
		p.nudge()
	}
}

// room makes sure that one more file can be known. Of those that wait each is open, and those that are held are many if somebody wants
// them to be; what is forgotten is found again. For somebody who waits, a file goes for which nobody does. The caller has the lock.
func (p *place) room(waits bool) bool {
	if len(p.items) < maxItems {
		return true
	}
	held := 0
	var idle, kept *item
	for _, it := range p.items {
		switch {
		case (it.state == guilty || it.state == unknown) && !it.taking:
			held++
			kept = it
		case it.state == waiting && len(it.asks) == 0:
			idle = it
		}
	}
	if len(p.items)-held < maxItems {
		if held >= maxHeld {
			p.forget(kept, false)
			p.fallBehind()
		}
		return true
	}
	if !waits || idle == nil {
		return false
	}
	p.forget(idle, false)
	p.fallBehind()
	return true
}

// tooMany answers a question for which there is no room. The caller has the lock.
func (p *place) tooMany(fd int32, it *item) {
	free := p.g.lateIsFree()
	if free {
		p.late++
		go p.g.tellLate(*it, "who opened it was let through at once, because too many files wait, as dlp.scan_timeout says")
	}
	p.let(fd, free)
}

// expire answers who has waited for long enough.
func (p *place) expire(it *item, round int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if it.timer == nil || it.round != round || p.ended {
		return // it was answered meanwhile
	}
	free := p.g.lateIsFree()
	if free {
		p.late++
		go p.g.tellLate(*it, "who opened it was let through after "+askWait.String()+", as dlp.scan_timeout says")
	}
	p.answer(it, free)
}

// answer answers everybody who waits for a file. The caller has the lock.
func (p *place) answer(it *item, allow bool) {
	for _, fd := range it.asks {
		p.let(fd, allow)
		p.asks--
	}
	it.asks = nil
	if it.timer != nil {
		it.timer.Stop()
		it.timer = nil
	}
}

// written notes a file that was closed after it was written, or has come. pid is 0 if nobody told.
func (p *place) written(f *os.File, pid int32) {
	fd := int(f.Fd()) //nolint:gosec // a descriptor
	path := pathOf(fd)
	p.mu.Lock()
	defer p.mu.Unlock()
	st, err := statOf(fd)
	if err != nil { // as it is now: an earlier notice may be about a later state
		later(f)
		return
	}
	if int(pid) == os.Getpid() && strings.HasSuffix(path, " (deleted)") {
		later(f) // that was us, who have its name removed, or have found that it is
		return
	}
	it := p.items[st.id]
	if it != nil && it.taking {
		it.again = true
		later(f) // that was us; who else has it open keeps it from being taken
		return
	}
	if it != nil && st.stamp.size == 0 && it.state != looking {
		p.forget(it, true) // there is nothing in it any more
		it = nil
	}
	if pid > 0 {
		delete(p.clean, st.id) // times can be too coarse to tell
	}
	at, clean := p.clean[st.id]
	switch {
	case p.ended, st.stamp.size == 0, clean && at == st.stamp, p.left(&st, path):
		later(f)
		return
	case it == nil && !p.room(false):
		later(f)
		p.fallBehind()
		p.nudge()
		return
	case it == nil:
		it = &item{inode: st.id, place: p}
		p.items[st.id] = it
	case it.state == guilty && it.stamp == st.stamp, it.state == waiting: // our own look at it; it waits already
		later(f)
		return
	case it.state == looking:
		it.again = true
		later(f)
		return
	}
	it.shut()
	it.f, it.path, it.size, it.state, it.wait, it.came = f, path, st.stamp.size, waiting, 0, time.Now()
	it.who = fanotify.Writer{UID: st.uid}
	if pid > 0 {
		it.who = fanotify.WriterOf(pid, st.uid)
	}
	it.known(&st, fd)
	p.nudge()
}

// known notes how a file is found again. A path that somebody else's mount gives it is as they like, and none of ours.
func (it *item) known(st *stat, fd int) {
	if h, _, err := unix.NameToHandleAt(fd, "", unix.AT_EMPTY_PATH); err == nil {
		it.handle = &h
	}
	if it.foreign = it.place.app != "" && st.mount != it.place.mount; it.foreign {
		it.path = ""
	}
}

// lost notes that not all was noticed. What was written meanwhile is looked for.
func (p *place) lost(why string) {
	p.mu.Lock()
	first := !p.behind
	p.fallBehind()
	p.mu.Unlock()
	if first {
		p.log.Debug("files that were written are looked for anew", "place", p.name, "error", why)
	}
	p.nudge()
}

// named reads what inotify(7) says: what has come into directories of a sync folder.
func (p *place) named(b []byte) {
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
			p.lost("the kernel could not keep all names")
			continue
		}
		p.mu.Lock()
		dir, ok := p.dirs[wd]
		if (ok && dir == p.root || p.above[wd]) && mask&(unix.IN_MOVE_SELF|unix.IN_DELETE_SELF|unix.IN_UNMOUNT) != 0 {
			p.moved = true // the folder has another name, or there will be another one: until that is found, all that was in it counts
			if p.gone.CompareAndSwap(0, time.Now().UnixNano()) {
				go p.g.findNow()
			}
		}
		if mask&unix.IN_IGNORED != 0 {
			delete(p.dirs, wd)
			ok = false
		}
		if ok && len(raw) > 0 {
			p.arrive(arrival{dir, string(raw), mask&unix.IN_ISDIR != 0})
		}
		p.mu.Unlock()
	}
}

// arrival is what has come into a directory.
type arrival struct {
	dir, name string
	isDir     bool
}

func (a arrival) path() string { return a.dir + "/" + a.name }

// arrive has it looked at in the background. The caller has the lock.
func (p *place) arrive(a arrival) {
	if p.ended {
		return
	}
	select {
	case p.arrivals <- a:
		if p.coming.Add(1); a.isDir {
			p.pending[a.path()]++
		}
	default:
		p.fallBehind()
		p.nudge()
	}
}
