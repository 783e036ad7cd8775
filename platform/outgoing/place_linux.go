package outgoing

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/warderd/warder/platform/fanotify"
)

// place is where files leave the machine, and what is known of the files there: a file system on an external disk, or a folder that a
// client copies. Each has a group of the kernel's and goroutines of its own: the kernel opens a file while it hands a notice over, which
// a file system that does not answer can make last for ever, and no other place may wait for that.
type place struct {
	g    *Guard
	log  *slog.Logger
	key  string // of the mount, or of the folder and its inode
	name string // for people
	app  string // the client's ID; "" for a disk
	disk string // the file system's number, as the kernel has it: "8:1"; of a disk
	root string // where it is mounted, or the folder
	id   inode  // of a folder

	over     chan struct{} // closed once nothing works any more
	work     chan struct{} // something may have to be looked into
	takes    chan struct{} // something may have to be taken away
	arrivals chan arrival
	coming   atomic.Int32 // arrivals that wait, or are looked at
	gone     atomic.Int64 // since when the folder is somewhere else, or another one; 0: it is not
	ctx      context.Context
	end      context.CancelFunc

	marks sync.Mutex // who marks

	mu               sync.Mutex
	fan              int // fanotify; -1 once it is closed
	inot             int // inotify: what comes into a sync folder, and new directories there
	wake             int
	ended            bool
	lent             int            // descriptors that somebody else has
	above            map[int32]bool // the directories above a folder, by inotify's number
	mount            uint64         // the number of the mount by which it is watched
	walked, nextWalk time.Time      // when what was not noticed was looked for, and may be again
	pause            time.Duration
	moved            bool // the folder has another name by now, or is another one

	since    time.Time // what was written from then on is looked into
	holds    bool      // who opens a file waits
	want     bool      // they should
	armed    bool
	arming   bool
	walking  bool // what was not noticed is looked for
	behind   bool // not all of what was written was noticed
	behindAt time.Time
	marked   bool // as the mode asks
	unlike   bool // the kernel had not what it was told, when it was read last
	why      string
	late     int

	dirs    map[int32]string // of a sync folder, by inotify's number
	pending map[string]int   // directories that have come and are not looked at yet
	items   map[inode]*item
	asks    int
	clean   map[inode]stamp
	turn    int // counts what clean is about
}

// open begins to watch it; nothing is marked yet.
func (p *place) open() error {
	const how = unix.FAN_CLASS_CONTENT | unix.FAN_CLOEXEC | unix.FAN_NONBLOCK | unix.FAN_UNLIMITED_MARKS
	fan, err := unix.FanotifyInit(how, unix.O_RDONLY|unix.O_LARGEFILE|unix.O_CLOEXEC|unix.O_NONBLOCK)
	if err != nil {
		return fmt.Errorf("files that are written cannot be watched (fanotify): %w", err)
	}
	inot, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		_ = unix.Close(fan)
		return fmt.Errorf("sync folders cannot be watched (inotify): %w", err)
	}
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		_, _ = unix.Close(fan), unix.Close(inot)
		return fmt.Errorf("files that are written cannot be watched: %w", err)
	}
	p.fan, p.inot, p.wake, p.over = fan, inot, wake, make(chan struct{})
	p.work, p.takes, p.arrivals = make(chan struct{}, 1), make(chan struct{}, 1), make(chan arrival, 1024)
	p.above = map[int32]bool{}
	p.dirs, p.pending, p.items, p.clean = map[int32]string{}, map[string]int{}, map[inode]*item{}, map[inode]stamp{}
	p.ctx, p.end = context.WithCancel(context.Background())
	var all sync.WaitGroup
	all.Go(func() { p.listen(fan, inot, wake) })
	all.Go(p.looking)
	all.Go(p.taking)
	all.Go(p.arriving)
	go func() {
		all.Wait()
		close(p.over)
	}()
	return nil
}

// close ends it. Who waits goes on at once; it returns when nothing works any more, or after a while, if the file system does not answer.
func (p *place) close() {
	p.mu.Lock()
	if p.wake >= 0 {
		_, _ = unix.Write(p.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	}
	p.ended = true
	for _, it := range p.items {
		p.answer(it, true)
	}
	p.mu.Unlock()
	p.nudge()
	select {
	case <-p.over:
	case <-time.After(10 * time.Second):
		p.log.Warn("a file system does not answer; a file on it that was being taken away stays where it is", "place", p.name)
	}
}

// drop lets everybody go on, and closes what they were asked by. It is the end of who listens.
func (p *place) drop() {
	p.mu.Lock()
	p.ended = true
	for id, it := range p.items {
		p.answer(it, true)
		if it.state != looking && !it.taking { // a worker has it, and closes it
			it.shut()
		}
		delete(p.items, id)
	}
	p.end()
	for p.lent > 0 { // the group lives for as long as anybody has it: its questions are answered until then
		fan := p.fan
		p.mu.Unlock()
		_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fan), Events: unix.POLLIN}}, 100) //nolint:gosec // a descriptor
		b := make([]byte, fanotify.EventSize)
		if n, err := unix.Read(fan, b); err == nil && n == fanotify.EventSize {
			if e, _, ok := fanotify.Parse(b); ok && e.Fd >= 0 {
				if e.Mask&unix.FAN_OPEN_PERM != 0 {
					_ = fanotify.Answer(fan, e.Fd, true)
				}
				go unix.Close(int(e.Fd)) //nolint:errcheck // it was read
			}
		}
		p.mu.Lock()
	}
	_, _, _ = unix.Close(p.fan), unix.Close(p.inot), unix.Close(p.wake)
	p.fan, p.inot, p.wake = -1, -1, -1
	close(p.arrivals)
	p.mu.Unlock()
	p.nudge()
}

