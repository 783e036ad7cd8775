package outgoing

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/platform"
	"github.com/warderd/warder/platform/fanotify"
)

// item is a file that is not known to be clean.
type item struct {
	inode
	f       *os.File // an open one keeps its disk busy: nil once it is known to be kept back
	path    string   // as the kernel had it; "" if it is not one of ours
	foreign bool     // it was opened through a mount of somebody else's
	place   *place
	handle  *unix.FileHandle // finds it on its disk under any name, where the file system has such handles
	size    int64
	stamp   stamp // when it was looked into
	who     fanotify.Writer
	state   state
	again   bool // it was written again while it was looked into
	came    time.Time
	turns   int // how often others came first
	asks    []int32
	timer   *time.Timer
	round   int // of those who wait

	// Of one that is guilty.
	fact   fact.Sensitive
	judge  rules
	why    string // it is still there
	next   time.Time
	wait   time.Duration
	told   bool
	taking bool
	anew   bool // the rules are others: it is looked into again before anything is done about it
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
		later(it.f)
		it.f = nil
	}
}

// looking looks into one file after the other: first those for which somebody waits.
func (p *place) looking() {
	for {
		p.mu.Lock()
		if p.ended {
			p.mu.Unlock()
			return
		}
		var it *item
		var f *os.File
		wait := 0
		for _, x := range p.items {
			if x.state == waiting || x.state == looking {
				wait++ // those that are held are many if somebody wants them to be
			}
			if x.state == waiting && x.f != nil && (it == nil || x.before(it)) {
				it = x
			}
		}
		walk := false
		switch {
		case it != nil:
			it.state, it.again, f = looking, false, it.f
		case p.behind && p.armed && !p.arming && !p.walking && wait < maxItems/2:
			if rest := time.Until(p.nextWalk); rest > 0 {
				time.AfterFunc(rest, p.nudge)
			} else {
				p.behind, p.walking, walk = false, true, true
			}
		}
		p.mu.Unlock()
		switch {
		case it != nil:
			p.look(it, f)
		case walk:
			go p.catchUp()
		default:
			p.g.caughtUp()
			<-p.work
		}
	}
}

// before reports whether a file is looked into before another one.
func (it *item) before(x *item) bool {
	if asked := len(it.asks) > 0; asked != (len(x.asks) > 0) {
		return asked
	}
	if it.turns != x.turns {
		return it.turns < x.turns
	}
	return it.came.Before(x.came)
}

// run is one look that goes on.
type run struct {
	began  time.Time
	wanted atomic.Bool // somebody waits for it
	ended  atomic.Bool // others came first
	cancel context.CancelFunc
}

// preempt ends looks that nobody waits for, because somebody waits for this file: one program looks into the files of all places.
func (g *Guard) preempt(it *item) {
	if !it.wanted() {
		return
	}
	time.AfterFunc(patience/2, func() { g.preempt(it) })
	g.running.Range(func(_, x any) bool {
		if r := x.(*run); !r.wanted.Load() && time.Since(r.began) >= patience {
			r.ended.Store(true)
			r.cancel()
		}
		return true
	})
}

// look looks into one.
func (p *place) look(it *item, f *os.File) {
	p.mu.Lock()
	turn := p.turn
	p.mu.Unlock()
	r := p.g.rules()
	all, stop := context.WithCancel(p.ctx)
	defer stop()
	mine := &run{began: time.Now(), cancel: stop}
	p.g.running.Store(it, mine)
	if it.wanted() || it.turns >= maxTurns { // whoever comes later says so
		mine.wanted.Store(true)
	}
	defer p.g.running.Delete(it)
	fd := int(f.Fd()) //nolint:gosec // a descriptor
	var after stat
	var seen platform.Seen
	before, err := statOf(fd)
	if err == nil && r != nil {
		seen, err = p.g.look.Twice(all, lookLimit, f, filepath.Base(it.path))
	}
	if err == nil {
		after, err = statOf(fd)
	}
	is := seen.Fact(fact.InFile, p.name, before.stamp.size, err)
	var v enforce.Verdict
	if r != nil {
		v = r.Sensitive(&is)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	it.stamp, it.size, it.fact, it.judge = after.stamp, before.stamp.size, is, r
	if p.items[it.inode] != it || p.ended {
		it.shut()
		return
	}
	switch {
	case r == nil:
		p.forget(it, true)
	case turn != p.turn, (it.again || mine.ended.Load()) && len(seen.Found) == 0: // what has been found is taken if it is still so
		if it.state = waiting; mine.ended.Load() {
			it.turns++
		}
		p.nudge()
	case len(is.Found) > 0 && !v.Allow && p.holds:
		it.state, it.wait, it.next, it.why = guilty, 0, time.Now(), "it is being taken away"
		p.pin(fd)
		p.answer(it, false)
		p.nudge()
	case is.Late && p.holds && !v.Allow:
		it.state, it.why, it.next, it.wait = unknown, "it could not be looked into in time", time.Now().Add(max(it.wait, lastAgain)), min(2*max(it.wait, lastAgain), time.Hour)
		if err != nil {
			it.why = "it could not be looked into: " + err.Error()
		}
		p.pin(fd)
		p.answer(it, false)
		go p.g.tellLate(*it, "it may not be opened until then, as dlp.scan_timeout says")
		it.shut()
		p.nudge() // whoever tries again has to know when
	case is.Late:
		p.late++
		why := "it was left where it is"
		if err != nil {
			why += ": " + err.Error()
		}
		go p.g.tellLate(*it, why)
		p.forget(it, true)
	case len(is.Found) > 0:
		go p.g.tell(*it, v, "", "")
		p.forget(it, true)
	default:
		if len(is.Unread) > 0 {
			go p.g.tellUnread(*it, v)
		}
		if before.stamp == it.stamp && it.stamp.settled() && unwritten(fd) {
			if len(p.clean) >= maxClean {
				clear(p.clean)
			}
			p.clean[it.inode] = it.stamp
		}
		p.forget(it, true)
	}
}

// wanted reports whether somebody waits for it.
func (it *item) wanted() bool {
	it.place.mu.Lock()
	defer it.place.mu.Unlock()
	return len(it.asks) > 0
}

// settled reports whether a file that is changed now gets another stamp: its times can be coarse.
func (s stamp) settled() bool {
	lag := coarse
	if s.mtime%1e9 == 0 && s.ctime%1e9 == 0 {
		lag = 2500 * time.Millisecond // vfat has two seconds, old file systems one
	}
	return time.Since(s.newest()) > lag
}

// unwritten reports whether nobody can write to a file without opening it first: who has it mapped does not change its times.
func unwritten(fd int) bool {
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETLEASE, unix.F_RDLCK); err != nil { //nolint:gosec // a descriptor
		return false
	}
	_, err := unix.FcntlInt(uintptr(fd), unix.F_SETLEASE, unix.F_UNLCK) //nolint:gosec // a descriptor
	return err == nil
}

