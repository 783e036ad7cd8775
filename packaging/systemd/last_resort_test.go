//go:build linux

package systemd

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func descriptors(classes ...byte) string {
	b := []byte{18, 1, 0, 2, 0, 0, 0, 64, 1, 0, 1, 0, 0, 0, 0, 0, 0, 1, 9, 2, byte(9 + 9*len(classes)), 0, byte(len(classes)), 1, 0, 0x80, 50}
	for i, c := range classes {
		b = append(b, 9, 4, byte(i), 0, 0, c, 0, 0, 0)
	}
	return string(b)
}

// TestOpen: the last resort lets in what is an input and nothing else, and hubs before it.
func TestOpen(t *testing.T) {
	root := t.TempDir()
	want := map[string]string{}
	for i, d := range []struct {
		classes    []byte
		authorized string
		want       string
	}{{[]byte{3}, "0", "1"}, {[]byte{3, 3}, "0", "1"}, {[]byte{8}, "0", "0"}, {[]byte{3, 8}, "0", "0"}, {[]byte{9}, "0", "1"}, {nil, "0", "0"}, {[]byte{8}, "1", "1"}} {
		dir := filepath.Join(root, "sys/bus/usb/devices", fmt.Sprintf("1-%d", i+1))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for name, text := range map[string]string{"authorized": d.authorized + "\n", "descriptors": descriptors(d.classes...)} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want[dir] = d.want
	}
	cmd := exec.Command("sh", "last-resort", "open")
	cmd.Env = append(os.Environ(), "WARDER_SYS="+root+"/sys", "WARDER_RUN="+root+"/run")
	if out, err := cmd.CombinedOutput(); err != nil && !strings.Contains(string(out), "logger") {
		t.Fatalf("%v\n%s", err, out)
	}
	for dir, w := range want {
		b, _ := os.ReadFile(filepath.Join(dir, "authorized"))
		if got := strings.TrimSpace(string(b)); got != w {
			t.Errorf("%s: %s, want %s", filepath.Base(dir), got, w)
		}
	}
	if b, err := os.ReadFile(root + "/run/last-resort"); err != nil || !strings.Contains(string(b), "1-1 1-2 1-5") {
		t.Errorf("it says %q, %v", b, err)
	}
}
