//go:build !linux

package durable

import "errors"

// renameNew: this system's calls for it are not used.
func renameNew(string, string) error { return errors.ErrUnsupported }