// pin keeps the kernel from forgetting a file that is held: some file systems give it another number then. A mark does, without keeping
// the disk busy. The caller has the lock.
func (p *place) pin(fd int) {
	if p.fan >= 0 {
		_ = unix.FanotifyMark(p.fan, unix.FAN_MARK_ADD, unix.FAN_OPEN_PERM, unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd))
	}
}

// forget forgets a file, and lets who waits go on, or not. The caller has the lock.
func (p *place) forget(it *item, allow bool) {
	p.answer(it, allow)
	it.shut()
	if p.items[it.inode] == it {
		delete(p.items, it.inode)
	}
}

// taking takes files away, one after the other.
func (p *place) taking() {
	for {
		p.mu.Lock()
		if p.ended {
			p.mu.Unlock()
			return
		}
		var next *item
		for _, x := range p.items {
			if (x.state == guilty || x.state == unknown) && (next == nil || x.next.Before(next.next)) {
				next = x
			}
		}
		var timer <-chan time.Time
		if next != nil {
			timer = time.After(time.Until(next.next))
		}
		p.mu.Unlock()
		select {
		case <-p.takes:
		case <-timer:
			p.try(next)
		}
	}
}

// try takes one away, or notes why it is still there. One that could not be looked into is looked into once more.
func (p *place) try(it *item) {
	p.mu.Lock()
	if p.ended || p.items[it.inode] != it || it.state != guilty && it.state != unknown {
		p.mu.Unlock()
		return
	}
	it.taking = true
	again := it.state == unknown || it.anew
	it.anew = false
	p.mu.Unlock()
	var id string
	err := errChanged
	if !again {
		id, err = p.take(it)
	}
	var anew *os.File
	if errors.Is(err, errChanged) { // not under the lock: who listens answers for us, too
		var wrong error
		if anew, _, wrong = it.reopen(unix.O_RDONLY); wrong != nil {
			err = wrong
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	it.taking = false
	known := p.items[it.inode] == it && !p.ended
	if anew != nil && !known {
		later(anew)
	}
	if errors.Is(err, errElsewhere) && known {
		defer func() { // once it is forgotten: what is found is new then
			p.fallBehind()
			p.nudge()
		}()
	}
	switch {
	case err == nil, errors.Is(err, errGone) && !again:
		if !it.told || err == nil {
			go p.g.tell(*it, it.judge.Sensitive(&it.fact), id, wasRemoved)
		}
		p.forget(it, true)
		p.g.Look(false)
	case !known:
		it.shut() // nothing is watched any more
	case errors.Is(err, errGone):
		p.forget(it, true)
	case errors.Is(err, errChanged):
		it.shut()
		it.f, it.state = anew, waiting
		p.nudge()
	default:
		it.wait = min(max(2*it.wait, firstAgain), lastAgain)
		it.why, it.next = err.Error(), time.Now().Add(it.wait)
		news := !it.told && (!errors.Is(err, errBusy) || it.wait >= tellAfter)
		if it.told = it.told || news; news {
			go p.g.tell(*it, it.judge.Sensitive(&it.fact), "", it.why)
		}
		p.g.Look(false)
	}
}
