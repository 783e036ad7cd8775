package media

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/platform"
	"github.com/warderd/warder/platform/mountinfo"
	"github.com/warderd/warder/platform/paths"
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

	mu      sync.Mutex
	group   *os.File // nil: nothing is watched
	fd      int      // its descriptor: asking the file for it would make reads block for good
	limit   uint64
	end     context.CancelFunc
	over    chan struct{} // closed once nothing runs any more
	jobs    chan job
	left    map[inode]*job    // known to be too large, and still there
	marking map[int]bool      // mounts, by their number, that are being marked
	roots   map[uint64]string // where the file systems that are watched are mounted
	lost    int               // notices that were lost
}

// inode is a file, as long as its disk is there.
type inode struct{ dev, ino uint64 }

// job is a file that is too large.
type job struct {
	inode
	f    *os.File        // as the kernel handed it over; nil: it is opened by its handle, or its path. An open file keeps its disk busy
	mark unix.FileHandle // finds it under any name, where its file system has such handles
	path string          // when it was seen last
	size uint64
	who  writer
	why  string // it is still there
	next time.Time
	wait time.Duration
	told bool
}

// writer is who closed a file last.
type writer struct {
	pid     int32
	uid     uint32
	program string
}

// taken is what became of a file.
type taken struct {
	job
	id string // in the quarantine; "": it could not be taken, and job.why says why
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
	return t.limit, t.group != nil
}

