package printing

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
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
	j     *Jobs
	dir   string
	id    inode
	over  chan struct{} // closed once nobody listens any more
	ctx   context.Context
	end   context.CancelFunc
	tasks sync.WaitGroup // all that goes on but listening

	mu      sync.Mutex
	fan     int // -1 once it is closed
	wake    int
	ended   bool
	holds   bool // who opens a document waits
	rules   int  // counts the rules
	asks    int
	known   map[inode]*document
	waiting []*document // to be looked into
	looks   int         // documents that are being looked into
}

type inode struct{ Dev, Ino uint64 }

// file is what the kernel knows of a file. Root alone writes documents, so that these tell whether it is still the same one; the time of
// its last change does not, because it gets another name when it has come in whole.
type file struct {
	inode
	size  int64
	mtime int64 // nanoseconds
}

// document is one document in the spooler's directory.
type document struct {
	file
	f    *os.File // while it is looked into, or waits to be
	name string   // as it was opened last
	asks []ask
	// timer runs while somebody waits.
	timer *time.Timer

	rules   int // by which it is, or was, looked into
	done    bool
	judge   judge
	verdict enforce.Verdict
	is      fact.Sensitive
	why     string // it could not be looked into

	late    bool // who asked was not let through, because it took too long
	passed  bool // who asked was let through before it had been looked into
	counted bool // as late
	acting  bool // somebody is having its job held, or let go
	again   bool // and somebody has asked since
	held    bool // its job is held by us
	job     int  // that one
	retry   time.Duration
}

// ask is somebody who waits for the answer whether they may open a document.
type ask struct {
	fd  int32
	job int
}

// Bounds.
const (
	maxAsks    = 256  // who waits
	maxWaiting = 256  // documents that wait to be looked into, each open
	maxKnown   = 4096 // documents that are remembered
	maxLooks   = 2    // documents that are looked into at once
	nameWait   = 3 * time.Second
	firstRetry = time.Minute // a job that is held because its document could not be looked into
	lastRetry  = time.Hour
	endWait    = 10 * time.Second
)

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

