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
func Tell(message string, users []uint32) []Told {
	return tell("/run/systemd/sessions", "/dev", message, users)
}

// tell is Tell, with the directories as arguments.
func tell(sessions, dev, message string, users []uint32) []Told {
	files, _ := filepath.Glob(sessions + "/*")
	var told []Told
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
		// What is written to the terminal beneath a desktop nobody sees.
		if t := s["TYPE"]; t == "x11" || t == "wayland" || t == "mir" {
			continue
		}
		if write(filepath.Join(dev, tty), "\r\n"+message+"\r\n") == nil {
			told = append(told, Told{uint32(uid), s["USER"] + " on " + tty})
		}
	}
	return told
}

// write writes to a terminal, and never waits for one whose output is stopped: os.File would, because it waits for what is not ready.
func write(path, text string) error {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	n, err := unix.Write(fd, []byte(text))
	if err == nil && n < len(text) {
		err = unix.EAGAIN
	}
	_ = unix.Close(fd)
	return err
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
