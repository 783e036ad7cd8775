package service

import (
	"context"
	"fmt"

	"github.com/coreos/go-systemd/v22/dbus"
)

// querySystemd asks systemd over the system bus, which any user may do; ok is false if systemd does not run.
func querySystemd(ctx context.Context) (s State, ok bool, err error) {
	if !systemd() {
		return State{}, false, nil
	}
	ctx, cancel := context.WithTimeout(ctx, endingLimit)
	defer cancel()
	conn, err := dbus.NewSystemConnectionContext(ctx)
	if err != nil {
		// Without a bus (a rescue shell, a container), root can reach systemd directly.
		if conn, err = dbus.NewSystemdConnectionContext(ctx); err != nil {
			return State{}, true, fmt.Errorf("cannot reach systemd: %w", err)
		}
	}
	defer conn.Close()
	p, err := conn.GetUnitPropertiesContext(ctx, Name+".service")
	if err != nil {
		return State{}, true, fmt.Errorf("cannot ask systemd: %w", err)
	}
	text := func(name string) string { v, _ := p[name].(string); return v }
	load, active := text("LoadState"), text("ActiveState")
	s = State{
		Installed: load == "loaded" || load == "masked",
		Enabled:   text("UnitFileState") == "enabled",
		Running:   active == "active" || active == "reloading" || active == "deactivating",
	}
	if s.Installed {
		s.Detail = fmt.Sprintf("%s (%s), %s", active, text("SubState"), text("UnitFileState"))
	}
	return s, true, nil
}
