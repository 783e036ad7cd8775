package resolver

import (
	"context"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"
)

// busWait bounds a call to systemd-resolved.
const busWait = time.Second

// The names of systemd-resolved on the system bus (org.freedesktop.resolve1(5)).
const (
	resolvedName = "org.freedesktop.resolve1"
	resolvedPath = "/org/freedesktop/resolve1"
)

// onBus calls f with systemd-resolved, if it runs. It is not started for this.
func onBus(ctx context.Context, f func(dbus.BusObject)) {
	c, err := dbus.ConnectSystemBus(dbus.WithContext(ctx))
	if err != nil {
		return
	}
	defer c.Close()
	var runs bool
	if err := c.BusObject().CallWithContext(ctx, "org.freedesktop.DBus.NameHasOwner", 0, resolvedName).Store(&runs); err != nil || !runs {
		return
	}
	f(c.Object(resolvedName, resolvedPath))
}

// flushResolved empties the cache of systemd-resolved.
func flushResolved(ctx context.Context) {
	onBus(ctx, func(o dbus.BusObject) {
		_ = o.CallWithContext(ctx, resolvedName+".Manager.FlushCaches", dbus.FlagNoAutoStart).Err
	})
}

// resolvedDomains are the domains that systemd-resolved has for its links: of a VPN, or of DHCP.
func resolvedDomains() (out []string) {
	ctx, cancel := context.WithTimeout(context.Background(), busWait)
	defer cancel()
	onBus(ctx, func(o dbus.BusObject) {
		v, err := o.GetProperty(resolvedName + ".Manager.Domains")
		if err != nil {
			return
		}
		var list []struct {
			Link    int32
			Domain  string
			Routing bool
		}
		if dbus.Store([]any{v.Value()}, &list) != nil {
			return
		}
		for _, d := range list {
			if s := strings.ToLower(strings.Trim(d.Domain, ".")); s != "" {
				out = append(out, s)
			}
		}
	})
	return out
}
