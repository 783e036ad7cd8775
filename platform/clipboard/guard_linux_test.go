package clipboard

import (
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/platform"
)

// oneDesk is a session, and what its helper says.
type oneDesk struct {
	platform.Desks
	desk platform.Desk
}

func (o *oneDesk) List(string) []platform.Desk { return []platform.Desk{o.desk} }
func (o *oneDesk) Hear(string, func())         {}
func (o *oneDesk) Answer(string, func(context.Context, platform.Desk, string, io.Reader) (any, error)) {
}
func (o *oneDesk) Give(string, json.RawMessage) {
}

// ruled are a section's rules, with zones or without.
type ruled struct {
	platform.Rules
	alone bool
}

func (r ruled) ForClipboard() json.RawMessage { return json.RawMessage(`{}`) }
func (r ruled) ClipboardAlone() bool          { return r.alone }
func (r ruled) CanKeepClipboard() bool        { return true }
func (r ruled) Paste(*fact.Paste) enforce.Verdict {
	return enforce.Verdict{}
}
func (r ruled) PasteReason(enforce.Verdict, *fact.Paste) (string, string) { return "", "" }

// What a helper says counts only where it can be so: in a session of the kind that it takes it for, on Wayland without zones, and where the
// agent reads that nobody else reaches the desktop.
func TestGuardBelieves(t *testing.T) {
	users, uid := t.TempDir(), os.Getuid()
	dir := filepath.Join(users, strconv.Itoa(uid))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what, session, said string
		alone               bool
		mode                os.FileMode
		kept, never         bool
	}{
		{"X11", "x11", `{"kept":true,"type":"x11"}`, false, 0o755, true, false},
		{"X11, a helper of before", "x11", `{"kept":true}`, false, 0o755, true, false},
		{"X11, taken for Wayland", "x11", `{"kept":true,"type":"wayland"}`, true, 0o700, false, false},
		{"Wayland without zones", "wayland", `{"kept":true,"type":"wayland"}`, true, 0o700, true, false},
		{"Wayland, taken for X11", "wayland", `{"kept":true,"type":"x11"}`, true, 0o700, false, false},
		{"Wayland, a helper of before", "wayland", `{"kept":true}`, true, 0o700, false, false},
		{"Wayland, open", "wayland", `{"kept":true,"type":"wayland"}`, true, 0o710, false, false},
		{"Wayland, not kept", "wayland", `{"why":"xwayland","type":"wayland"}`, true, 0o700, false, false},
		{"Wayland with zones", "wayland", `{"kept":true,"type":"wayland"}`, false, 0o700, false, true},
	} {
		if err := os.Chmod(dir, c.mode); err != nil {
			t.Fatal(err)
		}
		g := newGuard(&oneDesk{desk: platform.Desk{ID: "1", UID: uint32(uid), Type: c.session, Helper: true, Taken: true, Said: json.RawMessage(c.said)}})
		g.users, g.rules = users, ruled{alone: c.alone}
		x := g.sessions(false)[0]
		if x.Clipboard != c.kept || x.Never != c.never || x.Clipboard == (x.Why != "") {
			t.Errorf("%s: %+v", c.what, x)
		}
	}
}
