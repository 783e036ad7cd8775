package volume

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// How long writing programs have to end after they were asked to, and how often the file system is tried meanwhile.
const (
	askWait   = 4 * time.Second
	quietWait = 300 * time.Millisecond // if nobody was found: a call may be under way
	tryEvery  = 2 * time.Millisecond
	askAgain  = 700 * time.Millisecond // processes are looked at once more: some have just started, some could not be seen
	// detachLimit bounds unmounting, whose paths may lead through a user's file system.
	detachLimit = 2 * time.Second
)

// child empties the disks of one device. The work runs in a goroutine of its own, because any of its calls may never
// return; the main goroutine stays able to resume stopped programs.
type child struct {
	saying sync.Mutex // of out; never taken together with mu
	out    *json.Encoder

	mu      sync.Mutex
	stopped []Program

	acked chan struct{} // the parent has stored what was said

	// Used by the working goroutine only.
	asked []writer
	stuck int // looks at processes that have not come back
	// untold: there is a loop device whose file is unknown and may be on the disk.
	untold bool
}

// Main is the child process. It empties the disks of the device whose directory in sysfs is dir, and writes steps and
// one result as lines of JSON. It keeps programs stopped until its input ends, which means that the disk has been taken
// away or the parent has died.
func Main(dir string, in io.Reader, out io.Writer) error {
	// When the service stops, every process of it receives the signal; this one ends when its parent closes its input.
	signal.Ignore(unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
	// If memory runs out, this program goes first and the agent stays.
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("500"), 0)
	// The unit allows the guard's threads a real-time priority, which a program that reads foreign data must not have.
	_ = unix.Setrlimit(unix.RLIMIT_NICE, &unix.Rlimit{Cur: 20, Max: 20})
	c := &child{out: json.NewEncoder(out), acked: make(chan struct{}, 1)}
	go func() {
		r := c.empty(dir)
		c.say(message{Result: &r})
	}()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for b := make([]byte, 1); ; {
			if _, err := in.Read(b); err != nil {
				return
			}
			select {
			case c.acked <- struct{}{}:
			default:
			}
		}
	}()
	<-ended
	c.let()
	return nil
}

// say writes one message to the parent.
func (c *child) say(m message) {
	c.saying.Lock()
	defer c.saying.Unlock()
	_ = c.out.Encode(m)
}

func (c *child) step(text string) { c.say(message{Step: text}) }

// let resumes the programs that are stopped.
func (c *child) let() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.stopped {
		resume(p)
	}
}

// level is a set of disks of which none rests on another: first the device's own, and then, level by level, the loop
// devices of files on them.
type level struct {
	disks  []disk
	blocks []*superblock
	claims []*os.File      // on disks that nobody uses, so that nobody starts to
	devs   map[uint64]bool // the device numbers of the disks, and of the files on them
	busy   bool            // something is in use, but not by a file system of the kernel's
	loops  bool
}

// empty does the work, from the highest level down.
func (c *child) empty(dir string) (r Result) {
	c.step("looking at the disks")
	own, whole := disksBelow(dir)
	if !whole {
		r.force(errTooMany.Error(), -1)
	}
	if err := swapOff(own); err != nil {
		r.force(err.Error(), -1)
	}
	levels := c.grab(own, &r)
	var all []disk
	for i := len(levels) - 1; i >= 0; i-- {
		l := levels[i]
		all = append(all, l.disks...)
		c.readOnly(l, &r)
		_, _ = within(detachLimit, func() bool { detach(l.disks, c.step); return true })
		c.step("flushing the disks")
		flushRaw(l.disks)
		if l.loops {
			l.letGo()
		}
	}
	r.Clean = r.Forced == "" && !r.Cut
	if r.Forced != "" && r.Lost == 0 {
		r.Lost = unwritten(all)
	}
	return r
}

// letGo detaches loop devices, after closing what uses them. The device's own disks stay claimed until this process
// ends: otherwise a file system that nobody uses could be mounted again and written to.
func (l *level) letGo() {
	for _, s := range l.blocks {
		_, _ = unix.Close(s.root), unix.Close(s.tree)
	}
	for _, f := range l.claims {
		_ = f.Close()
	}
	for _, d := range l.disks {
		clearLoop(d)
	}
}

