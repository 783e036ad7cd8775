package outgoing

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/platform"
)

// item is a file that is not known to be clean.
type item struct {
	inode
	f      *os.File         // an open one keeps its disk busy: nil once it is known to be kept back
	path   string           // as the kernel had it
	place  *place           // nil: not known
	handle *unix.FileHandle // finds it on its disk under any name, where the file system has such handles
	size   int64
	stamp  stamp // when it was looked into
	who    writer
	state  state
	again  bool // it was written again while it was looked into
	asks   []int32
	timer  *time.Timer

	// Of one that is guilty.
	fact   fact.Sensitive
	judge  rules
	why    string // it is still there
	next   time.Time
	wait   time.Duration
	told   bool
	taking bool
}

type state uint8

const (
	waiting state = iota // to be looked into
	looking
	guilty  // it has what it may not, and is to be taken away
	unknown // it could not be looked into in time, and may not be used
)

// shut closes it.
func (it *item) shut() {
	if it.f != nil {
		_ = it.f.Close()
		it.f = nil
	}
}

// writer is who closed a file last.
type writer struct {
	pid     int32
	uid     uint32
	program string
}

// writerOf says who a process is. It may have ended.
func writerOf(pid int32) writer {
	w := writer{pid: pid, program: "a program"}
	dir := fmt.Sprintf("/proc/%d", pid)
	var st unix.Stat_t
	if unix.Stat(dir, &st) == nil {
		w.uid = st.Uid
		if b, err := os.ReadFile(dir + "/comm"); err == nil && len(b) > 1 {
			w.program = enforce.Plain(strings.TrimSpace(string(b)))
		}
	}
	return w
}

// String says who it was, for events.
func (w writer) String() string {
	if w.pid == 0 {
		return fmt.Sprintf("user %d", w.uid)
	}
	return fmt.Sprintf("%s (pid %d, user %d)", w.program, w.pid, w.uid)
}

// looking looks into one file after the other: first those for which somebody waits.
func (w *watch) looking() {
	for {
		w.mu.Lock()
		if w.closed {
			w.mu.Unlock()
			return
		}
		var it *item
		var f *os.File
		for _, x := range w.items {
			if x.state == waiting && x.f != nil && (it == nil || len(x.asks) > 0 && len(it.asks) == 0) {
				it = x
			}
		}
		var late *place
		if it != nil {
			it.state, it.again, f = looking, false, it.f
		} else {
			for _, p := range w.places {
				if p.behind && p.armed {
					p.behind, late = false, p
					break
				}
			}
		}
		quiet := it == nil && late == nil && len(w.items) == 0
		for _, p := range w.places {
			if quiet && p.app == "" && p.armed { // what is written to a disk and not closed is noticed when it is
				p.since = time.Now().Add(-time.Second)
			}
		}
		w.mu.Unlock()
		switch {
		case it != nil:
			w.look(it, f)
		case late != nil:
			w.catchUp(late)
		default:
			if quiet {
				w.g.caughtUp(w)
			}
			<-w.work
		}
	}
}

