//go:build !linux

package agent

// smallPages has nothing to do here.
func smallPages() {}

func unmapProgram() {}

// nonblock is not needed where a pipe has no name among files.
const nonblock = 0
