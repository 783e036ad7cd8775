// Package cli is what the command lines of warder and warder-server share: safe output to the terminal (screen.go),
// usage errors (usage.go), and how a command ends (this file). It contains no command.
//
// Every command takes --json: then its result is JSON on standard output, and so is its error, as
//
//	{"error": {"code": "usage", "message": "…", "hint": "…"}, "exit": 64}
package cli

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
)

// Exit is an error that carries only an exit code: everything has been printed already.
type Exit int

func (e Exit) Error() string { return fmt.Sprintf("exit %d", int(e)) }

// Failure is an error as a user sees it: with a short code for programs, a hint at what to do, and the exit code. Empty
// fields take their defaults: "failed", no hint, 1.
type Failure struct {
	Err  error
	Code string
	Hint string
	Exit int
}

func (f *Failure) Error() string { return f.Err.Error() }

// Unwrap returns the error itself.
func (f *Failure) Unwrap() error { return f.Err }

// Program is one of the two command lines.
type Program struct {
	Root    *cobra.Command
	Version string
	// Explain turns an error that it knows into a Failure with a code and a hint. It returns nil for others.
	Explain func(error) *Failure
	asJSON  bool
}

// New adds the flags that every command has.
func New(root *cobra.Command, version string) *Program {
	p := &Program{Root: root, Version: version}
	root.SilenceUsage, root.SilenceErrors = true, true
	root.Version = version
	root.SetVersionTemplate("{{.DisplayName}} {{.Version}}\n")
	root.InitDefaultVersionFlag() // before parsing: the library takes an unknown flag for one with a value
	root.PersistentFlags().BoolVar(&p.asJSON, "json", false, "print JSON, errors included")
	return p
}

// JSON reports whether the answer has to be JSON.
func (p *Program) JSON() bool { return p.asJSON }

// Run runs the command line and returns the exit code of the process.
func (p *Program) Run(args []string, stdout, stderr io.Writer) int {
	p.Root.SetArgs(args)
	p.Root.SetOut(stdout)
	p.Root.SetErr(stderr)
	if p.Root.RunE == nil {
		p.Root.RunE, p.Root.Args = Help, unknown
	}
	addManual(p)
	markUsage(p.Root)
	ran, err := p.Root.ExecuteC()
	var exit Exit
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return int(exit)
	}
	f := p.failure(ran, err)
	// If a wrong flag stands before --json, the library has not read --json yet.
	if p.asJSON || isUsage(err) && asksJSON(args) {
		type detail struct {
			Code    string `json:"code"`
			Message string `json:"message"`
			Hint    string `json:"hint,omitempty"`
		}
		_ = NewScreen(stdout).JSON(struct {
			Error detail `json:"error"`
			Exit  int    `json:"exit"`
		}{detail{f.Code, f.Error(), f.Hint}, f.Exit}, ran.Annotations[JSONLines] == "")
		return f.Exit
	}
	out := NewScreen(stderr)
	out.Printf("%s: %s\n", p.Root.Name(), f.Err)
	for line := range strings.Lines(f.Hint) {
		out.Printf("  %s\n", strings.TrimSuffix(line, "\n"))
	}
	return f.Exit
}

// failure is an error with the code, hint and exit code that the program gives it.
func (p *Program) failure(ran *cobra.Command, err error) *Failure {
	f := &Failure{Err: err}
	var own *Failure
	switch {
	case isUsage(err):
		return &Failure{Err: inWords(err), Code: "usage", Hint: "see: " + ran.CommandPath() + " --help", Exit: ExitUsage}
	case errors.As(err, &own):
		*f = Failure{Err: err, Code: own.Code, Hint: own.Hint, Exit: own.Exit}
	case p.Explain != nil:
		if known := p.Explain(err); known != nil {
			*f = *known
		}
	}
	if f.Code == "" {
		f.Code = "failed"
	}
	if f.Exit == 0 {
		f.Exit = 1
	}
	return f
}

// asksJSON looks for --json in arguments that the library could not parse.
func asksJSON(args []string) bool {
	for _, a := range args {
		if a == "--" {
			return false
		}
		if a == "--json" || a == "--json=true" {
			return true
		}
	}
	return false
}

// Note tells a person at a terminal what a bare result on standard output means. Scripts, which may collect both outputs,
// are not told.
func (p *Program) Note(cmd *cobra.Command, format string, args ...any) {
	if err := cmd.ErrOrStderr(); !p.asJSON && IsTerminal(err) {
		NewScreen(err).Printf(format+"\n", args...)
	}
}

// JSONLines annotates a command that prints JSON line by line: its error is one line, too.
const JSONLines = "json lines"

// Help is the action of a command that only groups other commands. A program that wants JSON has left the command out.
func Help(cmd *cobra.Command, _ []string) error {
	if as, err := cmd.Flags().GetBool("json"); err == nil && as {
		var list []string
		for _, c := range cmd.Commands() {
			if c.IsAvailableCommand() {
				list = append(list, c.Name())
			}
		}
		return Usagef("name a command after %q: %s", cmd.CommandPath(), strings.Join(list, ", "))
	}
	return cmd.Help()
}
