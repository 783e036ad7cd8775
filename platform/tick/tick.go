// Package tick wakes the agent at a steady pace, at the price of one system call a tick: a timer of
// the Go runtime costs some twenty context switches each time it fires on an otherwise idle machine.
// It owns the wake-up alone.
package tick
