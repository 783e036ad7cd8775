//go:build !linux

package bpf

import "github.com/warderd/warder/platform"

// Loader makes a set, in the child.
type Loader func(args ...string) error

// Child fails: nothing is loaded on this system.
func Child(map[string]Loader, string, string, ...string) error {
	return platform.Unsupported{Feature: "loading programs into the kernel", Need: "Linux"}
}
