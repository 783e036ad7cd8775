package volume

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// mount is one line of /proc/PID/mountinfo (proc(5)).
type mount struct {
	id     int
	dev    string // "8:1"
	point  string
	fstype string
	source string
}

// maxMountLine bounds a line: paths are at most 4 KiB, each byte up to four as an escape.
const maxMountLine = 64 << 10

func parseMounts(r io.Reader) ([]mount, error) {
	var out []mount
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxMountLine)
	for lines.Scan() {
		head, tail, ok := strings.Cut(lines.Text(), " - ")
		f, t := strings.Fields(head), strings.Fields(tail)
		if !ok || len(f) < 6 || len(t) < 2 {
			return nil, fmt.Errorf("mountinfo: line %q", lines.Text())
		}
		id, err := strconv.Atoi(f[0])
		if err != nil {
			return nil, fmt.Errorf("mountinfo: id %q", f[0])
		}
		out = append(out, mount{id: id, dev: f[2], point: unescape(f[4]), fstype: t[0], source: unescape(t[1])})
	}
	return out, lines.Err()
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
