package child

import (
	"fmt"
	"os"

	seccomp "github.com/elastic/go-seccomp-bpf"
	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/sys/unix"

	"github.com/warderd/warder/platform/scan"
)

// Call is a system call that the child may make, and what for.
type Call struct{ Name, Why string }

// Calls are those that it may make in any way, and conditional the others. Whatever else is called is refused (EPERM). None opens a file, makes a connection or a process, or reaches
// another one. HACKING.md's rule holds: a call without a reason goes.
var Calls = []Call{
	{"read", "documents, and pipes of Go's runtime"},
	{"pread64", "documents, at any place"},
	{"lseek", "where a document has holes"},
	{"fstat", "how large a document is"},
	{"pwrite64", "the cache, which the agent has handed over"},
	{"ftruncate", "the same"},
	{"write", "Go's runtime, when it reports why it ends"},
	{"close", "documents that have been looked at"},
	{"recvmsg", "requests, with the documents"},
	{"sendmsg", "answers"},
	{"munmap", "memory"},
	{"mremap", "memory, of the C library"},
	{"madvise", "memory that is given back"},
	{"brk", "memory, of the C library"},
	{"futex", "threads wait for each other"},
	{"rt_sigaction", "Go's runtime"},
	{"rt_sigprocmask", "Go's runtime"},
	{"rt_sigreturn", "back from a signal"},
	{"sigaltstack", "stacks for signals"},
	{"getpid", "for tgkill"},
	{"gettid", "for tgkill"},
	{"set_robust_list", "a new thread"},
	{"rseq", "a new thread, of the C library"},
	{"sched_yield", "Go's runtime"},
	{"sched_getaffinity", "how many processors there are"},
	{"nanosleep", "Go's runtime"},
	{"clock_nanosleep", "Go's runtime, through the C library"},
	{"clock_gettime", "the time, where the kernel has no faster way"},
	{"epoll_create1", "Go's runtime waits for descriptors"},
	{"epoll_ctl", "the same"},
	{"epoll_pwait", "the same"},
	{"eventfd2", "the same"},
	{"getrandom", "seeds of Go's maps"},
	{"exit", "a thread ends"},
	{"exit_group", "the end"},
	{"restart_syscall", "a wait that was interrupted"},
}

// conditional are calls that it may make in one way.
var conditional = []struct {
	Call
	when func() seccomp.Condition
}{
	{Call{"mmap", "memory, but none that can be executed"}, noExec},
	{Call{"mprotect", "memory for stacks of threads, but none that can be executed"}, noExec},
	{Call{"clone", "a new thread, and no new process"}, func() seccomp.Condition {
		return seccomp.Condition{Argument: 0, Operation: seccomp.BitsSet, Value: unix.CLONE_THREAD}
	}},
	{Call{"fcntl", "flags of descriptors: Go asks for them"}, func() seccomp.Condition {
		return seccomp.Condition{Argument: 1, Operation: seccomp.Equal, Value: unix.F_GETFL}
	}},
	{Call{"tgkill", "Go's runtime interrupts its own threads, and no others"}, func() seccomp.Condition {
		return seccomp.Condition{Argument: 0, Operation: seccomp.Equal, Value: uint64(os.Getpid())} //nolint:gosec // a process
	}},
}

func noExec() seccomp.Condition {
	return seccomp.Condition{Argument: 2, Operation: seccomp.BitsNotSet, Value: unix.PROT_EXEC}
}

// Limits of the child, whatever it reads.
const (
	maxMemory = 1 << 30 // of memory that it has asked for, in bytes: threads' stacks are 8 MiB each, of which they use little
	// of all that runs as its user, if that is its own: the kernel counts them together, with those of another agent and of a
	// container that has happened to choose the same number. A child has a dozen.
	maxThreads = 512
	maxTime    = 600 // seconds of a processor
)

// Confine shuts this process in, for good. What has to be opened must be open.
func Confine() error {
	// If memory runs out, this program goes first.
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("1000"), 0)
	// Nobody looks into its memory, and no core has a document in it.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("prctl: %w", err)
	}
	limits := map[int]uint64{unix.RLIMIT_CORE: 0, unix.RLIMIT_NOFILE: 32, unix.RLIMIT_DATA: maxMemory, unix.RLIMIT_CPU: maxTime,
		unix.RLIMIT_NICE: 20, unix.RLIMIT_RTPRIO: 0, unix.RLIMIT_MEMLOCK: 0, unix.RLIMIT_MSGQUEUE: 0}
	if unix.Getuid() == scan.UID {
		limits[unix.RLIMIT_NPROC] = maxThreads
	}
	for what, most := range limits {
		var had unix.Rlimit
		if err := unix.Getrlimit(what, &had); err == nil {
			most = min(most, had.Max)
		}
		if err := unix.Setrlimit(what, &unix.Rlimit{Cur: most, Max: most}); err != nil {
			return fmt.Errorf("rlimit %d: %w", what, err)
		}
	}
	info, err := arch.GetInfo("")
	if err != nil {
		return err
	}
	var names []string
	for _, c := range Calls {
		if _, here := info.SyscallNames[c.Name]; here {
			names = append(names, c.Name)
		}
	}
	var only []seccomp.NameWithConditions
	for _, c := range conditional {
		only = append(only, seccomp.NameWithConditions{Name: c.Name, Conditions: seccomp.ArgumentConditions{c.when()}})
	}
	return seccomp.LoadFilter(seccomp.Filter{NoNewPrivs: true, Flag: seccomp.FilterFlagTSync, Policy: seccomp.Policy{
		DefaultAction: seccomp.ActionErrno,
		Syscalls: []seccomp.SyscallGroup{
			{Names: names, Action: seccomp.ActionAllow},
			{NamesWithCondtions: only, Action: seccomp.ActionAllow},
			// The C library tries clone3 first, whose arguments a filter cannot see, and takes clone then.
			{Names: []string{"clone3"}, Action: seccomp.ActionErrno | seccomp.Action(unix.ENOSYS)},
		},
	}})
}
