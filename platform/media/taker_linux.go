package media

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/warderd/warder/platform"
	"github.com/warderd/warder/platform/fanotify"
	"github.com/warderd/warder/platform/mountinfo"
)

// taker takes files that are too large off external disks, into the quarantine, after they were written: what is done where the
// kernel takes no programs that keep files from growing (docs/decisions/0039). It learns of them from fanotify, as notices: no
// program waits for it.
type taker struct {
	keep platform.KeepFile
	log  *slog.Logger
	hand func(taken)             // tells of a file
	on   func(dev uint64) string // names what a file is on, for people
	died func()                  // it watches no more, although nobody said so
	free func(path string) bool  // that file may have any size

	mu      sync.Mutex
	watches bool
	group   int // fanotify's descriptor, while it watches
	limit   uint64
	end     context.CancelFunc
	over    chan struct{}              // closed once nothing runs any more
	left    map[inode]*job             // known to be too large, and still there
	marking map[int]bool               // mounts, by their number, that are being marked
	roots   map[uint64]mountinfo.Mount // the file systems that are watched, by their files' device number
	lost    int                        // notices that were lost
	own     string                     // the directory of what the agent itself writes
}

const (
	maxJobs    = 16  // files that the kernel handed over and that nobody has looked after yet; each keeps its disk busy
	maxLeft    = 256 // files that are tried again
	maxBad     = 100 // notices in a row that cannot be read
	endWait    = 10 * time.Second
	markWait   = time.Second
	firstAgain = time.Second
	lastAgain  = time.Minute
	tellAfter  = 8 * firstAgain
)

// state reports whether it watches, and for which limit.
func (t *taker) state() (limit uint64, on bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.limit, t.watches
}

