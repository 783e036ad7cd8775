//go:build !linux

package agent

// smallPages has nothing to do here.
func smallPages() {}

func unmapProgram() {}
