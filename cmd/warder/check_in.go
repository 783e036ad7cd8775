package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/warderd/warder/agent"
)

func (a *app) checkIn() *cobra.Command {
	return &cobra.Command{
		Use: "check-in", Short: "Check in with the server now", Args: cobra.NoArgs, Example: "  warder check-in",
		RunE: func(cmd *cobra.Command, _ []string) error {
			var s agent.Status
			if err := a.client().Do(cmd.Context(), "POST", "/v1/check-in", nil, &s); err != nil {
				return fmt.Errorf("cannot check in: %w", err)
			}
			if s.Policy == nil {
				return a.say(cmd, s, "Checked in. No policy is assigned.\n")
			}
			return a.say(cmd, s, "Checked in. Policy %q version %d is %s.\n", s.Policy.Name, s.Policy.Version, s.Policy.State)
		},
	}
}