// renew has everything looked into again: the rules are others.
func (w *watch) renew() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.rules++
	for id, d := range w.known {
		if d.done && !d.held {
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

// drop lets everybody go on. What has not been asked yet is answered by the end of the group: allowed.
func (w *watch) drop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, d := range w.known {
		w.giveBack(d)
	}
	w.ended = true
	w.end()
	_, _ = unix.Close(w.fan), unix.Close(w.wake)
	w.fan, w.wake = -1, -1
	for _, d := range w.known {
		w.answer(d, true)
	}
	for _, d := range w.waiting {
		_ = d.f.Close()
	}
	w.waiting = nil
}

// giveBack lets a job go on that is held only because its document could not be looked into. The caller has the lock.
func (w *watch) giveBack(d *document) {
	if n := d.job; d.held && n > 0 && (!d.done || d.is.Late) {
		d.held = false
		w.do(func() { w.j.release(n) })
	}
}

// do does something in the background. The caller has the lock.
func (w *watch) do(f func()) {
	if !w.ended {
		w.tasks.Go(f)
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
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
}

// written has a document looked into that has come, before anybody asks.
func (w *watch) written(now file, f *os.File) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch old := w.known[now.inode]; {
	case w.ended, old != nil && (!old.done || old.file == now):
		_ = f.Close()
	case !w.room(false):
		_ = f.Close()
		if !w.holds { // otherwise it is looked into when it is opened
			w.j.missed("too many documents wait to be looked into")
		}
	default:
		w.begin(&document{file: now}, f)
	}
}

// room makes room for one more document, and reports whether there is any. One that somebody waits for takes the place of one that
// nobody does. The caller has the lock.
func (w *watch) room(wanted bool) bool {
	if len(w.known) >= maxKnown {
		for id, d := range w.known {
			if d.done && !d.held {
				delete(w.known, id)
			}
		}
	}
	if wanted && len(w.waiting) >= maxWaiting {
		for i, d := range w.waiting {
			if len(d.asks) == 0 {
				_ = d.f.Close()
				delete(w.known, d.inode)
				w.waiting = append(w.waiting[:i], w.waiting[i+1:]...)
				break
			}
		}
	}
	return len(w.known) < maxKnown && len(w.waiting) < maxWaiting
}

// begin has a document looked into. The caller has the lock.
func (w *watch) begin(d *document, f *os.File) {
	d.f = f
	w.known[d.inode] = d
	w.waiting = append(w.waiting, d)
	if w.looks < maxLooks && !w.ended {
		w.looks++
		w.do(w.work)
	}
}

// work looks into one document after the other, first those for which somebody waits.
func (w *watch) work() {
	for {
		w.mu.Lock()
		if w.ended || len(w.waiting) == 0 {
			w.looks--
			w.mu.Unlock()
			return
		}
		next := 0
		for i, d := range w.waiting {
			if len(d.asks) > 0 {
				next = i
				break
			}
		}
		d := w.waiting[next]
		w.waiting = append(w.waiting[:next], w.waiting[next+1:]...)
		w.mu.Unlock()
		w.study(d)
		_ = d.f.Close()
	}
}

// asked answers whoever opens a document, at once or later.
func (w *watch) asked(now file, name string, a ask) {
	w.mu.Lock()
	defer w.mu.Unlock()
	r := w.j.rules()
	if w.ended || !w.holds || r == nil {
		w.let(a, true)
		return
	}
	d := w.known[now.inode]
	switch before := d; {
	case d == nil, d.done && d.file != now: // another one has its number by now
		d = w.anew(now, a.fd)
	case d.done && !d.acting && (d.is.Late || d.rules != w.rules):
		if d = w.anew(now, a.fd); d != nil {
			d.held, d.job, d.late, d.retry = before.held, before.job, before.held, before.retry
		}
	}
	full := w.asks >= maxAsks
	if d == nil || full && !d.done { // it is as if it had taken too long
		w.j.missed("too many documents are being opened")
		is := late(now.size)
		v := r.Sensitive(&is)
		if v.Allow || full {
			w.let(a, v.Allow)
			return
		}
		d = &document{file: now, rules: w.rules, done: true, judge: r, is: is, why: "too many documents are being opened", verdict: v, late: true}
		w.known[now.inode] = d
	}
	switch {
	case d.done && d.verdict.Allow && !d.acting:
		w.let(a, true)
	case full:
		w.let(a, false)
	default:
		w.join(d, name, a)
		if d.done {
			w.act(d, a.job)
		} else if d.timer == nil {
			d.timer = time.AfterFunc(w.j.wait, func() { w.overdue(d, a.job) })
		}
	}
}

// join has somebody wait. The caller has the lock.
func (w *watch) join(d *document, name string, a ask) {
	d.asks = append(d.asks, a)
	d.name = name
	w.asks++
}

// anew begins to look into a document that somebody waits for; nil: there is no room. The caller has the lock.
func (w *watch) anew(now file, asked int32) *document {
	if !w.room(true) {
		return nil
	}
	fd, err := unix.FcntlInt(uintptr(asked), unix.F_DUPFD_CLOEXEC, 0) //nolint:gosec // a descriptor
	if err != nil {
		return nil
	}
	d := &document{file: now}
	w.begin(d, os.NewFile(uintptr(fd), "document")) //nolint:gosec // a descriptor
	return d
}

const tookTooLong = "it could not be looked into in time"

// late is a document that could not be looked into in time.
func late(size int64) fact.Sensitive {
	return fact.Sensitive{Where: fact.InPrintJob, Bytes: size, Found: []fact.SensitiveFound{}, Late: true}
}

// study looks into a document.
func (w *watch) study(d *document) {
	for {
		w.mu.Lock()
		d.rules = w.rules
		w.mu.Unlock()
		is, why := w.look(d)
		r := w.j.rules()
		w.mu.Lock()
		switch {
		case w.known[d.inode] != d || r == nil || w.ended:
			w.answer(d, true)
			w.mu.Unlock()
			return
		case d.rules != w.rules: // they have changed meanwhile
			w.mu.Unlock()
			continue
		}
		d.done, d.judge, d.is, d.why, d.verdict = true, r, is, why, r.Sensitive(&is)
		if w.holds && (!d.verdict.Allow || d.late) {
			w.mu.Unlock()
			n := await(d)
			w.mu.Lock()
			w.act(d, n)
		} else {
			w.answer(d, true)
		}
		tells := d.verdict.Allow && (len(is.Found) > 0 || is.Late)
		w.count(d, is.Late)
		w.mu.Unlock()
		if tells {
			w.j.tell(told{d.file, w.j.job(await(d)), d.judge, d.verdict, is, jobFree, why, nil})
		}
		return
	}
}

// count counts a document that could not be looked into in time, once. The caller has the lock.
func (w *watch) count(d *document, late bool) {
	if late && !d.counted {
		d.counted = true
		w.j.late.Add(1)
	}
}

// look looks into a document, twice if need be: another document may have ended the program, or it hangs. Then it says nothing at all,
// and another one is asked.
func (w *watch) look(d *document) (is fact.Sensitive, why string) {
	var seen platform.Seen
	var err error
	for range 2 {
		ctx, cancel := context.WithTimeout(w.ctx, w.j.limit)
		seen, err = w.j.look(ctx, d.f, platform.Printed)
		cancel()
		if err == nil && !(seen.Late && seen.Kind == "") || w.ctx.Err() != nil {
			break
		}
	}
	is = fact.Sensitive{Where: fact.InPrintJob, Kind: seen.Kind, Bytes: d.size, Found: seen.Found, Late: len(seen.Found) == 0 && (seen.Late || err != nil)}
	if is.Found == nil {
		is.Found = []fact.SensitiveFound{}
	}
	if is.Late {
		why = tookTooLong
	}
	if err != nil {
		why = "it could not be looked into: " + err.Error()
	}
	return is, why
}

// await is the number of the job that a document is of, which it gets once it has come in whole; 0: it got none.
func await(d *document) int {
	for end := time.Now().Add(nameWait); ; time.Sleep(20 * time.Millisecond) {
		name := nameOf(int(d.f.Fd())) //nolint:gosec // a descriptor
		if n := jobOf(name); n > 0 || !comingName.MatchString(name) || time.Now().After(end) {
			return n
		}
	}
}

// act has a document's job held or let go, in the background, and answers who waits then: a filter that fails ends its job, and can stop
// the queue for everybody. The caller has the lock.
func (w *watch) act(d *document, n int) {
	if d.acting {
		d.again = true
		return
	}
	d.acting = true
	w.do(func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		for again := true; again; again = d.again {
			d.again = false
			w.settle(d, n)
		}
		d.acting = false
	})
}

