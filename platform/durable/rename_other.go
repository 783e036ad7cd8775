//go:build !linux

package durable

import "errors"

// renameNew: none of the calls for it is tried here.
func renameNew(string, string) error { return errors.ErrUnsupported }
