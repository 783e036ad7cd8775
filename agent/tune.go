package agent

import (
	"runtime"
	"runtime/debug"
	"time"
)

// Tune sets the runtime for a program that mostly sleeps. One processor: with more, each wake-up
// costs several threads a context switch, and a decision waits for one of them to wake. Writes that
// block hand the processor on by themselves.
func Tune() {
	runtime.GOMAXPROCS(1)
	debug.SetGCPercent(50)
}

// tidyAfter is how long after the last work the memory it used is given back.
const tidyAfter = 3 * time.Second

// tidy gives memory back once the agent has nothing to do.
func (a *Agent) tidy() { debug.FreeOSMemory() }
