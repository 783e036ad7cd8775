package notify

import (
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestTell: the named people are notified, on their terminals, and nobody else; neither the pipe that logind keeps
// beside each session nor a stopped terminal makes it wait.
func TestTell(t *testing.T) {
	sessions, dev := t.TempDir(), t.TempDir()
	for name, text := range map[string]string{
		"1": "UID=1000\nUSER=ann\nTTY=tty1\nCLASS=user\n", "2": "UID=1001\nUSER=bob\nTTY=tty2\nCLASS=user\n",
		"c3": "UID=1000\nUSER=ann\nCLASS=user\n", "4": "UID=1000\nUSER=gdm\nTTY=tty4\nCLASS=greeter\n",
		"5": "UID=1000\nUSER=eve\nTTY=../passwd\n",
		"8": "UID=1000\nUSER=ann\nTTY=tty5\nTYPE=wayland\nCLASS=user\n",
		"6": "UID=x\nUSER=eve\nTTY=tty2\n", "7": "UID=1000\nUSER=ann\nTTY=stopped\n",
	} {
		if err := os.WriteFile(sessions+"/"+name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, tty := range []string{"tty1", "tty2", "tty4", "tty5"} {
		if err := os.WriteFile(dev+"/"+tty, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, pipe := range []string{sessions + "/1.ref", dev + "/stopped"} {
		if err := unix.Mkfifo(pipe, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	keep, err := os.OpenFile(sessions+"/1.ref", os.O_RDWR, 0) // as the session does
	if err != nil {
		t.Fatal(err)
	}
	defer keep.Close()
	if told := tell(sessions, dev, "message", []uint32{1000}); !slices.Equal(told, []Told{{1000, "ann on tty1"}}) {
		t.Errorf("told %v", told)
	}
	if b, _ := os.ReadFile(dev + "/tty2"); len(b) != 0 {
		t.Errorf("another user is told %q", b)
	}
	if told := tell(sessions, dev, "message", nil); told != nil {
		t.Errorf("with nobody at the machine: %v", told)
	}
}

// TestStopped: somebody who has stopped a terminal's output (Ctrl-S) is not told, and nobody waits for them.
func TestStopped(t *testing.T) {
	master, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(master)
	if err := unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(master, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	tty := "pts/" + strconv.Itoa(n)
	slave, err := unix.Open("/dev/"+tty, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(slave)
	sessions := t.TempDir()
	if err := os.WriteFile(sessions+"/1", []byte("UID=1000\nUSER=ann\nCLASS=user\nTYPE=tty\nTTY="+tty+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	say := func() int {
		t.Helper()
		told := make(chan int, 1)
		go func() { told <- len(tell(sessions, "/dev", "message", []uint32{1000})) }()
		select {
		case n := <-told:
			return n
		case <-time.After(30 * time.Second):
			t.Fatal("it waits")
		}
		return 0
	}
	if say() != 1 {
		t.Error("a terminal that can be written to is not told")
	}
	const tcooff, tcoon = 0, 1
	for range 3 {
		if err := unix.IoctlSetInt(slave, unix.TCXONC, tcooff); err != nil {
			t.Fatal(err)
		}
		if say() != 0 {
			t.Error("a stopped terminal counts as told")
		}
		if err := unix.IoctlSetInt(slave, unix.TCXONC, tcoon); err != nil {
			t.Fatal(err)
		}
		if say() != 1 {
			t.Error("once it goes on it is not told")
		}
	}
}
