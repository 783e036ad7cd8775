package seat

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
)

// maxSessions bounds the sessions that are read.
const maxSessions = 256

// Graphical lists the graphical sessions of people, as systemd-logind knows them (sd-login(3)). A greeter is none of them, and neither
// is one that is being closed.
func Graphical() []Login { return graphical("/run/systemd/sessions") }

// graphical is Graphical, with the directory as an argument.
func graphical(dir string) (out []Login) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if !e.Type().IsRegular() || !sessionName.MatchString(e.Name()) {
			continue
		}
		if len(out) == maxSessions {
			break
		}
		if l, ok := loginOf(e.Name(), small(filepath.Join(dir, e.Name()))); ok {
			out = append(out, l)
		}
	}
	return out
}

var graphicalKinds = []string{"x11", "wayland", "mir"}

// loginOf reads a session's file.
func loginOf(id, text string) (Login, bool) {
	uid, err := strconv.ParseUint(field(text, "UID"), 10, 32)
	kind := field(text, "TYPE")
	if err != nil || !slices.Contains(graphicalKinds, kind) || field(text, "CLASS") != "user" || field(text, "STATE") == "closing" {
		return Login{}, false
	}
	return Login{ID: id, UID: uint32(uid), User: field(text, "USER"), Type: kind, Active: field(text, "ACTIVE") == "1"}, true
}
