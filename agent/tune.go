package agent

import "runtime/debug"

// Tune sets the runtime for a program that mostly sleeps: collect early, and keep the heap small.
func Tune() {
	debug.SetGCPercent(50)
	debug.SetMemoryLimit(24 << 20)
}
