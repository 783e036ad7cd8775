package clipboard

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/platform/platformtest"
)

// page is what people copy from. It says in its title how much it has, and has another text once something was pasted into it; nothing is
// pasted into that one before it was copied.
const page = `<title>warder 0</title><body><textarea id=a>what is harmless</textarea><script>
let guilty = false, copied = false
a.oncopy = () => { copied = guilty }
a.onpaste = e => { if (guilty && !copied) e.preventDefault() }
setInterval(() => {
	if (a.value.length > 16 && !guilty) { guilty = true; a.value = "what is guilty" }
	a.focus()
	document.title = "warder " + a.value.length
}, 50)</script>`

// Browsers offer what is copied in forms of their own, and ask for it in theirs: harmless text is pasted by others, and guilty text by
// nobody but the browser itself.
func TestLookedBrowsers(t *testing.T) {
	needs(t, "xdotool", "chromium", "firefox-esr")
	for _, browser := range []string{"chromium", "firefox-esr"} {
		t.Run(browser, func(t *testing.T) {
			s, a := lookedAt(t, time.Minute)
			s.rule(lookRules(fact.LookHold, true, 1))
			home := platformtest.Home(t)
			file := filepath.Join(home, "page.html")
			if err := os.WriteFile(file, []byte(page), 0o600); err != nil {
				t.Fatal(err)
			}
			args := []string{"--no-sandbox", "--no-first-run", "--disable-gpu", "--user-data-dir=" + home, "--app=file://" + file}
			if browser != "chromium" {
				args = []string{"--no-remote", "--profile", home, "file://" + file}
			}
			c := exec.Command(browser, args...)
			c.Env = append(os.Environ(), "DISPLAY="+s.display, "HOME="+home, "GDK_BACKEND=x11", "MOZ_ENABLE_WAYLAND=0")
			if err := c.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
			key := func(keys ...string) {
				t.Helper()
				if _, err := s.run("", "xdotool", append([]string{"key", "--clearmodifiers"}, keys...)...); err != nil {
					t.Error(err)
				}
			}
			// has reports whether the page has so many characters, and gives its window the keyboard.
			has := func(length string) bool {
				out, _ := s.run("", "xdotool", "search", "--onlyvisible", "--name", "^warder "+length)
				window, _, _ := strings.Cut(out, "\n")
				if window != "" {
					_, _ = s.run("", "xdotool", "windowfocus", window)
				}
				return window != ""
			}
			copies := func(length string) {
				t.Helper()
				s.until("the page is there", func() bool { return has(length) })
				before := a.count()
				s.until("it is copied", func() bool {
					key("ctrl+a", "ctrl+c")
					time.Sleep(300 * time.Millisecond)
					return a.count() > before
				})
			}
			pasted := func(want string) func() bool {
				return func() bool { out, _ := s.run("", s.xclip, clip...); return out == want }
			}
			copies("16")
			s.until("it is pasted elsewhere", pasted("what is harmless"))
			s.until("the browser pastes it, too", func() bool {
				key("End", "ctrl+v")
				time.Sleep(300 * time.Millisecond)
				return has("14")
			})
			copies("14")
			s.until("it is pasted nowhere", pasted(""))
			for _, form := range []string{"text/html", "STRING", "text/plain;charset=utf-8"} {
				if out, _ := s.run("", s.xclip, "-o", "-selection", "clipboard", "-t", form); strings.Contains(out, "guilty") {
					t.Errorf("%s: %q", form, out)
				}
			}
			s.until("the browser itself pastes it", func() bool {
				key("End", "ctrl+v")
				time.Sleep(300 * time.Millisecond)
				return has("(28|42|56)")
			})
			if !pasted("")() {
				t.Error("it is pasted elsewhere then")
			}
		})
	}
}
