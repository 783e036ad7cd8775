package printing

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/warderd/warder/platform/fanotify"
)

// This file is what is between the kernel and the spooler's directory: what is marked there, and what the kernel tells and asks.

type inode struct{ Dev, Ino uint64 }

// file is what the kernel knows of a file. Root alone writes documents, so that these tell whether it is still the same one; the time of
// its last change does not, because it gets another name when it has come in whole.
type file struct {
	inode
	size  int64
	mtime int64 // nanoseconds
}

// The names of documents in the spooler's directory (CUPS 2.4, scheduler/job.c and client.c): of job 12 the first is d00012-001, and
// 0000001f while it comes in.
var (
	documentName = regexp.MustCompile(`^d([0-9]{5,10})-[0-9]{3,}$`)
	comingName   = regexp.MustCompile(`^[0-9a-f]{8}$`)
)

// open begins to watch a directory.
func (j *Jobs) open(dir string, holds bool) (*watch, error) {
	fan, err := unix.FanotifyInit(unix.FAN_CLASS_CONTENT|unix.FAN_CLOEXEC|unix.FAN_NONBLOCK|unix.FAN_UNLIMITED_QUEUE, unix.O_RDONLY|unix.O_LARGEFILE|unix.O_CLOEXEC|unix.O_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("the spooler's directory cannot be watched (fanotify): %w", err)
	}
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		_ = unix.Close(fan)
		return nil, fmt.Errorf("the spooler's directory cannot be watched: %w", err)
	}
	w := &watch{j: j, dir: dir, fan: fan, wake: wake, over: make(chan struct{}), known: map[inode]*document{}}
	w.ctx, w.end = context.WithCancel(context.Background())
	at, err := statOf(unix.AT_FDCWD, dir)
	w.id = at.inode
	go w.listen(fan, wake)
	if err == nil {
		err = w.mark(holds)
	}
	if err != nil {
		w.close()
		return nil, err
	}
	return w, nil
}

// is reports whether it watches what is at a path now.
func (w *watch) is(dir string) bool {
	if w == nil || w.dir != dir {
		return false
	}
	at, err := statOf(unix.AT_FDCWD, dir)
	w.mu.Lock()
	defer w.mu.Unlock()
	return err == nil && at.inode == w.id && !w.ended
}

const (
	notices   = unix.FAN_CLOSE_WRITE | unix.FAN_EVENT_ON_CHILD
	questions = unix.FAN_OPEN_PERM | unix.FAN_EVENT_ON_CHILD
)

// mark has the kernel tell of documents, and ask about them if holds is set.
func (w *watch) mark(holds bool) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended {
		return errEnded
	}
	const add, remove = unix.FAN_MARK_ADD | unix.FAN_MARK_ONLYDIR, unix.FAN_MARK_REMOVE | unix.FAN_MARK_ONLYDIR
	err := unix.FanotifyMark(w.fan, add, notices, unix.AT_FDCWD, w.dir)
	if w.holds = holds; holds {
		err = errors.Join(err, unix.FanotifyMark(w.fan, add, questions, unix.AT_FDCWD, w.dir))
	} else {
		for _, d := range w.known {
			w.answer(d, true)
			w.giveBack(d)
		}
		if wrong := unix.FanotifyMark(w.fan, remove, unix.FAN_OPEN_PERM, unix.AT_FDCWD, w.dir); !errors.Is(wrong, unix.ENOENT) {
			err = errors.Join(err, wrong)
		}
	}
	if err != nil {
		return fmt.Errorf("%s cannot be watched: %w", w.dir, err)
	}
	return nil
}

var errEnded = errors.New("it is not watched any more")

// watched says what the kernel has: whether it tells of documents, and whether it asks about them.
func (w *watch) watched() (tells, asks bool, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended {
		return false, false, errEnded
	}
	list, err := fanotify.Marks(w.fan)
	for _, m := range list {
		if m.Ino == w.id.Ino {
			tells, asks = m.Mask&unix.FAN_CLOSE_WRITE != 0, m.Mask&unix.FAN_OPEN_PERM != 0
		}
	}
	return tells, asks, err
}