// force records that the disk goes without all of it being known to be written.
func (r *Result) force(why string, lost int64) {
	if r.Forced == "" {
		r.Forced = why
	}
	r.Lost = min(r.Lost, lost)
}

// maxLevels: a loop device of a file on a loop device of a file on a stick.
const maxLevels = 4

// grab opens the file systems on the disks and on the loop devices above them, and claims the disks that nobody uses.
func (c *child) grab(own []disk, r *Result) (out []level) {
	types := fileSystems()
	known := map[string]bool{}
	for disks := own; len(disks) > 0; {
		if len(out) == maxLevels {
			r.force(errTooMany.Error(), -1)
			break
		}
		l := level{disks: disks, loops: len(out) > 0}
		devs, stacked := devices(disks), false
		var idle []disk
		for _, d := range disks {
			known[d.dev] = true
			stacked = stacked || d.stacked
			if d.stacked {
				continue
			}
			if !d.used() {
				if err := d.denied(); err != nil {
					r.force(fmt.Sprintf("%s cannot be looked at: %v", d.name, err), -1)
				}
				idle = append(idle, d)
				continue
			}
			s, err := grab(d, types)
			if err != nil {
				l.busy = true // or only one of its partitions is in use
				continue
			}
			l.blocks = append(l.blocks, s)
			var st unix.Stat_t
			if unix.Fstat(s.root, &st) == nil {
				devs[st.Dev] = true // btrfs shows its files under a number of its own
			}
		}
		// After all were looked at: claiming a partition makes its disk look used.
		for _, d := range idle {
			if f, err := d.open(os.O_RDONLY | unix.O_EXCL); err == nil {
				l.claims = append(l.claims, f)
			} else if s, err := grab(d, types); err == nil {
				l.blocks = append(l.blocks, s) // mounted since
			}
		}
		l.busy = l.busy && !stacked && len(l.blocks) == 0
		l.devs = devs
		out = append(out, l)
		for _, s := range l.blocks {
			_ = s.sync() // before anything that may have to wait for other files
		}
		disks = nil
		above, told := loopsOn(devs)
		c.untold = c.untold || !told
		for _, d := range above {
			if !known[d.dev] {
				disks = append(disks, d)
			}
		}
	}
	return out
}

// readOnly makes every file system of a level read-only: directly, or after asking writers to end, or by cutting them
// off.
func (c *child) readOnly(l level, r *Result) {
	c.step("flushing the file systems and making them read-only")
	left := c.try(l.blocks, r)
	served := blockFUSE(l.disks)
	if len(left) == 0 && len(served) == 0 {
		if l.busy {
			r.force(errNoFileSystem.Error(), -1)
		}
		return
	}
	c.step("asking programs to end")
	found := c.ask(l.devs, r)
	wait := askWait
	if found == 0 {
		wait = quietWait
	}
	last := time.Now()
	for end := time.Now().Add(wait); (len(left) > 0 || len(served) > 0 && running(c.asked)) && time.Now().Before(end); {
		time.Sleep(tryEvery)
		left = c.try(left, r)
		if len(left) > 0 && time.Since(last) > askAgain {
			c.ask(l.devs, r)
			last = time.Now()
		}
	}
	for _, m := range served {
		// The file system's daemon flushes before this returns, which may take long: the parent watches.
		c.step("waiting for the daemon that serves " + m.Point)
		if err := unmount(m, 0); err != nil {
			r.force("a program still uses "+m.Point+", which a daemon serves", -1)
			_ = unmount(m, unix.MNT_DETACH)
		}
	}
	c.cut(left, l.devs, r)
}

// ask looks at all processes, asks users' programs that write and have not been asked yet to end, and returns how many
// of those it found.
func (c *child) ask(devs map[uint64]bool, r *Result) (found int) {
	for _, w := range c.writers(devs) {
		known := func(list []Program) bool { return slices.Contains(list, w.Program) }
		switch {
		case !w.user:
			if !known(r.Others) {
				r.Others = named(r.Others, w.Program)
			}
		case slices.ContainsFunc(c.asked, func(o writer) bool { return o.Program == w.Program }):
			found++
			_ = unix.Close(w.pidfd)
			continue
		default:
			found++
			c.asked = append(c.asked, w)
			r.Asked = named(r.Asked, w.Program)
			w.signal(unix.SIGTERM)
			w.signal(unix.SIGCONT) // a stopped program cannot answer
			continue
		}
		_ = unix.Close(w.pidfd)
	}
	return found
}

