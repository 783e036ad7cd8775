package service

import (
	"context"
	"os"
	"strings"

	"github.com/coreos/go-systemd/v22/dbus"
)

// Ended reports whether the unit of this process, which runs after the main one has ended (ExecStopPost), ends for
// good: by a stop that no start follows. That includes a restart that was begun and then stopped, and the stop of a
// unit that could not be started.
func Ended(ctx context.Context) bool {
	if !systemd() {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, endingLimit)
	defer cancel()
	conn, err := dbus.NewSystemdConnectionContext(ctx)
	if err != nil {
		return false
	}
	defer conn.Close()
	if p, err := conn.SystemStateContext(ctx); err != nil || p.Value.Value() == "stopping" {
		return false // the machine goes with it
	}
	unit, err := conn.GetUnitNameByPID(ctx, uint32(os.Getpid())) //nolint:gosec // a pid has 22 bits
	if err != nil || !strings.HasSuffix(unit, ".service") {
		return false
	}
	jobs, err := conn.ListJobsContext(ctx)
	if err != nil {
		return false
	}
	for _, j := range jobs {
		if j.Unit == unit {
			return j.JobType == "stop"
		}
	}
	return false
}
