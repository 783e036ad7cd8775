package agent

import (
	"runtime"
	"runtime/debug"
	"sync"
	"time"
)

// Tune sets the Go runtime for a program that mostly sleeps. It uses two processors: one for the loop, which is busy
// while it looks at the machine, and one so that a plug never waits for that. More processors would only be more
// threads to wake.
func Tune() {
	smallPages()
	runtime.GOMAXPROCS(min(2, runtime.NumCPU()))
	debug.SetGCPercent(busyGC)
	debug.SetMemoryLimit(memoryNet)
}

const (
	// busyGC sets the collector for a check-in: the heap is small, and it is given back afterwards anyway.
	busyGC = 400
	// memoryNet makes the collector run above this limit, whatever its pace.
	memoryNet = 64 << 20
	// idleRoom is how much an idle agent may allocate before the collector runs: questions and plugs come all the time.
	idleRoom = 4 << 20
	// busyAfter is how long work has to last before it gets more than idleRoom.
	busyAfter = time.Second
	// relaxAfter is how long after the last work its memory is given back.
	relaxAfter = 3 * time.Second
	// unmapAfter is how much later the pages of the program are given back, if nothing was asked meanwhile. The next
	// work maps some dozens of them again, and that must not happen between two plugs of one morning.
	unmapAfter = 2 * time.Minute
)

// pace is the collector's pace.
type pace struct {
	mu      sync.Mutex
	started bool // it was relaxed at least once
	relaxed bool // memory was given back, and the collector has no clock
	resting bool // and nobody has asked for anything since
	busy    *time.Timer
	lists   int64 // bytes that long lists use
}

// readRoom is what reading the longest list takes for a moment: its hashes before they are a table, and what is not collected
// yet.
const readRoom = 96 << 20

// holds says what long lists use, and whether one is being read: the collector must not run without end because of them.
func (p *pace) holds(bytes int64, reading bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lists = bytes
	if reading {
		p.relaxed = false
		bytes += readRoom
	}
	if !p.relaxed {
		debug.SetMemoryLimit(memoryNet + bytes)
		debug.SetGCPercent(busyGC)
	}
}

// work is called before anything that uses memory.
func (a *Agent) work() {
	a.clocks.idle.Reset(relaxAfter)
	a.pace.mu.Lock()
	defer a.pace.mu.Unlock()
	a.pace.resting = false
	if a.pace.relaxed {
		a.pace.relaxed = false
		a.pace.busy = time.AfterFunc(busyAfter, a.pace.quicken)
	}
}

// quicken gives the collector its clock while work goes on. It does not do so at once, because that stops every thread
// for a moment, and work often begins with a plug that is just being judged.
func (p *pace) quicken() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.relaxed {
		debug.SetMemoryLimit(memoryNet + p.lists)
		debug.SetGCPercent(busyGC)
	}
}

// answering is called when somebody asks something. An idle agent stays within idleRoom for that, and gives the memory
// back afterwards.
func (a *Agent) answering() {
	a.try(func() {
		a.pace.mu.Lock()
		a.pace.resting = false
		a.pace.mu.Unlock()
		a.clocks.idle.Reset(relaxAfter)
	})
}

// relax gives memory back when the agent has nothing to do, and stops the collector's clock: it would wake an idle
// machine every two minutes to find nothing.
func (a *Agent) relax() {
	if a.rested() {
		unmapProgram()
		return
	}
	a.store.Shrink()
	a.ledger.Shrink()
	runtime.GC() // each collection halves the stacks that are too large; the next line does it again
	debug.FreeOSMemory()
	if !a.o.Tuned {
		return
	}
	a.pace.mu.Lock()
	defer a.pace.mu.Unlock()
	if a.pace.busy != nil {
		a.pace.busy.Stop()
	}
	a.pace.relaxed = true
	if !a.pace.started {
		a.pace.started = true
		unmapProgram()
	}
	debug.SetGCPercent(-1)
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	debug.SetMemoryLimit(int64(m.Sys-m.HeapReleased) + idleRoom)
	a.pace.resting = true
	a.clocks.idle.Reset(unmapAfter)
}

// rested reports whether nothing was asked of the agent since memory was given back.
func (a *Agent) rested() bool {
	a.pace.mu.Lock()
	defer a.pace.mu.Unlock()
	return a.pace.resting
}
