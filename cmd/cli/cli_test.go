package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
)

var errKnown = errors.New("it is away")

// program is a small command line with one command of each kind.
func program() *Program {
	root := &cobra.Command{Use: "tool"}
	p := New(root, "1.2.3")
	p.Explain = func(err error) *Failure {
		if errors.Is(err, errKnown) {
			return &Failure{Err: err, Code: "away", Hint: "wait\nand try again", Exit: 3}
		}
		return nil
	}
	var n int
	var d time.Duration
	work := &cobra.Command{Use: "work", Args: cobra.NoArgs, RunE: func(*cobra.Command, []string) error { return nil }}
	work.Flags().IntVar(&n, "count", 0, "")
	work.Flags().DurationVar(&d, "for", 0, "")
	must := &cobra.Command{Use: "must", RunE: func(*cobra.Command, []string) error { return nil }}
	must.Flags().String("name", "", "")
	_ = must.MarkFlagRequired("name")
	root.AddCommand(work, must,
		&cobra.Command{Use: "take FILE [--x]", Args: cobra.ExactArgs(1), RunE: func(*cobra.Command, []string) error { return nil }},
		&cobra.Command{Use: "away", RunE: func(*cobra.Command, []string) error { return errKnown }},
		&cobra.Command{Use: "fail", RunE: func(*cobra.Command, []string) error { return errors.New("no luck") }},
		&cobra.Command{Use: "silent", RunE: func(*cobra.Command, []string) error { return Exit(7) }},
		&cobra.Command{Use: "wrong", RunE: func(*cobra.Command, []string) error { return Usagef("--x must be y") }})
	return p
}

// Every way to end has its exit code, its text, and its JSON.
func TestRun(t *testing.T) {
	for _, c := range []struct {
		args string
		exit int
		code string
		text string
	}{
		{"work", 0, "", ""},
		{"silent", 7, "", ""},
		{"fail", 1, "failed", "tool: no luck\n"},
		{"away", 3, "away", "tool: it is away\n  wait\n  and try again\n"},
		{"wrong", 64, "usage", "tool: --x must be y\n  see: tool wrong --help\n"},
		{"work --count many", 64, "usage", "tool: --count must be a whole number (received \"many\")\n  see: tool work --help\n"},
		{"work --count 99999999999999999999", 64, "usage", "--count must be a whole number"},
		{"work --for soon", 64, "usage", "--for must be a duration such as 90s, 15m or 8h (received \"soon\")"},
		{"work --count", 64, "usage", "flag needs an argument: --count"},
		{"work more", 64, "usage", "unknown command \"more\""},
		{"nope", 64, "usage", "unknown command \"nope\""},
		{"wrk", 64, "usage", "tool: unknown command \"wrk\" for \"tool\"; did you mean work?\n"},
		{"must", 64, "usage", "tool: --name is missing\n"},
		{"take", 64, "usage", "tool: FILE is missing: tool take FILE\n"},
		{"take a b", 64, "usage", "tool: \"b\" is one argument too many: tool take FILE\n"},
		{"--nope work", 64, "usage", "unknown flag: --nope"},
	} {
		var out, errs bytes.Buffer
		if got := program().Run(strings.Fields(c.args), &out, &errs); got != c.exit || !strings.Contains(errs.String(), c.text) {
			t.Errorf("tool %s: exit %d, want %d: %s", c.args, got, c.exit, errs.String())
		}
		if strings.Contains(errs.String(), "strconv") || strings.Contains(errs.String(), "time:") {
			t.Errorf("tool %s names Go's functions: %s", c.args, errs.String())
		}
		if c.args == "work --count" {
			continue // --json would be its value
		}
		out.Reset()
		errs.Reset()
		got := program().Run(append(strings.Fields(c.args), "--json"), &out, &errs)
		if got != c.exit || errs.Len() > 0 {
			t.Errorf("tool %s --json: exit %d, want %d; standard error %q", c.args, got, c.exit, errs.String())
		}
		if c.code == "" {
			continue
		}
		var in struct {
			Error struct{ Code, Message string }
			Exit  int
		}
		if err := json.Unmarshal(out.Bytes(), &in); err != nil || in.Error.Code != c.code || in.Exit != c.exit || in.Error.Message == "" {
			t.Errorf("tool %s --json: %s %v", c.args, out.String(), err)
		}
	}
	var out bytes.Buffer
	if got := program().Run([]string{"--version"}, &out, &out); got != 0 || out.String() != "tool 1.2.3\n" {
		t.Errorf("--version: %d %q", got, out.String())
	}
}

// TestOneWayToTheTerminal: every command of both programs prints through Screen.
func TestOneWayToTheTerminal(t *testing.T) {
	n := 0
	for _, dir := range []string{"../warder", "../warder-server"} {
		files, err := filepath.Glob(dir + "/*.go")
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			if strings.HasSuffix(f, "_test.go") {
				continue
			}
			n++
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			text := string(b)
			for _, ours := range []string{"cli.NewScreen(cmd.OutOrStdout())", "cli.NewScreen(cmd.ErrOrStderr())"} {
				text = strings.ReplaceAll(text, ours, "")
			}
			for _, way := range []string{"fmt.Print", "fmt.Fprint", "NewEncoder", "println(", "io.WriteString", "OutOrStdout",
				"ErrOrStderr"} {
				if strings.Contains(text, way) {
					t.Errorf("%s uses %s", f, way)
				}
			}
		}
	}
	if n < 20 {
		t.Fatalf("only %d files were looked at", n)
	}
}
