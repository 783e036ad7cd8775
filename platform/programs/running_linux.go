package programs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/warderd/warder/enforce/fact"
)

// process is one that runs an app's program.
type process struct {
	pid     int
	started string // with the number, it names the process for good
	uid     uint32
	app     *fact.App
	program string
}

// interpreters are programs whose processes bear the name of what they interpret.
var interpreters = []string{"python", "perl", "ruby", "node", "sh", "bash", "dash", "mono"}

// interprets reports whether a program is one of those, of whatever version ("python3.11").
func interprets(file string) bool {
	return slices.ContainsFunc(interpreters, func(s string) bool {
		return strings.HasPrefix(file, s) && strings.Trim(file[len(s):], "0123456789.") == ""
	})
}

// running lists the processes of apps. Nothing is asked of file systems: the kernel has the names. A process that cannot be read is
// an error beside the others: a user can make one, by a path that is too long.
func (c *Control) running() (out []process, err error) {
	list, err := os.ReadDir(c.proc)
	if err != nil {
		return nil, fmt.Errorf("the processes cannot be listed: %w", err)
	}
	var errs []error
	for _, e := range list {
		if pid, err := strconv.Atoi(e.Name()); err == nil && pid > 1 {
			p, ok, err := c.process(pid)
			if err != nil && len(errs) < maxErrors {
				errs = append(errs, fmt.Errorf("process %d cannot be read: %w", pid, err))
			}
			if ok {
				out = append(out, p)
			}
		}
	}
	return out, errors.Join(errs...)
}

// maxErrors bounds how many processes that cannot be read are named.
const maxErrors = 3

// gone reports whether a process has ended, or is the kernel's own. What cannot be read for another reason may be an app.
func gone(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) }

// process reads one process; false if it is none of an app's.
func (c *Control) process(pid int) (p process, ok bool, err error) {
	dir := filepath.Join(c.proc, strconv.Itoa(pid))
	exe, err := os.Readlink(dir + "/exe")
	if gone(err) {
		return p, false, nil
	}
	if err != nil {
		return p, false, err
	}
	file := strings.TrimSuffix(filepath.Base(exe), " (deleted)")
	p.pid = pid
	p.app, p.program, ok = c.apps.ByProgram(file)
	if !ok && !interprets(file) {
		return p, false, nil
	}
	stat, err := os.ReadFile(dir + "/stat")
	if gone(err) {
		return p, false, nil
	}
	if err != nil {
		return p, false, err
	}
	name, rest := splitStat(string(stat))
	if !ok {
		p.app, p.program, ok = c.apps.ByComm(name)
	}
	if !ok || len(rest) < 20 || rest[0] == "Z" {
		return p, false, nil
	}
	p.started = rest[19]
	status, err := os.ReadFile(dir + "/status")
	if gone(err) {
		return p, false, nil
	}
	if err != nil {
		return p, false, err
	}
	for l := range strings.Lines(string(status)) {
		if s, is := strings.CutPrefix(l, "Uid:"); is {
			if f := strings.Fields(s); len(f) > 0 {
				n, _ := strconv.ParseUint(f[0], 10, 32)
				p.uid = uint32(n)
			}
		}
	}
	return p, true, nil
}

// splitStat divides a line of proc_pid_stat(5): the name, which can contain anything, and what is after it.
func splitStat(s string) (name string, rest []string) {
	from, to := strings.IndexByte(s, '('), strings.LastIndexByte(s, ')')
	if from < 0 || to < from {
		return "", nil
	}
	return s[from+1 : to], strings.Fields(s[to+1:])
}
