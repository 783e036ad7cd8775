//go:build linux

package laptop

import (
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"
)

// monitor speaks QMP, QEMU's machine protocol (docs/interop/qmp-spec in QEMU's sources).
type monitor struct {
	mu     sync.Mutex
	conn   net.Conn
	dec    *json.Decoder
	events chan event
}

type event struct {
	Name string         `json:"event"`
	Data map[string]any `json:"data"`
}

// newMonitor reads the greeting and switches QMP to its command mode.
func newMonitor(conn net.Conn) (*monitor, error) {
	m := &monitor{conn: conn, dec: json.NewDecoder(conn), events: make(chan event, 256)}
	var hello map[string]any
	if err := m.dec.Decode(&hello); err != nil {
		return nil, err
	}
	_, err := m.do("qmp_capabilities", nil)
	return m, err
}

// do runs one command; events in between are skipped.
func (m *monitor) do(command string, args any) (json.RawMessage, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	req := map[string]any{"execute": command}
	if args != nil {
		req["arguments"] = args
	}
	if err := json.NewEncoder(m.conn).Encode(req); err != nil {
		return nil, err
	}
	for {
		var r struct {
			event
			Return json.RawMessage `json:"return"`
			Error  *struct {
				Desc string `json:"desc"`
			} `json:"error"`
		}
		if err := m.dec.Decode(&r); err != nil {
			return nil, err
		}
		switch {
		case r.Name != "":
			select {
			case m.events <- r.event:
			default:
			}
		case r.Error != nil:
			return nil, fmt.Errorf("qmp %s: %s", command, r.Error.Desc)
		default:
			return r.Return, nil
		}
	}
}

// Plug adds a USB device: Plug("usb-kbd", "kbd0", map[string]any{"port": "1"}).
func (l *Laptop) Plug(driver, id string, props map[string]any) error {
	args := map[string]any{"driver": driver, "id": id, "bus": "xhci.0"}
	for k, v := range props {
		args[k] = v
	}
	// The emulator lets go of a stick's medium some time after it was unplugged, when its own threads have all moved on.
	for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		_, err := l.qmp.do("device_add", args)
		if err == nil || !strings.Contains(err.Error(), "Permission conflict") || time.Now().After(end) {
			return err
		}
	}
}

// Unplug unplugs a device.
func (l *Laptop) Unplug(id string) error {
	_, err := l.qmp.do("device_del", map[string]any{"id": id})
	return err
}

// Stick makes a raw file on the host the medium of a future stick, by node name.
func (l *Laptop) Stick(node, file string) error {
	_, err := l.qmp.do("blockdev-add", map[string]any{
		"node-name": node, "driver": "raw", "cache": map[string]any{"no-flush": true}, "file": map[string]any{"driver": "file", "filename": file},
	})
	return err
}