// start begins to watch, or changes the limit.
func (t *taker) start(limit uint64) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.limit = limit
	if t.group != nil {
		return nil
	}
	fd, err := unix.FanotifyInit(unix.FAN_CLASS_NOTIF|unix.FAN_CLOEXEC|unix.FAN_NONBLOCK, unix.O_RDONLY|unix.O_LARGEFILE|unix.O_CLOEXEC|unix.O_NONBLOCK)
	if err != nil {
		return fmt.Errorf("files that are closed cannot be watched (fanotify): %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	t.fd, t.roots, t.marking = fd, map[uint64]string{}, map[int]bool{}
	t.group, t.end, t.over, t.jobs, t.left = os.NewFile(uintptr(fd), "fanotify"), cancel, make(chan struct{}), make(chan job, maxJobs), map[inode]*job{} //nolint:gosec // a descriptor
	var all sync.WaitGroup
	group, jobs := t.group, t.jobs
	all.Go(func() { t.listen(group, jobs) })
	all.Go(func() { t.work(ctx, jobs) })
	over := t.over
	go func() { all.Wait(); close(over) }()
	return nil
}

// stop ends it. Nothing is in between: a file is in the quarantine, or where it was.
func (t *taker) stop() {
	t.mu.Lock()
	group, end, over := t.group, t.end, t.over
	t.group, t.left, t.lost = nil, nil, 0
	t.mu.Unlock()
	if group == nil {
		return
	}
	end()
	_ = group.Close()
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
	fd, on := t.fd, t.group != nil
	if on && t.marking[m.ID] {
		t.mu.Unlock()
		return errMute
	}
	if on {
		t.marking[m.ID] = true
	}
	t.mu.Unlock()
	if !on {
		return nil
	}
	done := make(chan error, 1)
	go func() {
		dev, err := markOne(fd, m, add)
		t.mu.Lock()
		delete(t.marking, m.ID)
		if err == nil && add && t.roots != nil && t.fd == fd {
			t.roots[dev] = m.Point
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
func (t *taker) root(dev uint64) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.roots[dev]
}

// watched lists the file systems that the kernel says are watched, by device number.
func (t *taker) watched() (map[string]bool, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.group == nil {
		return nil, nil
	}
	f, err := os.Open(fmt.Sprintf("/proc/self/fdinfo/%d", t.fd))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return parseMarks(f)
}

// parseMarks reads the lines of a fanotify group's fdinfo (proc(5)): "fanotify sdev:800011 mflags:0 mask:8 ignored_mask:0".
func parseMarks(r io.Reader) (map[string]bool, error) {
	out := map[string]bool{}
	in := bufio.NewScanner(r)
	for in.Scan() {
		hex, is := strings.CutPrefix(in.Text(), "fanotify sdev:")
		if !is {
			continue
		}
		hex, rest, _ := strings.Cut(hex, " ")
		n, err := strconv.ParseUint(hex, 16, 32)
		_, mask, _ := strings.Cut(rest, " mask:")
		mask, _, _ = strings.Cut(mask, " ")
		bits, err2 := strconv.ParseUint(mask, 16, 64)
		if err := errors.Join(err, err2); err != nil {
			return nil, fmt.Errorf("a mark of fanotify cannot be read: %w", err)
		}
		if bits&unix.FAN_CLOSE_WRITE != 0 {
			out[fmt.Sprintf("%d:%d", n>>20, n&(1<<20-1))] = true // the kernel's own form of a device number
		}
	}
	return out, in.Err()
}

// remaining are the files that are known to be too large and are still there: by path, why.
func (t *taker) remaining() map[string]string {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := map[string]string{}
	for _, j := range t.left {
		out[j.path] = j.why
	}
	return out
}

// missed reports whether notices were lost since a disk that is watched was unmounted last.
func (t *taker) missed() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.lost > 0
}

// keepOnly forgets what is on file systems that are not mounted any more: another disk may get their numbers.
func (t *taker) keepOnly(points []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	maps.DeleteFunc(t.roots, func(_ uint64, point string) bool { return !slices.Contains(points, point) })
	maps.DeleteFunc(t.left, func(x inode, _ *job) bool { _, is := t.roots[x.dev]; return !is })
	if len(points) == 0 {
		t.lost = 0
	}
}

// listen reads notices until the group is closed. A file that is small is closed at once: until then its disk cannot be unmounted.
func (t *taker) listen(group *os.File, jobs chan job) {
	defer close(jobs)
	b := make([]byte, 64*metadataSize)
	for bad := 0; ; {
		n, err := group.Read(b)
		switch {
		case err == nil:
			bad = 0
		case errors.Is(err, os.ErrClosed):
			return
		case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ESTALE):
			continue // the kernel opens what it hands over, and this has been removed meanwhile
		case bad < maxBad:
			bad++
			t.lose(err.Error())
			time.Sleep(time.Duration(bad) * time.Millisecond)
			continue
		default:
			t.log.Error("files that are closed are not watched any more", "error", err)
			go t.stop()
			t.died()
			return
		}
		for rest := b[:n]; len(rest) >= metadataSize; {
			fd, pid, mask, size := readMetadata(rest)
			if size < metadataSize || size > len(rest) {
				break
			}
			rest = rest[size:]
			if mask&unix.FAN_Q_OVERFLOW != 0 {
				t.lose("the kernel could not keep all notices")
			}
			switch {
			case fd >= 0 && int(pid) == os.Getpid(): // we gave up one that we were taking
				_ = unix.Close(int(fd))
			case fd >= 0:
				t.look(os.NewFile(uintptr(fd), "closed"), pid, jobs)
			}
		}
	}
}

const metadataSize = 24

// readMetadata reads a struct fanotify_event_metadata (fanotify(7)).
func readMetadata(b []byte) (fd, pid int32, mask uint64, size int) {
	e := binary.NativeEndian
	return int32(e.Uint32(b[16:])), int32(e.Uint32(b[20:])), e.Uint64(b[8:]), int(e.Uint32(b)) //nolint:gosec // so it is
}

// look hands a file over that is too large.
func (t *taker) look(f *os.File, pid int32, jobs chan job) {
	var st unix.Statx_t
	limit, on := t.state()
	fd := int(f.Fd()) //nolint:gosec // a descriptor
	// As the kernel has it: a file system whose program does not answer is not asked.
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_TYPE|unix.STATX_SIZE|unix.STATX_INO, &st); err != nil || !on ||
		st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size <= limit {
		_ = f.Close()
		return
	}
	path, _ := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	j := job{inode: inode{unix.Mkdev(st.Dev_major, st.Dev_minor), st.Ino}, f: f, path: path, size: st.Size, who: writerOf(pid)}
	if h, _, err := unix.NameToHandleAt(int(f.Fd()), "", unix.AT_EMPTY_PATH); err == nil { //nolint:gosec // a descriptor
		j.mark = h
	}
	select {
	case jobs <- j:
	default: // so many at once: by their paths, one after the other
		_ = f.Close()
		j.f = nil
		t.again(&j, errTurn)
	}
}

