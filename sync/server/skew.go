//go:build skew

package server

import (
	"os"
	"time"
)

// A build with the tag "skew" takes a wrong clock from its environment, to show that a device's or
// a server's wrong clock is no lock-out.
func init() {
	if d, err := time.ParseDuration(os.Getenv("WARDER_CLOCK_SKEW")); err == nil {
		clock = func() time.Time { return time.Now().Add(d) }
	}
}
