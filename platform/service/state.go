package service

import (
	"context"
	"errors"

	"github.com/kardianos/service"
)

// State is what the service manager says about the agent's service.
type State struct {
	Installed bool   `json:"installed"`
	Enabled   bool   `json:"enabled"` // it starts with the machine; true if the manager cannot say
	Running   bool   `json:"running"`
	Detail    string `json:"detail,omitempty"` // in the service manager's own words
}

// Query asks the service manager. A machine without one has no service installed.
func Query(ctx context.Context) (State, error) {
	if s, ok, err := querySystemd(ctx); ok || err != nil {
		return s, err
	}
	s, err := service.New(&Program{}, config())
	if errors.Is(err, service.ErrNoServiceSystemDetected) {
		return State{Detail: "this machine has no service manager that Warder knows"}, nil
	}
	if err != nil {
		return State{}, err
	}
	status, err := s.Status()
	switch {
	case errors.Is(err, service.ErrNotInstalled):
		return State{}, nil
	case s.Platform() == "linux-systemd" && !systemd():
		return State{Installed: true, Enabled: true, Detail: "systemd does not run this machine"}, nil //nolint:nilerr // the state says it
	case err != nil: // the library's text for a service that exists and has failed
		return State{Installed: true, Enabled: true, Detail: err.Error()}, nil //nolint:nilerr // the state says it
	}
	return State{Installed: true, Enabled: true, Running: status == service.StatusRunning}, nil
}

// HowToStart says with which command to start this machine's agent.
func HowToStart(ctx context.Context) string {
	s, err := Query(ctx)
	switch {
	case err == nil && !s.Installed:
		return "no service is installed; to install and start it: sudo warder service install && sudo warder service start"
	case systemd():
		return "start it with: sudo systemctl start warder"
	}
	return "start it with: sudo warder service start"
}
