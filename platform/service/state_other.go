//go:build !linux

package service

import "context"

func systemd() bool { return false }

func querySystemd(context.Context) (State, bool, error) { return State{}, false, nil }
