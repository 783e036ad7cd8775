package notify

import (
	"os"
	"slices"
	"testing"

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
		"6": "UID=x\nUSER=eve\nTTY=tty2\n", "7": "UID=1000\nUSER=ann\nTTY=stopped\n",
	} {
		if err := os.WriteFile(sessions+"/"+name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, tty := range []string{"tty1", "tty2", "tty4"} {
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
	if told := tell(sessions, dev, "message", []uint32{1000}); !slices.Equal(told, []string{"ann on tty1"}) {
		t.Errorf("told %v", told)
	}
	if b, _ := os.ReadFile(dev + "/tty2"); len(b) != 0 {
		t.Errorf("another user is told %q", b)
	}
	if told := tell(sessions, dev, "message", nil); told != nil {
		t.Errorf("with nobody at the machine: %v", told)
	}
}
