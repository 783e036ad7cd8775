package main

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// usage is processor time used so far, and when it was read.
type usage struct {
	when                        time.Time
	generator, servers, machine time.Duration
}

// used reads the processor time so far: of this process, of the servers, and of everything the machine ran, including
// the database.
func (t *target) used() usage {
	u := usage{when: time.Now(), generator: spent(os.Getpid())}
	for _, n := range t.nodes {
		u.servers += spent(n.cmd.Process.Pid)
	}
	b, _ := os.ReadFile("/proc/stat")
	line, _, _ := strings.Cut(string(b), "\n")
	for i, f := range strings.Fields(line) {
		// user nice system idle iowait irq softirq: sum all but idle; steal and guests are not ours.
		if i >= 1 && i <= 7 && i != 4 && i != 5 {
			u.machine += ticks(f)
		}
	}
	return u
}

// since returns how many processors were busy on average since an earlier reading.
func (u usage) since(before usage) string {
	took := u.when.Sub(before.when).Seconds()
	of := func(a, b time.Duration) float64 { return (a - b).Seconds() / took }
	all := of(u.machine, before.machine)
	generator, servers := of(u.generator, before.generator), of(u.servers, before.servers)
	return fmt.Sprintf("of %d processors: generator %.2f, servers %.2f, everything else %.2f", runtime.NumCPU(), generator, servers,
		max(all-generator-servers, 0))
}

// spent is a process's processor time (proc_pid_stat(5), utime and stime).
func spent(pid int) time.Duration {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	f := strings.Fields(rest)
	if len(f) < 13 {
		return 0
	}
	return ticks(f[11]) + ticks(f[12])
}

// ticks are hundredths of a second, whatever the kernel's own clock (USER_HZ).
func ticks(s string) time.Duration {
	n, _ := strconv.ParseInt(s, 10, 64)
	return time.Duration(n) * 10 * time.Millisecond
}
