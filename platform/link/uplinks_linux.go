package link

import (
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxUplinks bounds how many interfaces are named.
const maxUplinks = 8

// Uplinks are the interfaces of this machine's default routes, of tunnels, too. A tunnel that takes everything usually leaves the others
// there, under routes or rules of its own.
func Uplinks() []string { return uplinksIn("/proc/thread-self/net") }

// uplinksIn reads them from the kernel's tables; see gatewaysIn.
func uplinksIn(dir string) (out []string) {
	add := func(name, flags string) {
		f, err := strconv.ParseUint(flags, 16, 32)
		if err != nil || f&(unix.RTF_UP|unix.RTF_REJECT) != unix.RTF_UP || name == "" || name == "lo" {
			return
		}
		if !slices.Contains(out, name) && len(out) < maxUplinks {
			out = append(out, name)
		}
	}
	lines(dir+"/route", func(w []string) {
		if at(w, 1) == "00000000" && at(w, 7) == "00000000" {
			add(at(w, 0), at(w, 3))
		}
	})
	lines(dir+"/ipv6_route", func(w []string) {
		if strings.Trim(at(w, 0), "0") == "" && at(w, 1) == "00" {
			add(at(w, 9), at(w, 8))
		}
	})
	return out
}

// bind makes a socket use one interface, whatever the routes say.
func bind(c syscall.RawConn, name string) error {
	var failed error
	if err := c.Control(func(fd uintptr) { failed = unix.BindToDevice(int(fd), name) }); err != nil {
		return err
	}
	return failed
}
