// Package mountinfo reads the kernel's list of mounts (proc_pid_mountinfo(5)), which asks no file system. Several
// capabilities share it.
package mountinfo

import (
	"bufio"
	"errors"
	"io"
	"strconv"
	"strings"
)

// Mount is one line.
type Mount struct {
	ID     int
	Dev    string // "8:1"
	Root   string // the directory of the file system that is mounted
	Point  string
	FS     string
	Source string
	// ReadOnly: the file system itself accepts no writes, through any mount.
	ReadOnly bool
}

// The bounds of mountinfo. A user can make lines of any length, for example through overlay options, and many of them.
// A line that is too long or malformed is left out, so that it cannot hide the others.
const (
	MaxLine = 64 << 10
	most    = 100_000 // the kernel's own default (fs.mount-max)
)

// Parse reads the list, and returns how many lines were left out.
func Parse(r io.Reader) (out []Mount, skipped int, err error) {
	in := bufio.NewReaderSize(r, MaxLine)
	for len(out)+skipped < most {
		line, err := in.ReadSlice('\n')
		whole := true
		for errors.Is(err, bufio.ErrBufferFull) {
			whole = false
			_, err = in.ReadSlice('\n')
		}
		if len(line) > 0 {
			if m, ok := parseLine(string(line)); ok && whole {
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

// parseLine reads one line; false if it is malformed.
func parseLine(line string) (Mount, bool) {
	head, tail, ok := strings.Cut(line, " - ")
	f, t := strings.Fields(head), strings.Fields(tail)
	if !ok || len(f) < 6 || len(t) < 2 {
		return Mount{}, false
	}
	id, err := strconv.Atoi(f[0])
	if err != nil {
		return Mount{}, false
	}
	m := Mount{ID: id, Dev: f[2], Root: Unescape(f[3]), Point: Unescape(f[4]), FS: t[0], Source: Unescape(t[1])}
	if len(t) > 2 {
		options, _, _ := strings.Cut(t[len(t)-1], ",")
		m.ReadOnly = options == "ro" // the kernel names it first
	}
	return m, true
}

// Unescape turns octal escapes such as \040 back into bytes.
func Unescape(s string) string {
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
