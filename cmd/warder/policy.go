package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/warderd/warder/agent/store"
	"github.com/warderd/warder/cmd/cli"
	"github.com/warderd/warder/sync/protocol"
)

func (a *app) policy() *cobra.Command {
	c := &cobra.Command{Args: cobra.NoArgs, RunE: cli.Help, Use: "policy", Short: "The policy in force and the versions before it",
		Example: "  sudo warder policy show\n  sudo warder policy diff"}
	c.AddCommand(a.policyShow(), a.policyDiff())
	return c
}

func (a *app) policyShow() *cobra.Command {
	return &cobra.Command{
		Use: "show", Short: "Show the policy in force, as signed", Args: cobra.NoArgs, Example: "  sudo warder policy show",
		RunE: func(cmd *cobra.Command, _ []string) error {
			var as protocol.Assignment
			if err := a.client().Do(cmd.Context(), "GET", "/v1/policy", nil, &as); err != nil {
				return fmt.Errorf("cannot show the policy: %w", err)
			}
			return a.screen(cmd).JSON(as, true)
		},
	}
}

func (a *app) policyDiff() *cobra.Command {
	return &cobra.Command{
		Use: "diff", Short: "What each version changed, newest first", Args: cobra.NoArgs, Example: "  sudo warder policy diff",
		RunE: func(cmd *cobra.Command, _ []string) error {
			var list []store.Policy
			if err := a.client().Do(cmd.Context(), "GET", "/v1/policies", nil, &list); err != nil {
				return fmt.Errorf("cannot compare policies: %w", err)
			}
			st := a.screen(cmd)
			if a.JSON() {
				return st.JSON(list, true)
			}
			for _, p := range list {
				st.Printf("%s  serial %d, %s %s\n", st.Bold(p.Received.Local().Format(time.DateTime)), p.Serial, p.State, st.Warn(p.Reason))
				for _, c := range p.Changes {
					st.Printf("    %s\n", c)
				}
				if len(p.Changes) == 0 {
					st.Printf("%s\n", st.Dim("    no setting changed"))
				}
			}
			return nil
		},
	}
}
