// Package host describes this machine: its boot, its id, its system's release and its serial number. It owns these few
// readings, changes nothing and decides nothing. The agent asks once, at its start.
package host

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"runtime"
	"time"
)

// Host describes a machine.
type Host struct {
	Name, OS, Version, Arch string
	Serial                  string // of the hardware; empty if only root may read it
}

// Describe reads the description.
func Describe() Host {
	name, _ := os.Hostname()
	return Host{Name: name, OS: runtime.GOOS, Version: version(), Arch: runtime.GOARCH, Serial: serial()}
}

// Boot changes with every boot and never otherwise; empty if the system does not say.
func Boot() string { return boot() }

// Uptime is how long ago the system was started, sleep included; 0 if it does not say.
func Uptime() time.Duration { return uptime() }

// Machine is a hash of the machine's own id, which is confidential (machine-id(5)).
func Machine() string {
	id := machine()
	if id == "" {
		id, _ = os.Hostname()
	}
	h := sha256.Sum256([]byte("warder machine " + id))
	return hex.EncodeToString(h[:16])
}
