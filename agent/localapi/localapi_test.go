//go:build linux

package localapi

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func serveTest(t *testing.T) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "run", "w.sock")
	l, err := Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	answer := func(_ context.Context, c Caller, _ *http.Request, body []byte) (any, error) {
		return map[string]any{"uid": c.UID, "root": c.Root, "body": len(body)}, nil
	}
	routes := []Route{
		{Method: "GET", Path: "/read", Access: Read, Handle: answer},
		{Method: "POST", Path: "/root", Access: Root, Handle: answer},
		{Method: "GET", Path: "/fails", Access: Read, Handle: func(context.Context, Caller, *http.Request, []byte) (any, error) {
			return nil, &Error{http.StatusConflict, "no policy"}
		}},
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- Serve(ctx, l, routes, slog.New(slog.DiscardHandler)) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return socket
}

func TestAccess(t *testing.T) {
	socket := serveTest(t)
	c := NewClient(socket)
	var out map[string]any
	if err := c.Do(context.Background(), "POST", "/root", map[string]int{"a": 1}, &out); err != nil || out["root"] != true {
		t.Errorf("%v %v", out, err)
	}
	var e *Error
	if err := c.Do(context.Background(), "GET", "/fails", nil, nil); !errors.As(err, &e) || e.Status != 409 || e.Message != "no policy" {
		t.Errorf("%v", err)
	}
	if err := c.Do(context.Background(), "POST", "/root", strings.Repeat("x", maxBody), nil); !errors.As(err, &e) || e.Status != 413 {
		t.Errorf("%v", err)
	}
	if _, err := Listen(socket); err == nil || !strings.Contains(err.Error(), "another agent") {
		t.Errorf("a second agent: %v", err)
	}
	if err := NewClient(socket+".none").Do(context.Background(), "GET", "/read", nil, nil); !errors.Is(err, ErrNoAgent) {
		t.Errorf("%v", err)
	}
}

// Another user may read and not change: this test asks as the user "nobody".
func TestOtherUser(t *testing.T) {
	if os.Getenv("WARDER_TEST_SOCKET") != "" {
		return
	}
	if os.Getuid() != 0 {
		reason := "only root can ask as another user"
		if os.Getenv("CI") == "true" {
			t.Fatal(reason)
		}
		t.Skip(reason)
	}
	socket := serveTest(t)
	for dir := filepath.Dir(socket); dir != "/" && dir != os.TempDir(); dir = filepath.Dir(dir) {
		_ = os.Chmod(dir, 0o755)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(filepath.Dir(filepath.Dir(socket)), "as-nobody.test")
	b, err := os.ReadFile(exe)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(copied, b, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(copied, "-test.run", "^TestAsNobody$", "-test.v")
	cmd.Env = append(os.Environ(), "WARDER_TEST_SOCKET="+socket)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "asked as nobody") {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestAsNobody is the other half of TestOtherUser, in a process of its own.
func TestAsNobody(t *testing.T) {
	socket := os.Getenv("WARDER_TEST_SOCKET")
	if socket == "" {
		return
	}
	c := NewClient(socket)
	var out map[string]any
	if err := c.Do(context.Background(), "GET", "/read", nil, &out); err != nil || out["root"] != false || out["uid"] != "65534" {
		t.Errorf("%v %v", out, err)
	}
	var e *Error
	if err := c.Do(context.Background(), "POST", "/root", nil, nil); !errors.As(err, &e) || e.Status != 403 {
		t.Errorf("%v", err)
	}
	t.Log("asked as nobody")
}
