package link

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// mark sets a firewall mark (SO_MARK) on a socket.
func mark(c syscall.RawConn, m int) error {
	var failed error
	if err := c.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, m)
	}); err != nil {
		return err
	}
	return failed
}
