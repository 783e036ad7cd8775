package browser

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/platform/platformtest"
)

// asked is what Firefox is asked: whether each is so, and what a page has to ask for the screen with.
const asked = `return [Services.prefs.getBoolPref("print.enabled", true), Services.prefs.getBoolPref("screenshots.browser.component.enabled", true),
Services.prefs.getBoolPref("media.getdisplaymedia.enabled"), Services.prefs.prefIsLocked("media.getdisplaymedia.enabled"), Object.keys(Services.policies.getActivePolicies() || {}).sort().join(" ")]`

// firefoxSays starts Debian's Firefox with a directory of policies, and returns what it answers over its own remote protocol (Marionette).
func firefoxSays(t *testing.T, dir string) string {
	t.Helper()
	home := platformtest.Home(t)
	// The port is written to the profile's preferences, and read from them.
	if err := os.WriteFile(filepath.Join(home, "user.js"), []byte("user_pref(\"marionette.port\", 0);\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("unshare", "-m", "sh", "-c", `mkdir -p /etc/firefox && mount --bind "$0" /etc/firefox && exec firefox-esr --headless --no-remote --marionette --remote-allow-system-access --profile "$HOME" about:blank`, dir)
	cmd.Env = append(os.Environ(), "HOME="+home, "XDG_RUNTIME_DIR="+home, "MOZ_DISABLE_CONTENT_SANDBOX=1")
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	var c net.Conn
	for end := time.Now().Add(90 * time.Second); c == nil; time.Sleep(100 * time.Millisecond) {
		if b, err := os.ReadFile(filepath.Join(home, "MarionetteActivePort")); err == nil {
			c, _ = net.Dial("tcp", "127.0.0.1:"+strings.TrimSpace(string(b)))
		}
		if time.Now().After(end) {
			t.Fatal("firefox does not start")
		}
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(90 * time.Second))
	in, n := bufio.NewReader(c), 0
	read := func() []byte { // "LENGTH:JSON"
		t.Helper()
		head, err := in.ReadString(':')
		if err != nil {
			t.Fatal(err)
		}
		size, err := strconv.Atoi(strings.TrimSuffix(head, ":"))
		if err != nil || size > 1<<20 {
			t.Fatal(head, err)
		}
		b := make([]byte, size)
		if _, err := io.ReadFull(in, b); err != nil {
			t.Fatal(err)
		}
		return b
	}
	call := func(name string, params any) string {
		t.Helper()
		n++
		b, _ := json.Marshal([]any{0, n, name, params})
		if _, err := fmt.Fprintf(c, "%d:%s", len(b), b); err != nil {
			t.Fatal(err)
		}
		var answer [4]json.RawMessage
		if b := read(); json.Unmarshal(b, &answer) != nil || string(answer[2]) != "null" {
			t.Fatalf("%s: %s", name, b)
		}
		return string(answer[3])
	}
	read() // its greeting
	call("WebDriver:NewSession", map[string]any{})
	call("WebDriver:Navigate", map[string]any{"url": "about:home"})
	page := call("WebDriver:ExecuteScript", map[string]any{"script": `return navigator.mediaDevices ? typeof navigator.mediaDevices.getDisplayMedia : "no secure page"`, "args": []any{}})
	call("Marionette:SetContext", map[string]any{"value": "chrome"})
	return call("WebDriver:ExecuteScript", map[string]any{"script": asked, "args": []any{}}) + page
}

// Policies are read back from Debian's Firefox itself.
func TestFirefox(t *testing.T) {
	if _, err := exec.LookPath("firefox-esr"); err != nil {
		platformtest.Cannot(t, err.Error())
	}
	if os.Getuid() != 0 {
		platformtest.Cannot(t, "it needs root, for a mount namespace")
	}
	f, _ := machine(t, "firefox")
	for _, c := range []struct {
		noPrint, noShots bool
		want             string
	}{
		{false, false, `[true,true,true,false,""]}{"value":"function"}`},
		{true, false, `[false,true,true,false,"PrintingEnabled"]}{"value":"function"}`},
		{true, true, `[false,false,false,true,"DisableFirefoxScreenshots Preferences PrintingEnabled"]}{"value":"undefined"}`},
	} {
		if err := set(t, f, "firefox", fact.BrowserPolicy(c.noPrint, c.noShots)); err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(f.at("/etc/firefox"), 0o755); err != nil { //nolint:gosec // a test's directory
			t.Fatal(err)
		}
		got := firefoxSays(t, f.at("/etc/firefox"))
		t.Log(got)
		if !strings.Contains(got, c.want) {
			t.Errorf("%+v: %s", c, got)
		}
	}
}
