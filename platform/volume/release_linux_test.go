package volume

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/warderd/warder/platform/platformtest/stuckfs"
)

// TestMain makes this program the child, and the writing programs, too.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 {
		switch os.Args[1] {
		case "release-disk":
			if err := Main(os.Args[2], os.Stdin, os.Stdout); err != nil {
				os.Exit(1)
			}
			os.Exit(0)
		case "writer":
			writerMain(os.Args[2], os.Args[3])
		case "stuck":
			stuckfs.Wait(os.Args[2])
		}
	}
	os.Exit(m.Run())
}

// writerMain keeps a file open for writing in one of several ways, says so, and counts what write(2) has acknowledged.
func writerMain(how, path string) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CREAT, 0o666)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	if uid := map[string]int{"root": 0, "service": 61200}; uid[how] != 0 || how != "root" {
		id := uid[how]
		if id == 0 {
			id = 1234
		}
		if err := syscall.Setuid(id); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
	if how != "polite" {
		signal.Ignore(syscall.SIGTERM)
	}
	switch how {
	case "hidden": // the only descriptor is in transit in a socket
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		if err == nil {
			err = unix.Sendmsg(pair[0], []byte("x"), unix.UnixRights(fd), nil, 0)
		}
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		_ = unix.Close(fd)
	case "mapped":
		_ = unix.Ftruncate(fd, 4096)
		b, err := unix.Mmap(fd, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		b[0] = 'x'
		_ = unix.Close(fd)
	}
	fmt.Println("open")
	for n := 0; ; n++ {
		if how == "busy" {
			if _, err := unix.Write(fd, make([]byte, 4096)); err != nil {
				fmt.Printf("failed after %d\n", n)
				break
			}
			fmt.Println(n + 1)
			time.Sleep(5 * time.Millisecond)
			continue
		}
		time.Sleep(time.Hour)
	}
	time.Sleep(time.Hour)
}

// stick is a file system on a loop device, in place of a USB disk.
type stick struct {
	t                *testing.T
	image, dev, name string
	point, sys       string
}

func newStick(t *testing.T, fstype string) *stick {
	t.Helper()
	if os.Getuid() != 0 {
		cannot(t, "a loop device needs root")
	}
	mkfs, err := exec.LookPath("mkfs." + fstype)
	if err != nil {
		cannot(t, "mkfs."+fstype+" is not installed (packages e2fsprogs, dosfstools, xfsprogs)")
	}
	s := &stick{t: t, image: filepath.Join(t.TempDir(), "image"), point: t.TempDir()}
	if err := os.WriteFile(s.image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(s.image, 400<<20); err != nil {
		t.Fatal(err)
	}
	s.run(mkfs, "-q", s.image)
	s.dev = s.run("losetup", "-f", "--show", s.image)
	s.name = filepath.Base(s.dev)
	s.sys = "/sys/devices/virtual/block/" + s.name
	t.Cleanup(func() {
		_ = unix.Unmount(s.point, unix.MNT_DETACH)
		_ = exec.Command("losetup", "-d", s.dev).Run()
	})
	s.mount()
	return s
}

// cannot: a test that cannot run says why; with CI=true that is a failure.
func cannot(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip(why)
}

func (s *stick) run(name string, args ...string) string {
	s.t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		s.t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return strings.TrimSpace(string(out))
}

func (s *stick) mount() {
	s.t.Helper()
	for range 3000 { // a child that has just ended still has the disk open for a moment
		if exec.Command("mount", s.dev, s.point).Run() == nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if !s.mounted() {
		s.t.Fatalf("%s cannot be mounted", s.dev)
	}
	if err := os.Chmod(s.point, 0o777); err != nil {
		s.t.Fatal(err)
	}
}

func (s *stick) mounted() bool {
	b, _ := os.ReadFile("/proc/self/mountinfo")
	return strings.Contains(string(b), " "+s.point+" ")
}

// program starts one that writes, and waits until it has its file open.
func (s *stick) program(how string) (pid int, out *lines) {
	s.t.Helper()
	cmd := exec.Command(os.Args[0], "writer", how, filepath.Join(s.point, how))
	out = &lines{}
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	go out.read(pipe)
	s.t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	for range 3000 {
		if strings.HasPrefix(out.text(), "open") {
			return cmd.Process.Pid, out
		}
		time.Sleep(10 * time.Millisecond)
	}
	s.t.Fatalf("the program %q does not write: %s", how, out.text())
	return 0, nil
}

func (s *stick) release() Result {
	s.t.Helper()
	begun := time.Now()
	r, finish := Releaser{Command: []string{os.Args[0], "release-disk"}}.Release(context.Background(), s.sys, func(string) {})
	finish()
	s.t.Logf("%s after %s: %+v", s.name, time.Since(begun).Round(time.Millisecond), r)
	return r
}

func alive(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(b), ") Z ")
}

// A file system that nobody writes to is made read-only and unmounted, and its data is on the disk; in another mount
// namespace, which is never entered, it is read-only, too.
func TestReleaseReachesEveryNamespace(t *testing.T) {
	s := newStick(t, "ext4")
	if err := os.WriteFile(s.point+"/data", []byte("kept"), 0o644); err != nil {
		t.Fatal(err)
	}
	other := exec.Command("unshare", "-m", "--propagation", "private", "sleep", "3600")
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Process.Kill(); _ = other.Wait() }()
	mine, _ := os.Readlink("/proc/self/ns/mnt")
	for range 3000 {
		if ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", other.Process.Pid)); err == nil && ns != mine {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	time.Sleep(100 * time.Millisecond) // unshare(1) changes the propagation after it has the namespace
	if r := s.release(); !r.Clean || r.Forced != "" || r.Cut {
		t.Errorf("%+v", r)
	}
	if s.mounted() {
		t.Error("it is still mounted here")
	}
	err := os.WriteFile(fmt.Sprintf("/proc/%d/root%s/new", other.Process.Pid, s.point), []byte("x"), 0o644)
	if err == nil || !strings.Contains(err.Error(), "read-only") {
		t.Errorf("writing in the other namespace: %v, want read-only", err)
	}
}

// No program can keep a file system: not one that ignores the request to end, not one that cannot be seen, and not a
// root daemon, which is left alone.
func TestReleaseWithWriters(t *testing.T) {
	for _, c := range []struct {
		how                string
		asked, other, dies bool
		clean              bool
	}{
		{how: "polite", asked: true, dies: true, clean: true},
		{how: "stubborn", asked: true},
		{how: "busy", asked: true},
		{how: "mapped", asked: true},
		{how: "hidden"},
		{how: "root", other: true},
		{how: "service", other: true}, // a user of systemd's DynamicUser=
	} {
		t.Run(c.how, func(t *testing.T) {
			s := newStick(t, "ext4")
			pid, out := s.program(c.how)
			if c.how == "busy" {
				time.Sleep(200 * time.Millisecond)
			}
			r := s.release()
			if r.Clean != c.clean || r.Cut == c.clean || r.Forced != "" {
				t.Errorf("%+v", r)
			}
			if (len(r.Asked) == 1 && r.Asked[0].PID == pid) != c.asked || (len(r.Others) == 1 && r.Others[0].PID == pid) != c.other {
				t.Errorf("asked %v, others %v, it is %d", r.Asked, r.Others, pid)
			}
			time.Sleep(50 * time.Millisecond)
			if alive(pid) == c.dies {
				t.Errorf("alive: %v", alive(pid))
			}
			if c.how != "busy" {
				return
			}
			// What write(2) acknowledged is there when the disk comes back.
			time.Sleep(200 * time.Millisecond)
			var n int64
			for _, line := range strings.Split(out.text(), "\n") {
				_, _ = fmt.Sscan(line, &n)
			}
			if !strings.Contains(out.text(), "failed after") {
				t.Errorf("the program goes on writing: %q", out.text()[max(0, len(out.text())-100):])
			}
			_ = unix.Kill(pid, unix.SIGKILL)
			copied := filepath.Join(t.TempDir(), "copy") // the disk as it is when it is pulled
			s.run("cp", s.image, copied)
			s.run("mount", "-o", "loop", copied, s.point)
			info, err := os.Stat(s.point + "/busy")
			if err != nil || info.Size() < n*4096 {
				t.Errorf("%v bytes of %d acknowledged, %v", info.Size(), n*4096, err)
			}
		})
	}
}

// A part of the disk that nobody used cannot be mounted while the rest is emptied, nor can what was mounted be mounted
// again.
func TestReleaseKeepsTheDiskShut(t *testing.T) {
	s := newStick(t, "ext4")
	s.run("umount", s.point)
	r, finish := Releaser{Command: []string{os.Args[0], "release-disk"}}.Release(context.Background(), s.sys, func(string) {})
	if out, err := exec.Command("mount", s.dev, s.point).CombinedOutput(); err == nil {
		t.Errorf("an idle disk was mounted before it was taken away: %+v %s", r, out)
	}
	finish()
	for range 3000 {
		if exec.Command("mount", s.dev, s.point).Run() == nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if !s.mounted() {
		t.Fatal("it cannot be mounted after the release is over")
	}
	_, finish = Releaser{Command: []string{os.Args[0], "release-disk"}}.Release(context.Background(), s.sys, func(string) {})
	defer finish()
	_ = exec.Command("mount", "-o", "rw", s.dev, s.point).Run() // may give the old file system, which takes no writes
	if err := os.WriteFile(s.point+"/late", []byte("x"), 0o644); err == nil && s.mounted() {
		t.Error("a disk that was emptied was mounted and written to before it was taken away")
	}
}

// The running system's own disk is recognised.
func TestCarries(t *testing.T) {
	s := newStick(t, "ext4")
	if got := Carries(s.sys); got != "" {
		t.Errorf("a stick carries %q", got)
	}
	was := system
	defer func() { system = was }()
	system = []string{"/nowhere", s.point}
	if got := Carries(s.sys); got != s.point {
		t.Errorf("the disk of %s carries %q", s.point, got)
	}
}

// A loop device of a file on the disk is emptied first, and detached.
func TestReleaseLoop(t *testing.T) {
	s := newStick(t, "ext4")
	inner := s.point + "/inner"
	if err := os.WriteFile(inner, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(inner, 16<<20); err != nil {
		t.Fatal(err)
	}
	s.run("mkfs.ext4", "-q", inner)
	dev, point := s.run("losetup", "-f", "--show", inner), t.TempDir()
	s.run("mount", dev, point)
	defer func() { _ = unix.Unmount(point, unix.MNT_DETACH); _ = exec.Command("losetup", "-d", dev).Run() }()
	if err := os.WriteFile(point+"/data", []byte("kept"), 0o644); err != nil {
		t.Fatal(err)
	}
	if r := s.release(); !r.Clean {
		t.Errorf("%+v", r)
	}
	if out := s.run("losetup", "-l", "-n", "-O", "NAME"); strings.Contains(out, dev+"\n") || strings.HasSuffix(out, dev) {
		t.Errorf("%s is still there", dev)
	}
}

// The other file systems of this kernel; the laptop tries vfat, which most sticks have.
func TestReleaseTypes(t *testing.T) {
	for _, fstype := range []string{"xfs", "btrfs"} {
		t.Run(fstype, func(t *testing.T) {
			kernel, _ := os.ReadFile("/proc/filesystems")
			if !strings.Contains(string(kernel), "\t"+fstype+"\n") {
				cannot(t, "this kernel has no "+fstype)
			}
			s := newStick(t, fstype)
			if r := s.release(); !r.Clean || s.mounted() {
				t.Errorf("%+v, mounted %v", r, s.mounted())
			}
			s.mount()
			_, _ = s.program("stubborn")
			// Older kernels cannot cut btrfs off.
			if r := s.release(); r.Clean || !r.Cut && (fstype != "btrfs" || !strings.Contains(r.Forced, "cannot be cut off")) ||
				s.mounted() {
				t.Errorf("with a writer: %+v, mounted %v", r, s.mounted())
			}
		})
	}
}

// At the deadline the wait ends, whatever the child does; and the child does not outlive it.
func TestReleaseDeadlines(t *testing.T) {
	for _, c := range []struct {
		name, script, want string
		r                  Releaser
	}{
		{"silent", "sleep 1000", "without progress", Releaser{Stall: time.Second}},
		{"endless steps", `while :; do echo '{"step":"x"}'; sleep 0.05; done`, "was not empty after",
			Releaser{Stall: time.Second, Whole: 2 * time.Second}},
		{"dies", "exit 1", "has died", Releaser{}},
		{"babbles", "echo nonsense; sleep 1000", "has died", Releaser{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.r.Command = []string{"sh", "-c", c.script}
			begun := time.Now()
			r, finish := c.r.Release(context.Background(), t.TempDir(), func(string) {})
			defer finish()
			if !strings.Contains(r.Forced, c.want) || time.Since(begun) > 20*time.Second {
				t.Errorf("%+v after %s", r, time.Since(begun))
			}
		})
	}
	if r, finish := (Releaser{Command: []string{"/nonexistent"}}).Release(context.Background(), t.TempDir(),
		func(string) {}); !strings.Contains(r.Forced, "cannot start") {
		t.Errorf("%+v", r)
	} else {
		finish()
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	r, finish := Releaser{Command: []string{"sh", "-c", "sleep 1000"}}.Release(ctx, t.TempDir(), func(string) {})
	finish()
	if r.Forced != "the agent is stopping" {
		t.Errorf("%+v", r)
	}
}

// A child that is stuck in the kernel beyond SIGKILL, as a user's file system can cause, delays nobody: the deadline
// comes, and nobody waits for the rest of the child.
func TestReleaseWithoutTheStuck(t *testing.T) {
	if os.Getuid() != 0 {
		cannot(t, "mounting a file system needs root")
	}
	mount := t.TempDir()
	fs, err := stuckfs.Mount(mount)
	if err != nil {
		t.Fatal(err)
	}
	defer fs.Close()
	begun := time.Now()
	r, finish := Releaser{Command: []string{os.Args[0], "stuck", mount}, Stall: time.Second}.Release(context.Background(), t.TempDir(),
		func(string) {})
	finish()
	if !strings.Contains(r.Forced, "without progress") || time.Since(begun) > 20*time.Second {
		t.Errorf("%+v after %s", r, time.Since(begun))
	}
}

// However many disks go at once, few children run at a time, and all come to an end.
func TestReleaseManyAtOnce(t *testing.T) {
	var running, most atomic.Int32
	var all sync.WaitGroup
	for range 40 {
		all.Go(func() {
			r, finish := Releaser{Command: []string{"sh", "-c",
				`echo '{"step":"x"}'; sleep 0.2; echo '{"result":{"clean":true}}'; cat`}}.Release(context.Background(), t.TempDir(),
				func(s string) {
					if s == "x" {
						most.Store(max(most.Load(), running.Add(1)))
					}
				})
			running.Add(-1)
			finish()
			if !r.Clean {
				t.Errorf("%+v", r)
			}
		})
	}
	all.Wait()
	if most.Load() > maxChildren {
		t.Errorf("%d children at a time", most.Load())
	}
}

// Stopped programs continue after both the child and the agent have died: the next agent resumes them.
func TestResume(t *testing.T) {
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	state := func() string {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", cmd.Process.Pid))
		_, rest, _ := strings.Cut(string(b), ") ")
		return rest[:min(1, len(rest))]
	}
	dir := t.TempDir()
	c := &process{keep: dir + "/" + keepPrefix + "1"}
	c.remember([]Program{{PID: cmd.Process.Pid, Start: started(cmd.Process.Pid)}, {PID: 1, Start: 12345}})
	if err := cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	for range 3000 {
		if state() == "T" {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	Resume(dir)
	for range 3000 {
		if state() != "T" {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if left, _ := filepath.Glob(dir + "/*"); state() == "T" || len(left) != 0 {
		t.Errorf("state %s, left %v", state(), left)
	}
}

// lines collects what a program prints.
type lines struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lines) read(r io.Reader) {
	b := make([]byte, 4096)
	for {
		n, err := r.Read(b)
		l.mu.Lock()
		l.b.Write(b[:n])
		l.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (l *lines) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
