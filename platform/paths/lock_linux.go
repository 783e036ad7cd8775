package paths

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/gofrs/flock"
	"golang.org/x/sys/unix"
)

// Processes that take a lock over do so one at a time, so that none removes what another has just created.
const turnSuffix = ".turn"

// inherit frees the name of a lock whose owner was killed and cannot end, because one of its threads waits in the
// kernel for something that never answers and keeps the file open. Such a process does nothing more. inherit reports
// whether the name is free now.
func inherit(path string) bool {
	turn := flock.New(path+turnSuffix, flock.SetPermissions(0o600))
	if turn.Lock() != nil {
		return false
	}
	defer turn.Close()
	pid, ok := owner(path)
	if !ok || !dying(pid) {
		return false
	}
	return os.Remove(path) == nil
}

// owner finds who has locked a file (proc_locks(5)).
func owner(path string) (pid int, ok bool) {
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil {
		return 0, false
	}
	b, err := os.ReadFile("/proc/locks")
	if err != nil {
		return 0, false
	}
	file := fmt.Sprintf("%02x:%02x:%d", unix.Major(st.Dev), unix.Minor(st.Dev), st.Ino)
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) == 8 && f[1] == "FLOCK" && f[5] == file {
			n, err := strconv.Atoi(f[4])
			return n, err == nil && n > 0
		}
	}
	return 0, false
}

// dying reports whether a process was killed and has not ended yet: its first thread is gone, or has a pending SIGKILL,
// which a living process never has for long.
func dying(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(b)) {
		name, v, _ := strings.Cut(line, ":")
		v = strings.TrimSpace(v)
		switch name {
		case "State":
			if strings.HasPrefix(v, "Z") || strings.HasPrefix(v, "X") {
				return true
			}
		case "SigPnd", "ShdPnd":
			if mask, err := strconv.ParseUint(v, 16, 64); err == nil && mask&(1<<(unix.SIGKILL-1)) != 0 {
				return true
			}
		}
	}
	return false
}
