//go:build !manual

package cli

func addManual(*Program) {}
