package host

import (
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// uptime reads the time since boot (CLOCK_BOOTTIME, which counts sleep).
func uptime() time.Duration {
	var t unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &t) != nil {
		return 0
	}
	return time.Duration(t.Nano())
}

// firstLine reads the first line of a small file.
func firstLine(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(b), "\n")
	return strings.TrimSpace(line)
}

func boot() string    { return firstLine("/proc/sys/kernel/random/boot_id") }
func machine() string { return firstLine("/etc/machine-id") }
func serial() string  { return firstLine("/sys/class/dmi/id/product_serial") }

// version is the release's own name (os-release(5)).
func version() string {
	b, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "PRETTY_NAME="); ok {
			return strings.Trim(strings.TrimSpace(v), `"`)
		}
	}
	return ""
}
