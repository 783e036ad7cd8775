//go:build linux

// Command attacker is a user who does not want a stick to be taken away, or wants to use the agent against others. Each
// argument is one attack that once worked on a version of the agent. It is only for the laptop's tests, which run it
// without privileges, except for "daemon", its victim.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/warderd/warder/platform/platformtest/stuckfs"
)

// attacks by name; each prints "ready" once it is in place, and stays.
var attacks = map[string]func(args []string) error{
	"fakeproc":   inNamespace("fakeproc-inside"),
	"fifo":       inNamespace("fifo-inside"),
	"fuse":       inNamespace("fuse-inside"),
	"longline":   inNamespace("longline-inside"),
	"namespaces": namespaces,
	"hidden":     hidden,
	"pass":       pass,
	"writer":     writer,
	"daemon":     daemon,
	"slowreader": slowReader,
	"codes":      codes,
	"refusals":   refusals,
	"uring":      uring,
	"grow":       grow,
	"filespeed":  filespeed,
	"memfd":      memfd,
	"crowded":    crowded,

	"fakeproc-inside": fakeproc,
	"fifo-inside":     fifo,
	"fuse-inside":     fuse,
	"longline-inside": longline,
	"vt":              vt,
}

func main() {
	if len(os.Args) < 2 || attacks[os.Args[1]] == nil {
		log.Fatal("which attack?")
	}
	if err := attacks[os.Args[1]](os.Args[2:]); err != nil {
		log.Fatal(os.Args[1], ": ", err)
	}
	fmt.Println("ready")
	time.Sleep(time.Hour)
}

// inNamespace runs another attack in a user and a mount namespace of its own, as any user may create.
func inNamespace(word string) func([]string) error {
	return func(args []string) error {
		cmd := exec.Command("/proc/self/exe", append([]string{word}, args...)...)
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
			Pdeathsig:   syscall.SIGKILL,
		}
		if err := cmd.Run(); err != nil {
			return err
		}
		return nil
	}
}

// overProc mounts a /proc of the user's own, in which every open file claims to be the mount that the agent looks for,
// and leads to what the user wants it to act on.
func overProc(victim string, fdinfo func(path string, ids []int) error) error {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	var ids []int
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); strings.Contains(f[4], "/mnt/stick") {
			id, _ := strconv.Atoi(f[0])
			ids = append(ids, id)
		}
	}
	if err := unix.Mount("tmpfs", "/proc", "tmpfs", 0, ""); err != nil {
		return fmt.Errorf("over /proc: %w", err)
	}
	for _, d := range []string{"/proc/thread-self/fdinfo", "/proc/thread-self/fd", "/proc/self/fd"} {
		if err := os.MkdirAll(d, 0o777); err != nil {
			return err
		}
	}
	for fd := range 200 {
		_ = os.Symlink(victim, fmt.Sprintf("/proc/thread-self/fd/%d", fd))
		_ = os.Symlink(victim, fmt.Sprintf("/proc/self/fd/%d", fd))
		if err := fdinfo(fmt.Sprintf("/proc/thread-self/fdinfo/%d", fd), ids); err != nil {
			return err
		}
	}
	return nil
}

// fakeproc serves a /proc of its own, in which an open file claims to be another.
func fakeproc(args []string) error {
	return overProc(args[0], func(path string, ids []int) error {
		text := "pos:\t0\nflags:\t02\n"
		for _, id := range ids {
			text += fmt.Sprintf("mnt_id:\t%d\n", id)
		}
		return os.WriteFile(path, []byte(text), 0o666)
	})
}

func fifo([]string) error {
	return overProc("/nowhere", func(path string, _ []int) error { return unix.Mkfifo(path, 0o666) })
}

// fuse mounts a file system that never answers.
func fuse([]string) error {
	if err := overProc("/nowhere", func(string, []int) error { return nil }); err != nil {
		return err
	}
	_, err := stuckfs.Mount("/proc/thread-self/fdinfo")
	return err
}

// longline makes a line of mountinfo far longer than any buffer: a directory tree can be arbitrarily deep.
func longline([]string) error {
	if err := unix.Mount("tmpfs", "/tmp", "tmpfs", 0, ""); err != nil {
		return err
	}
	if err := os.Chdir("/tmp"); err != nil {
		return err
	}
	name := strings.Repeat(" ", 250)
	for range 200 {
		if err := os.Mkdir(name, 0o700); err != nil {
			return err
		}
		if err := os.Chdir(name); err != nil {
			return err
		}
	}
	return unix.Mount("tmpfs", ".", "tmpfs", 0, "")
}

