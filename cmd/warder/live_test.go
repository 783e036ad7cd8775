package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/warderd/warder/sync/server"
)

// TestLive runs the scripts in testdata/live against a running agent and server. The agent runs on this very machine;
// the policies are in monitor mode, in which it writes nothing.
func TestLive(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata/live", Cmds: map[string]func(*testscript.TestScript, bool, []string){
		"server": startServer, "api": callAPI, "until": until,
	}, Setup: func(e *testscript.Env) error {
		e.Setenv("NO_COLOR", "1")
		return nil
	}})
}

// startServer runs a server until the end of the script, and sets $URL, $PIN, $TOKEN (to enroll with) and $ADMIN.
func startServer(ts *testscript.TestScript, _ bool, _ []string) {
	data := ts.MkAbs("server")
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan string, 1), make(chan error, 1)
	o := server.Options{Data: data, Listen: "127.0.0.1:0", Interval: time.Minute, Log: slog.New(slog.DiscardHandler),
		Ready: func(u string) { ready <- u }}
	go func() { done <- server.Serve(ctx, o) }()
	ts.Defer(func() { cancel(); <-done })
	select {
	case u := <-ready:
		ts.Setenv("URL", u)
	case err := <-done:
		done <- err
		ts.Fatalf("the server does not come up: %v", err)
	}
	keys, err := server.LoadKeys(data)
	ts.Check(err)
	ca, err := keys.CA(time.Now())
	ts.Check(err)
	admin, err := keys.AdminToken("ann", "admin", time.Hour, time.Now())
	ts.Check(err)
	ts.Setenv("PIN", ca.Fingerprint())
	ts.Setenv("ADMIN", admin)
	answer := ask(ts, "POST", "/enrollments", `{"uses":5}`)
	_, rest, _ := strings.Cut(answer, `"token":"`)
	token, _, _ := strings.Cut(rest, `"`)
	ts.Setenv("TOKEN", token)
}

func ask(ts *testscript.TestScript, method, path, body string) string {
	// This client's trust is not under test: the certificate is the server's own.
	c := &http.Client{Transport: insecure()}
	defer c.CloseIdleConnections()
	req, err := http.NewRequest(method, ts.Getenv("URL")+"/api/v1"+path, strings.NewReader(body))
	ts.Check(err)
	req.Header.Set("Authorization", "Bearer "+ts.Getenv("ADMIN"))
	res, err := c.Do(req)
	ts.Check(err)
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	ts.Check(err)
	if res.StatusCode/100 != 2 {
		ts.Fatalf("%s %s: %d %s", method, path, res.StatusCode, b)
	}
	return string(b)
}

// callAPI is "api METHOD PATH [BODY [WORD]]": the answer has to contain the word.
func callAPI(ts *testscript.TestScript, _ bool, args []string) {
	body, word := "", ""
	if len(args) > 2 {
		body = args[2]
	}
	if len(args) > 3 {
		word = args[3]
	}
	if got := ask(ts, args[0], args[1], body); !strings.Contains(got, word) {
		ts.Fatalf("%s lacks %q", got, word)
	}
}

// until is "until WORD COMMAND…": repeats the command until it prints the word.
func until(ts *testscript.TestScript, neg bool, args []string) {
	var out string
	for begun := time.Now(); time.Since(begun) < 30*time.Second; time.Sleep(100 * time.Millisecond) {
		path, err := exec.LookPath(args[1])
		ts.Check(err)
		cmd := exec.Command(path, args[2:]...)
		cmd.Dir, cmd.Env = ts.Getenv("WORK"), []string{"PATH=" + ts.Getenv("PATH"), "NO_COLOR=1", "HOME=" + ts.Getenv("HOME")}
		b, _ := cmd.CombinedOutput()
		if out = string(b); strings.Contains(out, args[0]) != neg {
			return
		}
	}
	ts.Fatalf("it did not come: %s", fmt.Sprintf("%q\n%s", args[0], out))
}