// settle does what follows from what is known of a document. The caller has the lock, which is not held while the spooler is asked.
func (w *watch) settle(d *document, n int) {
	r := w.j.rules()
	if w.ended || !w.holds || r == nil {
		w.answer(d, true)
		if d.held && (!d.done || d.is.Late) {
			w.release(d)
		}
		return
	}
	is, why := d.is, d.why
	if !d.done {
		is, why = late(d.size), tookTooLong
	}
	v := r.Sensitive(&is) // the rules may have changed since
	if v.Allow {
		if d.held {
			w.release(d)
		}
		w.answer(d, true)
		return
	}
	w.mu.Unlock()
	x, done, note := w.j.hold(w.ctx, n)
	w.mu.Lock()
	if done == jobHeld && !x.before {
		d.held, d.job = true, n
	}
	if w.ended || !w.holds || is.Late && d.done && d.verdict.Allow { // meanwhile
		d.again = true
		return
	}
	w.answer(d, false)
	var err error
	if d.passed && done != jobHeld { // and is on paper, or on its way
		done, err = jobFree, errPassed
	} else if d.passed {
		note = "part of it may have been printed; " + note
	}
	if is.Late {
		w.count(d, true)
		w.later(d, n)
	}
	w.mu.Unlock()
	w.j.tell(told{d.file, x, r, v, is, done, join(why, note), err})
	w.mu.Lock()
}

// release lets a job go on that we hold. The caller has the lock, which is not held meanwhile.
func (w *watch) release(d *document) {
	d.held = false
	w.mu.Unlock()
	w.j.release(d.job)
	w.mu.Lock()
}

var errPassed = errors.New("it was let through before it had been looked into")

func join(a, b string) string {
	if a != "" && b != "" {
		return a + "; " + b
	}
	return a + b
}

// later has a document looked into again whose job is held because it could not be. The caller has the lock.
func (w *watch) later(d *document, n int) {
	if !d.held || d.name == "" || !d.done {
		return
	}
	wait := min(max(2*d.retry, firstRetry), lastRetry)
	if w.j.retry > 0 {
		wait = w.j.retry
	}
	w.do(func() {
		select {
		case <-w.ctx.Done():
			return
		case <-time.After(wait):
		}
		f, err := os.OpenFile(filepath.Join(w.dir, d.name), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
		if err != nil {
			return // the job has been removed
		}
		now, err := statOf(int(f.Fd()), "") //nolint:gosec // a descriptor
		w.mu.Lock()
		defer w.mu.Unlock()
		if err != nil || now != d.file || w.known[d.inode] != d || w.ended || !w.room(true) {
			_ = f.Close()
			return
		}
		w.begin(&document{file: now, name: d.name, held: true, job: d.job, late: true, counted: true, retry: wait}, f)
	})
}

// overdue answers who has waited for long enough.
func (w *watch) overdue(d *document, n int) {
	r := w.j.rules()
	w.mu.Lock()
	d.timer = nil // who comes later waits as long
	if d.done || len(d.asks) == 0 || r == nil || w.ended || !w.holds {
		w.mu.Unlock()
		return
	}
	is := late(d.size)
	v := r.Sensitive(&is)
	if !v.Allow {
		d.late = true
		w.act(d, n)
		w.mu.Unlock()
		return
	}
	d.passed = true
	w.answer(d, true)
	w.count(d, true)
	w.do(func() {
		w.j.tell(told{d.file, w.j.job(n), r, v, is, jobFree, tookTooLong, nil})
	})
	w.mu.Unlock()
}
