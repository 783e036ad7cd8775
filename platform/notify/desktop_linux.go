package notify

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/godbus/dbus/v5"
)

// Desktop shows notices in the session of this process, by whatever shows notices there.
// https://specifications.freedesktop.org/notification-spec/latest/
type Desktop struct {
	Address string // of the session's bus; "" for that of this process

	mu    sync.Mutex
	bus   *dbus.Conn
	asked time.Time
	why   error
}

const (
	desktopName = "org.freedesktop.Notifications"
	desktopPath = "/org/freedesktop/Notifications"
	// desktopWait bounds one call, showWait the showing, for which something may have to be started, and desktopRest is how long an
	// answer to "is there one?" counts.
	desktopWait = 5 * time.Second
	showWait    = 10 * time.Second
	desktopRest = 30 * time.Second
	// maxBody bounds a text, in characters: what a device calls itself can be long.
	maxBody = 600
)

// Ready reports why nothing can be shown now.
func (d *Desktop) Ready(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.asked.IsZero() && time.Since(d.asked) < desktopRest && d.bus != nil && d.bus.Connected() {
		return d.why
	}
	d.why = d.ask(ctx)
	d.asked = time.Now()
	return d.why
}

// ask asks the bus whether something shows notices, or would be started to. It starts nothing: which of several programs shows them is
// the desktop's choice, and it may not have come up yet.
func (d *Desktop) ask(ctx context.Context) error {
	if d.bus == nil || !d.bus.Connected() {
		bus, err := connect(ctx, d.Address)
		if err != nil {
			return fmt.Errorf("no session bus: %w", err)
		}
		d.bus = bus
	}
	ctx, cancel := context.WithTimeout(ctx, desktopWait)
	defer cancel()
	var owned bool
	if err := d.bus.BusObject().CallWithContext(ctx, "org.freedesktop.DBus.NameHasOwner", 0, desktopName).Store(&owned); err != nil {
		return fmt.Errorf("the session bus does not answer: %w", err)
	}
	var names []string
	if owned {
		return nil
	}
	if err := d.bus.BusObject().CallWithContext(ctx, "org.freedesktop.DBus.ListActivatableNames", 0).Store(&names); err != nil {
		return fmt.Errorf("the session bus does not answer: %w", err)
	}
	if !slices.Contains(names, desktopName) {
		return errors.New("nothing shows notices in this session")
	}
	return nil
}

// connect connects to a session's bus, within a time, and starts none.
func connect(ctx context.Context, address string) (*dbus.Conn, error) {
	if address == "" {
		if address = os.Getenv("DBUS_SESSION_BUS_ADDRESS"); address == "" {
			address = "unix:path=" + filepath.Join(os.Getenv("XDG_RUNTIME_DIR"), "bus")
		}
	}
	type result struct {
		bus *dbus.Conn
		err error
	}
	done, gone := make(chan result, 1), make(chan struct{})
	go func() {
		bus, err := dbus.Dial(address)
		if err == nil {
			stop := make(chan struct{})
			go func() { // what is never answered ends with the connection
				select {
				case <-gone:
					_ = bus.Close()
				case <-stop:
				}
			}()
			if err = bus.Auth(nil); err == nil {
				err = bus.Hello()
			}
			close(stop)
			if err != nil {
				_ = bus.Close()
			}
		}
		done <- result{bus, err}
	}()
	select {
	case r := <-done:
		return r.bus, r.err
	case <-ctx.Done():
	case <-time.After(desktopWait):
	}
	close(gone)
	return nil, errors.New("it does not answer")
}

// Show shows a notice; what shows them is started for it, if need be.
func (d *Desktop) Show(ctx context.Context, title, body string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.bus == nil {
		return errors.New("no session bus")
	}
	ctx, cancel := context.WithTimeout(ctx, showWait)
	defer cancel()
	it := d.bus.Object(desktopName, desktopPath)
	var can []string
	err := it.CallWithContext(ctx, desktopName+".GetCapabilities", 0).Store(&can)
	if err == nil {
		err = it.CallWithContext(ctx, desktopName+".Notify", 0, "Warder", uint32(0), "dialog-information", title, bodyOf(body, slices.Contains(can, "body-markup")),
			[]string{}, map[string]dbus.Variant{"urgency": dbus.MakeVariant(byte(1))}, int32(-1)).Err
	}
	if err != nil {
		d.asked, d.why = time.Now(), fmt.Errorf("nothing shows notices in this session: %w", err) // for a while
	}
	return err
}

// escape leaves nothing that is markup, and no entity but those that every desktop knows.
var escape = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;")

// bodyOf is a text as what shows it reads it: as it is, or with nothing in it that would be markup. A device can call itself a link.
func bodyOf(text string, markup bool) string {
	if r := []rune(text); len(r) > maxBody {
		text = string(r[:maxBody-1]) + "…"
	}
	text = strings.ToValidUTF8(text, "�")
	if markup {
		return escape.Replace(text)
	}
	return text
}
