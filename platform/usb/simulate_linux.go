//go:build simulate

package usb

import (
	"net"
	"path/filepath"
)

// Announcements is the socket of a simulated bus, in its directory.
const Announcements = "uevents"

// A build with the tag "simulate" uses the directory of a simulated bus as sysfs, and what a program sends to the
// socket in it as the kernel's announcements. No other build can: a program must not be able to tell an agent that
// protects a machine what has been plugged in.
func init() {
	kernel := openSource
	openSource = func(root string) (source, error) {
		if root == "/sys" {
			return kernel(root)
		}
		conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(root, Announcements), Net: "unixgram"})
		if err != nil {
			return nil, err
		}
		return simulated{conn}, nil
	}
}

type simulated struct{ *net.UnixConn }

// Stop ends a Read that waits.
func (s simulated) Stop() { _ = s.UnixConn.Close() }

// Close has nothing left to do after Stop.
func (simulated) Close() error { return nil }
