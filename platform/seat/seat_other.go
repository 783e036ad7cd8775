//go:build !linux

package seat

// Active is not known here: what a USB port sees is shown to administrators.
func Active() []uint32 { return nil }

// Session: there is no logind here.
func Session(uint32, int) string { return "" }
