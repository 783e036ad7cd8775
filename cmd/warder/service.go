package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/warderd/warder/agent"
	"github.com/warderd/warder/platform/service"
)

func (a *app) service() *cobra.Command {
	c := &cobra.Command{
		Args: cobra.NoArgs, RunE: help, Use: "service", Short: "Install, remove, start and stop the system service",
		Example: "  sudo warder service install\n  sudo warder service start",
	}
	for action, short := range map[string]string{
		"install": "Install and enable the service", "uninstall": "Stop, revert and remove the service",
		"start": "Start it", "stop": "Stop it; the machine is given back", "restart": "Restart it",
	} {
		c.AddCommand(&cobra.Command{
			Use: action, Short: short, Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				if action == "uninstall" {
					if err := a.leavesStart(); err != nil {
						return err
					}
					// Stopping reverts; what a killed agent left is given back here, before its files go.
					_ = service.Control("stop")
					if err := a.offline(cmd, agent.OfflineRevert, agent.HoldRequest{}); err != nil {
						return fmt.Errorf("the machine is not given back, so the service stays: %w", err)
					}
				}
				if err := service.Control(action); err != nil {
					return err
				}
				a.screen(cmd).printf("Done: %s.\n", action)
				return nil
			},
		})
	}
	return c
}
