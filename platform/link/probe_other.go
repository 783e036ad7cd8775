//go:build !linux

package link

import (
	"syscall"

	"github.com/warderd/warder/platform"
)

func mark(syscall.RawConn, int) error {
	return platform.Unsupported{Feature: "an exempt probe", Need: "Linux, in this version"}
}
