//go:build simulate

package main

import (
	"os"

	"github.com/warderd/warder/agent"
	"github.com/warderd/warder/platform/seat"
)

// simulated makes an agent built for demonstrations use a simulated USB bus (packaging/dev/bus) instead of the
// machine's. Its version says so, in the status and on the server.
func simulated(o agent.Options) agent.Options {
	if dir := os.Getenv("WARDER_SIMULATED_BUS"); dir != "" {
		o.SysRoot = dir
		o.Version += " (simulated USB)"
		o.Logins = func() []seat.Login { return nil } // the desktop of whoever tries it is no part of it
	}
	return o
}
