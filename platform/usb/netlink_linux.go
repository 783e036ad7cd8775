package usb

import (
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
)

// receiveBuffer holds several thousand announcements: a dock with forty devices sends hundreds.
const receiveBuffer = 4 << 20

// uevents is a socket on the kernel's own announcements, before udev's. It is read by a thread that does
// nothing else, and waits for it in the kernel: the runtime's poller would be one more to wake.
type uevents struct {
	fd int
	// port is the socket's own address. A message to itself ends a Read that waits in one system call. 0 without
	// CAP_NET_ADMIN, which such a message takes: then end, an event counter, is waited for, too, and a Read is two.
	port    uint32
	end     int
	closing sync.Mutex
}

func openUevents() (*uevents, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return nil, err
	}
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer) != nil {
		// Without CAP_NET_ADMIN the system's limit holds; an overflow ends in a rescan.
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
	u := &uevents{fd: fd, end: end}
	if own, err := unix.Getsockname(fd); err == nil {
		if a, ok := own.(*unix.SockaddrNetlink); ok && wake(fd, a.Pid) == nil {
			u.port = a.Pid
		}
	}
	return u, nil
}

// wake sends a socket a message of its own.
func wake(fd int, port uint32) error {
	return unix.Sendto(fd, []byte{0}, unix.MSG_DONTWAIT, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Pid: port})
}

// errEnded: Stop was called.
var errEnded = errors.New("the socket is being closed")

// Read gives one announcement; 0 bytes for one that the kernel did not send, as Stop does, or that is too long.
func (u *uevents) Read(b []byte) (int, error) {
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
			return 0, errEnded
		}
	}
}

// Stop ends a Read that waits, and every later one. It may come at any time, after Close, too.
func (u *uevents) Stop() {
	u.closing.Lock()
	defer u.closing.Unlock()
	if u.end >= 0 { // else the number may be somebody else's by now
		_, _ = unix.Write(u.end, []byte{1, 0, 0, 0, 0, 0, 0, 0})
		if u.port != 0 {
			_ = wake(u.fd, u.port) // where there is no room for it, it does not wait either
		}
	}
}

// Close is called when nobody reads any more.
func (u *uevents) Close() error {
	u.closing.Lock()
	defer u.closing.Unlock()
	err := errors.Join(unix.Close(u.fd), unix.Close(u.end))
	u.end = -1
	return err
}
