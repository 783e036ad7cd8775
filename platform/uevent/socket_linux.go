package uevent

import (
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
)

// receiveBuffer has room for several thousand announcements: a dock with forty devices sends hundreds.
const receiveBuffer = 4 << 20

// Socket is one for the kernel's own announcements, before udev's. A thread reads it that does nothing else, and
// waits in the kernel: the runtime's poller would be one more thread to wake.
type Socket struct {
	fd int
	// port is the socket's own address. A message to itself ends a waiting Read with one system call. It is 0 without
	// CAP_NET_ADMIN, which sending such a message needs. Then end, an event counter, is waited for as well, and a Read
	// takes two system calls.
	port    uint32
	end     int
	closing sync.Mutex
}

// Open opens a socket for the kernel's announcements.
func Open() (*Socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return nil, err
	}
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer) != nil {
		// Without CAP_NET_ADMIN the system's limit applies; an overflow leads to a rescan.
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer)
	}
	const kernelGroup = 1
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: kernelGroup}); err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	end, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	u := &Socket{fd: fd, end: end}
	if own, err := unix.Getsockname(fd); err == nil {
		if a, ok := own.(*unix.SockaddrNetlink); ok && wake(fd, a.Pid) == nil {
			u.port = a.Pid
		}
	}
	return u, nil
}

// wake sends a message to a socket of our own.
func wake(fd int, port uint32) error {
	return unix.Sendto(fd, []byte{0}, unix.MSG_DONTWAIT, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Pid: port})
}

// ErrEnded means that Stop was called.
var ErrEnded = errors.New("the socket is being closed")

// Read returns one announcement. It returns 0 bytes for a message that the kernel did not send, such as Stop's, or that
// is too long.
func (u *Socket) Read(b []byte) (int, error) {
	how := 0
	if u.port == 0 {
		how = unix.MSG_DONTWAIT
	}
	for {
		n, _, flags, from, err := unix.Recvmsg(u.fd, b, nil, how)
		switch err {
		case nil:
			sender, ok := from.(*unix.SockaddrNetlink)
			if !ok || sender.Pid != 0 || sender.Groups != 1 || flags&unix.MSG_TRUNC != 0 {
				return 0, nil
			}
			return n, nil
		case unix.EINTR:
			continue
		case unix.EAGAIN:
		default:
			return 0, err
		}
		wait := []unix.PollFd{{Fd: int32(u.fd), Events: unix.POLLIN}, {Fd: int32(u.end), Events: unix.POLLIN}}
		if _, err := unix.Poll(wait, -1); err != nil && err != unix.EINTR {
			return 0, fmt.Errorf("cannot wait for announcements: %w", err)
		}
		if wait[1].Revents != 0 {
			return 0, ErrEnded
		}
	}
}

// Stop ends a Read that waits, and every later one. It may be called at any time, also after Close.
func (u *Socket) Stop() {
	u.closing.Lock()
	defer u.closing.Unlock()
	if u.end >= 0 { // otherwise the number may be somebody else's by now
		_, _ = unix.Write(u.end, []byte{1, 0, 0, 0, 0, 0, 0, 0})
		if u.port != 0 {
			_ = wake(u.fd, u.port) // if there is no room for it, nobody is waiting either
		}
	}
}

// Close is called when nobody reads any more.
func (u *Socket) Close() error {
	u.closing.Lock()
	defer u.closing.Unlock()
	err := errors.Join(unix.Close(u.fd), unix.Close(u.end))
	u.end = -1
	return err
}
