package printing

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/platform"
	"github.com/warderd/warder/platform/fanotify"
)

// watch watches a spooler's directory by a fanotify group. One goroutine listens and never waits for anybody else; what takes time is
// done by others.
type watch struct {
	j    *Jobs
	dir  string
	id   inode
	over chan struct{} // closed once nobody listens any more

	mu    sync.Mutex
	fan   int // -1 once it is closed
	wake  int
	ended bool
	holds bool // who opens a document waits
	turn  int  // counts the rules
	asks  int
	known map[inode]*document
	some  int           // documents that wait to be looked into, or are
	looks chan struct{} // has one element for each document that is being looked into
}

type inode struct{ Dev, Ino uint64 }

// file is what the kernel knows of a file; times are in nanoseconds.
type file struct {
	inode
	size, mtime, ctime int64
}

// document is one document in the spooler's directory.
type document struct {
	file
	f       *os.File // while it is looked into
	turn    int      // of the rules by which it is, or was, looked into
	done    bool
	verdict enforce.Verdict
	is      fact.Sensitive
	late    bool // it is held because it took too long
	holding sync.Mutex
	timed   bool // somebody is answered after a while
	asks    []ask
}

// ask is somebody who waits for the answer whether they may open it.
type ask struct {
	fd  int32
	job int
}

// Bounds.
const (
	maxAsks  = 256  // who waits
	maxSome  = 256  // documents that wait to be looked into, each open
	maxKnown = 4096 // documents that are remembered
	maxLooks = 2    // documents that are looked into at once
	nameWait = 3 * time.Second
)

// The names of documents in the spooler's directory (CUPS 2.4, scheduler/job.c and client.c): of job 12 the first is d00012-001, and
// 0000001f while it comes in.
var (
	named  = regexp.MustCompile(`^d([0-9]{5,10})-[0-9]{3,}$`)
	coming = regexp.MustCompile(`^[0-9a-f]{8}$`)
)

// open begins to watch a directory.
func (j *Jobs) open(dir string, holds bool) (*watch, error) {
	fan, err := unix.FanotifyInit(unix.FAN_CLASS_CONTENT|unix.FAN_CLOEXEC|unix.FAN_NONBLOCK, unix.O_RDONLY|unix.O_LARGEFILE|unix.O_CLOEXEC|unix.O_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("the spooler's directory cannot be watched (fanotify): %w", err)
	}
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		_ = unix.Close(fan)
		return nil, fmt.Errorf("the spooler's directory cannot be watched: %w", err)
	}
	w := &watch{j: j, dir: dir, fan: fan, wake: wake, over: make(chan struct{}), known: map[inode]*document{}, looks: make(chan struct{}, maxLooks)}
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

// close ends it. Who waits goes on.
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
}

// renew has everything looked into again when it is opened: the rules are others.
func (w *watch) renew() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.turn++
	for id, d := range w.known {
		if d.done {
			delete(w.known, id)
		}
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
		case errors.Is(err, unix.EBADF), errors.Is(err, unix.EINVAL), errors.Is(err, unix.EFAULT):
			w.j.log.Error("what is printed is not looked into any more", "error", err)
			return
		default: // the file could not be opened for us, because it has gone: a question is answered by the kernel then, refused
		}
	}
}

// drop lets everybody go on.
func (w *watch) drop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended = true
	for _, d := range w.known {
		w.answer(d, true)
	}
	_, _ = unix.Close(w.fan), unix.Close(w.wake) // what has not been asked yet is answered by that: allowed
	w.fan, w.wake = -1, -1
}