// start begins to watch, or changes the limit.
func (t *taker) start(limit uint64) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.limit = limit
	if t.watches {
		return nil
	}
	group, err := unix.FanotifyInit(unix.FAN_CLASS_NOTIF|unix.FAN_CLOEXEC|unix.FAN_NONBLOCK, unix.O_RDONLY|unix.O_LARGEFILE|unix.O_CLOEXEC|unix.O_NONBLOCK)
	if err != nil {
		return fmt.Errorf("files that are closed cannot be watched (fanotify): %w", err)
	}
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		_ = unix.Close(group)
		return fmt.Errorf("files that are closed cannot be watched: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	jobs, over := make(chan job, maxJobs), make(chan struct{})
	t.watches, t.group, t.over, t.roots, t.marking = true, group, over, map[uint64]mountinfo.Mount{}, map[int]bool{}
	if t.left == nil {
		t.left = map[inode]*job{}
	}
	t.end = sync.OnceFunc(func() {
		cancel()
		_, _ = unix.Write(wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	})
	var all sync.WaitGroup
	all.Go(func() { t.listen(group, wake, jobs) })
	all.Go(func() { t.work(ctx, jobs) })
	go func() {
		all.Wait()
		t.mu.Lock() // nobody marks by a number that another file may get
		_, _ = unix.Close(group), unix.Close(wake)
		t.mu.Unlock()
		close(over)
	}()
	return nil
}

// stop ends it. Nothing is in between: a file is in the quarantine, or where it was.
func (t *taker) stop() {
	t.mu.Lock()
	watched, end, over := t.watches, t.end, t.over
	t.watches, t.left, t.lost = false, nil, 0
	t.mu.Unlock()
	if !watched {
		return
	}
	end()
	select {
	case <-over:
	case <-time.After(endWait):
		t.log.Warn("a disk does not answer; a file on it that was being taken stays where it is")
	}
}

// mark watches a whole file system, by a mount of it, or watches it no more. It waits a second at most: a file system whose program
// does not answer keeps a goroutine of its own, and not the agent.
func (t *taker) mark(m mountinfo.Mount, add bool) error {
	t.mu.Lock()
	if !t.watches {
		t.mu.Unlock()
		return nil
	}
	if t.marking[m.ID] {
		t.mu.Unlock()
		return errMute
	}
	// A descriptor of its own: it may take longer than the group lives.
	group, err := unix.FcntlInt(uintptr(t.group), unix.F_DUPFD_CLOEXEC, 0) //nolint:gosec // a descriptor
	if err != nil {
		t.mu.Unlock()
		return err
	}
	marking, roots := t.marking, t.roots
	marking[m.ID] = true
	t.mu.Unlock()
	done := make(chan error, 1)
	go func() {
		defer unix.Close(group)
		dev, err := markOne(group, m, add)
		t.mu.Lock()
		delete(marking, m.ID)
		if err == nil && add {
			roots[dev] = m
		}
		t.mu.Unlock()
		done <- err
	}()
	select {
	case err := <-done:
		return err
	case <-time.After(markWait):
		return errMute
	}
}

var errMute = errors.New("it does not answer")

// markOne does it. dev is the number that its files have.
func markOne(group int, m mountinfo.Mount, add bool) (dev uint64, err error) {
	at, err := unix.Open(m.Point, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, &os.PathError{Op: "open", Path: m.Point, Err: err}
	}
	defer unix.Close(at)
	var st unix.Statx_t
	if err := unix.Statx(at, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_MNT_ID, &st); err != nil {
		return 0, err
	}
	if st.Mask&unix.STATX_MNT_ID != 0 && st.Mnt_id != uint64(m.ID) { //nolint:gosec // not negative
		return 0, fmt.Errorf("something else is mounted at %s by now", m.Point)
	}
	how := uint(unix.FAN_MARK_ADD)
	if !add {
		how = unix.FAN_MARK_REMOVE
	}
	err = unix.FanotifyMark(group, how|unix.FAN_MARK_FILESYSTEM, unix.FAN_CLOSE_WRITE, unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", at))
	if errors.Is(err, unix.ENOENT) && !add {
		err = nil // it was not watched
	}
	return unix.Mkdev(st.Dev_major, st.Dev_minor), err
}

// root is where a file system that is watched is mounted.
func (t *taker) root(dev uint64) mountinfo.Mount {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.roots[dev]
}

// watched lists the file systems that the kernel says are watched, by device number.
func (t *taker) watched() (map[string]bool, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.watches {
		return nil, nil
	}
	marks, err := fanotify.Marks(t.group)
	out := map[string]bool{}
	for _, m := range marks {
		if m.Ino == 0 && m.Mask&unix.FAN_CLOSE_WRITE != 0 {
			out[fmt.Sprintf("%d:%d", m.Dev>>20, m.Dev&(1<<20-1))] = true // the kernel's own form of a device number
		}
	}
	return out, err
}

// missed reports whether notices were lost since a disk that is watched was unmounted last.
func (t *taker) missed() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.lost > 0
}

// keepOnly forgets what is on file systems that are not mounted any more: another disk may get their numbers. points are where
// limited disks are mounted. What left with its disk before it could be taken is told.
func (t *taker) keepOnly(points []string) {
	var gone []taken
	t.mu.Lock()
	maps.DeleteFunc(t.roots, func(_ uint64, m mountinfo.Mount) bool { return !slices.Contains(points, m.Point) })
	maps.DeleteFunc(t.left, func(x inode, j *job) bool {
		_, is := t.roots[x.dev]
		// A subvolume of btrfs has a number of its own.
		is = is || slices.ContainsFunc(points, func(p string) bool { return strings.HasPrefix(j.path, p+"/") })
		if !is && !j.told && !j.nameless {
			x := *j
			x.why = "its disk was unmounted before it could be taken"
			gone = append(gone, taken{job: x})
		}
		return !is
	})
	if len(points) == 0 {
		t.lost = 0
	}
	t.mu.Unlock()
	for _, x := range gone {
		t.hand(x)
	}
}

// listen reads notices until the group is closed, one at a time: of several the kernel would hide that one of them could not be
// handed over. A file that is small is closed at once: until then its disk cannot be unmounted.
func (t *taker) listen(group, end int, jobs chan job) {
	defer close(jobs)
	b := make([]byte, fanotify.EventSize)
	wait := []unix.PollFd{{Fd: int32(group), Events: unix.POLLIN}, {Fd: int32(end), Events: unix.POLLIN}} //nolint:gosec // descriptors
	for bad := 0; ; {
		wait[0].Revents, wait[1].Revents = 0, 0
		if _, err := unix.Poll(wait, -1); err != nil && !errors.Is(err, unix.EINTR) {
			t.fail(err)
			return
		}
		if wait[1].Revents != 0 {
			return
		}
		if wait[0].Revents == 0 {
			continue
		}
		n, err := unix.Read(group, b)
		switch {
		case err == nil && n == fanotify.EventSize:
			bad = 0
			t.notice(b, jobs)
		case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ESTALE), errors.Is(err, unix.EINTR):
			// The kernel opens what it hands over, and this has been removed meanwhile.
		case errors.Is(err, unix.EAGAIN):
			t.lose("somebody has a lease on a file that they closed")
		case bad < maxBad:
			bad++
			t.lose(fmt.Sprintf("a notice cannot be read: %d bytes, %v", n, err))
			time.Sleep(time.Duration(bad) * time.Millisecond)
		default:
			t.fail(err)
			return
		}
	}
}

// fail notes that it watches no more. What is known stays known.
func (t *taker) fail(err error) {
	t.log.Error("files that are closed are not watched any more", "error", err)
	t.mu.Lock()
	t.lost++
	end := t.end
	t.watches = false
	t.mu.Unlock()
	end()
	t.died()
}

// notice looks at what one is about.
func (t *taker) notice(b []byte, jobs chan job) {
	e, _, ok := fanotify.Parse(b)
	if !ok || e.Mask&unix.FAN_Q_OVERFLOW != 0 {
		t.lose("the kernel could not keep all notices")
	}
	if ok && e.Fd >= 0 {
		t.look(os.NewFile(uintptr(e.Fd), "closed"), e.Pid, jobs)
	}
}

// lose counts a notice that was lost.
func (t *taker) lose(why string) {
	t.mu.Lock()
	t.lost++
	first := t.lost == 1
	t.mu.Unlock()
	if first {
		t.log.Warn("files on external disks that are too large may stay there", "error", why)
	}
}
