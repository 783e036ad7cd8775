package notify

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Tell writes a message to each terminal on which one of the users is logged in, and returns whom it reached. Sessions
// are read from systemd-logind's state files (sd-login(3)).
func Tell(message string, users []uint32) []string {
	return tell("/run/systemd/sessions", "/dev", message, users)
}

// tell is Tell, with the directories as arguments.
func tell(sessions, dev, message string, users []uint32) []string {
	files, _ := filepath.Glob(sessions + "/*")
	var told []string
	for _, f := range files {
		s := fields(f)
		tty := s["TTY"]
		uid, err := strconv.ParseUint(s["UID"], 10, 32)
		if err != nil || !slices.Contains(users, uint32(uid)) {
			continue
		}
		if tty == "" || strings.Contains(tty, "..") || s["CLASS"] == "greeter" {
			continue
		}
		// Never wait for a terminal whose output is stopped.
		w, err := os.OpenFile(filepath.Join(dev, tty), os.O_WRONLY|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
		if err != nil {
			continue
		}
		_, err = w.WriteString("\r\n" + message + "\r\n")
		_ = w.Close()
		if err == nil {
			told = append(told, s["USER"]+" on "+tty)
		}
	}
	return told
}

// fields reads the NAME=value lines of a session's file.
func fields(file string) map[string]string {
	out := map[string]string{}
	// Beside each session file is a pipe that stays open as long as the session lasts: reading it would block until
	// then.
	if info, err := os.Lstat(file); err != nil || !info.Mode().IsRegular() || info.Size() > 64<<10 {
		return out
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return out
	}
	for line := range strings.Lines(string(b)) {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			out[k] = v
		}
	}
	return out
}
