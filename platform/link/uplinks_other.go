//go:build !linux

package link

import (
	"syscall"

	"github.com/warderd/warder/platform"
)

// Uplinks are not known on this system.
func Uplinks() []string { return nil }

func bind(syscall.RawConn, string) error {
	return platform.Unsupported{Feature: "a connection by one interface", Need: "Linux, in this version"}
}
