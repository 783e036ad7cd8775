package tick

import (
	"context"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Every calls f every d until ctx ends. Time spent asleep does not count.
func Every(ctx context.Context, d time.Duration, f func()) error {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK)
	if err != nil {
		return fmt.Errorf("cannot make a timer: %w", err)
	}
	file := os.NewFile(uintptr(fd), "tick")
	defer file.Close()
	step := unix.NsecToTimespec(d.Nanoseconds())
	if err := unix.TimerfdSettime(fd, 0, &unix.ItimerSpec{Interval: step, Value: step}, nil); err != nil {
		return fmt.Errorf("cannot set a timer of %s: %w", d, err)
	}
	defer context.AfterFunc(ctx, func() { _ = file.Close() })()
	b := make([]byte, 8)
	for {
		if _, err := file.Read(b); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("cannot read a timer: %w", err)
		}
		f()
	}
}
