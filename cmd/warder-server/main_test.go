package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"warder-server": main})
}

// TestCommands runs the scripts in testdata against the real command line and a running server.
func TestCommands(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata",
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"ask": ask, "keep": keep, "until": until},
		Setup: func(e *testscript.Env) error {
			for _, name := range []string{"PORT", "PORT2"} {
				l, err := net.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					return err
				}
				_, port, _ := net.SplitHostPort(l.Addr().String())
				_ = l.Close()
				e.Setenv(name, port)
			}
			return nil
		}})
}

// keep is "keep NAME": the output of the last command as a variable.
func keep(ts *testscript.TestScript, _ bool, args []string) {
	ts.Setenv(args[0], strings.TrimSpace(ts.ReadFile("stdout")))
}

// until is "until WORD COMMAND…": repeats the command until it prints the word.
func until(ts *testscript.TestScript, _ bool, args []string) {
	last := ""
	for begun := time.Now(); time.Since(begun) < 30*time.Second; time.Sleep(100 * time.Millisecond) {
		err := ts.Exec(args[1], args[2:]...)
		if last = ts.ReadFile("stdout") + ts.ReadFile("stderr"); err == nil && strings.Contains(last, args[0]) {
			return
		}
	}
	ts.Fatalf("it did not come: %q\n%s", args[0], last)
}

// ask is "ask STATUS METHOD PORT PATH TOKEN [WORD]": repeats until the answer has the status and the word.
func ask(ts *testscript.TestScript, _ bool, args []string) {
	last := ""
	for begun := time.Now(); time.Since(begun) < 30*time.Second; time.Sleep(100 * time.Millisecond) {
		req, err := http.NewRequest(args[1], "http://127.0.0.1:"+args[2]+args[3], http.NoBody)
		ts.Check(err)
		req.Header.Set("Authorization", "Bearer "+args[4])
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			last = err.Error()
			continue
		}
		b, _ := io.ReadAll(res.Body)
		_ = res.Body.Close()
		last = fmt.Sprint(res.StatusCode, " ", string(b))
		if fmt.Sprint(res.StatusCode) == args[0] && (len(args) < 6 || strings.Contains(string(b), args[5])) {
			return
		}
	}
	ts.Fatalf("%s: %s", strings.Join(args[:4], " "), strings.ReplaceAll(last, os.TempDir(), ""))
}
