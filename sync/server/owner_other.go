//go:build !unix

package server

// Become: files take their directory's rights here.
func Become(string) error { return nil }

// OwnUser: as Become.
func OwnUser(string) error { return nil }