// event looks at what one is about.
func (w *watch) event(b []byte) {
	e, _, ok := fanotify.Parse(b)
	if !ok || e.Mask&unix.FAN_Q_OVERFLOW != 0 {
		w.j.log.Warn("the kernel could not keep all notices of what is printed")
	}
	if !ok || e.Fd < 0 {
		return
	}
	now, err := statOf(int(e.Fd), "")
	name := nameOf(int(e.Fd))
	is := err == nil && (named.MatchString(name) || coming.MatchString(name))
	switch question := e.Mask&unix.FAN_OPEN_PERM != 0; {
	case !question && is:
		w.written(now, os.NewFile(uintptr(e.Fd), "document"))
	case !question:
		_ = unix.Close(int(e.Fd))
	case !is, int(e.Pid) == os.Getpid(), w.j.daemon(e.Pid):
		w.mu.Lock()
		w.let(ask{fd: e.Fd}, true)
		w.mu.Unlock()
	default:
		w.asked(now, ask{e.Fd, jobOf(name)})
	}
}

// nameOf is what an open file is called in its directory.
func nameOf(fd int) string {
	path, _ := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	return filepath.Base(path)
}

// jobOf is the number of the job that a document is of; 0: it is none.
func jobOf(name string) int {
	m := named.FindStringSubmatch(name)
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
	exe, err := os.Readlink(filepath.Join(dir, "exe"))
	return err == nil && slices.Contains(j.daemons, strings.TrimSuffix(exe, " (deleted)"))
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
	at := func(t unix.StatxTimestamp) int64 { return t.Sec*1e9 + int64(t.Nsec) }
	return file{inode{unix.Mkdev(x.Dev_major, x.Dev_minor), x.Ino}, int64(x.Size), at(x.Mtime), at(x.Ctime)}, nil //nolint:gosec // not negative
}

// let answers a question. The caller has the lock.
func (w *watch) let(a ask, allow bool) {
	if !w.ended {
		_ = fanotify.Answer(w.fan, a.fd, allow)
	}
	_ = unix.Close(int(a.fd))
}

// answer answers everybody who waits for a document. The caller has the lock.
func (w *watch) answer(d *document, allow bool) {
	for _, a := range d.asks {
		w.let(a, allow)
	}
	w.asks -= len(d.asks)
	d.asks = nil
}

// written has a document looked into that has come, before anybody asks.
func (w *watch) written(now file, f *os.File) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if old := w.known[now.inode]; w.ended || old != nil && (!old.done || old.file == now) || !w.room() {
		_ = f.Close()
		return
	}
	w.begin(&document{file: now}, f)
}

// room makes room for one more document, and reports whether there is any. The caller has the lock.
func (w *watch) room() bool {
	if w.some >= maxSome || len(w.known) < maxKnown {
		return w.some < maxSome
	}
	for id, d := range w.known {
		if d.done {
			delete(w.known, id)
		}
	}
	return len(w.known) < maxKnown
}

// begin has a document looked into. The caller has the lock.
func (w *watch) begin(d *document, f *os.File) {
	d.f, d.turn = f, w.turn
	w.known[d.inode] = d
	w.some++
	go func() {
		w.study(d)
		w.mu.Lock()
		defer w.mu.Unlock()
		w.some--
	}()
}

// asked answers whoever opens a document, at once or later.
func (w *watch) asked(now file, a ask) {
	w.mu.Lock()
	defer w.mu.Unlock()
	d := w.known[now.inode]
	if w.holds && !w.ended && (d == nil || d.done && d.file != now) {
		if fd, err := unix.FcntlInt(uintptr(a.fd), unix.F_DUPFD_CLOEXEC, 0); err == nil && w.room() { //nolint:gosec // a descriptor
			d = &document{file: now}
			w.begin(d, os.NewFile(uintptr(fd), "document")) //nolint:gosec // a descriptor
		} else if err == nil {
			_ = unix.Close(fd)
		}
	}
	r := w.j.rules()
	switch {
	case !w.holds, w.ended, r == nil, d != nil && d.done && d.verdict.Allow:
		w.let(a, true)
	case d == nil, w.asks >= maxAsks:
		is := late(now.size)
		v := r.Sensitive(&is)
		w.let(a, v.Allow)
		go func() { w.j.tell(now, w.j.job(a.job), v, is, jobFree, "too many documents are being opened") }()
	case d.done:
		d.asks = append(d.asks, a)
		w.asks++
		go w.refuse(d, a.job)
	default:
		d.asks = append(d.asks, a)
		w.asks++
		if !d.timed {
			d.timed = true
			time.AfterFunc(w.j.wait, func() { w.overdue(d, a.job) })
		}
	}
}

