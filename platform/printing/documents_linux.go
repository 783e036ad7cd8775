package printing

import (
	"context"
	"errors"
	"os"
	"path/filepath"
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
	judge   platform.SensitiveRules
	verdict enforce.Verdict
	is      fact.Sensitive
	why     string // it, or parts of it, could not be looked into

	late    bool // who asked was not let through, because it took too long
	passed  bool // who asked was let through before it had been looked into
	counted bool // as late
	acting  bool // somebody is having its job held, or let go
	again   bool // and somebody has asked since
	held    bool // its job is held by us, or may be
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
			if len(d.asks) == 0 && !d.held { // a job that is held waits for the answer, too
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
		tells := d.verdict.Allow && is.Noteworthy()
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

// look looks into a document.
func (w *watch) look(d *document) (is fact.Sensitive, why string) {
	seen, err := w.j.look.Twice(w.ctx, w.j.limit, d.f, platform.AsIs)
	switch is = seen.Fact(fact.InPrintJob, "", d.size, err); {
	case is.Late:
		why = tookTooLong
	case len(is.Unread) > 0:
		why = "parts of it were not read: " + strings.Join(is.Unread, "; ")
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
	if x.ours { // also if it is not known whether it is
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
		w.later(d)
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
func (w *watch) later(d *document) {
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
		if err != nil || now != d.file || w.known[d.inode] != d || w.ended {
			_ = f.Close()
			return
		}
		if !w.room(true) {
			_ = f.Close()
			w.later(d)
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
