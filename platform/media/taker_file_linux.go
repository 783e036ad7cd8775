package media

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/warderd/warder/platform"
	"github.com/warderd/warder/platform/fanotify"
	"github.com/warderd/warder/platform/mountinfo"
	"github.com/warderd/warder/platform/paths"
)

// inode is a file, as long as its disk is there.
type inode struct{ dev, ino uint64 }

// job is a file that is too large. It is in the taker's list from when it is noticed until it is taken or gone.
type job struct {
	inode
	f        *os.File        // as the kernel handed it over; nil: it is opened by its handle, or its path. An open file keeps its disk busy
	mark     unix.FileHandle // finds it under any name, where its file system has such handles
	path     string          // as it was seen last through a mount that the agent knows; "" if it never was
	size     uint64
	who      fanotify.Writer
	turn     int    // of its notices: a newer one is another job
	queued   bool   // it waits for its first try
	nameless bool   // it has no name, and can get one
	why      string // it is still there
	next     time.Time
	wait     time.Duration
	told     bool
}

// taken is what became of a file.
type taken struct {
	job
	id string // in the quarantine; "": it could not be taken, and job.why says why
}

var (
	errGone     = errors.New("it is not there any more, or not too large")
	errBusy     = errors.New("another program has it open")
	errTurn     = errors.New("others come first")
	errCovered  = errors.New("something else is mounted over its disk")
	errNameless = errors.New("it has no name")
	errLost     = errors.New("it is not there under its name any more")
	errNoHandle = errors.New("its file system has no handles")
)

// unsteady are file systems whose files have other numbers once the kernel has forgotten them.
var unsteady = map[string]bool{"vfat": true, "msdos": true, "exfat": true, "fuseblk": true, "fuse": true}

// look hands a file over that is too large.
func (t *taker) look(f *os.File, pid int32, jobs chan job) {
	var st unix.Statx_t
	limit, on := t.state()
	fd := int(f.Fd()) //nolint:gosec // a descriptor
	// As the kernel has it: a file system whose program does not answer is not asked.
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_TYPE|unix.STATX_SIZE|unix.STATX_INO|unix.STATX_UID, &st); err != nil || !on ||
		st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size <= limit {
		_ = f.Close()
		return
	}
	j := job{inode: inode{unix.Mkdev(st.Dev_major, st.Dev_minor), st.Ino}, f: f, size: st.Size, who: fanotify.WriterOf(pid, st.Uid)}
	if h, _, err := unix.NameToHandleAt(fd, "", unix.AT_EMPTY_PATH); err == nil {
		j.mark = h
	}
	// Its writer may have mounted its disk elsewhere, for themselves alone.
	if path, root := pathOf(fd), t.root(j.dev).Point; root != "" && strings.HasPrefix(path, root+"/") {
		j.path = path
	}
	if int(pid) == os.Getpid() && (t.known(&j) || t.agents(fd, &j)) || !t.put(&j) {
		_ = f.Close()
		return
	}
	select {
	case jobs <- j:
	default: // so many at once: one after the other
		_ = f.Close()
		t.again(&j, errTurn)
	}
}

// pathOf is the path of an open file, as the kernel has it.
func pathOf(fd int) string {
	path, _ := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	return path
}

// known reports whether a file is in the list already: then its notice is of our own giving it up. A file that got the number of
// another one has another handle.
func (t *taker) known(j *job) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	old := t.left[j.inode]
	return old != nil && old.mark.Type() == j.mark.Type() && bytes.Equal(old.mark.Bytes(), j.mark.Bytes())
}

// agents reports whether a file that this process closed is the agent's own. Another program can have us close one of its files (it
// sends it to one of our sockets), under a path as it likes; so the agent's own directory, which is root's alone, must have this very
// file under that name.
func (t *taker) agents(fd int, j *job) bool {
	for range 3 { // it may get its final name just now
		path := pathOf(fd)
		var st unix.Stat_t
		if t.own == "" || !strings.HasPrefix(path, t.own+"/") {
			return false
		}
		if unix.Lstat(path, &st) == nil && (inode{st.Dev, st.Ino}) == j.inode {
			return true
		}
	}
	return false
}

