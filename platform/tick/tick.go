// Package tick wakes the agent at a steady pace, for the price of one system call per tick. A timer of the Go runtime
// costs some twenty context switches each time it fires on an otherwise idle machine. The package owns only the
// wake-up.
package tick
