package service

import (
	"context"
	"os"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
)

// endingLimit bounds the question: the answer is wanted by one who is being stopped.
const endingLimit = 3 * time.Second

// Why asks systemd why this program is being ended: by the job that is under way for its unit, which is
// another one for "restart" than for "stop". It is asked directly, and not over the bus, which ends with the
// machine, too.
func Why(ctx context.Context) Ending {
	if _, err := os.Stat("/run/systemd/system"); err != nil {
		return Stopped
	}
	ctx, cancel := context.WithTimeout(ctx, endingLimit)
	defer cancel()
	conn, err := dbus.NewSystemdConnectionContext(ctx)
	if err != nil {
		if conn, err = dbus.NewSystemConnectionContext(ctx); err != nil {
			return Stopped
		}
	}
	defer conn.Close()
	if p, err := conn.SystemStateContext(ctx); err == nil && p.Value.Value() == "stopping" {
		return Shutdown
	}
	unit, err := conn.GetUnitNameByPID(ctx, uint32(os.Getpid())) //nolint:gosec // a pid has 22 bits
	if err != nil {
		return Stopped
	}
	jobs, err := conn.ListJobsContext(ctx)
	if err != nil {
		return Stopped
	}
	for _, j := range jobs {
		if j.Unit == unit && (j.JobType == "restart" || j.JobType == "try-restart") {
			return Restarting
		}
	}
	return Stopped
}
