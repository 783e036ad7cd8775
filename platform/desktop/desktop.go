// Package desktop keeps desktops from offering pictures of the screen, by files that only an administrator can write: GNOME's keys in
// dconf, and what portals do for programs (docs/decisions/0045). It owns no policy.
package desktop

import (
	"slices"
	"strings"
	"time"

	"github.com/warderd/warder/enforce"
)

const (
	name = "desktops"
	kind = "desktop.settings"

	setting enforce.Setting = "dlp.screenshot_allowed"
)

// The desktops, by the IDs of their resources.
const (
	gnome  = "gnome"
	portal = "portal"
)

// note is at the head of each file of ours, for whoever finds it.
const note = "# Warder: pictures of the screen are not allowed on this computer. This file goes when they are.\n"

// dconf's files: https://wiki.gnome.org/Projects/dconf/SystemAdministrators. The names of the keys are those of GNOME's schemas:
// org.gnome.shell.keybindings (42 and later), org.gnome.settings-daemon.plugins.media-keys (before).
const (
	shellKeys = "org/gnome/shell/keybindings"
	mediaKeys = "org/gnome/settings-daemon/plugins/media-keys"
)

var gnomeKeys = []struct {
	dir  string
	keys []string
}{
	{shellKeys, []string{"screenshot", "screenshot-window", "show-screen-recording-ui", "show-screenshot-ui"}},
	{mediaKeys, []string{"area-screenshot", "area-screenshot-clip", "screencast", "screenshot", "screenshot-clip", "window-screenshot", "window-screenshot-clip"}},
}

// sign is a key that nobody has, and that is locked with ours: by it a database is known that our keys are in, whatever it was made of.
const sign = "/com/warderd/warder/screenshots"

// keyfile is what dconf compiles: no key does it. locks are the keys that a user cannot set.
func keyfile() (text, locks string) {
	var a, b strings.Builder
	a.WriteString(note)
	b.WriteString(note + sign + "\n")
	for _, g := range gnomeKeys {
		a.WriteString("[" + g.dir + "]\n")
		for _, k := range g.keys {
			a.WriteString(k + "=@as []\n")
			b.WriteString("/" + g.dir + "/" + k + "\n")
		}
	}
	return a.String(), b.String()
}

// profile has dconf read our database after the user's own, where the machine has no profile yet.
const profile = note + "user-db:user\nsystem-db:warder\n"

// The portals that give programs pictures of the screen, or films of it.
var shotPortals = []string{"org.freedesktop.impl.portal.Screenshot", "org.freedesktop.impl.portal.ScreenCast"}

// withoutPortals is a file of preferences for portals (portals.conf(5)) in which nobody implements these; of is what a vendor's says, which
// it hides.
func withoutPortals(of string) string {
	var b strings.Builder
	b.WriteString(note)
	off := func() {
		for _, p := range shotPortals {
			b.WriteString(p + "=none\n")
		}
	}
	in, done := false, false
	for line := range strings.Lines(of) {
		line = strings.TrimSpace(line)
		key, _, _ := strings.Cut(line, "=")
		switch {
		case line == "" || line[0] == '#':
			continue
		case line[0] == '[':
			if b.WriteString(line + "\n"); line == preferred {
				in = true
				if !done {
					off()
					done = true
				}
				continue
			}
			in = false
		case in && isShot(strings.TrimSpace(key)):
		default:
			b.WriteString(line + "\n")
		}
	}
	if !done {
		b.WriteString(preferred + "\n")
		off()
	}
	return b.String()
}

const preferred = "[preferred]"

// writtenAt begins the line of a file of ours that says in which boot it was written, and how long after it: the clock says nothing of what was
// first.
const writtenAt = "# Written: "

// stamped is a file's text with that line.
func stamped(text, boot string, since time.Duration) string {
	return strings.Replace(text, note, note+writtenAt+boot+" "+since.String()+"\n", 1)
}

// unstamped is a file's text without that line, and what the line says. A file without it is none that is whole.
func unstamped(b []byte) (text, boot string, since time.Duration, ok bool) {
	rest, ours := strings.CutPrefix(string(b), note+writtenAt)
	line, rest, whole := strings.Cut(rest, "\n")
	boot, at, _ := strings.Cut(line, " ")
	since, err := time.ParseDuration(at)
	if !ours || !whole || err != nil || boot == "" {
		return string(b), "", 0, false
	}
	return note + rest, boot, since, true
}

// givesNone reports whether a file of preferences keeps these portals from giving anything.
func givesNone(text string) bool {
	in := false
	seen := map[string]bool{}
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, "[") {
			in = line == preferred
		}
		if key, value, _ := strings.Cut(line, "="); in && isShot(key) {
			seen[key] = value == "none"
		}
	}
	for _, p := range shotPortals {
		if !seen[p] {
			return false
		}
	}
	return true
}

func isShot(key string) bool { return slices.Contains(shotPortals, key) }
