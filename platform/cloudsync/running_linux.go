package cloudsync

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/warderd/warder/enforce/fact"
)

// process is one that runs a client's program.
type process struct {
	pid     int
	started string // with the number, it names the process for good
	uid     uint32
	client  *fact.Client
	program string
}

// interpreters are programs whose processes bear the name of what they interpret.
var interpreters = []string{"python", "perl", "ruby", "node", "sh", "bash", "dash", "mono"}

// running lists the processes of clients. Nothing is asked of file systems: the kernel has the names.
func (c *Clients) running() (out []process, err error) {
	list, err := os.ReadDir(c.proc)
	if err != nil {
		return nil, fmt.Errorf("the processes cannot be listed: %w", err)
	}
	for _, e := range list {
		if pid, err := strconv.Atoi(e.Name()); err == nil && pid > 1 {
			if p, ok := c.process(pid); ok {
				out = append(out, p)
			}
		}
	}
	return out, nil
}

// process reads one process; false if it is none of a client's.
func (c *Clients) process(pid int) (p process, ok bool) {
	dir := filepath.Join(c.proc, strconv.Itoa(pid))
	exe, err := os.Readlink(dir + "/exe")
	if err != nil {
		return p, false // the kernel's own, or gone
	}
	p = process{pid: pid, program: strings.TrimSuffix(filepath.Base(exe), " (deleted)")}
	p.client, ok = fact.ClientOfProgram(p.program)
	stat, err := os.ReadFile(dir + "/stat")
	if err != nil {
		return p, false
	}
	name, rest := splitStat(string(stat))
	if !ok && slices.ContainsFunc(interpreters, func(s string) bool {
		return p.program == s || strings.HasPrefix(p.program, s) && strings.Trim(p.program[len(s):], "0123456789.") == ""
	}) {
		if p.client, ok = fact.ClientOfProgram(name); ok {
			p.program = name
		}
	}
	if !ok || len(rest) < 20 || rest[0] == "Z" {
		return p, false
	}
	p.started = rest[19]
	status, err := os.ReadFile(dir + "/status")
	if err != nil {
		return p, false
	}
	for l := range strings.Lines(string(status)) {
		if s, is := strings.CutPrefix(l, "Uid:"); is {
			if f := strings.Fields(s); len(f) > 0 {
				n, _ := strconv.ParseUint(f[0], 10, 32)
				p.uid = uint32(n)
			}
		}
	}
	return p, true
}

// splitStat divides a line of proc_pid_stat(5): the name, which can contain anything, and what is after it.
func splitStat(s string) (name string, rest []string) {
	from, to := strings.IndexByte(s, '('), strings.LastIndexByte(s, ')')
	if from < 0 || to < from {
		return "", nil
	}
	return s[from+1 : to], strings.Fields(s[to+1:])
}
