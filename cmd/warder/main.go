//go:debug updatemaxprocs=0

// Command warder is the policy agent and its command line. This package has flags and output; what the commands do is
// in agent.
//
// The agent chooses its number of processors itself (agent.Tune). The directive above keeps the runtime from waking it
// to look for more.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/warderd/warder/agent"
	"github.com/warderd/warder/agent/config"
	"github.com/warderd/warder/agent/localapi"
	"github.com/warderd/warder/cmd/cli"
	"github.com/warderd/warder/platform/paths"
	"github.com/warderd/warder/platform/service"
)

// version is set by the build.
var version = "dev"

// app is what every command needs.
type app struct {
	*cli.Program
	state string
}

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int { return newApp().Run(args, stdout, stderr) }

func newApp() *app {
	a := &app{}
	root := &cobra.Command{
		Use: "warder", Short: "Keeps this machine as its company's policy says, and says how it stands",
		Example: "  warder status\n  warder explain usb 0951:1666 --class 08\n  sudo warder enroll --server " +
			"https://policy.example.com --token T",
	}
	a.Program = cli.New(root, version)
	a.Explain = a.failure
	root.PersistentFlags().StringVar(&a.state, "state", "", "state directory of the agent (default: that of the installed service)")
	root.AddCommand(a.enroll(), a.unenroll(), a.run(), a.checkIn(), a.status(), a.doctor(), a.explain(), a.events(), a.ledger(), a.policy(),
		a.revert(), a.exception(), a.service(), a.usb(), a.network(), a.quarantine(), a.session(), a.version(), a.releaseDisk(), a.kernelPrograms(), a.early())
	if boot := a.boot(); boot != nil {
		root.AddCommand(boot)
	}
	return a
}

// failure gives errors that several commands share their code, exit code and hint.
func (a *app) failure(err error) *cli.Failure {
	switch {
	case errors.Is(err, agent.ErrNotEnrolled) || localapi.Is(err, localapi.CodeNotEnrolled):
		return &cli.Failure{Err: err, Code: "not_enrolled", Exit: agent.ExitNotEnrolled,
			Hint: "nothing is managed on this machine; to enroll it: sudo warder enroll --server URL --token T"}
	case errors.Is(err, localapi.ErrNoAgent):
		return &cli.Failure{Err: err, Code: "no_agent", Exit: agent.ExitUnreachable, Hint: a.howToStart(context.Background())}
	case localapi.Is(err, localapi.CodeNeedsRoot):
		return &cli.Failure{Err: err, Code: localapi.CodeNeedsRoot}
	case errors.Is(err, localapi.ErrUnreachable):
		return &cli.Failure{Err: err, Code: "unreachable", Exit: agent.ExitUnreachable}
	}
	return nil
}

// needsRoot refuses a command that only root can carry out, before it does anything.
func needsRoot(cmd *cobra.Command) error {
	if os.Geteuid() <= 0 { // -1: the system does not say (Windows)
		return nil
	}
	return &cli.Failure{Err: fmt.Errorf("%s needs root", cmd.CommandPath()), Code: "needs_root", Hint: "repeat it with sudo"}
}

// howToStart says how to start the agent on this machine: there may be no service yet.
func (a *app) howToStart(ctx context.Context) string {
	if a.state != "" {
		return "start it with: warder run --state " + a.state
	}
	return service.HowToStart(ctx)
}

// paths are the agent's directories; --state puts all of them below one directory.
func (a *app) paths() paths.Paths {
	if a.state != "" {
		return paths.Under(a.state)
	}
	p := paths.Default()
	// An unusable configuration file must not make the agent look for its state elsewhere.
	if c, _ := config.LoadKept(p.ConfigFile(), p.Kept); c.State != "" {
		p.State = c.State
	}
	return p
}

func (a *app) client() *localapi.Client { return localapi.NewClient(a.paths().Socket()) }

func (a *app) screen(cmd *cobra.Command) cli.Screen { return cli.NewScreen(cmd.OutOrStdout()) }

// say prints the result of a command that changed something, as JSON or as a sentence.
func (a *app) say(cmd *cobra.Command, result any, format string, args ...any) error {
	if a.JSON() {
		return a.screen(cmd).JSON(result, true)
	}
	a.screen(cmd).Printf(format, args...)
	return nil
}
