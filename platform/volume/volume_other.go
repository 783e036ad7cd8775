//go:build !linux

package volume

import (
	"io"

	"github.com/warderd/warder/platform"
)

// Main is the child process, which this system does not need.
func Main(string, io.Reader, io.Writer) error {
	return platform.Unsupported{Feature: "releasing a volume", Need: "Linux, in this version"}
}
