package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/warderd/warder/agent"
)

func (a *app) ledger() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: "ledger", Short: "What Warder changed on this machine, and what it was before", Args: cobra.NoArgs,
		Long:    "Lists every resource that Warder holds: the value before it was ever touched, which is what a\nrevert restores, the value last written, and what is read now.",
		Example: "  sudo warder ledger",
		RunE: func(cmd *cobra.Command, _ []string) error {
			var list []agent.LedgerRow
			if err := a.client().Do(cmd.Context(), "GET", "/v1/ledger", nil, &list); err != nil {
				return fmt.Errorf("cannot read the ledger: %w", err)
			}
			st := a.screen(cmd)
			if asJSON {
				return st.json(list, true)
			}
			if len(list) == 0 {
				st.printf("Warder holds nothing on this machine.\n")
				return nil
			}
			for _, r := range list {
				now := st.good(r.Now)
				if r.Now != r.Last {
					now = st.warn(r.Now)
				}
				st.printf("%-36s before %-8s ours %-8s now %s\n", r.Key, r.Baseline, r.Last, now)
			}
			return nil
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	return c
}