// late is a document that could not be looked into in time.
func late(size int64) fact.Sensitive {
	return fact.Sensitive{Where: fact.InPrintJob, Bytes: size, Found: []fact.SensitiveFound{}, Late: true}
}

// study looks into a document.
func (w *watch) study(d *document) {
	w.looks <- struct{}{}
	var seen platform.Seen
	var err error
	for range 2 { // another document may have ended the program, or it hangs: then it says nothing at all, and another one is asked
		ctx, cancel := context.WithTimeout(context.Background(), w.j.limit)
		seen, err = w.j.look(ctx, d.f, "print job")
		cancel()
		if err == nil && !(seen.Late && seen.Kind == "") {
			break
		}
	}
	<-w.looks
	is := fact.Sensitive{Where: fact.InPrintJob, Kind: seen.Kind, Bytes: d.size, Found: seen.Found, Late: len(seen.Found) == 0 && (seen.Late || err != nil)}
	if is.Found == nil {
		is.Found = []fact.SensitiveFound{}
	}
	r := w.j.rules()
	w.mu.Lock()
	if w.known[d.inode] != d || r == nil || w.ended {
		w.answer(d, true)
		w.mu.Unlock()
		_ = d.f.Close()
		return
	}
	if d.turn != w.turn { // the rules have changed meanwhile
		d.turn = w.turn
		w.mu.Unlock()
		w.study(d)
		return
	}
	d.done, d.is, d.verdict = true, is, r.Sensitive(&is)
	if is.Late { // whoever tries again has it looked into again
		delete(w.known, d.inode)
	}
	if d.verdict.Allow || !w.holds {
		w.answer(d, true)
	}
	held, refused := d.late, !d.verdict.Allow && w.holds
	w.mu.Unlock()
	defer d.f.Close()
	n := await(d)
	switch {
	case refused:
		w.refuse(d, n)
	case held && n > 0 && d.verdict.Allow && !is.Late:
		d.holding.Lock() // it may be about to be held
		w.j.release(n)
		d.holding.Unlock()
	case len(is.Found) > 0, is.Late:
		note := ""
		if err != nil {
			note = "it could not be looked into: " + err.Error()
		}
		w.j.tell(d.file, w.j.job(n), d.verdict, is, jobFree, note)
	}
}

// await is the number of the job that a document is of, which it gets once it has come in whole; 0: it got none.
func await(d *document) int {
	for end := time.Now().Add(nameWait); ; time.Sleep(20 * time.Millisecond) {
		name := nameOf(int(d.f.Fd())) //nolint:gosec // a descriptor
		if n := jobOf(name); n > 0 || !coming.MatchString(name) || time.Now().After(end) {
			return n
		}
	}
}

// refuse holds a job, and then refuses whoever has opened its document: a filter that fails ends the job, and can stop the queue.
func (w *watch) refuse(d *document, n int) {
	x, done, note := w.j.hold(n)
	w.mu.Lock()
	w.answer(d, false)
	verdict, is := d.verdict, d.is
	w.mu.Unlock()
	w.j.tell(d.file, x, verdict, is, done, note)
}

// overdue answers who has waited for long enough.
func (w *watch) overdue(d *document, n int) {
	r := w.j.rules()
	w.mu.Lock()
	if d.done || len(d.asks) == 0 || r == nil || w.ended {
		w.mu.Unlock()
		return
	}
	is := late(d.size)
	v := r.Sensitive(&is)
	d.timed = false // who comes later waits as long
	if v.Allow {
		w.answer(d, true)
		w.mu.Unlock()
		w.j.tell(d.file, w.j.job(n), v, is, jobFree, "it could not be looked into in time")
		return
	}
	d.late = true
	d.holding.Lock()
	w.mu.Unlock()
	x, done, note := w.j.hold(n)
	d.holding.Unlock()
	w.mu.Lock()
	w.answer(d, false)
	w.mu.Unlock()
	w.j.tell(d.file, x, v, is, done, note)
}
