package usb

import (
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// receiveBuffer holds several thousand announcements: a dock with forty devices sends hundreds.
const receiveBuffer = 4 << 20

// uevents is a socket on the kernel's own announcements, before udev's.
type uevents struct {
	file *os.File
	raw  syscall.RawConn
}

func openUevents() (*uevents, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT)
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
	f := os.NewFile(uintptr(fd), "uevents")
	raw, err := f.SyscallConn()
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return &uevents{f, raw}, nil
}

// Read gives one announcement; 0 bytes for one that the kernel did not send, or that is too long.
func (u *uevents) Read(b []byte) (n int, err error) {
	var from unix.Sockaddr
	var flags int
	rerr := u.raw.Read(func(fd uintptr) bool {
		for {
			n, _, flags, from, err = unix.Recvmsg(int(fd), b, nil, 0)
			if err != unix.EINTR {
				return err != unix.EAGAIN
			}
		}
	})
	if rerr != nil {
		return 0, rerr
	}
	if err != nil {
		return 0, err
	}
	sender, ok := from.(*unix.SockaddrNetlink)
	if !ok || sender.Pid != 0 || sender.Groups != 1 || flags&unix.MSG_TRUNC != 0 {
		return 0, nil
	}
	return n, nil
}

func (u *uevents) Close() error {
	if err := u.file.Close(); err != nil {
		return fmt.Errorf("cannot close the uevent socket: %w", err)
	}
	return nil
}
