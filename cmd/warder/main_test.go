package main

import (
	"os"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"warder": main})
}

// A command that is typed wrongly exits with 64, one that fails with something else.
func TestExitCodes(t *testing.T) {
	none := []string{"--state", t.TempDir()}
	for _, c := range []struct {
		args string
		want int
	}{
		{"status", 3}, {"status --json", 3}, {"status --nope", 64}, {"status x", 64}, {"nope", 64}, {"service nope", 64}, {"enroll", 64},
		{"enroll --server https://x.example", 64}, {"revert", 64}, {"revert --for soon --reason x", 64}, {"explain usb", 64}, {"explain usb zzzz:1", 64},
		{"explain usb 0951:1666 --port 1-1", 64}, {"explain usb 0951:1666", 1}, {"events", 3}, {"unenroll", 1},
	} {
		if got := run(append(strings.Fields(c.args), none...)); got != c.want {
			t.Errorf("warder %s: exit %d, want %d", c.args, got, c.want)
		}
	}
}

// TestCommands runs the scripts in testdata against the real command line.
func TestCommands(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata", Setup: func(e *testscript.Env) error {
		e.Setenv("NO_COLOR", os.Getenv("NO_COLOR"))
		return nil
	}})
}
