package agent

import (
	"runtime"
	"runtime/debug"
	"sync"
	"time"
)

// Tune sets the runtime for a program that mostly sleeps. Two processors: one for the loop, which is
// busy while it looks at the machine, and one so that a plug never waits for that. More would only
// be more threads to wake.
func Tune() {
	smallPages()
	runtime.GOMAXPROCS(min(2, runtime.NumCPU()))
	debug.SetGCPercent(busyGC)
	debug.SetMemoryLimit(memoryNet)
}

const (
	// busyGC lets a check-in run without a collection or with one: the heap is small, and given back after it.
	busyGC = 400
	// memoryNet makes the collector run whatever its pace.
	memoryNet = 64 << 20
	// idleRoom is what an idle agent may use before the collector runs: somebody asks it all the time, or plugs.
	idleRoom = 4 << 20
	// busyAfter is how long work goes on in idleRoom.
	busyAfter = time.Second
	// relaxAfter is how long after the last work the memory it used is given back.
	relaxAfter = 3 * time.Second
	// unmapAfter is how long after that the pages of the program are given back, if nothing was asked meanwhile: what
	// comes next maps some dozens of them again, which must not be paid between two plugs of a morning.
	unmapAfter = 2 * time.Minute
)

// pace is the collector's.
type pace struct {
	mu      sync.Mutex
	started bool // it was relaxed once
	relaxed bool // memory was given back, and the collector has no clock
	resting bool // and since then nobody asked for anything
	busy    *time.Timer
}

// work is called before anything that takes memory.
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

// quicken gives the collector its clock for as long as work goes on. Not at once: it stops every thread for a
// moment, and what begins work is often a plug that is being judged.
func (p *pace) quicken() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.relaxed {
		debug.SetMemoryLimit(memoryNet)
		debug.SetGCPercent(busyGC)
	}
}

// answering is called when somebody asks: an idle agent gives the memory back after it, and until then stays
// within idleRoom.
func (a *Agent) answering() {
	a.try(func() {
		a.pace.mu.Lock()
		a.pace.resting = false
		a.pace.mu.Unlock()
		a.clocks.idle.Reset(relaxAfter)
	})
}

// relax gives memory back once the agent has nothing to do, and then stops the collector's clock: it would
// wake an idle machine every two minutes to find nothing.
func (a *Agent) relax() {
	if a.rested() {
		unmapProgram()
		return
	}
	a.store.Shrink()
	a.ledger.Shrink()
	runtime.GC() // a collection halves the stacks that are too large; the next line's halves them again
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
