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
	watches bool
	group   int // fanotify's descriptor, while it watches
	limit   uint64
	end     context.CancelFunc
	over    chan struct{}              // closed once nothing runs any more
	left    map[inode]*job             // known to be too large, and still there
	marking map[int]bool               // mounts, by their number, that are being marked
	roots   map[uint64]mountinfo.Mount // the file systems that are watched, by their files' device number
	lost    int                        // notices that were lost
	mine    inode                      // the file that is being taken, or was last
	own     string                     // the directory of what the agent itself writes
}

// inode is a file, as long as its disk is there.
type inode struct{ dev, ino uint64 }

// job is a file that is too large.
type job struct {
	inode
	f     *os.File        // as the kernel handed it over; nil: it is opened by its handle, or its path. An open file keeps its disk busy
	mark  unix.FileHandle // finds it under any name, where its file system has such handles
	path  string          // when it was seen last
	size  uint64
	who   writer
	why   string // it is still there
	next  time.Time
	wait  time.Duration
	told  bool
	named bool // it was emptied, and its name is still there
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
	f, err := os.Open(fmt.Sprintf("/proc/self/fdinfo/%d", t.group))
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

// keepOnly forgets what is on file systems that are not mounted any more: another disk may get their numbers. points are where
// limited disks are mounted.
func (t *taker) keepOnly(points []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	maps.DeleteFunc(t.roots, func(_ uint64, m mountinfo.Mount) bool { return !slices.Contains(points, m.Point) })
	maps.DeleteFunc(t.left, func(x inode, j *job) bool {
		_, is := t.roots[x.dev]
		return !is && !slices.ContainsFunc(points, func(p string) bool { return strings.HasPrefix(j.path, p+"/") }) // a subvolume of btrfs has a number of its own
	})
	if len(points) == 0 {
		t.lost = 0
	}
}

// listen reads notices until the group is closed, one at a time: of several the kernel would hide that one of them could not be
// handed over. A file that is small is closed at once: until then its disk cannot be unmounted.
func (t *taker) listen(group, end int, jobs chan job) {
	defer close(jobs)
	b := make([]byte, metadataSize)
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
		case err == nil && n == metadataSize:
			bad = 0
			t.notice(b, jobs)
		case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ESTALE), errors.Is(err, unix.EINTR):
			// The kernel opens what it hands over, and this has been removed meanwhile.
		case bad < maxBad: // EAGAIN, too: somebody has a lease on what would have been handed over
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
	fd, pid, mask := readMetadata(b)
	if mask&unix.FAN_Q_OVERFLOW != 0 {
		t.lose("the kernel could not keep all notices")
	}
	if fd >= 0 {
		t.look(os.NewFile(uintptr(fd), "closed"), pid, jobs)
	}
}

const metadataSize = 24

