package child

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestConfined is a process that is shut in, and tries what a document that has taken it over would.
func TestConfined(t *testing.T) {
	if os.Getenv("WARDER_CONFINED") == "" {
		c := exec.Command(os.Args[0], "-test.run", "^TestConfined$")
		c.Env = append(os.Environ(), "WARDER_CONFINED=1")
		out, err := c.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "all refused") {
			t.Fatalf("%v: %s", err, out)
		}
		t.Logf("%s", out)
		return
	}
	f, err := os.Open("/proc/self/status")
	if err != nil {
		fail("%v", err)
	}
	f.Close()
	if err := Confine(); err != nil {
		fail("%v", err)
	}
	tries := map[string]func() error{
		"open":   func() error { _, err := os.Open("/etc/passwd"); return err },
		"create": func() error { return os.WriteFile("/tmp/warder-confined", nil, 0o600) },
		"stat":   func() error { _, err := os.Stat("/etc/passwd"); return err },
		"socket": func() error { _, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0); return err },
		"dial":   func() error { _, err := net.DialTimeout("tcp", "127.0.0.1:1", time.Second); return err },
		"run":    func() error { return exec.Command("/bin/true").Run() },
		"fork":   func() error { return raw(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0) },
		"vfork":  func() error { return raw(unix.SYS_CLONE, uintptr(unix.CLONE_VM|unix.CLONE_VFORK|unix.SIGCHLD), 0, 0) },
		"exec":   func() error { return unix.Exec("/bin/true", []string{"true"}, nil) },
		"execveat": func() error {
			return raw(unix.SYS_EXECVEAT, uintptr(0), 0, 0)
		},
		"executable memory": func() error {
			_, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE|unix.PROT_EXEC, unix.MAP_PRIVATE|unix.MAP_ANON)
			return err
		},
		"memory made executable": func() error {
			b, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
			if err != nil {
				return err
			}
			return unix.Mprotect(b, unix.PROT_READ|unix.PROT_EXEC)
		},
		"signal another's thread": func() error { return unix.Tgkill(os.Getppid(), os.Getppid(), 0) },
		"kill":                    func() error { return unix.Kill(os.Getppid(), 0) },
		"signal a thread":         func() error { return raw(unix.SYS_TKILL, 1, 0, 0) },
		"ptrace":                  func() error { return unix.PtraceAttach(os.Getppid()) },
		"read another":            func() error { return raw(unix.SYS_PROCESS_VM_READV, uintptr(os.Getppid()), 0, 0) },
		"chroot":                  func() error { return unix.Chroot("/") },
		"mount":                   func() error { return unix.Mount("x", "/mnt", "tmpfs", 0, "") },
		"new namespace":           func() error { return unix.Unshare(unix.CLONE_NEWUSER) },
		"memory file":             func() error { _, err := unix.MemfdCreate("x", 0); return err },
		"io_uring":                func() error { return raw(unix.SYS_IO_URING_SETUP, 1, 0, 0) },
		"bpf":                     func() error { return raw(unix.SYS_BPF, 0, 0, 0) },
		"userfaultfd":             func() error { return raw(unix.SYS_USERFAULTFD, 0, 0, 0) },
		"limits":                  func() error { return unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}) },
		"be dumped again":         func() error { return unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0) },
		"ioctl":                   func() error { _, err := unix.IoctlGetTermios(0, unix.TCGETS); return err },
		"another's memory":        func() error { _, err := os.Open("/proc/1/mem"); return err },
		"unlink":                  func() error { return unix.Unlink("/tmp/warder-confined") },
		"change owner":            func() error { return unix.Setuid(0) },
		"openat2":                 func() error { return raw(unix.SYS_OPENAT2, 0, 0, 0) },
		"open by handle":          func() error { return raw(unix.SYS_OPEN_BY_HANDLE_AT, 0, 0, 0) },
		"shared memory":           func() error { return raw(unix.SYS_SHMGET, 0, 4096, 0o1600) },
		"a key":                   func() error { return raw(unix.SYS_ADD_KEY, 0, 0, 0) },
		"take a descriptor": func() error {
			return raw(unix.SYS_PIDFD_GETFD, 0, 0, 0)
		},
	}
	for what, try := range tries {
		if err := try(); !errors.Is(err, unix.EPERM) {
			fail("%s: %v, and it has to be refused", what, err)
		}
	}
	if err := raw(unix.SYS_CLONE3, 0, 0, 0); !errors.Is(err, unix.ENOSYS) {
		fail("clone3: %v", err)
	}
	// What it is for works: threads, memory, and looking for something.
	done := make(chan int)
	for i := range 20 {
		go func() {
			runtime.LockOSThread()
			b := make([]byte, 1<<20)
			b[i] = 1
			done <- len(b)
		}()
	}
	for range 20 {
		<-done
	}
	fmt.Printf("all refused: %d ways\n", len(tries))
}

func raw(call, a, b, c uintptr) error {
	if _, _, errno := unix.RawSyscall(call, a, b, c); errno != 0 {
		return errno
	}
	if call == unix.SYS_CLONE {
		unix.Exit(3) // there are two now
	}
	return nil
}

func fail(format string, args ...any) {
	fmt.Printf(format+"\n", args...)
	os.Exit(1)
}

// A document that asks for all memory ends the process, and takes nothing else with it.
func TestMemoryEnds(t *testing.T) {
	if os.Getenv("WARDER_CONFINED") == "" {
		c := exec.Command(os.Args[0], "-test.run", "^TestMemoryEnds$")
		c.Env = append(os.Environ(), "WARDER_CONFINED=1")
		out, err := c.CombinedOutput()
		if err == nil || !strings.Contains(string(out), "cannot allocate memory") && !strings.Contains(string(out), "out of memory") && !strings.Contains(string(out), "failed to allocate") {
			t.Fatalf("%v: %.300s", err, out)
		}
		return
	}
	if err := Confine(); err != nil {
		fail("%v", err)
	}
	var all [][]byte
	for range 64 {
		b := make([]byte, 16<<20)
		for i := 0; i < len(b); i += 4096 {
			b[i] = 1
		}
		all = append(all, b)
	}
	fmt.Println("it has a gigabyte", len(all))
}

// Every call has its reason, once.
func TestCallsHaveAReason(t *testing.T) {
	seen := map[string]bool{}
	for _, c := range Calls {
		if c.Why == "" || seen[c.Name] {
			t.Errorf("%s: %q", c.Name, c.Why)
		}
		seen[c.Name] = true
	}
	for _, never := range []string{"open", "openat", "openat2", "socket", "connect", "execve", "execveat", "fork", "vfork", "ptrace", "kill", "memfd_create", "ioctl", "prctl", "newfstatat", "statx"} {
		if seen[never] {
			t.Errorf("%s is among them", never)
		}
	}
	doc, err := os.ReadFile("../../../ATTACKSURFACE.md")
	if err != nil {
		t.Fatal(err)
	}
	all := Calls
	for _, c := range conditional {
		all = append(all, c.Call)
	}
	for _, c := range all {
		if !strings.Contains(string(doc), "| `"+c.Name+"` | "+c.Why+" |") {
			t.Errorf("ATTACKSURFACE.md does not have: | `%s` | %s |", c.Name, c.Why)
		}
	}
}
