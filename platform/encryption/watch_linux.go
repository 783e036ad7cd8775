package encryption

import (
	"context"
	"fmt"

	"golang.org/x/sys/unix"
)

// Watch reports mounts, unmounts and changed swaps until ctx ends: the kernel's two lists can be polled. Changes
// beneath a mount (a table of device-mapper, a leg of a mirror) give no such signal, and are found by the regular look.
func (r *Reader) Watch(ctx context.Context, changed func()) error {
	end, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return fmt.Errorf("cannot watch the mounts: %w", err)
	}
	defer unix.Close(end)
	wait := []unix.PollFd{{Fd: int32(end), Events: unix.POLLIN}} //nolint:gosec // a descriptor
	for _, name := range []string{"/self/mountinfo", "/swaps"} {
		fd, err := unix.Open(r.Proc+name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == unix.ENOENT && name == "/swaps" {
			continue // a kernel without swap
		}
		if err != nil {
			return fmt.Errorf("cannot watch %s: %w", r.Proc+name, err)
		}
		defer unix.Close(fd)
		wait = append(wait, unix.PollFd{Fd: int32(fd), Events: unix.POLLPRI}) //nolint:gosec // a descriptor
	}
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		_, _ = unix.Write(end, []byte{1, 0, 0, 0, 0, 0, 0, 0})
		close(done)
	})
	defer func() {
		if !stop() {
			<-done // it writes to what is closed next
		}
	}()
	for {
		for i := range wait {
			wait[i].Revents = 0
		}
		if _, err := unix.Poll(wait, -1); err != nil && err != unix.EINTR {
			return fmt.Errorf("cannot wait for mounts: %w", err)
		}
		if wait[0].Revents != 0 {
			return nil
		}
		for _, w := range wait[1:] {
			if w.Revents != 0 {
				changed()
				break
			}
		}
	}
}
