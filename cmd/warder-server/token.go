package main

import (
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/warderd/warder/sync/server"
)

func token() *cobra.Command {
	c := &cobra.Command{Use: "token", Short: "Administrators' tokens"}
	var data, role, subject string
	var ttl time.Duration
	create := &cobra.Command{
		Use: "create --data DIR --role admin|viewer", Short: "Print a bearer token", Args: cobra.NoArgs,
		Example: "  warder-server token create --data ./var/server --role admin --ttl 1h",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if role != "admin" && role != "viewer" {
				return fmt.Errorf("--role must be admin or viewer (received %q)", role)
			}
			if ttl <= 0 {
				return fmt.Errorf("--ttl must be more than nothing (received %s)", ttl)
			}
			if _, err := os.Stat(data); err != nil {
				return fmt.Errorf("no server has run with this data directory yet: %w", err)
			}
			keys, err := server.LoadKeys(data)
			if err != nil {
				return err
			}
			t, err := keys.AdminToken(subject, role, ttl, time.Now())
			if err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), t)
			return nil
		},
	}
	create.Flags().StringVar(&data, "data", "", "the server's data directory")
	create.Flags().StringVar(&role, "role", "", "admin or viewer")
	create.Flags().StringVar(&subject, "subject", "cli", "who it is for; the history names it")
	create.Flags().DurationVar(&ttl, "ttl", time.Hour, "how long it is valid")
	_ = create.MarkFlagRequired("data")
	_ = create.MarkFlagRequired("role")
	c.AddCommand(create)
	return c
}
