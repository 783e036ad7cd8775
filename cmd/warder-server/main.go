// Command warder-server is the policy server that agents check in with, and its administrator's command line. This
// package has flags and output; the server is in sync/server, the API client in sync/admin.
package main

import (
	"crypto/x509"
	"errors"
	"io"
	"os"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/warderd/warder/cmd/cli"
	"github.com/warderd/warder/sync/admin"
)

// version is set by the build.
var version = "dev"

// app is what every command needs.
type app struct {
	*cli.Program
	to target
}

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int { return newApp().Run(args, stdout, stderr) }

func newApp() *app {
	a := &app{}
	root := &cobra.Command{
		Use: "warder-server", Short: "The policy server for Warder, and its administrator's commands",
		Example: "  warder-server serve --data /var/lib/warder-server\n  warder-server token create --data /var/lib/warder-server " +
			"--role admin\n" +
			"  warder-server device list --compliance noncompliant",
	}
	a.Program = cli.New(root, version)
	a.Explain = failure
	root.AddCommand(a.serve(), a.token(), a.enrollment(), a.device(), a.event(), a.policy(), a.namelist(), a.api(), a.keys(), a.backup(), a.restore(),
		a.version())
	root.CompletionOptions.HiddenDefaultCmd = true
	return a
}

// failure gives the API's errors their code.
func failure(err error) *cli.Failure {
	var unknown x509.UnknownAuthorityError
	if errors.As(err, &unknown) {
		return &cli.Failure{Err: err, Code: "unknown_authority",
			Hint: "if the server has its own authority: --ca FILE (on the server: warder-server keys ca --data DIR)"}
	}
	var e *admin.Error
	if !errors.As(err, &e) {
		return nil
	}
	f := &cli.Failure{Err: err, Code: e.Code}
	switch e.Status {
	case 401:
		f.Hint = "the token is missing, wrong or expired; make one on the server: warder-server token create --data DIR --role admin"
	case 403:
		f.Hint = "this needs a token with --role admin"
	}
	return f
}

func (a *app) screen(cmd *cobra.Command) cli.Screen { return cli.NewScreen(cmd.OutOrStdout()) }

// say prints the result of a command, as JSON or as text.
func (a *app) say(cmd *cobra.Command, result any, format string, args ...any) error {
	if a.JSON() {
		return a.screen(cmd).JSON(result, true)
	}
	a.screen(cmd).Printf(format, args...)
	return nil
}

func (a *app) version() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Show the version", Args: cobra.NoArgs, Example: "  warder-server version",
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := struct {
				Version string `json:"version"`
				System  string `json:"system"`
				Go      string `json:"go"`
			}{version, runtime.GOOS + "/" + runtime.GOARCH, runtime.Version()}
			return a.say(cmd, v, "warder-server %s (%s, %s)\n", v.Version, v.System, v.Go)
		},
	}
}