// writerOf says who a process is. It may have ended.
func writerOf(pid int32) writer {
	w := writer{pid: pid, program: "a program"}
	dir := fmt.Sprintf("/proc/%d", pid)
	var st unix.Stat_t
	if unix.Stat(dir, &st) == nil {
		w.uid = st.Uid
		if name := line(dir + "/comm"); name != "" {
			w.program = enforce.Plain(name)
		}
	}
	return w
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

// again notes that a file is still there.
func (t *taker) again(j *job, err error) {
	why, busy := err.Error(), errors.Is(err, errBusy) || errors.Is(err, errTurn)
	t.mu.Lock()
	if t.left == nil {
		t.mu.Unlock()
		return // it is being stopped
	}
	old := t.left[j.inode]
	if old == nil && len(t.left) >= maxLeft {
		t.mu.Unlock()
		t.lose("more files than are tried again")
		return
	}
	x := *j
	x.f, x.why = nil, why
	x.wait = firstAgain
	if old != nil {
		x.wait, x.told = min(2*old.wait, lastAgain), old.told && old.why == why
	}
	x.next = time.Now().Add(x.wait)
	t.left[j.inode] = &x
	t.mu.Unlock()
	// Somebody who still has it open is no news, until it has been so for some time.
	if busy && x.wait < tellAfter || x.told {
		return
	}
	t.mu.Lock()
	if y := t.left[j.inode]; y != nil {
		y.told = true
	}
	t.mu.Unlock()
	t.hand(taken{job: x})
}

// done notes that a file is not there any more, or not too large.
func (t *taker) done(j *job) {
	t.mu.Lock()
	delete(t.left, j.inode)
	t.mu.Unlock()
}

// due returns the file to be tried next, and when that is.
func (t *taker) due() (j *job, at time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, x := range t.left {
		if j == nil || x.next.Before(j.next) {
			j = x
		}
	}
	if j == nil {
		return nil, time.Time{}
	}
	x := *j
	return &x, x.next
}

// work takes one file after the other.
func (t *taker) work(ctx context.Context, jobs chan job) {
	for {
		var timer <-chan time.Time
		next, at := t.due()
		if next != nil {
			timer = time.After(time.Until(at))
		}
		select {
		case j, open := <-jobs:
			switch {
			case !open:
				return
			case ctx.Err() != nil:
				_ = j.f.Close()
			default:
				t.take(ctx, &j)
			}
		case <-timer:
			t.take(ctx, next)
		case <-ctx.Done():
			for j := range jobs {
				_ = j.f.Close()
			}
			return
		}
	}
}

// take takes one file, or notes why it is still there.
func (t *taker) take(ctx context.Context, j *job) {
	id, err := t.attempt(ctx, j)
	switch {
	case errors.Is(err, errGone):
		t.done(j)
	case err != nil && ctx.Err() != nil:
	case err != nil:
		t.again(j, err)
	default:
		t.done(j)
		t.hand(taken{job: *j, id: id})
	}
}

var (
	errGone = errors.New("it is not there any more, or not too large")
	errBusy = errors.New("another program has it open")
	errTurn = errors.New("others come first")
)

// attempt copies a file into the quarantine and removes it. A lease (fcntl(2), F_SETLEASE) says that nobody else has it open and
// makes whoever opens it wait: until the copy has been made, which is given up then, so that nobody waits for long.
func (t *taker) attempt(ctx context.Context, j *job) (id string, err error) {
	f, err := j.open(t.root(j.dev))
	if err != nil {
		return "", err
	}
	defer f.Close()
	fd := int(f.Fd()) //nolint:gosec // a descriptor
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return "", err
	}
	limit, on := t.state()
	if (inode{st.Dev, st.Ino}) != j.inode || st.Nlink == 0 || !on || uint64(st.Size) <= limit { //nolint:gosec // not negative
		return "", errGone
	}
	j.size = uint64(st.Size)                                                      //nolint:gosec // not negative
	switch _, err := unix.FcntlInt(uintptr(fd), unix.F_SETLEASE, unix.F_WRLCK); { //nolint:gosec // a descriptor
	case errors.Is(err, unix.EAGAIN):
		return "", errBusy
	case err != nil:
		return "", fmt.Errorf("others cannot be kept from changing it meanwhile: %w", err)
	}
	alone := func() bool {
		how, err := unix.FcntlInt(uintptr(fd), unix.F_GETLEASE, 0) //nolint:gosec // a descriptor
		return err == nil && how == unix.F_WRLCK
	}
	id, drop, err := t.keep(ctx, f, func() platform.Kept {
		j.name(fd)
		return platform.Kept{Path: j.path, Setting: sizeSetting, Place: t.on(j.dev),
			Reason: fmt.Sprintf("it has %d bytes, and files on external disks may have %d", j.size, limit)}
	}, alone)
	if err != nil && !alone() {
		return "", errBusy
	}
	if err != nil {
		return "", err
	}
	if !alone() {
		drop()
		return "", errBusy
	}
	// It is emptied first: it may have other names. Who opens it now waits until this is done.
	if err := f.Truncate(0); err != nil {
		drop()
		return "", err
	}
	j.name(fd)
	j.unlink()
	return id, nil
}