// put puts a file into the list, or a newer notice of one that is there. ok is false if there is no room, which counts as lost.
func (t *taker) put(j *job) (ok bool) {
	t.mu.Lock()
	if t.left == nil {
		t.mu.Unlock()
		return false // it is being stopped
	}
	old := t.left[j.inode]
	if old == nil && len(t.left) >= maxLeft {
		t.mu.Unlock()
		t.lose("more files than are tried again")
		return false
	}
	j.why, j.queued = "it is being taken", true
	if old != nil {
		j.turn, j.wait, j.told = old.turn+1, old.wait, old.told
	}
	x := *j
	x.f = nil
	t.left[j.inode] = &x
	t.mu.Unlock()
	return true
}

// again notes that a file is still there, and why.
func (t *taker) again(j *job, err error) {
	t.mu.Lock()
	x := t.left[j.inode]
	if x == nil || x.turn != j.turn {
		t.mu.Unlock()
		return // its disk is gone, or there is a newer notice
	}
	x.wait = min(max(2*x.wait, firstAgain), lastAgain)
	x.why, x.queued, x.next, x.path, x.size, x.nameless = err.Error(), false, time.Now().Add(x.wait), j.path, j.size, errors.Is(err, errNameless)
	// Somebody who still has it open is no news, until it has been so for some time.
	quiet := x.nameless || (errors.Is(err, errBusy) || errors.Is(err, errTurn) || errors.Is(err, errCovered)) && x.wait < tellAfter
	tell := !quiet && !x.told
	x.told = x.told || tell
	told := *x
	t.mu.Unlock()
	if tell {
		t.hand(taken{job: told})
	}
}

// done notes that a file is not there any more, or not too large.
func (t *taker) done(j *job) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if x := t.left[j.inode]; x != nil && x.turn == j.turn {
		delete(t.left, j.inode)
	}
}

// remaining are the files that are known to be too large and are still there.
func (t *taker) remaining() (out []job) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, j := range t.left {
		if !j.nameless {
			out = append(out, *j)
		}
	}
	return out
}

// due returns the file to be tried next; nil if none has to be.
func (t *taker) due() *job {
	t.mu.Lock()
	defer t.mu.Unlock()
	var first *job
	for _, x := range t.left {
		if !x.queued && (first == nil || x.next.Before(first.next)) {
			first = x
		}
	}
	if first == nil {
		return nil
	}
	x := *first
	return &x
}

