//go:build linux

package localapi

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func serveTest(t *testing.T) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "run", "w.sock")
	l, err := Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	answer := func(_ context.Context, c Caller, _ *http.Request, body []byte) (any, error) {
		return map[string]any{"uid": c.UID, "pid": c.PID, "root": c.Root, "body": len(body)}, nil
	}
	routes := []Route{
		{Method: "GET", Path: "/read", Access: Read, Handle: answer},
		{Method: "POST", Path: "/root", Access: Root, Handle: answer},
		{Method: "GET", Path: "/session", Access: Session, Handle: answer},
		{Method: "GET", Path: "/alone", Access: Read, Alone: true, Handle: func(ctx context.Context, _ Caller, _ *http.Request, _ []byte) (any, error) {
			select {
			case <-ctx.Done():
				return nil, ctx.Err()
			case <-time.After(12 * time.Second): // longer than a request may take to arrive
				return "waited", nil
			}
		}},
		{Method: "POST", Path: "/upload/{what}", Access: Read, MaxUpload: 1 << 20, Upload: func(ctx context.Context, _ Caller, q *http.Request, body io.Reader) (any, error) {
			n, err := io.Copy(io.Discard, body)
			if q.PathValue("what") == "long" { // longer than the body may take to come
				select {
				case <-ctx.Done():
					return nil, ctx.Err()
				case <-time.After(uploadWait + time.Second):
				}
			}
			return map[string]any{"n": n, "what": q.PathValue("what"), "kind": q.Header.Get("Content-Type")}, err
		}},
		{Method: "GET", Path: "/fails", Access: Read, Handle: func(context.Context, Caller, *http.Request, []byte) (any, error) {
			return nil, &Error{Status: http.StatusConflict, Message: "no policy"}
		}},
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- Serve(ctx, l, routes, nil, slog.New(slog.DiscardHandler)) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return socket
}

// A request that waits is not ended by the deadlines of others, and another one of the same session is refused.
func TestAlone(t *testing.T) {
	t.Parallel()
	c := NewClient(serveTest(t))
	done := make(chan error, 1)
	var said string
	go func() { done <- c.Do(context.Background(), "GET", "/alone", nil, &said) }()
	time.Sleep(time.Second)
	begun := time.Now()
	var e *Error
	if err := c.Do(context.Background(), "GET", "/alone", nil, nil); !errors.As(err, &e) || e.Status != http.StatusTooManyRequests || time.Since(begun) > 5*time.Second {
		t.Errorf("the second: %v after %s", err, time.Since(begun))
	}
	if err := <-done; err != nil || said != "waited" {
		t.Errorf("the first: %q %v", said, err)
	}
	// One that hangs up leaves its place.
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := c.Do(ctx, "GET", "/alone", nil, nil); err == nil {
		t.Error("it did not wait")
	}
	if err := c.Do(context.Background(), "GET", "/alone", nil, &said); err != nil {
		t.Errorf("after it: %v", err)
	}
}

