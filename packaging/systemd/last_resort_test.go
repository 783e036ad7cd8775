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
	b := []byte{18, 1, 0, 2, 0, 0, 0, 64, 1, 0, 1, 0, 0, 0, 0, 0, 0, 1, 9, 2, byte(9 + 9*len(classes)), 0, byte(len(classes)), 1,
		0, 0x80, 50}
	for i, c := range classes {
		b = append(b, 9, 4, byte(i), 0, 0, c, 0, 0, 0)
	}
	return string(b)
}

// TestOpen: the last resort lets in inputs and nothing else, and the hubs before them.
func TestOpen(t *testing.T) {
	root := t.TempDir()
	want := map[string]string{}
	for i, d := range []struct {
		classes    []byte
		authorized string
		want       string
	}{{[]byte{3}, "0", "1"}, {[]byte{3, 3}, "0", "1"}, {[]byte{8}, "0", "0"}, {[]byte{3, 8}, "0", "0"}, {[]byte{9}, "0", "1"},
		{nil, "0", "0"}, {[]byte{3, 9}, "0", "1"}, {[]byte{9, 8}, "0", "0"}, {[]byte{8}, "1", "1"}} {
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

// TestCount: five crashes without a healthy minute between them call for the last resort. Starts that exceed their time
// limit do not count.
func TestCount(t *testing.T) {
	for _, c := range []struct {
		name    string
		results []string
		want    string // what is counted in the end, and whether the last resort was called
	}{
		{"crashes", []string{"exit-code", "signal", "core-dump", "exit-code", "exit-code"}, "5 called"},
		{"four crashes", []string{"exit-code", "signal", "signal", "exit-code"}, "4 "},
		{"time-outs", []string{"timeout", "timeout", "timeout", "timeout", "timeout", "timeout"}, " "},
		{"time-outs between crashes", []string{"signal", "timeout", "signal", "timeout", "timeout", "signal"}, "3 "},
		{"a success ends a series", []string{"signal", "signal", "signal", "signal", "success", "signal"}, "1 "},
		{"watchdogs", []string{"watchdog", "watchdog", "watchdog", "watchdog", "watchdog"}, "5 called"},
	} {
		run, bin := t.TempDir(), t.TempDir()
		script := "#!/bin/sh\necho called >>" + run + "/called\n"
		if err := os.WriteFile(bin+"/systemctl", []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
		for _, r := range c.results {
			cmd := exec.Command("sh", "last-resort", "count")
			cmd.Env = append(os.Environ(), "WARDER_RUN="+run, "SERVICE_RESULT="+r, "PATH="+bin+":"+os.Getenv("PATH"))
			_, _ = cmd.CombinedOutput() // its exit code only says whether it was called
		}
		ends, _ := os.ReadFile(run + "/ends")
		n, _, _ := strings.Cut(string(ends), " ")
		called, _ := os.ReadFile(run + "/called")
		if got := n + " " + strings.TrimSpace(string(called)); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

// TestEarly: after an early start that was killed the kernel lets in new devices, and inputs that it refused are let
// in. One that ended by itself, or was followed by an agent, is left as it is.
func TestEarly(t *testing.T) {
	for _, c := range []struct {
		name, result string
		over         bool
		want         string // parameter, default, keyboard, stick
	}{
		{"killed", "signal", false, "1 1 1 0"}, {"killed by a time-out", "timeout", false, "1 1 1 0"},
		{"ended", "success", false, "0 0 0 0"}, {"taken over", "signal", true, "0 0 0 0"},
	} {
		root := t.TempDir()
		files := []string{"sys/module/usbcore/parameters/authorized_default", "sys/bus/usb/devices/usb1/authorized_default",
			"sys/bus/usb/devices/1-1/authorized", "sys/bus/usb/devices/1-2/authorized"}
		put := func(name, text string) {
			path := filepath.Join(root, name)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		for _, f := range files {
			put(f, "0\n")
		}
		put("sys/bus/usb/devices/1-1/descriptors", descriptors(3))
		put("sys/bus/usb/devices/1-2/descriptors", descriptors(8))
		if c.over {
			put("run/early-over", "boot")
		}
		cmd := exec.Command("sh", "last-resort", "early")
		cmd.Env = append(os.Environ(), "WARDER_SYS="+root+"/sys", "WARDER_RUN="+root+"/run", "SERVICE_RESULT="+c.result)
		out, _ := cmd.CombinedOutput()
		var got []string
		for _, f := range files {
			b, _ := os.ReadFile(filepath.Join(root, f))
			got = append(got, strings.TrimSpace(string(b)))
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s: %s, want %s (%s)", c.name, strings.Join(got, " "), c.want, out)
		}
	}
}
