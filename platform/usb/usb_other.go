//go:build !linux

package usb

import "github.com/warderd/warder/platform"

var unsupported = platform.Unsupported{Feature: "USB control", Need: "Linux, in this version"}
