//go:build unix

package server

import "syscall"

// openable is how many files this process may have open.
func openable() uint64 {
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		return 1024
	}
	return uint64(files.Cur) //nolint:unconvert // another type on some systems
}
