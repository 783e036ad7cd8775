//go:build skew

package server

import (
	"os"
	"time"
)

// A build with the tag "skew" takes a wrong clock from its environment, to test that a wrong clock of a device or a
// server locks nobody out.
func init() {
	if d, err := time.ParseDuration(os.Getenv("WARDER_CLOCK_SKEW")); err == nil {
		clock = func() time.Time { return time.Now().Add(d) }
	}
}