// A body is read while it comes, up to its bound, and one of a user at a time.
func TestUpload(t *testing.T) {
	t.Parallel()
	c := NewClient(serveTest(t))
	var out struct {
		N          int64
		What, Kind string
	}
	header := http.Header{"Content-Type": {"a/b"}}
	if err := c.Upload(t.Context(), "/upload/x", header, strings.NewReader(strings.Repeat("a", 1<<20)), &out); err != nil || out.N != 1<<20 || out.What != "x" || out.Kind != "a/b" {
		t.Errorf("%+v, %v", out, err)
	}
	if err := c.Upload(t.Context(), "/upload/x", header, strings.NewReader(strings.Repeat("a", 1<<20+1)), &out); err == nil {
		t.Error("a larger one is taken")
	}
	if err := c.Upload(t.Context(), "/upload/long", header, strings.NewReader(strings.Repeat("a", 1<<20)), &out); err != nil || out.N != 1<<20 {
		t.Errorf("one that takes long to answer: %+v, %v", out, err)
	}
	r, w := io.Pipe()
	first := make(chan error, 1)
	go func() { first <- c.Upload(t.Context(), "/upload/slow", header, r, nil) }()
	if _, err := io.WriteString(w, "begins"); err != nil {
		t.Fatal(err)
	}
	var e *Error
	begun := time.Now()
	for { // until the first has its turn
		err := c.Upload(t.Context(), "/upload/second", header, strings.NewReader("b"), &out)
		if errors.As(err, &e) && e.Status == http.StatusTooManyRequests {
			break
		}
		if err != nil || time.Since(begun) > 30*time.Second {
			t.Fatalf("the second: %v", err)
		}
	}
	_ = w.Close()
	if err := <-first; err != nil {
		t.Errorf("the first: %v", err)
	}
	if err := c.Upload(t.Context(), "/upload/third", header, strings.NewReader("b"), &out); err != nil || out.N != 1 {
		t.Errorf("the third: %+v, %v", out, err)
	}
	// One that does not go on loses its place.
	r, w = io.Pipe()
	defer w.Close()
	ctx, cancel := context.WithCancel(t.Context())
	go func() { first <- c.Upload(ctx, "/upload/slow", header, r, nil) }()
	_, _ = io.WriteString(w, "begins")
	cancel()
	_ = w.CloseWithError(context.Canceled) // the client waits for the body that it reads
	if err := <-first; err == nil {
		t.Error("it was answered")
	}
	if err := c.Upload(t.Context(), "/upload/last", header, strings.NewReader("b"), &out); err != nil {
		t.Errorf("after that: %v", err)
	}
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
	if err := c.Do(context.Background(), "GET", "/session", nil, nil); !errors.As(err, &e) || e.Status != 403 {
		t.Errorf("a program of no session: %v", err) // nor is root's of a test
	}
	if err := c.Do(context.Background(), "GET", "/read", nil, &out); err != nil || out["pid"] != float64(os.Getpid()) {
		t.Errorf("%v %v", out, err)
	}
	if err := c.Do(context.Background(), "POST", "/root", strings.Repeat("x", maxBody), nil); !errors.As(err, &e) || e.Status != 413 {
		t.Errorf("%v", err)
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

// The subordinate ids assigned to a user share that user's limits; those of a directory service do not.
func TestShares(t *testing.T) {
	file := filepath.Join(t.TempDir(), "subuid")
	if err := os.WriteFile(file, []byte("ann:100000:65536\nnonsense\nbob:165536:65536\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for uid, want := range map[string]string{"0": "0", "1000": "1000", "100000": "subordinate of ann", "165535": "subordinate of ann",
		"165536": "subordinate of bob", "231072": "231072", "1234500001": "1234500001", "": ""} {
		if got := shareOf(uid, file); got != want {
			t.Errorf("%q: %q, want %q", uid, got, want)
		}
	}
	if got := shareOf("100000", file+".none"); got != "100000" {
		t.Errorf("without the file: %q", got)
	}
}

// One heavy request per user at a time: the next waits for a moment, and is then told to come again.
func TestTurns(t *testing.T) {
	s := &turns{by: map[string]chan struct{}{}}
	leave, ok := s.take(context.Background(), "ann", 1, 0)
	if !ok {
		t.Fatal("the first has no turn")
	}
	if _, ok := s.take(context.Background(), "ann", 1, 10*time.Millisecond); ok {
		t.Error("two at a time")
	}
	if other, ok := s.take(context.Background(), "bob", 1, 0); !ok {
		t.Error("another user waits")
	} else {
		other()
	}
	go func() { time.Sleep(20 * time.Millisecond); leave() }()
	if again, ok := s.take(context.Background(), "ann", 1, 30*time.Second); !ok {
		t.Error("the next has no turn after the first has ended")
	} else {
		again()
	}
}
