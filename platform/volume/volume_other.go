//go:build !linux

package volume

import (
	"context"

	"github.com/warderd/warder/platform"
)

// Release is not needed where no device is taken away.
func Release(context.Context, string) error {
	return platform.Unsupported{Feature: "releasing a volume", Need: "Linux, in this version"}
}
