package link

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// mark sets the firewall mark (SO_MARK) on a socket.
func mark(c syscall.RawConn) error {
	var failed error
	if err := c.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, Mark)
	}); err != nil {
		return err
	}
	return failed
}
