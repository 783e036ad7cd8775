package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/warderd/warder/agent"
	"github.com/warderd/warder/cmd/cli"
	"github.com/warderd/warder/platform/service"
)

func (a *app) service() *cobra.Command {
	c := &cobra.Command{
		Args: cobra.NoArgs, RunE: cli.Help, Use: "service", Short: "Install, remove, start and stop the system service",
		Example: "  sudo warder service install\n  sudo warder service start",
	}
	for action, short := range map[string]string{
		"install": "Install and enable the service", "uninstall": "Stop it, give the machine back and remove the service",
		"start": "Start the service", "stop": "Stop the service; the machine is given back", "restart": "Restart the service",
	} {
		c.AddCommand(&cobra.Command{
			Use: action, Short: short, Args: cobra.NoArgs, Example: "  sudo warder service " + action,
			RunE: func(cmd *cobra.Command, _ []string) error {
				if err := needsRoot(cmd); err != nil {
					return err
				}
				if action == "uninstall" {
					if err := a.leavesStart(); err != nil {
						return err
					}
					// A stop gives the machine back. What a killed agent left is given back here, before its files go.
					_ = service.Control("stop")
					if err := a.offline(cmd, agent.OfflineRevert, agent.HoldRequest{}); err != nil {
						return fmt.Errorf("the machine could not be given back, so the service stays installed: %w", err)
					}
				}
				if err := service.Control(action); err != nil {
					return err
				}
				return a.say(cmd, map[string]string{"done": action}, "Done: %s.\n", action)
			},
		})
	}
	c.AddCommand(a.serviceStatus())
	return c
}

func (a *app) serviceStatus() *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "Say whether the service is installed and runs", Args: cobra.NoArgs,
		Long: "Asks the service manager. Exits 0 when the service runs, 3 when it does not. How the machine stands with\n" +
			"its policy is another question: warder status.",
		Example: "  warder service status",
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := service.Query(cmd.Context())
			if err != nil {
				return err
			}
			out := a.screen(cmd)
			switch {
			case a.JSON():
				err = out.JSON(s, true)
			case !s.Installed:
				out.Printf("The service is not installed. %s\n", s.Detail)
			case s.Running:
				out.Printf("The service runs. %s\n", out.Dim(s.Detail))
			default:
				out.Printf("The service is installed and does not run. %s\n", out.Dim(s.Detail))
			}
			if err == nil && !s.Running {
				return cli.Exit(agent.ExitUnreachable)
			}
			return err
		},
	}
}
