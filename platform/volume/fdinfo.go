package volume

import (
	"strconv"
	"strings"
)

// parseMountID reads the mount's id of an open file (proc_pid_fdinfo(5)).
func parseMountID(fdinfo string) (int, bool) {
	for line := range strings.Lines(fdinfo) {
		if name, v, _ := strings.Cut(line, ":"); name == "mnt_id" {
			id, err := strconv.Atoi(strings.TrimSpace(v))
			return id, err == nil
		}
	}
	return 0, false
}
