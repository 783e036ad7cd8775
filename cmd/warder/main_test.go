package main

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"

	"github.com/warderd/warder/cmd/cli"
	"github.com/warderd/warder/sync/protocol"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"warder": main})
}

// A command that is typed wrongly exits with 64, one that fails with another code.
func TestExitCodes(t *testing.T) {
	none := []string{"--state", t.TempDir()}
	for _, c := range []struct {
		args string
		want int
	}{
		{"status", 3}, {"status --json", 3}, {"status --nope", 64}, {"status x", 64}, {"nope", 64}, {"service nope", 64}, {"enroll", 64},
		{"enroll --server https://x.example", 64}, {"revert", 64}, {"revert --for soon --reason x", 64}, {"explain usb", 64},
		{"explain usb zzzz:1", 64},
		{"explain usb 0951:1666 --port 1-1", 64}, {"explain usb 0951:1666", 4}, {"events", 3}, {"unenroll", 4},
		{"revert --reason x", 4}, {"revert --lift", 3}, {"events --last many", 64}, {"events --last 0", 64}, {"--version", 0},
		{"version", 0},
	} {
		if got := run(append(strings.Fields(c.args), none...), io.Discard, io.Discard); got != c.want {
			t.Errorf("warder %s: exit %d, want %d", c.args, got, c.want)
		}
	}
}

// Help is complete, and its examples are commands; the code in the example of exception is well-formed.
func TestHelp(t *testing.T) {
	for _, w := range cli.CheckHelp(func() *cobra.Command { return newApp().Root }) {
		t.Error(w)
	}
	for _, word := range strings.Fields(newApp().exception().Example) {
		if strings.Count(word, "-") == 5 {
			if _, err := protocol.ParseCode(word); err != nil {
				t.Errorf("%s: %v", word, err)
			}
		}
	}
}

// A command that fails on a machine that was never enrolled leaves nothing behind, also as root; and its error is JSON
// if that was asked for.
func TestNothingLeftBehind(t *testing.T) {
	for _, args := range []string{
		"status", "doctor", "events", "ledger", "usb", "policy show", "policy diff", "check-in", "explain usb 0951:1666", "unenroll",
		"revert --reason x",
		"revert --lift", "revert --leftovers", "exception ABCDE-FGHIJ-KLMNO-PQRST-UVWXY-A", "boot status",
		"enroll --server https://127.0.0.1:1 --token t",
	} {
		dir := t.TempDir()
		state := filepath.Join(dir, "state")
		var out, errs bytes.Buffer
		code := run(append(strings.Fields(args), "--json", "--state", state), &out, &errs)
		if _, err := os.Stat(state); err == nil {
			t.Errorf("warder %s leaves %s behind", args, state)
		}
		if !json.Valid(out.Bytes()) && out.Len() > 0 || errs.Len() > 0 || code != 0 && out.Len() == 0 {
			t.Errorf("warder %s --json: exit %d, %q, standard error %q", args, code, out.String(), errs.String())
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
