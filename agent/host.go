package agent

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"strings"
)

func firstLine(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(b), "\n")
	return strings.TrimSpace(line)
}

// bootID changes with every boot. Where the system names none, each start counts as a boot: values
// of an earlier one are then taken for lost, not for ours.
func bootID() string {
	if id := firstLine("/proc/sys/kernel/random/boot_id"); id != "" {
		return id
	}
	return "pid-" + hex.EncodeToString([]byte{byte(os.Getpid() >> 8), byte(os.Getpid())})
}

// machineID is a hash: the id itself is confidential (machine-id(5)).
func machineID() string {
	id := firstLine("/etc/machine-id")
	if id == "" {
		id, _ = os.Hostname()
	}
	h := sha256.Sum256([]byte("warder machine " + id))
	return hex.EncodeToString(h[:16])
}

// osVersion is the release's own name for itself (os-release(5)).
func osVersion() string {
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

// hardwareSerial needs root on Linux; it is empty otherwise.
func hardwareSerial() string { return firstLine("/sys/class/dmi/id/product_serial") }
