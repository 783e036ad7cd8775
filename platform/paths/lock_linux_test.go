package paths

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/warderd/warder/platform/platformtest/stuckfs"
)

// TestMain makes this program the agent that dies with a stuck thread.
func TestMain(m *testing.M) {
	if len(os.Args) == 4 && os.Args[1] == "stuck" {
		unlock, err := Lock(os.Args[2])
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		defer unlock()
		go stuckfs.Wait(os.Args[3])
		time.Sleep(200 * time.Millisecond)
		fmt.Println("locked")
		time.Sleep(time.Hour)
	}
	os.Exit(m.Run())
}

// Only one process has a lock. If it is killed and one of its threads never returns from the kernel, the next process
// takes the lock over; while it lives, nobody does.
func TestLockOfTheStuck(t *testing.T) {
	if os.Getuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("mounting a file system needs root")
		}
		t.Skip("mounting a file system needs root")
	}
	mount, path := t.TempDir(), filepath.Join(t.TempDir(), "lock")
	fs, err := stuckfs.Mount(mount)
	if err != nil {
		t.Fatal(err)
	}
	defer fs.Close()
	cmd := exec.Command(os.Args[0], "stuck", path, mount)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if line != "locked\n" {
		t.Fatalf("%q %v", line, err)
	}
	if _, err := Lock(path); err == nil {
		t.Fatal("the lock of a process that lives was taken")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(200 * time.Millisecond)
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err == nil {
		t.Fatal("the dead process has let go of its lock, so this test proves nothing")
	}
	unlock, err := Lock(path)
	if err != nil {
		t.Fatalf("the lock is kept by a process that was killed: %v", err)
	}
	if _, err := Lock(path); err == nil {
		t.Error("the lock was taken twice")
	}
	unlock()
	if unlock, err = Lock(path); err != nil {
		t.Errorf("after unlocking: %v", err)
	} else {
		unlock()
	}
	fs.Close()
	_ = cmd.Wait()
}