// namespaces makes as many mount namespaces as it is told to, each with the stick in it.
func namespaces(args []string) error {
	n, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	for range n {
		cmd := exec.Command("sleep", "3600")
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
			Pdeathsig:   syscall.SIGKILL,
		}
		if err := cmd.Start(); err != nil {
			return err
		}
	}
	return nil
}

// hidden keeps a file open for writing where no search of processes finds it: in transit in a socket.
func hidden(args []string) error {
	fd, err := unix.Open(args[0], unix.O_RDWR|unix.O_CREAT, 0o666)
	if err != nil {
		return err
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	if err := unix.Sendmsg(pair[0], []byte("x"), unix.UnixRights(fd), nil, 0); err != nil {
		return err
	}
	return unix.Close(fd)
}

// pass gives a root daemon a file that is open for writing, so that the daemon looks like a writer.
func pass(args []string) error {
	f, err := os.OpenFile(args[1], os.O_RDWR|os.O_CREATE, 0o666)
	if err != nil {
		return err
	}
	c, err := net.Dial("unix", args[0])
	if err != nil {
		return err
	}
	_, _, err = c.(*net.UnixConn).WriteMsgUnix([]byte("x"), unix.UnixRights(int(f.Fd())), nil)
	_ = f.Close()
	return err
}

// daemon is a root service that accepts descriptors, as many do.
func daemon(args []string) error {
	_ = os.Remove(args[0])
	l, err := net.Listen("unix", args[0])
	if err != nil {
		return err
	}
	if err := os.Chmod(args[0], 0o666); err != nil {
		return err
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			b, oob := make([]byte, 1), make([]byte, 64)
			_, _, _, _, _ = c.(*net.UnixConn).ReadMsgUnix(b, oob) // and keeps it
		}
	}()
	return nil
}

// writer writes for ever, ignores every request to end, and records on the laptop's own disk what was acknowledged.
func writer(args []string) error {
	signal.Ignore(syscall.SIGTERM, syscall.SIGHUP, syscall.SIGINT)
	f, err := os.OpenFile(args[0], os.O_RDWR|os.O_CREATE, 0o666)
	if err != nil {
		return err
	}
	acked, err := os.OpenFile(args[1], os.O_RDWR|os.O_CREATE, 0o666)
	if err != nil {
		return err
	}
	size := 4096
	if len(args) > 2 {
		size, _ = strconv.Atoi(args[2])
	}
	block := make([]byte, size)
	for i := range block {
		block[i] = byte(i%251 + 1)
	}
	go func() {
		for n := 0; ; {
			k, err := f.Write(block)
			n += k
			_, _ = acked.WriteAt([]byte(fmt.Sprintf("%12d", n)), 0)
			if err != nil {
				return
			}
			time.Sleep(3 * time.Millisecond)
		}
	}()
	return nil
}

// slowReader asks the agent for everything, as often as it may, and reads nothing.
func slowReader(args []string) error {
	for range 8 {
		c, err := net.Dial("unix", args[0])
		if err != nil {
			return err
		}
		_ = c.(*net.UnixConn).SetReadBuffer(4096)
		if _, err := io.WriteString(c, "GET /v1/events?last=10000 HTTP/1.1\r\nHost: warder\r\n\r\n"); err != nil {
			return err
		}
		keep = append(keep, c)
	}
	return nil
}

var keep []net.Conn

// vt makes a virtual terminal the active one, as root, for the user there (ioctl_vt(2)).
func vt(args []string) error {
	n, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	f, err := os.OpenFile("/dev/tty0", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	const activate, waitActive = 0x5606, 0x5607
	for _, request := range []uint{activate, waitActive} {
		if err := unix.IoctlSetInt(int(f.Fd()), request, n); err != nil {
			return err
		}
	}
	os.Exit(0)
	return nil
}

// codes tries junk as an exception code for as long as it runs.
func codes(args []string) error {
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Clean(args[0]))
	}}}
	go func() {
		for {
			body, _ := json.Marshal(map[string]string{"code": "AAAA-AAAA-AAAA-AAAA-AAAA"})
			res, err := client.Post("http://warder/v1/exceptions", "application/json", strings.NewReader(string(body)))
			if err == nil {
				_, _ = io.Copy(io.Discard, res.Body)
				_ = res.Body.Close()
			}
			time.Sleep(20 * time.Millisecond)
		}
	}()
	return nil
}
