//go:build !unix

package server

// Become does nothing: files inherit their directory's permissions on this system.
func Become(string) error { return nil }

// OwnUser does nothing, for the same reason.
func OwnUser(string) error { return nil }
