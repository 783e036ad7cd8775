package notify

import (
	"bufio"
	"bytes"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// desktop starts an X server, a session bus and dunst, which shows notices; on is how a command is run there.
func desktop(t *testing.T) (address string, on func(name string, args ...string) string) {
	t.Helper()
	for _, p := range []string{"Xvfb", "dunst", "dbus-daemon"} {
		if _, err := exec.LookPath(p); err != nil {
			if os.Getenv("CI") != "" {
				t.Fatal(p, " is not installed")
			}
			t.Skip(p, " is not installed")
		}
	}
	// begin starts a program that goes on, and returns the first line that it says at descriptor 3.
	begin := func(env []string, name string, args ...string) string {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		c := exec.Command(name, args...)
		c.ExtraFiles, c.Env = []*os.File{w}, append(os.Environ(), env...)
		err = c.Start()
		_ = w.Close()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
		_ = r.SetReadDeadline(time.Now().Add(30 * time.Second))
		line, err := bufio.NewReader(r).ReadString('\n')
		if err != nil {
			t.Fatalf("%s does not come up: %v", name, err)
		}
		return strings.TrimSpace(line)
	}
	home := t.TempDir()
	env := []string{"HOME=" + home, "XDG_CONFIG_HOME=" + home, "DISPLAY=:" + begin(nil, "Xvfb", "-displayfd", "3", "-nolisten", "tcp")}
	// The bus starts dunst when something is to be shown (org.knopwob.dunst.service).
	address = begin(env, "dbus-daemon", "--session", "--nofork", "--print-address=3")
	env = append(env, "DBUS_SESSION_BUS_ADDRESS="+address)
	return address, func(name string, args ...string) string {
		c := exec.Command(name, args...)
		c.Env = append(os.Environ(), env...)
		out, err := c.CombinedOutput()
		if err != nil {
			t.Fatalf("%s %v: %v %s", name, args, err, out)
		}
		return string(bytes.TrimSpace(out))
	}
}

// TestDesktop: what is shown is what was said, whatever it looks like, and it is known when nothing shows notices.
func TestDesktop(t *testing.T) {
	none := &Desktop{Address: "unix:path=" + t.TempDir() + "/none"}
	if err := none.Ready(t.Context()); err == nil || !strings.Contains(err.Error(), "no session bus") {
		t.Errorf("without a bus: %v", err)
	}
	if err := none.Show(t.Context(), "title", "body"); err == nil {
		t.Error("without a bus it was shown")
	}
	// A bus that accepts, and says nothing.
	deaf := t.TempDir() + "/deaf"
	l, err := net.Listen("unix", deaf)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := (&Desktop{Address: "unix:path=" + deaf}).Ready(t.Context()); err == nil || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("a bus that says nothing: %v", err)
	}
	address, on := desktop(t)
	d := &Desktop{Address: address}
	if err := d.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	// Being asked starts nothing: the desktop chooses what shows notices.
	if out := on("dbus-send", "--session", "--print-reply", "--dest=org.freedesktop.DBus", "/", "org.freedesktop.DBus.NameHasOwner", "string:"+desktopName); !strings.Contains(out, "boolean false") {
		t.Errorf("it was started: %s", out)
	}
	long := strings.Repeat("ü", 5000)
	bodies := []string{"A rule of your organization's\nThis is about: Kingston & Söhne", `<b>bold</b> <a href="https://example.com">a link</a> <img src="x"/>`, "broken \xff text", long}
	for _, b := range bodies {
		if err := d.Show(t.Context(), "A rule of your organization", b); err != nil {
			t.Fatal(err)
		}
	}
	on("dunstctl", "close-all")
	var history struct {
		Data [][]struct{ Summary, Body, AppName struct{ Data string } } `json:"data"`
	}
	if err := json.Unmarshal([]byte(on("dunstctl", "history")), &history); err != nil || len(history.Data) != 1 || len(history.Data[0]) != len(bodies) {
		t.Fatalf("%v %+v", err, history)
	}
	for i, shown := range history.Data[0] { // the newest first
		b := bodies[len(bodies)-1-i]
		got := shown.Body.Data
		switch {
		case shown.Summary.Data != "A rule of your organization" || shown.AppName.Data != "Warder":
			t.Errorf("%+v", shown)
		case b == long && len([]rune(got)) > maxBody, strings.Contains(got, "<b>") || strings.Contains(got, "<a") || strings.Contains(got, "<img"):
			t.Errorf("%q is shown as %q", b, got)
		case i == 3 && !strings.Contains(got, "organization's\nThis is about: Kingston &amp; Söhne"):
			t.Errorf("%q is shown as %q", b, got)
		}
	}
}

func TestBody(t *testing.T) {
	for in, want := range map[string][2]string{"a < b": {"a < b", "a &lt; b"}, "x\xff": {"x�", "x�"}, "": {"", ""}} {
		if plain, marked := bodyOf(in, false), bodyOf(in, true); plain != want[0] || marked != want[1] {
			t.Errorf("%q: %q %q", in, plain, marked)
		}
	}
}