// work takes one file after the other.
func (t *taker) work(ctx context.Context, jobs chan job) {
	for {
		var timer <-chan time.Time
		next := t.due()
		if next != nil {
			timer = time.After(time.Until(next.next))
		}
		select {
		case j, open := <-jobs:
			if !open {
				return
			}
			t.take(ctx, &j)
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
	defer func() {
		if j.f != nil {
			_ = j.f.Close()
		}
	}()
	t.mu.Lock()
	x := t.left[j.inode]
	wanted := x != nil && x.turn == j.turn && ctx.Err() == nil
	t.mu.Unlock()
	if !wanted {
		return // its disk is gone, or there is a newer notice
	}
	id, err := t.attempt(ctx, j)
	switch {
	case errors.Is(err, errLost):
		t.done(j)
		t.lose("a file that is too large was renamed or removed on " + t.on(j.dev))
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

// attempt copies a file into the quarantine and empties it. A lease (fcntl(2), F_SETLEASE) says that nobody else has it open and
// makes whoever opens it wait: until the copy has been made, which is given up then, so that nobody waits for long. The name stays,
// with nothing in it: who was about to open the file opens that, and loses nothing.
func (t *taker) attempt(ctx context.Context, j *job) (id string, err error) {
	f, err := j.open(t.root(j.dev))
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
	// Before it is closed: the kernel opens it once more to hand over that notice, and would find a lease on it.
	defer func() { _, _ = unix.FcntlInt(uintptr(fd), unix.F_SETLEASE, unix.F_UNLCK) }() //nolint:gosec // a descriptor
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return "", err
	}
	limit, on := t.state()
	if (inode{st.Dev, st.Ino}) != j.inode || !on || uint64(st.Size) <= limit { //nolint:gosec // not negative
		return "", errGone
	}
	if st.Nlink == 0 {
		return "", errNameless // somebody may hold it in a way that no lease knows (O_PATH), and give it a name
	}
	j.size = uint64(st.Size) //nolint:gosec // not negative
	if j.name(fd, t.root(j.dev).Point); t.free(j.path) {
		return "", errGone // it has an exception
	}
	alone := func() bool {
		how, err := unix.FcntlInt(uintptr(fd), unix.F_GETLEASE, 0) //nolint:gosec // a descriptor
		return err == nil && how == unix.F_WRLCK
	}
	id, drop, err := t.keep(ctx, f, func() platform.Kept {
		j.name(fd, t.root(j.dev).Point)
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
	if err := f.Truncate(0); err != nil { // under all of its names
		drop()
		return "", err
	}
	return id, nil
}

// open opens the file for writing: by its handle, by what the kernel handed over, or by its path.
func (j *job) open(root mountinfo.Mount) (*os.File, error) {
	const how = unix.O_RDWR | unix.O_NONBLOCK | unix.O_CLOEXEC
	handed := j.f
	j.f = nil
	if handed != nil {
		defer handed.Close() // an open of our own would be in the way of the lease
	}
	f, err := j.byHandle(root)
	switch {
	case err == nil:
		return f, nil
	case handed != nil:
		var st unix.Statx_t
		if err := unix.Statx(int(handed.Fd()), "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_NLINK, &st); err == nil && st.Nlink == 0 { //nolint:gosec // a descriptor
			return nil, errGone // it was removed, and these file systems give no file a name later
		}
		fd, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", handed.Fd()), how, 0)
		if err != nil {
			return nil, cannotOpen(err)
		}
		return os.NewFile(uintptr(fd), "taken"), nil //nolint:gosec // a descriptor
	case errors.Is(err, unix.ESTALE) && !unsteady[root.FS]:
		return nil, errGone
	case !errors.Is(err, unix.ESTALE) && !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, errNoHandle):
		return nil, cannotOpen(err)
	case j.path == "":
		return nil, errLost
	}
	dir, err := paths.OpenDir(filepath.Dir(j.path))
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return nil, errLost
	}
	if err != nil {
		return nil, cannotOpen(err)
	}
	defer dir.Close()
	fd, err := unix.Openat(int(dir.Fd()), filepath.Base(j.path), how|unix.O_NOFOLLOW, 0) //nolint:gosec // a descriptor
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
	return os.NewFile(uintptr(fd), "taken"), nil //nolint:gosec // a descriptor
}

// byHandle opens the file whatever its name is now, through the mount that the agent knows.
func (j *job) byHandle(root mountinfo.Mount) (*os.File, error) {
	if j.mark.Size() == 0 || root.Point == "" {
		return nil, errNoHandle
	}
	on, err := unix.Open(root.Point, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(on)
	var st unix.Statx_t
	if err := unix.Statx(on, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_TYPE, &st); err != nil {
		return nil, err
	}
	if unix.Mkdev(st.Dev_major, st.Dev_minor) != j.dev {
		return nil, errCovered
	}
	fd, err := unix.OpenByHandleAt(on, j.mark, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC)
	if err != nil {
		return nil, err
	}
	j.name(fd, root.Point)
	return os.NewFile(uintptr(fd), "taken"), nil //nolint:gosec // a descriptor
}

// name learns the file's present name: programs give a file its name once it is whole.
func (j *job) name(fd int, root string) {
	if path := pathOf(fd); root != "" && strings.HasPrefix(path, root+"/") {
		j.path = path
	}
}

// cannotOpen says why. Somebody else may have a lease of their own.
func cannotOpen(err error) error {
	switch {
	case errors.Is(err, errCovered):
		return err
	case errors.Is(err, unix.EWOULDBLOCK):
		return errBusy
	}
	return fmt.Errorf("it cannot be opened: %w", err)
}
