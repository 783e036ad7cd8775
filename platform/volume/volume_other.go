//go:build !linux

package volume

import (
	"context"
	"io"

	"github.com/warderd/warder/platform"
)

// Releaser starts the child.
type Releaser struct{ Keep string }

// Resume has nothing to resume.
func Resume(string) {}

// Release is not needed where no device is taken away.
func (Releaser) Release(context.Context, string, func(string)) (Result, func()) {
	return Result{Forced: "releasing a volume needs Linux, in this version", Lost: -1}, func() {}
}

// Carries: nothing is taken away here.
func Carries(string) string { return "" }

// Main is the child, which this system does not need.
func Main(string, io.Reader, io.Writer) error {
	return platform.Unsupported{Feature: "releasing a volume", Need: "Linux, in this version"}
}
