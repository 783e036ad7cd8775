//go:build !linux

package seat

import "context"

// Active is unknown on this system: what is plugged in is only shown to administrators.
func Active() []uint32 { return nil }

// Session returns "": this system has no logind.
func Session(uint32, int) string { return "" }

// Graphical is unknown on this system.
func Graphical() []Login { return nil }

// ScreenLock is unknown on this system.
func ScreenLock(context.Context) string { return "" }
