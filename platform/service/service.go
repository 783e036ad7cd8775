// Package service installs Warder as a system service and runs it as one: systemd, the Windows service manager,
// launchd. It owns the unit; what runs inside is the caller's.
package service

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/kardianos/service"
)

// Name is the service's name on every system.
const Name = "warder"

// Unit is the systemd unit, in kardianos/service's template syntax. The .deb ships it rendered.
//
//go:embed warder.service
var Unit string

// EarlyUnit is the unit of the early start.
//
//go:embed warder-early.service
var EarlyUnit string

// Program is what runs. Run returns when its context ends, or with an error.
type Program struct {
	Run func(context.Context) error

	cancel context.CancelFunc
	done   chan error
}

// Start is called by the service manager's library.
func (p *Program) Start(service.Service) error {
	ctx, cancel := context.WithCancel(context.Background())
	p.cancel, p.done = cancel, make(chan error, 1)
	go func() {
		err := p.Run(ctx)
		p.done <- err
		if err != nil && ctx.Err() == nil {
			fmt.Fprintln(os.Stderr, "warder:", err)
			os.Exit(1) //nolint:forbidigo // the service manager starts us again; kardianos offers no other way
		}
	}()
	return nil
}

// Stop ends the program and waits for it.
func (p *Program) Stop(service.Service) error {
	p.cancel()
	return <-p.done
}

// config describes the service to the service manager's library.
func config() *service.Config {
	exe, err := os.Executable()
	if err == nil {
		if to, err := filepath.EvalSymlinks(exe); err == nil {
			exe = to
		}
	}
	return &service.Config{
		Name: Name, DisplayName: "Warder", Description: "Warder policy agent", Executable: exe, Arguments: []string{"run"},
		Option: service.KeyValue{
			"SystemdScript": Unit,
			// Windows: always start again, after a second.
			"OnFailure": "restart", "OnFailureDelayDuration": "1s", "OnFailureResetPeriod": 60,
			"KeepAlive": true, "RunAtLoad": true,
		},
	}
}

// Run runs the program under the service manager, or in the foreground until interrupted.
func Run(p *Program) error {
	s, err := service.New(p, config())
	if err != nil {
		return fmt.Errorf("cannot run as a service: %w", err)
	}
	return s.Run()
}

// ErrPackaged means that a package owns the service.
var ErrPackaged = errors.New("the service belongs to the installed package: use the system's package manager")

// packaged are the paths where packages put their unit or init script; "warder service install" puts its own elsewhere.
var packaged = []string{"/lib/systemd/system/warder.service", "/usr/lib/systemd/system/warder.service", "/usr/lib/warder/package"}

// Control does install, uninstall, start, stop or restart.
func Control(action string) error {
	if action == "install" || action == "uninstall" {
		for _, file := range packaged {
			if _, err := os.Stat(file); err == nil {
				return ErrPackaged
			}
		}
	}
	s, err := service.New(&Program{}, config())
	if err != nil {
		return fmt.Errorf("cannot reach the service manager: %w", err)
	}
	if action == "install" {
		if err := checkExecutable(config().Executable); err != nil {
			return err
		}
		if err := installEarly(config().Executable); err != nil { // before systemd reloads its units
			return fmt.Errorf("cannot install the early start: %w", err)
		}
	}
	if action == "uninstall" {
		if err := removeEarly(); err != nil { // before systemd reloads its units
			return fmt.Errorf("cannot remove the early start: %w", err)
		}
	}
	if err := service.Control(s, action); err != nil {
		if s.Platform() == "linux-systemd" && !systemd() {
			return fmt.Errorf("cannot %s the service: systemd does not run this machine; run the agent by hand: sudo warder run", action)
		}
		return fmt.Errorf("cannot %s the service: %w", action, err)
	}
	return nil
}
