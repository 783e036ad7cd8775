//go:build !unix

package server

// openable is how many connections this process may have open: Windows has no limit of its own.
func openable() uint64 { return 1 << 16 }