// readMetadata reads a struct fanotify_event_metadata (fanotify(7)).
func readMetadata(b []byte) (fd, pid int32, mask uint64) {
	e := binary.NativeEndian
	return int32(e.Uint32(b[16:])), int32(e.Uint32(b[20:])), e.Uint64(b[8:]) //nolint:gosec // so it is
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
	is := inode{unix.Mkdev(st.Dev_major, st.Dev_minor), st.Ino}
	if int(pid) == os.Getpid() && t.ours(is, path) {
		_ = f.Close()
		return
	}
	j := job{inode: is, f: f, path: path, size: st.Size, who: writerOf(pid)}
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

// ours reports whether we closed a file because we took it or gave that up, or because it is the agent's own. Another program can have
// us close one of its files: it sends it to one of our sockets.
func (t *taker) ours(is inode, path string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, left := t.left[is]
	return left || is == t.mine || t.own != "" && strings.HasPrefix(path, t.own+"/")
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
		x.wait, x.told = min(2*old.wait, lastAgain), old.told
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
	t.mu.Lock()
	t.mine = j.inode
	t.mu.Unlock()
	f, err := j.open(t.root(j.dev))
	if errors.Is(err, errLost) {
		t.lose("a file that is too large was renamed or removed on " + t.on(j.dev))
		return "", errGone
	}
	if err != nil {
		return "", err
	}
	defer f.Close()
	fd := int(f.Fd())                                                             //nolint:gosec // a descriptor
	switch _, err := unix.FcntlInt(uintptr(fd), unix.F_SETLEASE, unix.F_WRLCK); { //nolint:gosec // a descriptor
	case errors.Is(err, unix.EAGAIN):
		return "", errBusy // whoever has it open may yet write to it, or give a name to one that has none
	case err != nil:
		return "", fmt.Errorf("others cannot be kept from changing it meanwhile: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return "", err
	}
	limit, on := t.state()
	if (inode{st.Dev, st.Ino}) != j.inode || st.Nlink == 0 || !on || uint64(st.Size) <= limit { //nolint:gosec // not negative
		return "", errGone
	}
	j.size = uint64(st.Size) //nolint:gosec // not negative
	// Before it is closed: the kernel opens it once more to hand over that notice, and would find a lease on it.
	defer func() { _, _ = unix.FcntlInt(uintptr(fd), unix.F_SETLEASE, unix.F_UNLCK) }() //nolint:gosec // a descriptor
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
	j.named = !j.unlink()
	return id, nil
}

// open opens the file for writing: by what the kernel handed over, by its handle, or by its path.
func (j *job) open(root mountinfo.Mount) (*os.File, error) {
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
	f, err := j.byHandle(root.Point)
	switch {
	case err == nil:
		return f, nil
	case errors.Is(err, unix.ESTALE) && !unsteady[root.FS]:
		return nil, errGone
	case !errors.Is(err, unix.ESTALE) && !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, errNoHandle):
		return nil, cannotOpen(err)
	}
	dir, err := paths.OpenDir(filepath.Dir(j.path))
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return nil, errLost
	}
	if err != nil {
		return nil, cannotOpen(err)
	}
	defer dir.Close()
	at, name := int(dir.Fd()), filepath.Base(j.path) //nolint:gosec // a descriptor
	fd, err := unix.Openat(at, name, how, 0)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ELOOP) {
		return nil, errLost
	}
	if err != nil {
		return nil, cannotOpen(err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || (inode{st.Dev, st.Ino}) != j.inode {
		_ = unix.Close(fd)
		return nil, errors.Join(err, errLost)
	}
	return os.NewFile(uintptr(fd), j.path), nil //nolint:gosec // a descriptor
}

// unsteady are file systems whose files have other numbers once the kernel has forgotten them.
var unsteady = map[string]bool{"vfat": true, "msdos": true, "exfat": true, "fuseblk": true, "fuse": true}

var (
	errLost     = errors.New("it is not there under its name any more")
	errNoHandle = errors.New("its file system has no handles")
)

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

// byHandle opens the file whatever its name is now.
func (j *job) byHandle(root string) (*os.File, error) {
	if j.mark.Size() == 0 || root == "" {
		return nil, errNoHandle
	}
	on, err := unix.Open(root, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(on)
	fd, err := unix.OpenByHandleAt(on, j.mark, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC)
	if err != nil {
		return nil, err
	}
	j.name(fd)
	return os.NewFile(uintptr(fd), j.path), nil //nolint:gosec // a descriptor
}

// unlink removes the name of a file that was emptied, if it is still the name of that file. It reports whether it did.
func (j *job) unlink() bool {
	dir, err := paths.OpenDir(filepath.Dir(j.path))
	if err != nil {
		return false
	}
	defer dir.Close()
	var st unix.Stat_t
	at, name := int(dir.Fd()), filepath.Base(j.path) //nolint:gosec // a descriptor
	if unix.Fstatat(at, name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil || (inode{st.Dev, st.Ino}) != j.inode || unix.Unlinkat(at, name, 0) != nil {
		return false
	}
	_ = unix.Fsync(at)
	return true
}
