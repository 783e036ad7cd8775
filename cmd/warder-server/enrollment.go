package main

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/warderd/warder/sync/server"
)

func enrollment() *cobra.Command {
	c := &cobra.Command{Use: "enrollment", Short: "Enrolment tokens"}
	var data string
	var uses int
	var ttl time.Duration
	var asJSON bool
	create := &cobra.Command{
		Use: "create --data DIR", Short: "Print an enrolment token", Args: cobra.NoArgs,
		Example: "  warder-server enrollment create --data ./var/server --uses 100 --ttl 168h --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if uses < 1 || ttl <= 0 {
				return fmt.Errorf("--uses and --ttl must be more than nothing (received %d, %s)", uses, ttl)
			}
			if _, err := os.Stat(data); err != nil {
				return fmt.Errorf("no server has run with this data directory yet: %w", err)
			}
			now := time.Now()
			s, err := server.OpenStore(cmd.Context(), data, now)
			if err != nil {
				return err
			}
			defer s.Close()
			ca, err := server.LoadCA(data, now)
			if err != nil {
				return err
			}
			t := "wte_" + rand.Text()
			if err := s.NewEnrollment(cmd.Context(), t, uses, now.Add(ttl)); err != nil {
				return err
			}
			if asJSON {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(map[string]any{"token": t, "ca_pin": ca.Fingerprint(), "uses": uses, "expires_at": now.Add(ttl).UTC().Truncate(time.Second)})
			}
			fmt.Fprintln(cmd.OutOrStdout(), t)
			return nil
		},
	}
	create.Flags().StringVar(&data, "data", "", "the server's data directory")
	create.Flags().IntVar(&uses, "uses", 1, "how many devices may use it")
	create.Flags().DurationVar(&ttl, "ttl", 24*time.Hour, "how long it is valid")
	create.Flags().BoolVar(&asJSON, "json", false, "as JSON, with the fingerprint for --ca-pin")
	_ = create.MarkFlagRequired("data")
	c.AddCommand(create)
	return c
}
