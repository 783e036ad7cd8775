// Package seat says who is at the machine: the users of the active session of each seat, as systemd-logind knows them.
// Only they may see what is plugged into a USB port. The package reads that and decides nothing.
package seat

// Login is a graphical session.
type Login struct {
	ID     string
	UID    uint32
	User   string
	Type   string // x11 or wayland
	Active bool   // it is what the screen shows
}

// What a session's screen lock is.
const (
	Locked   = "locked"
	Unlocked = "unlocked"
)
