package paths

import (
	"time"

	"golang.org/x/sys/unix"
)

// Evict ends the process that has a lock. It asks first and kills after a while, or kills at once. It reports whether
// the lock is free.
func Evict(path string, patience time.Duration, atOnce bool) bool {
	signals := []unix.Signal{unix.SIGTERM, unix.SIGKILL}
	if atOnce {
		signals = signals[1:]
	}
	for _, sig := range signals {
		if free(path) {
			return true
		}
		pid, ok := owner(path)
		if !ok || pid == unix.Getpid() {
			return free(path)
		}
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			return free(path)
		}
		// Another process may have had the number before the descriptor was opened.
		if again, ok := owner(path); ok && again == pid {
			_ = unix.PidfdSendSignal(fd, sig, nil, 0)
		}
		_ = unix.Close(fd)
		for end := time.Now().Add(patience); time.Now().Before(end) && !free(path); {
			time.Sleep(5 * time.Millisecond)
		}
	}
	return free(path)
}
