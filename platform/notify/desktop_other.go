//go:build !linux

package notify

import (
	"context"
	"errors"
)

// Desktop shows nothing on this system yet.
type Desktop struct{}

var errNoDesktop = errors.New("notices are only shown on Linux in this version")

// Ready reports why nothing can be shown.
func (d *Desktop) Ready(context.Context) error { return errNoDesktop }

// Show shows nothing.
func (d *Desktop) Show(context.Context, string, string) error { return errNoDesktop }
