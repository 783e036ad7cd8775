package browser

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/platform/platformtest"
)

// page says what a page of Chromium's own shows, which is made of parts within parts.
const page = `(function walk(n) { let s = ""; if (n.shadowRoot) s += walk(n.shadowRoot); for (const c of n.childNodes) {` +
	` if (c.nodeType == 3) s += c.textContent.trim() + " "; else if (c.nodeName != "STYLE" && c.nodeName != "SCRIPT") s += walk(c); } return s; })(document.body).replace(/ +/g, " ")`

// Debian's Chromium has the policies while it runs: as it says itself, at chrome://policy.
func TestChromium(t *testing.T) {
	if _, err := exec.LookPath("chromium"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	if os.Getuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("needs root, for a mount namespace")
		}
		t.Skip("needs root, for a mount namespace")
	}
	f, _ := machine(t, "chromium")
	put(t, f.at("/etc/chromium/policies/managed/theirs.json"), `{"HomepageLocation":"https://example.com"}`)
	if err := set(t, f, "chromium", fact.BrowserPolicy(true, false)); err != nil {
		t.Fatal(err)
	}
	home := platformtest.Home(t)
	// It reads this machine's directory, which is the test's in a mount namespace of its own.
	cmd := exec.Command("unshare", "-m", "sh", "-c", `mount --bind "$0" /etc/chromium && exec chromium --headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run `+
		`--disable-background-networking --user-data-dir="$HOME" --remote-debugging-port=0 about:blank`, filepath.Join(f.root, "etc/chromium"))
	cmd.Env = append(os.Environ(), "HOME="+home, "XDG_RUNTIME_DIR="+home)
	cmd.WaitDelay = 5 * time.Second
	said, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	var host string
	for lines := bufio.NewScanner(said); host == "" && lines.Scan(); {
		if _, at, ok := strings.Cut(lines.Text(), "DevTools listening on "); ok {
			if u, err := url.Parse(strings.TrimSpace(at)); err == nil {
				host = u.Host
			}
		}
	}
	if host == "" {
		t.Fatal("chromium does not start")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 150*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, "http://"+host+"/json/new?chrome://policy", nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var tab struct {
		URL string `json:"webSocketDebuggerUrl"`
	}
	if err := json.NewDecoder(res.Body).Decode(&tab); err != nil || tab.URL == "" {
		t.Fatal(tab, err)
	}
	ws, _, err := websocket.Dial(ctx, tab.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer ws.CloseNow()
	ws.SetReadLimit(8 << 20)
	shows := func() string {
		q, _ := json.Marshal(map[string]any{"id": 1, "method": "Runtime.evaluate", "params": map[string]any{"expression": page, "returnByValue": true}})
		if err := ws.Write(ctx, websocket.MessageText, q); err != nil {
			t.Fatal(err)
		}
		for {
			_, b, err := ws.Read(ctx)
			if err != nil {
				t.Fatal(err)
			}
			var a struct {
				ID     int
				Result struct{ Result struct{ Value string } }
			}
			if json.Unmarshal(b, &a) == nil && a.ID == 1 {
				return a.Result.Result.Value
			}
		}
	}
	until := func(what string, words ...string) {
		t.Helper()
		begun := time.Now()
		for {
			text, missing := shows(), ""
			for _, w := range words {
				if !strings.Contains(text, w) {
					missing = w
				}
			}
			if missing == "" {
				t.Logf("%s: after %s", what, time.Since(begun).Round(time.Millisecond))
				return
			}
			if time.Since(begun) > 60*time.Second {
				t.Fatalf("%s: no %q in %.1500s", what, missing, text)
			}
			time.Sleep(time.Second)
			if err := ws.Write(ctx, websocket.MessageText, []byte(`{"id":2,"method":"Page.reload"}`)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
	}
	const is = "%s %s Platform Machine Mandatory OK"
	until("it starts with them", fmt.Sprintf(is, "PrintingEnabled", "false"), fmt.Sprintf(is, "HomepageLocation", "https://example.com"), "DisableScreenshots Not set.")
	time.Sleep(15 * time.Second) // it begins to watch the directory some seconds after its start, and looks there every 15 minutes without that
	if err := set(t, f, "chromium", fact.BrowserPolicy(true, true)); err != nil {
		t.Fatal(err)
	}
	until("it learns of more", fmt.Sprintf(is, "PrintingEnabled", "false"), fmt.Sprintf(is, "DisableScreenshots", "true"), fmt.Sprintf(is, "ScreenCaptureAllowed", "false"))
	if err := set(t, f, "chromium", ""); err != nil {
		t.Fatal(err)
	}
	until("they are gone, and others stay", "PrintingEnabled Not set.", "DisableScreenshots Not set.", fmt.Sprintf(is, "HomepageLocation", "https://example.com"))
}
