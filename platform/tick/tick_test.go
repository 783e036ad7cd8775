package tick

import (
	"context"
	"testing"
	"time"
)

func TestEvery(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	n := 0
	done := make(chan error)
	go func() {
		done <- Every(ctx, 5*time.Millisecond, func() {
			if n++; n == 3 {
				cancel()
			}
		})
	}()
	if err := <-done; err != nil || n < 3 {
		t.Errorf("%d ticks, %v", n, err)
	}
}
