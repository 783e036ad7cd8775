package service

import (
	"context"
	"os"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
)

// endingLimit bounds the question, because whoever stops the program waits for the answer.
const endingLimit = 3 * time.Second

// systemd reports whether it runs this machine (sd_booted(3)).
func systemd() bool {
	_, err := os.Stat("/run/systemd/system")
	return err == nil
}

// Why asks systemd why this program is being ended. The answer is the type of its unit's job, which differs between
// "restart" and "stop"; a signal makes no job. systemd is asked directly and not over the bus, which ends with the
// machine, too.
func Why(ctx context.Context) Ending {
	if !systemd() {
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
	p, err := conn.GetServicePropertyContext(ctx, unit, "MainPID")
	if err != nil || p.Value.Value() != uint32(os.Getpid()) { //nolint:gosec // as above
		return Stopped // from somebody's terminal
	}
	jobs, err := conn.ListJobsContext(ctx)
	if err != nil {
		return Stopped
	}
	for _, j := range jobs {
		if j.Unit == unit {
			return ofJob(j.JobType)
		}
	}
	// A signal, and no job: systemd starts a unit again that is always restarted.
	if p, err := conn.GetServicePropertyContext(ctx, unit, "Restart"); err == nil && p.Value.Value() == "always" {
		return Restarting
	}
	return Stopped
}

// ofJob is what the unit's job means for the program that ends. A stop that became a start is followed by a start.
func ofJob(kind string) Ending {
	switch kind {
	case "restart", "try-restart", "start":
		return Restarting
	}
	return Stopped
}
