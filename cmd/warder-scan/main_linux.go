//go:debug updatemaxprocs=0
//go:debug containermaxprocs=0

// Command warder-scan looks for sensitive data in documents. The agent starts it as "warder-scan child"; people call it to try the
// patterns of a policy on files of their own.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/warderd/warder/cmd/cli"
	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/enforce/sensitive"
	"github.com/warderd/warder/platform/scan"
	"github.com/warderd/warder/platform/scan/child"
	"github.com/warderd/warder/platform/scan/match"
	"github.com/warderd/warder/platform/scan/text"
)

// version is set by the build.
var version = "dev"

func main() {
	if len(os.Args) == 2 && os.Args[1] == "child" {
		if err := child.Serve(scan.Socket); err != nil {
			os.Exit(1) // what it says is for nobody: it may have text of a document in it
		}
		return
	}
	os.Exit(newApp().Run(os.Args[1:], os.Stdout, os.Stderr))
}

type app struct{ *cli.Program }

func newApp() *app {
	a := &app{}
	var without bool
	root := &cobra.Command{
		Use: "warder-scan POLICY FILE…", Short: "Looks for a policy's sensitive data in files",
		Args: cobra.MinimumNArgs(2),
		Example: "  /usr/lib/warder/warder-scan policy.json report.docx\n" +
			"  /usr/lib/warder/warder-scan policy.json --json *.pdf",
		Long: "Says which patterns of a policy document (policy_data, or the whole) are in which files, and how often. It changes\n" +
			"nothing, and shows nothing of what is in them. Agents look into documents with the same program.",
		RunE: func(cmd *cobra.Command, args []string) error { return a.scan(cmd, args[0], args[1:], without) },
	}
	root.Flags().BoolVar(&without, "without-hyperscan", false, "look with RE2 alone, as where the library is not installed")
	a.Program = cli.New(root, version)
	return a
}

// result is what is said of a file.
type result struct {
	File   string    `json:"file"`
	Error  string    `json:"error,omitempty"`
	Kind   string    `json:"kind,omitempty"`
	Found  []finding `json:"found"`
	Unread []string  `json:"unread,omitempty"`
	Millis float64   `json:"milliseconds"`
}

type finding struct {
	Pattern string `json:"pattern"`
	Count   int    `json:"count"`
}

func (a *app) scan(cmd *cobra.Command, file string, names []string, without bool) error {
	list, err := a.patterns(cmd, file)
	if err != nil {
		return err
	}
	o := match.Options{}
	if !without {
		if o.Library, err = match.OpenLibrary(); err != nil {
			a.Note(cmd, "without Hyperscan: %v", err)
		}
	}
	files := make([]*os.File, len(names))
	errs := make([]error, len(names))
	for i, name := range names {
		files[i], errs[i] = os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0) // nothing waits for who writes into a pipe
	}
	debug.SetMemoryLimit(256 << 20)
	if err := child.Confine(); err != nil { // from here on nothing can be opened
		return err
	}
	l, err := child.NewLooker(list, nil, o)
	if err != nil {
		return err
	}
	a.Note(cmd, "%s, %s", cli.Count(len(list), "pattern"), l.Engine())
	out := make([]result, len(names))
	for i, name := range names {
		out[i] = look(l, list, name, files[i], errs[i])
	}
	var exit error
	if slices.ContainsFunc(out, func(r result) bool { return r.Error != "" }) {
		exit = cli.Exit(1)
	}
	screen := cli.NewScreen(cmd.OutOrStdout())
	if a.JSON() {
		return errors.Join(screen.JSON(out, true), exit)
	}
	for _, r := range out {
		screen.Printf("%s: %s\n", r.File, r.words())
	}
	return exit
}

// patterns reads those of a policy document.
func (a *app) patterns(cmd *cobra.Command, file string) ([]sensitive.Pattern, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	const most = 16 << 20
	b, err := io.ReadAll(io.LimitReader(f, most+1))
	if err != nil {
		return nil, err
	}
	if len(b) > most {
		return nil, fmt.Errorf("%s has more than %d bytes", file, most)
	}
	var whole struct {
		Data json.RawMessage `json:"policy_data"`
	}
	if json.Unmarshal(b, &whole) == nil && whole.Data == nil {
		b = append(append([]byte(`{"policy_data":`), b...), '}')
	}
	d, err := policy.Decode(b, policy.Options{})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	var list []sensitive.Pattern
	for _, p := range d.DLP.Sensitive() {
		p.Name = p.Label()
		list = append(list, p.Pattern)
	}
	taken, left := sensitive.Select(list)
	for i := range list {
		if err := left[i]; err != nil {
			a.Note(cmd, "%s is not looked for: it %v", list[i].Name, err)
		}
	}
	for i, at := range taken {
		list[i] = list[at]
	}
	list = list[:len(taken)]
	if len(list) == 0 {
		return nil, errors.New("the policy has no patterns: dlp.sensitive_data_patterns and dlp.patterns are empty")
	}
	return list, nil
}

// look looks into one file.
func look(l *child.Looker, list []sensitive.Pattern, name string, f *os.File, err error) (r result) {
	r = result{File: name, Found: []finding{}}
	began := time.Now()
	if err == nil {
		defer f.Close()
		var s text.Source
		if s, err = text.OpenFile(f); err == nil {
			var x scan.Answer
			x, _, err = l.Look(s, name, 0)
			r.Kind, r.Unread = x.Kind, x.Unread
			for _, y := range x.Found {
				r.Found = append(r.Found, finding{list[y.Pattern].Name, y.Count})
			}
		}
	}
	if err != nil {
		if p := new(fs.PathError); errors.As(err, &p) {
			err = p.Err // its name is said already
		}
		r.Error = err.Error()
	}
	r.Millis = float64(time.Since(began).Microseconds()) / 1000
	return r
}

// words are a result for people.
func (r *result) words() string {
	if r.Error != "" {
		return r.Error
	}
	var parts []string
	for _, f := range r.Found {
		n := strconv.Itoa(f.Count)
		if f.Count >= sensitive.MaxCount {
			n += " or more"
		}
		parts = append(parts, f.Pattern+": "+n)
	}
	if len(parts) == 0 {
		parts = []string{"nothing"}
	}
	s := strings.Join(parts, ", ") + " (" + r.Kind
	for _, u := range r.Unread {
		s += "; not read: " + u
	}
	return s + ")"
}
