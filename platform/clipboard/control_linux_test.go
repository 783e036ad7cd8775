package clipboard

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/warderd/warder/enforce/fact"
)

// sway is a real Wayland desktop without a screen, and what looks into copies there.
type sway struct {
	t    *testing.T
	dir  string
	kind string
	part *Part
	a    *agent
	end  func() // of the compositor
}

func onSway(t *testing.T) *sway { t.Helper(); return onWayland(t, "sway") }

// onEach does something on each kind of compositor that lets a helper replace what is copied.
func onEach(t *testing.T, do func(t *testing.T, s *sway)) {
	for _, kind := range []string{"sway", "kwin_wayland"} {
		t.Run(kind, func(t *testing.T) { do(t, onWayland(t, kind)) })
	}
}

func onWayland(t *testing.T, kind string) *sway {
	t.Helper()
	needs(t, kind, "wl-copy", "wl-paste")
	s := &sway{t: t, kind: kind, a: &agent{word: "guilty"}}
	s.dir = runtimeDir(t)
	t.Setenv("XDG_RUNTIME_DIR", s.dir)
	t.Setenv("WAYLAND_DISPLAY", "wayland-1")
	if kind == "sway" {
		s.start("sway", "-c", s.dir+"/conf")
	} else {
		s.start(s.kwin(), "--virtual", "--socket", "wayland-1")
	}
	s.part = &Part{Decode: decoded, Type: "wayland", Self: uint32(os.Getuid()), Look: s.a.look}
	runsPart(t, s.part)
	return s
}