// nudge has both workers see what there is to do.
func (p *place) nudge() {
	for _, c := range []chan struct{}{p.work, p.takes} {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

// renew has everything looked into again: the rules are others. What is held stays so until it has been.
func (p *place) renew() {
	p.mu.Lock()
	defer p.mu.Unlock()
	clear(p.clean)
	p.turn++
	for _, it := range p.items {
		if it.state == guilty || it.state == unknown {
			it.anew, it.next, it.wait = true, time.Now(), 0
		}
	}
	p.nudge()
}

// hold has who opens a file wait, or not any more, and watches what is not watched yet. It returns when that is so, or has taken too
// long.
func (p *place) hold(holds bool) {
	p.mu.Lock()
	if p.want = holds; p.ended || p.arming { // whoever arms it looks at that in the end
		p.mu.Unlock()
		return
	}
	if p.holds && !holds {
		for _, it := range p.items {
			p.answer(it, true)
			if it.state == guilty && !it.taking || it.state == unknown && !it.taking {
				p.forget(it, true)
			}
		}
	}
	// Also if the kernel has not what it was told: what is held is watched.
	rearm := !p.armed || p.holds != holds || p.why != "" || p.unlike
	p.holds, p.arming, p.unlike = holds, rearm, false
	p.mu.Unlock()
	if !rearm {
		return
	}
	done := make(chan struct{})
	go func() {
		p.arm(holds)
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(armWait): // it goes on by itself, and is said to be unwatched until then
	}
}

// arm watches it. A file system that does not answer keeps this goroutine.
func (p *place) arm(holds bool) {
	p.mu.Lock()
	first := !p.armed
	since := p.since
	p.mu.Unlock()
	err := p.with(func(fan, inot int) error {
		if p.app == "" {
			return p.markDisk(fan)
		}
		return p.markFolder(fan, inot, p.root, since)
	})
	p.mu.Lock()
	defer p.mu.Unlock()
	var partly partial
	p.arming, p.armed, p.marked, p.why = false, err == nil || errors.As(err, &partly), holds, ""
	if err != nil {
		p.why = err.Error()
	}
	if p.want != holds && !p.ended {
		go p.hold(p.want)
	}
	if p.armed && p.app == "" && first {
		p.fallBehind() // what was written while no agent watched, or since it was mounted
	}
	p.nudge()
}

// partial says that a place is watched, but not all of it.
type partial struct{ error }

// with lends descriptors of its own to somebody who may take longer than ours live.
func (p *place) with(do func(fan, inot int) error) error {
	p.mu.Lock()
	if p.ended {
		p.mu.Unlock()
		return errEnded
	}
	fan, err1 := unix.FcntlInt(uintptr(p.fan), unix.F_DUPFD_CLOEXEC, 0)   //nolint:gosec // a descriptor
	inot, err2 := unix.FcntlInt(uintptr(p.inot), unix.F_DUPFD_CLOEXEC, 0) //nolint:gosec // a descriptor
	p.lent++
	p.mu.Unlock()
	defer func() {
		_, _ = unix.Close(fan), unix.Close(inot)
		p.mu.Lock()
		p.lent--
		p.mu.Unlock()
	}()
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	return do(fan, inot)
}

var errEnded = errors.New("it is not watched any more")

// watched says what the kernel has: whether what is written is noticed, and whether who opens a file waits.
func (p *place) watched() (notices, holds bool, err error) {
	var marks []fanotify.Mark
	if err := p.with(func(fan, _ int) (err error) { marks, err = fanotify.Marks(fan); return err }); err != nil {
		return false, false, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	n, m := 0, 0
	for _, x := range marks {
		if (x.Ino == 0) != (p.app == "") || x.Mask&unix.FAN_CLOSE_WRITE == 0 {
			continue
		}
		if n++; x.Mask&unix.FAN_OPEN_PERM != 0 {
			m++
		}
	}
	want := 1
	if p.app != "" { // as many as there are directories, or more: of those that have left the folder
		want = max(1, len(p.dirs))
	}
	return p.armed && n >= want, p.armed && p.marked && m >= want, nil
}

// fallBehind notes that not all of what was written was noticed. The caller has the lock.
func (p *place) fallBehind() {
	if !p.behind {
		p.behind, p.behindAt = true, time.Now()
	}
}

// quiet reports whether all that was written there has been looked into.
func (p *place) quiet() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.armed && !p.arming && !p.behind && !p.walking && p.coming.Load() == 0 && len(p.items) == 0
}
