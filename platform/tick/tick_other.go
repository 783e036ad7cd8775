//go:build !linux

package tick

import (
	"context"
	"time"
)

// Every calls f every d until ctx ends.
func Every(ctx context.Context, d time.Duration, f func()) error {
	t := time.NewTicker(d)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
			f()
		}
	}
}