// maxPrograms bounds how many programs a result names.
const maxPrograms = 64

// named adds a program to a list, once and up to maxPrograms.
func named(list []Program, p Program) []Program {
	if len(list) >= maxPrograms {
		return list
	}
	return append(list, p)
}

// running reports whether one of the programs that were asked has not ended.
func running(asked []writer) bool {
	for _, w := range asked {
		if unix.PidfdSendSignal(w.pidfd, 0, nil, 0) == nil {
			return true
		}
	}
	return false
}

// try makes file systems read-only and returns those that are being written to.
func (c *child) try(blocks []*superblock, r *Result) (left []*superblock) {
	for _, s := range blocks {
		switch err := s.readOnly(); {
		case err == nil:
		case errors.Is(err, unix.EIO) || errors.Is(err, unix.EROFS):
			// The disk is broken or gone: there is nothing more to save.
			r.force(err.Error(), -1)
		case s.ro:
			r.force(err.Error(), 0) // nobody writes any more, and the flush has failed
		default:
			left = append(left, s) // EBUSY: somebody writes
		}
	}
	return left
}

// rounds bounds how often programs are searched for and stopped while a file system is flushed.
const rounds = 3

// cut ends the remaining writes: the file system is shut down after a flush or, if it does not support that, its
// programs are stopped while it is flushed.
func (c *child) cut(left []*superblock, devs map[uint64]bool, r *Result) {
	for _, s := range left {
		c.step("flushing " + s.disk.name)
		if len(c.asked) == 0 && len(r.Others) == 0 && c.untold {
			// No writer was found: it may be a file system above, whose own data is not here yet.
			_, _ = within(detachLimit, func() bool { unix.Sync(); return true })
			r.force("something that cannot be told uses "+s.disk.name+", perhaps a loop device of a file on it", -1)
		}
		if s.cut() {
			r.Cut = true
			continue
		}
		var err error
		done := false
		for i := 0; i < rounds && !done; i++ {
			c.stop(c.asked)
			if done = s.readOnly() == nil; done { // the last program has ended meanwhile
				break
			}
			err = s.sync()
			before := len(c.asked)
			c.ask(devs, r) // what a stopped program had begun
			if len(c.asked) == before {
				break
			}
		}
		switch {
		case done:
		case err != nil:
			r.force(err.Error(), -1)
		default:
			r.force("a program still writes to "+s.disk.name+", and "+s.fstype+" cannot be cut off", 0)
		}
	}
}

// stopChunk is how many programs one message names.
const stopChunk = 128

// stop stops programs, once, after naming them: if this process dies, its parent resumes them.
func (c *child) stop(asked []writer) {
	c.mu.Lock()
	before := len(c.stopped)
	for _, w := range asked {
		if !slices.Contains(c.stopped, w.Program) {
			c.stopped = append(c.stopped, w.Program)
		}
	}
	fresh := slices.Clone(c.stopped[before:])
	c.mu.Unlock()
	for list := range slices.Chunk(fresh, stopChunk) {
		c.say(message{Stopped: list})
		select {
		case <-c.acked:
		case <-time.After(time.Second):
		}
	}
	for _, w := range asked {
		w.signal(unix.SIGSTOP)
	}
}

// devices is the set of the disks' device numbers.
func devices(disks []disk) map[uint64]bool {
	out := map[uint64]bool{}
	for _, d := range disks {
		if n, ok := number(d.dev); ok {
			out[n] = true
		}
	}
	return out
}

// within runs f for at most the given time, and reports whether it ended.
func within[T any](limit time.Duration, f func() T) (T, bool) {
	done := make(chan T, 1)
	go func() { done <- f() }()
	select {
	case v := <-done:
		return v, true
	case <-time.After(limit):
		var none T
		return none, false
	}
}

// flushRaw writes out what programs wrote to the disks without a file system.
func flushRaw(disks []disk) {
	for _, d := range disks {
		if f, err := d.open(os.O_RDONLY); err == nil {
			_ = unix.Fsync(int(f.Fd()))
			_ = f.Close()
		}
	}
}