// runtimeDir is a directory for the sockets of a user who is not root: as root no compositor starts.
func runtimeDir(t *testing.T) string {
	dir, err := os.MkdirTemp("/tmp", "sway") // the way to a socket has to be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.WriteFile(dir+"/conf", []byte("xwayland disable\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if os.Getuid() == 0 {
		if err := os.Chown(dir, 65534, 65534); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// kwin is a copy of KDE's compositor that anybody can start: the package's has a capability (nice). It has to have its name.
func (s *sway) kwin() string {
	s.t.Helper()
	path, err := exec.LookPath("kwin_wayland")
	if err != nil {
		s.t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		s.t.Fatal(err)
	}
	path = s.dir + "/kwin_wayland"
	if err := os.WriteFile(path, b, 0o755); err != nil {
		s.t.Fatal(err)
	}
	return path
}

// start starts a compositor.
func (s *sway) start(name string, args ...string) {
	s.t.Helper()
	c := exec.Command(name, args...)
	c.Env = append(os.Environ(), "WLR_BACKENDS=headless", "WLR_LIBINPUT_NO_DEVICES=1", "WLR_RENDERER=pixman", "KWIN_COMPOSE=Q", "DBUS_SESSION_BUS_ADDRESS=unix:path="+s.dir+"/none", "HOME="+s.dir)
	if os.Getuid() == 0 {
		c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}
	var log bytes.Buffer
	c.Stdout, c.Stderr = &log, &log
	if err := c.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.end = func() { _ = c.Process.Kill(); _ = c.Wait() }
	s.t.Cleanup(s.end)
	for range 300 {
		if _, err := os.Stat(s.dir + "/wayland-1"); err == nil {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	s.end()
	s.t.Fatalf("%s does not start: %s", name, &log)
}

func (s *sway) said() (out Said) {
	s.t.Helper()
	if err := json.Unmarshal(s.part.State(), &out); err != nil {
		s.t.Fatal(err)
	}
	return out
}

func (s *sway) until(what string, is func() bool) {
	s.t.Helper()
	for end := time.Now().Add(30 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			s.t.Fatalf("waited in vain: %s; it says %s", what, s.part.State())
		}
	}
}

// rule has copies looked into.
func (s *sway) rule(b []byte) {
	s.t.Helper()
	s.part.Load(b)
	s.until("it looks into copies", func() bool { return s.said().Looks })
}

// copies has a program copy a text, and returns its process.
func (s *sway) copies(text string, args ...string) *exec.Cmd {
	s.t.Helper()
	c := exec.Command("wl-copy", append([]string{"-f"}, args...)...)
	c.Stdin = strings.NewReader(text)
	if err := c.Start(); err != nil {
		s.t.Fatal(err)
	}
	over := make(chan struct{})
	go func() { defer close(over); _ = c.Wait() }()
	s.t.Cleanup(func() { _ = c.Process.Kill(); <-over })
	return c
}

// pastes is what a program gets that pastes.
func (s *sway) pastes(args ...string) string {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "wl-paste", append([]string{"-n"}, args...)...).CombinedOutput()
	if err != nil {
		return fmt.Sprintf("nothing: %s", out)
	}
	return string(out)
}

// goes waits until nothing of something can be pasted.
func (s *sway) goes(text string, args ...string) {
	s.t.Helper()
	s.until("it cannot be pasted", func() bool {
		return !strings.Contains(s.pastes(args...), text) && strings.Contains(s.pastes(append(args, "-l")...), "x-warder-")
	})
}

// What is harmless stays with its program; what is not is replaced by something that nobody can paste, also if it is marked, comes in a
// form that few see, or is 20 MiB large.
func TestControl(t *testing.T) { onEach(t, control) }

func control(t *testing.T, s *sway) {
	s.rule(lookRules(fact.LookHold, true, 1))
	ways := map[string][]string{"copied": nil, "marked": {"-p"}}
	if s.kind != "sway" { // nothing can be marked there without a window
		delete(ways, "marked")
	}
	for what, args := range ways {
		large := strings.Repeat("0123456789abcdef", 20<<16)
		for _, x := range []struct{ text, kind string }{{"harmless", ""}, {"guilty", ""}, {"harmless again", "text/plain"}, {"<p>guilty</p>", "text/html"}, {"{guilty}", "application/json"},
			{large, "text/plain"}, {"guilty " + large, "text/plain"}} {
			if len(x.text) >= len(large) && (s.kind != "sway" || args != nil) {
				continue // once is enough
			}
			if x.text == large && s.said().Late != 0 { // a busy machine may need too long for five names of 20 MiB
				t.Errorf("%+v", s.said())
			}
			before := s.a.count()
			more := args
			if x.kind != "" {
				more = append([]string{"-t", x.kind}, args...)
			}
			s.copies(x.text, more...)
			s.until(what+" is looked into", func() bool {
				got := s.a.last()
				return s.a.count() > before && len(got.Forms) > 0 && bytes.HasPrefix(got.Forms[0].Data, []byte(x.text[:5]))
			})
			if strings.Contains(x.text, "guilty") {
				s.goes("guilty", more...)
				continue
			}
			time.Sleep(200 * time.Millisecond)
			if got := s.pastes(more...); got != x.text {
				t.Errorf("%s: %d bytes, and not %d: %.40q", what, len(got), len(x.text), got)
			}
		}
	}
	if got := s.said(); got.Blind || got.NoLook != "" || !got.Looks {
		t.Errorf("%+v", got)
	}
	for i, c := range s.a.asked {
		n := 0
		for _, f := range c.Forms {
			n += len(f.Data)
		}
		if n > lookHead {
			t.Errorf("question %d has %d bytes", i, n)
		}
	}
}

// Below enforce mode nothing is replaced. By other rules what is there is looked into again.
func TestControlRules(t *testing.T) { onEach(t, controlRules) }

func controlRules(t *testing.T, s *sway) {
	s.rule(lookRules(fact.LookRead, true, 1))
	s.copies("guilty")
	s.until("it is looked into", func() bool { return s.a.count() == 1 })
	time.Sleep(300 * time.Millisecond)
	if got := s.pastes(); got != "guilty" {
		t.Errorf("in monitor mode: %q", got)
	}
	s.rule(lookRules(fact.LookHold, true, 2))
	s.goes("guilty")
	s.copies("other")
	s.until("it is looked into", func() bool { return string(s.a.last().Forms[0].Data) == "other" })
	s.a.set(func() { s.a.word = "other" })
	s.rule(lookRules(fact.LookHold, true, 3))
	s.goes("other")
	s.part.Load(nil)
	s.until("it looks into nothing", func() bool { return !s.said().Looks })
	n := s.a.count()
	s.copies("guilty other")
	s.until("it can be pasted", func() bool { return s.pastes() == "guilty other" })
	if s.a.count() != n {
		t.Error("without rules it is looked into")
	}
}

// What nobody can say anything about in time is free, or refused.
func TestControlLate(t *testing.T) {
	s := onSway(t)
	s.a.set(func() { s.a.absent = true })
	s.rule(lookRules(fact.LookHold, true, 1))
	s.copies("harmless")
	s.until("it is late", func() bool { x := s.said(); return x.Late == 1 && x.Blind })
	if got := s.pastes(); got != "harmless" {
		t.Errorf("%q", got)
	}
	s.rule(lookRules(fact.LookHold, false, 2))
	s.goes("harmless")
	// A program that does not tell what it has.
	s.a.set(func() { s.a.absent = false })
	s.until("the agent answers", func() bool { return !s.said().Blind })
	s.part.Load(nil)
	s.until("it looks into nothing", func() bool { return !s.said().Looks })
	c := s.copies("stopped")
	s.until("it can be pasted", func() bool { return s.pastes() == "stopped" })
	if err := c.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	before := s.said().Late
	s.rule(lookRules(fact.LookHold, false, 3))
	s.until("it is late", func() bool { return s.said().Late == before+1 })
	s.until("it is replaced", func() bool { return strings.Contains(s.pastes("-l"), "x-warder-") })
}

// A compositor that ends, comes again, or hangs is not one that is looked at.
func TestControlEnds(t *testing.T) {
	s := onSway(t)
	s.rule(lookRules(fact.LookHold, true, 1))
	s.end()
	_ = os.Remove(s.dir + "/wayland-1")
	s.until("it says so", func() bool { x := s.said(); return !x.Looks && x.NoLook == whySocket })
	s.start("sway", "-c", s.dir+"/conf")
	s.until("it looks again", func() bool { x := s.said(); return x.Looks && x.NoLook == "" })
	s.copies("guilty")
	s.goes("guilty")
}

// A compositor that gives what is copied to nobody (weston, as GNOME) is said to be that.
func TestControlNone(t *testing.T) {
	needs(t, "weston")
	s := &sway{t: t, a: &agent{word: "guilty"}, dir: runtimeDir(t)}
	t.Setenv("XDG_RUNTIME_DIR", s.dir)
	t.Setenv("WAYLAND_DISPLAY", "wayland-1")
	s.start("weston", "--backend=headless-backend.so", "--socket=wayland-1", "--no-config")
	s.part = &Part{Decode: decoded, Type: "wayland", Self: uint32(os.Getuid()), Look: s.a.look}
	runsPart(t, s.part)
	s.part.Load(lookRules(fact.LookHold, true, 1))
	s.until("it says so", func() bool { x := s.said(); return !x.Looks && x.NoLook == whyControl })
}

// The way to the compositor is the one that its clients take.
func TestCompositor(t *testing.T) {
	t.Setenv("XDG_RUNTIME_DIR", "/run/user/7")
	for name, want := range map[string]string{"": "", "wayland-1": "/run/user/7/wayland-1", "/elsewhere/w": "/elsewhere/w"} {
		t.Setenv("WAYLAND_DISPLAY", name)
		if got := compositor(); got != filepath.Clean(want) && got != want {
			t.Errorf("%q: %q", name, got)
		}
	}
}