// close ends it: who waits goes on at once, and it is waited for a while for what is being done.
func (w *watch) close() {
	if w == nil {
		return
	}
	w.mu.Lock()
	if w.wake >= 0 {
		_, _ = unix.Write(w.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	}
	w.mu.Unlock()
	<-w.over
	done := make(chan struct{})
	go func() {
		w.tasks.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(endWait):
	}
}

// listen reads notices and questions until it is closed.
func (w *watch) listen(fan, wake int) {
	defer close(w.over)
	defer w.drop()
	b := make([]byte, fanotify.EventSize)
	wait := []unix.PollFd{{Fd: int32(fan), Events: unix.POLLIN}, {Fd: int32(wake), Events: unix.POLLIN}} //nolint:gosec // descriptors
	for {
		switch _, err := unix.Poll(wait, -1); {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil || wait[1].Revents != 0:
			return
		}
		n, err := unix.Read(fan, b)
		switch {
		case err == nil && n == fanotify.EventSize:
			w.event(b)
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN):
		case errors.Is(err, unix.EBADF), errors.Is(err, unix.EINVAL), errors.Is(err, unix.EFAULT):
			w.j.log.Error("what is printed is not looked into any more", "error", err)
			return
		default:
			// The document could not be opened for us: it has gone, or this program has too many open. If that was a question, the
			// kernel has answered it: refused.
			w.j.missed(fmt.Sprint("a notice cannot be read: ", err))
		}
	}
}

// event looks at what one is about.
func (w *watch) event(b []byte) {
	e, _, ok := fanotify.Parse(b)
	if !ok || e.Mask&unix.FAN_Q_OVERFLOW != 0 {
		w.j.missed("the kernel could not keep all notices")
	}
	if !ok || e.Fd < 0 {
		return
	}
	now, err := statOf(int(e.Fd), "")
	name := nameOf(int(e.Fd))
	document := err == nil && (documentName.MatchString(name) || comingName.MatchString(name))
	switch question := e.Mask&unix.FAN_OPEN_PERM != 0; {
	case !question && document:
		w.written(now, os.NewFile(uintptr(e.Fd), "document"))
	case !question:
		_ = unix.Close(int(e.Fd))
	case !document, int(e.Pid) == os.Getpid(), w.j.daemon(e.Pid):
		w.mu.Lock()
		w.let(ask{fd: e.Fd}, true)
		w.mu.Unlock()
	default:
		w.asked(now, name, ask{e.Fd, jobOf(name)})
	}
}

// nameOf is what an open file is called in its directory.
func nameOf(fd int) string {
	path, _ := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	return filepath.Base(path)
}

// jobOf is the number of the job that a document is of; 0: it is none.
func jobOf(name string) int {
	m := documentName.FindStringSubmatch(name)
	if m == nil {
		return 0
	}
	n, err := strconv.ParseInt(m[1], 10, 32)
	if err != nil {
		return 0
	}
	return int(n)
}

// daemon reports whether a process is the spooler itself, which looks into documents to find out their kind. It is root's: what another
// user calls so is not.
func (j *Jobs) daemon(pid int32) bool {
	dir := filepath.Join(j.proc, strconv.Itoa(int(pid)))
	var st unix.Stat_t
	if unix.Stat(dir, &st) != nil || st.Uid != 0 {
		return false
	}
	b, err := os.ReadFile(filepath.Join(dir, "comm"))
	return err == nil && string(b) == "cupsd\n"
}

// statOf is what the kernel knows of a file.
func statOf(fd int, path string) (out file, err error) {
	flags := unix.AT_STATX_DONT_SYNC
	if path == "" {
		flags |= unix.AT_EMPTY_PATH
	}
	var x unix.Statx_t
	if err := unix.Statx(fd, path, flags, unix.STATX_BASIC_STATS, &x); err != nil {
		return out, err
	}
	return file{inode{unix.Mkdev(x.Dev_major, x.Dev_minor), x.Ino}, int64(x.Size), x.Mtime.Sec*1e9 + int64(x.Mtime.Nsec)}, nil //nolint:gosec // not negative
}
