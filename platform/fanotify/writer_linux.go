package fanotify

import (
	"bytes"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/warderd/warder/enforce"
)

// Writer is who an event is about. PID 0: nobody knows more than the user.
type Writer struct {
	PID     int32
	UID     uint32
	Program string
}

// WriterOf says who a process is. It may have ended: then it counts as the user's whose the file is.
func WriterOf(pid int32, owner uint32) Writer {
	w := Writer{PID: pid, UID: owner, Program: "a program"}
	dir := fmt.Sprintf("/proc/%d", pid)
	var st unix.Stat_t
	if unix.Stat(dir, &st) == nil {
		w.UID = st.Uid
		if b, err := os.ReadFile(dir + "/comm"); err == nil && len(b) > 1 {
			w.Program = enforce.Plain(string(bytes.TrimSpace(b)))
		}
	}
	return w
}

// String says who it was, for events.
func (w Writer) String() string {
	if w.PID == 0 {
		return fmt.Sprintf("user %d", w.UID)
	}
	return fmt.Sprintf("%s (pid %d, user %d)", w.Program, w.PID, w.UID)
}
