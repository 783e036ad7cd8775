package printing

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/warderd/warder/enforce/fact"
)

// maxConfig bounds a file of the spooler's: a thousand queues take some 500 KiB.
const maxConfig = 4 << 20

// saved lists the queues as a spooler that does not run will have them: it ends when it is idle, keeps them in two files, and is
// started by the next job. Asking it would start it.
func (q *Queues) saved() (out []fact.Queue, odd int, err error) {
	for _, name := range []string{"printers.conf", "classes.conf"} {
		b, err := readBounded(filepath.Join(q.config, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, 0, err
		}
		list, n, err := readConfig(b)
		if err != nil {
			return nil, 0, fmt.Errorf("%s: %w", filepath.Join(q.config, name), err)
		}
		out, odd = append(out, list...), odd+n
	}
	if n := len(out) - maxQueues; n > 0 {
		out, odd = out[:maxQueues], odd+n
	}
	return out, odd, nil
}

func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err == nil && len(b) > maxConfig {
		return nil, fmt.Errorf("%s is longer than %d bytes", path, maxConfig)
	}
	return b, err
}

// readConfig reads printers.conf or classes.conf (their manual pages; CUPS 2.4, scheduler/printers.c): a block for each queue, with a
// line for each of its values.
func readConfig(b []byte) (out []fact.Queue, odd int, err error) {
	var q *fact.Queue
	var said map[string]bool
	lines := bufio.NewScanner(bytes.NewReader(b))
	lines.Buffer(nil, maxConfig+1)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		word, value, _ := strings.Cut(line, " ")
		value = strings.TrimSpace(value)
		switch {
		case line == "" || line[0] == '#':
		case slices.Contains([]string{"<Printer", "<DefaultPrinter", "<Class", "<DefaultClass"}, word):
			name, ends := strings.CutSuffix(value, ">")
			if q != nil || !ends {
				return nil, 0, fmt.Errorf("line %d: %q begins no queue", n, line)
			}
			q, said = &fact.Queue{Name: name}, map[string]bool{}
		case slices.Contains([]string{"</Printer>", "</DefaultPrinter>", "</Class>", "</DefaultClass>"}, word):
			switch {
			case q == nil:
				return nil, 0, fmt.Errorf("line %d: %q ends no queue", n, line)
			case !said["State"] || !said["Accepting"] || !isName(q.Name) || len(out) == maxQueues:
				odd++
			default:
				out = append(out, *q)
			}
			q = nil
		case q == nil:
		case word == "State":
			said[word] = strings.EqualFold(value, "idle") || strings.EqualFold(value, "stopped")
			q.Stopped = strings.EqualFold(value, "stopped")
		case word == "Accepting":
			q.Accepting = slices.Contains([]string{"yes", "on", "true"}, strings.ToLower(value))
			said[word] = q.Accepting || slices.Contains([]string{"no", "off", "false"}, strings.ToLower(value))
		case word == "StateMessage":
			q.Told = value == fact.QueueWhy
		case word == "DeviceURI":
			q.Device, _, _ = strings.Cut(value, ":") // the rest can hold a password
		}
	}
	if q != nil {
		return nil, 0, fmt.Errorf("queue %q does not end", q.Name)
	}
	return out, odd, lines.Err()
}

// isName reports whether a queue may be called so: what CUPS takes (lpadmin(8)), as UTF-8.
func isName(s string) bool {
	return s != "" && len(s) <= maxName && utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '/' || r == '#' })
}

// installed reports whether there is a spooler that could be started.
func (q *Queues) installed() bool {
	for _, path := range q.daemons {
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			return true
		}
	}
	return false
}

// runs reports whether the spooler runs. systemd listens at its socket whether it does or not. A process of root's
// counts; what another user calls so does not.
func (q *Queues) runs() bool {
	list, err := os.ReadDir(q.proc)
	if err != nil {
		return true // then it is asked
	}
	var other unix.Stat_t
	for _, e := range list {
		if _, err := strconv.Atoi(e.Name()); err != nil {
			continue
		}
		dir := filepath.Join(q.proc, e.Name())
		if b, err := os.ReadFile(filepath.Join(dir, "comm")); err != nil || string(b) != "cupsd\n" {
			continue
		}
		if unix.Stat(dir, &other) == nil && other.Uid == 0 {
			return true
		}
	}
	return false
}

// local are the ports at which printers at USB are served to this machine (ipp-usb(8)): it notes the port of each printer.
func (q *Queues) local() ([]uint16, error) {
	files, err := filepath.Glob(filepath.Join(q.usb, "*.state"))
	if err != nil {
		return nil, err
	}
	var notes []note
	for _, f := range files {
		b, err := readBounded(f)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if p, ok := readPort(b); ok {
			n := note{port: p}
			if st, err := os.Stat(f); err == nil {
				n.at = st.ModTime()
			}
			notes = append(notes, n)
		}
	}
	// The newest: it keeps notes of printers that are gone.
	slices.SortFunc(notes, func(a, b note) int { return b.at.Compare(a.at) })
	var out []uint16
	for _, n := range notes {
		if !slices.Contains(out, n.port) && len(out) < fact.MaxLocalPorts {
			out = append(out, n.port)
		}
	}
	slices.Sort(out)
	return out, nil
}

// note is one of its notes.
type note struct {
	port uint16
	at   time.Time
}

// readPort reads the port from such a note.
func readPort(b []byte) (uint16, bool) {
	for line := range strings.Lines(string(b)) {
		key, value, ok := strings.Cut(line, "=")
		if ok && strings.TrimSpace(key) == "http-port" {
			p, err := strconv.ParseUint(strings.TrimSpace(value), 10, 16)
			return uint16(p), err == nil && p >= 1024 // the system's own services are lower
		}
	}
	return 0, false
}
