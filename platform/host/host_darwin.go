package host

import (
	"time"

	"golang.org/x/sys/unix"
)

// ask reads a value by its sysctl name.
func ask(name string) string {
	v, err := unix.Sysctl(name)
	if err != nil {
		return ""
	}
	return v
}

// boot is a new id that the kernel makes at each boot (bsd/kern/kern_mib.c in xnu).
func boot() string    { return ask("kern.bootsessionuuid") }
func machine() string { return ask("kern.uuid") }
func version() string { return "macOS " + ask("kern.osproductversion") }

// serial is in the I/O registry, which needs cgo or a child process, so it is left out.
func serial() string { return "" }

func uptime() time.Duration { return 0 } // nothing needs it here