// open opens the file for writing: by what the kernel handed over, by its handle, or by its path.
func (j *job) open(root string) (*os.File, error) {
	const how = unix.O_RDWR | unix.O_NONBLOCK | unix.O_CLOEXEC | unix.O_NOFOLLOW
	if j.f != nil {
		fd, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", j.f.Fd()), how&^unix.O_NOFOLLOW, 0)
		_ = j.f.Close() // an open of our own would be in the way of the lease
		j.f = nil
		if err != nil {
			return nil, cannotOpen(err)
		}
		return os.NewFile(uintptr(fd), j.path), nil //nolint:gosec // a descriptor
	}
	if f := j.byHandle(root); f != nil {
		return f, nil
	}
	dir, err := paths.OpenDir(filepath.Dir(j.path))
	if err != nil {
		return nil, errGone //nolint:nilerr // renamed: its next closing says so
	}
	defer dir.Close()
	var st unix.Stat_t
	if unix.Fstatat(int(dir.Fd()), filepath.Base(j.path), &st, unix.AT_SYMLINK_NOFOLLOW) != nil || (inode{st.Dev, st.Ino}) != j.inode { //nolint:gosec // a descriptor
		return nil, errGone
	}
	fd, err := unix.Openat(int(dir.Fd()), filepath.Base(j.path), how, 0) //nolint:gosec // a descriptor
	if err != nil {
		return nil, cannotOpen(err)
	}
	return os.NewFile(uintptr(fd), j.path), nil //nolint:gosec // a descriptor
}

// name learns the file's present name: programs give a file its name once it is whole.
func (j *job) name(fd int) {
	if path, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd)); err == nil && filepath.IsAbs(path) {
		j.path = path
	}
}

// cannotOpen says why. Somebody else may have a lease of their own.
func cannotOpen(err error) error {
	if errors.Is(err, unix.EWOULDBLOCK) {
		return errBusy
	}
	return fmt.Errorf("it cannot be opened: %w", err)
}

// byHandle opens the file whatever its name is now; nil if that cannot be done.
func (j *job) byHandle(root string) *os.File {
	if j.mark.Size() == 0 || root == "" {
		return nil
	}
	on, err := unix.Open(root, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil
	}
	defer unix.Close(on)
	fd, err := unix.OpenByHandleAt(on, j.mark, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC)
	if err != nil {
		return nil
	}
	j.name(fd)
	return os.NewFile(uintptr(fd), j.path) //nolint:gosec // a descriptor
}

// unlink removes the name of a file that was emptied, if it is still the name of that file.
func (j *job) unlink() {
	dir, err := paths.OpenDir(filepath.Dir(j.path))
	if err != nil {
		return
	}
	defer dir.Close()
	var st unix.Stat_t
	at, name := int(dir.Fd()), filepath.Base(j.path) //nolint:gosec // a descriptor
	if unix.Fstatat(at, name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil && (inode{st.Dev, st.Ino}) == j.inode {
		_ = unix.Unlinkat(at, name, 0)
		_ = unix.Fsync(at)
	}
}
