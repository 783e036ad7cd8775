package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"time"
)

// keepHelper runs a helper, and another one when it has died, until ctx ends or the session has a helper already. The first one waits
// for a moment, so that the user's service manager, where there is one, has started its own.
func (a *app) keepHelper(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	args := []string{"session"}
	if a.state != "" {
		args = append(args, "--state", a.state)
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(helperPause):
		}
		helper := exec.CommandContext(ctx, self, args...)
		helper.Stderr = os.Stderr
		helper.Cancel = func() error { return helper.Process.Signal(os.Interrupt) }
		helper.WaitDelay = helperPause
		err := helper.Run()
		var ended *exec.ExitError
		switch {
		case ctx.Err() != nil || err == nil || removed():
			return nil
		case errors.As(err, &ended) && (ended.ExitCode() == exitTaken || ended.ExitCode() == exitOver):
			return nil
		case !errors.As(err, &ended):
			return fmt.Errorf("cannot start the helper: %w", err)
		}
	}
}
