package scan

import (
	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/platform"
)

// Name is the capability's.
const Name = "scan"

// The settings that say what is looked for, and what becomes of it.
var settings = []enforce.Setting{"dlp.sensitive_data_patterns", "dlp.patterns", "dlp.scan_timeout", "dlp.quarantine_days"}

const (
	limit = "found is what a pattern describes in text: what is encrypted, in pictures or in formats that warder-scan does not read is not found. " +
		"Looked into are files on external disks and in the folders of known sync clients once they are closed, so that a disk that is pulled off while a file is open keeps it, " +
		"what is printed by CUPS, and what is copied, on Wayland where the compositor lets it be replaced (wlroots, KDE; not GNOME): a paste passes until it is known, usually some milliseconds, and the session's own user can end the helper that does it, which is found, or put another program in its place, which is not; " +
		"the network, browsers and folders that a client mounts itself are not looked at (docs/dlp.md)"
	notHere = "nothing looks for sensitive data on this system"
)

// claims are the same for all of them: one looks, or none.
func claims() (out []platform.Claim) {
	for _, os := range platform.Systems {
		for _, s := range settings {
			c := platform.Claim{Setting: s, OS: os, Level: fact.Unsupported, Limit: notHere}
			if os == "linux" {
				c.Level, c.Limit, c.Exercised = fact.Partial, limit, true
				switch s {
				case "dlp.scan_timeout":
					c.Limit = "it is about files, print jobs and what is copied (on X11, and on Wayland with wlroots or KDE)"
				case "dlp.quarantine_days":
					c.Level, c.Limit = fact.Enforced, ""
				}
			}
			out = append(out, c)
		}
	}
	return out
}