// look looks into one.
func (w *watch) look(it *item, f *os.File) {
	r := w.g.rules()
	ctx, cancel := context.WithTimeout(w.ctx, lookLimit)
	defer cancel()
	var before, after unix.Stat_t
	var seen platform.Seen
	err := unix.Fstat(int(f.Fd()), &before) //nolint:gosec // a descriptor
	if err == nil && r != nil && before.Nlink > 0 {
		for range 2 { // another document may have ended it
			if seen, err = w.g.look(ctx, f, filepath.Base(it.path)); err == nil || ctx.Err() != nil {
				break
			}
		}
	}
	if err == nil {
		err = unix.Fstat(int(f.Fd()), &after) //nolint:gosec // a descriptor
	}
	is := fact.Sensitive{Where: fact.InFile, Place: it.place.called(), Kind: seen.Kind, Bytes: before.Size, Found: seen.Found, Late: len(seen.Found) == 0 && (seen.Late || err != nil)}
	if is.Found == nil {
		is.Found = []fact.SensitiveFound{}
	}
	var v enforce.Verdict
	if r != nil {
		v = r.Sensitive(&is)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	it.stamp, it.size, it.fact, it.judge = stampOf(&after), before.Size, is, r
	if w.items[it.inode] != it || w.closed {
		w.answer(it, true)
		it.shut()
		return
	}
	gone := before.Nlink == 0 || r == nil
	switch {
	case gone:
		w.forget(it, true)
	case it.again:
		it.state = waiting
		w.nudge()
	case len(is.Found) > 0 && !v.Allow && w.holds:
		it.state, it.wait, it.next, it.why = guilty, 0, time.Now(), "it is being taken away"
		w.answer(it, false)
		w.nudge()
	case is.Late && w.holds && !v.Allow:
		it.state, it.why, it.next, it.wait = unknown, "it could not be looked into in time", time.Now().Add(max(it.wait, lastAgain)), min(2*max(it.wait, lastAgain), time.Hour)
		if err != nil {
			it.why = "it could not be looked into: " + err.Error()
		}
		w.answer(it, false)
		go w.g.tellLate(*it, "it may not be opened until then, as dlp.scan_timeout says")
		it.shut()
	case is.Late:
		w.late++
		why := "it was left where it is"
		if err != nil {
			why += ": " + err.Error()
		}
		go w.g.tellLate(*it, why)
		w.forget(it, true)
	default:
		if len(is.Found) > 0 {
			go w.g.tell(*it, v, "", "")
		}
		if len(seen.Unread) > 0 {
			w.log.Debug("part of a file was not read", "why", seen.Unread[0])
		}
		// What was written in the moment in which it was looked into may have the same stamp.
		if stampOf(&before) == it.stamp && time.Since(it.stamp.newest()) > 20*time.Millisecond {
			if len(w.clean) >= maxClean {
				clear(w.clean)
			}
			w.clean[it.inode] = it.stamp
		}
		w.forget(it, true)
	}
}

// forget forgets a file, and lets who waits go on, or not. The caller has the lock.
func (w *watch) forget(it *item, allow bool) {
	w.answer(it, allow)
	it.shut()
	if w.items[it.inode] == it {
		delete(w.items, it.inode)
	}
}

// taking takes files away, one after the other.
func (w *watch) taking() {
	for {
		w.mu.Lock()
		if w.closed {
			w.mu.Unlock()
			return
		}
		var next *item
		for _, x := range w.items {
			if (x.state == guilty || x.state == unknown) && (next == nil || x.next.Before(next.next)) {
				next = x
			}
		}
		var timer <-chan time.Time
		if next != nil {
			timer = time.After(time.Until(next.next))
		}
		w.mu.Unlock()
		select {
		case <-w.takes:
		case <-timer:
			w.try(next)
		}
	}
}

// try takes one away, or notes why it is still there. One that could not be looked into is looked into once more.
func (w *watch) try(it *item) {
	w.mu.Lock()
	if w.closed || w.items[it.inode] != it || it.state != guilty && it.state != unknown {
		w.mu.Unlock()
		return
	}
	at := it.state
	it.taking = at == guilty
	w.mu.Unlock()
	if at == unknown {
		f, _, err := it.reopen(unix.O_RDONLY)
		w.mu.Lock()
		defer w.mu.Unlock()
		if err != nil {
			w.forget(it, true)
			return
		}
		it.shut()
		it.f, it.state = f, waiting
		w.nudge()
		return
	}
	id, err := w.take(it)
	var anew *os.File
	if errors.Is(err, errChanged) { // not under the lock: who listens answers for us, too
		if anew, _, err = it.reopen(unix.O_RDONLY); err == nil {
			err = errChanged
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	it.taking = false
	if anew != nil && w.items[it.inode] != it {
		_ = anew.Close()
	}
	switch {
	case err == nil, errors.Is(err, errGone):
		if !it.told || err == nil {
			go w.g.tell(*it, it.judge.Sensitive(&it.fact), id, "it was removed, or its disk was, before it could be taken away")
		}
		w.forget(it, true)
		w.g.Look(false)
	case w.items[it.inode] != it: // nothing is watched any more
	case errors.Is(err, errChanged):
		it.f, it.state = anew, waiting
		w.nudge()
	default:
		it.wait = min(max(2*it.wait, firstAgain), lastAgain)
		it.why, it.next = err.Error(), time.Now().Add(it.wait)
		news := !it.told && (!errors.Is(err, errBusy) || it.wait >= tellAfter)
		if it.told = it.told || news; news {
			go w.g.tell(*it, it.judge.Sensitive(&it.fact), "", it.why)
		}
		w.g.Look(false)
	}
}
