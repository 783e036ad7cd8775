package volume

import (
	"bufio"
	"errors"
	"io"
	"strconv"
	"strings"
)

// mount is one line of /proc/self/mountinfo (proc_pid_mountinfo(5)).
type mount struct {
	id     int
	dev    string // "8:1"
	point  string
	fstype string
	source string
}

// The bounds of mountinfo. A user can make lines of any length, through overlay options for example,
// and many of them: a line that is too long or makes no sense is left out, because it must not hide
// the others.
const (
	maxMountLine = 64 << 10
	maxMounts    = 100_000 // the kernel's own default (fs.mount-max)
)

// parseMounts reads mountinfo and gives how many lines were left out.
func parseMounts(r io.Reader) (out []mount, skipped int, err error) {
	in := bufio.NewReaderSize(r, maxMountLine)
	for len(out)+skipped < maxMounts {
		line, err := in.ReadSlice('\n')
		whole := true
		for errors.Is(err, bufio.ErrBufferFull) {
			whole = false
			_, err = in.ReadSlice('\n')
		}
		if len(line) > 0 {
			if m, ok := parseMount(string(line)); ok && whole {
				out = append(out, m)
			} else {
				skipped++
			}
		}
		if errors.Is(err, io.EOF) {
			return out, skipped, nil
		}
		if err != nil {
			return out, skipped, err
		}
	}
	return out, skipped, nil
}

func parseMount(line string) (mount, bool) {
	head, tail, ok := strings.Cut(line, " - ")
	f, t := strings.Fields(head), strings.Fields(tail)
	if !ok || len(f) < 6 || len(t) < 2 {
		return mount{}, false
	}
	id, err := strconv.Atoi(f[0])
	if err != nil {
		return mount{}, false
	}
	return mount{id: id, dev: f[2], point: unescape(f[4]), fstype: t[0], source: unescape(t[1])}, true
}

// unescape turns \040 and its like back into bytes.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

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
