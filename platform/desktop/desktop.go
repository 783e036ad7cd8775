// Package desktop keeps desktops from offering pictures of the screen, by files that only an administrator can write: GNOME's keys in
// dconf, KDE's in a file that a user's cannot outrank, and what portals do for programs (docs/decisions/0045). It owns no policy.
package desktop

import (
	"strings"

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
	kde    = "kde"
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

// keyfile is what dconf compiles: no key does it. locks are the keys that a user cannot set.
func keyfile() (text, locks string) {
	var a, b strings.Builder
	a.WriteString(note)
	b.WriteString(note)
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

// spectacles are the actions of Spectacle that have keys: Plasma 5.27 and 6.
var spectacles = []string{"ActiveWindowScreenShot", "CurrentMonitorScreenShot", "FullScreenScreenShot", "OpenWithoutScreenshot", "RecordRegion", "RecordScreen", "RecordWindow",
	"RectangularRegionScreenShot", "WindowUnderCursorScreenShot", "_launch"}

// shortcuts is KDE's file of keys: "[$i]" is what a user's own file cannot outrank (https://userbase.kde.org/KDE_System_Administration/Kiosk).
func shortcuts() string {
	var b strings.Builder
	b.WriteString(note)
	b.WriteString("[org.kde.spectacle.desktop][$i]\n")
	for _, a := range spectacles {
		b.WriteString(a + "=none,none," + a + "\n")
	}
	b.WriteString("\n[services][org.kde.spectacle.desktop][$i]\n")
	for _, a := range spectacles {
		b.WriteString(a + "=none\n")
	}
	return b.String()
}

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

func isShot(key string) bool {
	for _, p := range shotPortals {
		if key == p {
			return true
		}
	}
	return false
}
