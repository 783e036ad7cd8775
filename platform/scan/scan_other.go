//go:build !linux

package scan

// Find is "": there is no scanner on this system.
func Find() string { return "" }
