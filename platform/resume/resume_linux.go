package resume

import (
	"context"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Watch calls f after each resume and each jump of the wall clock, until ctx ends. The kernel cancels a timer with this
// flag when the clock is set or the machine resumes (TFD_TIMER_CANCEL_ON_SET in timerfd_create(2)); the timer itself is
// far in the future.
func Watch(ctx context.Context, f func()) error {
	fd, err := unix.TimerfdCreate(unix.CLOCK_REALTIME, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK)
	if err != nil {
		return fmt.Errorf("cannot watch for resume: %w", err)
	}
	file := os.NewFile(uintptr(fd), "resume")
	defer file.Close()
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = file.Close() })()
	for {
		at := unix.ItimerSpec{Value: unix.NsecToTimespec(time.Now().AddDate(20, 0, 0).UnixNano())}
		var failed error
		err := raw.Control(func(fd uintptr) {
			failed = unix.TimerfdSettime(int(fd), unix.TFD_TIMER_ABSTIME|unix.TFD_TIMER_CANCEL_ON_SET, &at, nil)
		})
		if ctx.Err() != nil {
			return nil
		}
		// ECANCELED here means that the clock was set between two calls.
		if err != nil || failed != nil && failed != unix.ECANCELED {
			return fmt.Errorf("cannot watch for resume: %w", failed)
		}
		var rerr error
		err = raw.Read(func(fd uintptr) bool {
			_, rerr = unix.Read(int(fd), make([]byte, 8))
			return rerr != unix.EAGAIN
		})
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("cannot watch for resume: %w", err)
		}
		if rerr == unix.ECANCELED {
			f()
		}
	}
}
