package mountinfo

import (
	"context"
	"fmt"

	"golang.org/x/sys/unix"
)

// Watch reports that one of the kernel's lists that can be polled has changed (mountinfo, swaps), until ctx ends. A list that this
// kernel does not have is passed over.
func Watch(ctx context.Context, changed func(), lists ...string) error {
	end, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return fmt.Errorf("cannot watch the mounts: %w", err)
	}
	defer unix.Close(end)
	wait := []unix.PollFd{{Fd: int32(end), Events: unix.POLLIN}} //nolint:gosec // a descriptor
	for _, name := range lists {
		fd, err := unix.Open(name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == unix.ENOENT {
			continue
		}
		if err != nil {
			return fmt.Errorf("cannot watch %s: %w", name, err)
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
