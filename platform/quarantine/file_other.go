//go:build !unix

package quarantine

import (
	"errors"
	"os"
)

func createAt(string, func(*os.File) error) error { return errors.ErrUnsupported }

func give(*os.File, *Item) error { return errors.ErrUnsupported }

func describe(*os.File, *Item) error { return errors.ErrUnsupported }
