package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/warderd/warder/agent"
)

func (a *app) ledger() *cobra.Command {
	c := &cobra.Command{
		Use: "ledger", Short: "What Warder changed on this machine, and what it was before", Args: cobra.NoArgs,
		Long: "Lists every resource that Warder changed: its value before that, which is what a revert restores, the\nvalue that " +
			"Warder wrote last, and the value read now.",
		Example: "  sudo warder ledger",
		RunE: func(cmd *cobra.Command, _ []string) error {
			var list []agent.LedgerRow
			if err := a.client().Do(cmd.Context(), "GET", "/v1/ledger", nil, &list); err != nil {
				return fmt.Errorf("cannot read the ledger: %w", err)
			}
			st := a.screen(cmd)
			if a.JSON() {
				return st.JSON(list, true)
			}
			if len(list) == 0 {
				st.Printf("Warder has changed nothing on this machine.\n")
				return nil
			}
			for _, r := range list {
				now := st.Good(r.Now)
				if r.Now != r.Last {
					now = st.Warn(r.Now)
				}
				st.Printf("%-36s before %-8s ours %-8s now %s\n", r.Key, r.Baseline, r.Last, now)
			}
			return nil
		},
	}
	return c
}
