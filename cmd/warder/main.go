//go:debug updatemaxprocs=0

// Command warder is the policy agent and its command line. It holds flags and rendering; what the
// commands do is in agent.
//
// The agent chooses its processors itself (agent.Tune); the directive above keeps the runtime from
// waking it to look for more.
package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/warderd/warder/agent"
	"github.com/warderd/warder/agent/config"
	"github.com/warderd/warder/agent/localapi"
	"github.com/warderd/warder/cmd/usage"
	"github.com/warderd/warder/platform/paths"
)

// version is set by the build.
var version = "dev"

// exit is an error that only stands for an exit code.
type exit int

func (e exit) Error() string { return fmt.Sprintf("exit %d", int(e)) }

// app is what every command needs.
type app struct {
	state string
}

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	root := newRoot()
	root.SetArgs(args)
	usage.Mark(root)
	err := root.Execute()
	var code exit
	switch {
	case err == nil:
		return 0
	case errors.As(err, &code):
		return int(code)
	}
	complain("warder: %s\n", err)
	if usage.Is(err) {
		complain("  how it is used: warder --help\n")
		return usage.Exit
	}
	if errors.Is(err, localapi.ErrNoAgent) {
		complain("  start it with: sudo systemctl start warder\n")
		return agent.ExitUnreachable
	}
	if errors.Is(err, localapi.ErrUnreachable) {
		return agent.ExitUnreachable
	}
	return 1
}

func newRoot() *cobra.Command {
	a := &app{}
	root := &cobra.Command{
		Use: "warder", Short: "Keeps this machine as its company's policy says, and says how it stands",
		Example:      "  warder status\n  warder explain usb 0951:1666 --class 08\n  sudo warder enroll --server https://policy.example.com --token T",
		SilenceUsage: true, SilenceErrors: true,
	}
	root.PersistentFlags().StringVar(&a.state, "state", "", "state directory of the agent (default: that of the installed service)")
	root.AddCommand(a.enroll(), a.unenroll(), a.run(), a.checkIn(), a.status(), a.doctor(), a.explain(), a.events(), a.ledger(), a.policy(), a.revert(), a.exception(), a.service(), a.usb(), a.version(), a.releaseDisk(), a.early())
	if boot := a.boot(); boot != nil {
		root.AddCommand(boot)
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	return root
}

// help is what a command does that only has commands below it.
func help(cmd *cobra.Command, _ []string) error { return cmd.Help() }

// paths are the agent's places: --state puts all below one directory.
func (a *app) paths() paths.Paths {
	if a.state != "" {
		return paths.Under(a.state)
	}
	p := paths.Default()
	// A file that cannot be used must not make the agent look for its state elsewhere.
	if c, _ := config.LoadKept(p.ConfigFile(), p.Kept); c.State != "" {
		p.State = c.State
	}
	return p
}

func (a *app) client() *localapi.Client { return localapi.NewClient(a.paths().Socket()) }
