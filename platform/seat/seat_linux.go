package seat

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
)

// Bounds of what is read: logind's files are small, and a machine has few seats.
const (
	maxSeats = 64
	maxFile  = 64 << 10
)

// Active lists the user ids of the active sessions. It is empty if nobody is at the machine, or without logind.
func Active() []uint32 { return active("/run/systemd/seats") }

// active reads the state files from which sd_seat_get_active(3) answers.
func active(dir string) (out []uint32) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries[:min(len(entries), maxSeats)] {
		if !e.Type().IsRegular() {
			continue
		}
		if uid, ok := parse(small(filepath.Join(dir, e.Name()))); ok && !slices.Contains(out, uid) {
			out = append(out, uid)
		}
	}
	return out
}

func parse(text string) (uint32, bool) {
	n, err := strconv.ParseUint(field(text, "ACTIVE_UID"), 10, 32)
	return uint32(n), err == nil
}
