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
		if ctx.Err() != nil || removed() {
			return nil //nolint:nilerr // it was to end
		}
		var ended *exec.ExitError
		if err != nil && !errors.As(err, &ended) {
			return fmt.Errorf("cannot start the helper: %w", err)
		}
		switch helper.ProcessState.ExitCode() {
		case 0, exitTaken, exitOver:
			return nil
		}
	}
}
