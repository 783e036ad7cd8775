package seat

import (
	"context"
	"time"

	"github.com/godbus/dbus/v5"
)

// lockWait bounds the question.
const lockWait = 5 * time.Second

// ScreenLock is whether the screen of this process's session is locked, as its desktop has told systemd-logind (LockedHint,
// org.freedesktop.login1(5)): Locked or Unlocked; "" if that cannot be told.
func ScreenLock(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, lockWait)
	defer cancel()
	bus, err := dbus.ConnectSystemBus(dbus.WithContext(ctx))
	if err != nil {
		return ""
	}
	defer bus.Close()
	v, err := bus.Object("org.freedesktop.login1", "/org/freedesktop/login1/session/auto").GetProperty("org.freedesktop.login1.Session.LockedHint")
	locked, ok := v.Value().(bool)
	switch {
	case err != nil || !ok:
		return ""
	case locked:
		return Locked
	}
	return Unlocked
}
