package main

import (
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/warderd/warder/cmd/usage"
	"github.com/warderd/warder/sync/server"
	"github.com/warderd/warder/sync/server/api"
)

func enrollment() *cobra.Command {
	c := &cobra.Command{Use: "enrollment", Short: "Enrolment tokens"}
	var data, database, user, ownership string
	var uses int
	var ttl time.Duration
	var tags []string
	var asJSON bool
	create := &cobra.Command{
		Use: "create --data DIR", Short: "Print an enrolment token", Args: cobra.NoArgs,
		Long:    "Prints a token by which devices enrol. The API does the same: POST /api/v1/enrollments.",
		Example: "  warder-server enrollment create --data ./var/server --uses 100 --ttl 168h --tag pilot --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if uses < 1 || ttl <= 0 {
				return usage.Errorf("--uses and --ttl must be more than nothing (received %d, %s)", uses, ttl)
			}
			if ownership != "" && ownership != "BYOD" && ownership != "COPE" {
				return usage.Errorf("--ownership must be BYOD or COPE (received %q)", ownership)
			}
			if err := api.CheckTags(tags); err != nil {
				return usage.Errorf("%w", err)
			}
			if _, err := os.Stat(data); err != nil {
				return fmt.Errorf("no server has run with this data directory yet: %w", err)
			}
			now := time.Now()
			s, err := server.OpenStore(cmd.Context(), data, database, now)
			if err != nil {
				return err
			}
			defer s.Close()
			ca, err := server.LoadCA(data, now)
			if err != nil {
				return err
			}
			t, e := api.NewEnrollment(uses, ttl, "warder-server", now)
			e.User, e.Ownership, e.Tags = user, ownership, tags
			if err := s.AddEnrollment(cmd.Context(), t, e); err != nil {
				return err
			}
			if asJSON {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(map[string]any{"id": e.ID, "token": t, "ca_pin": ca.Fingerprint(), "uses": uses, "expires_at": e.Expires.UTC().Truncate(time.Second)})
			}
			fmt.Fprintln(cmd.OutOrStdout(), t)
			return nil
		},
	}
	dataFlags(create, &data, &database)
	create.Flags().IntVar(&uses, "uses", 1, "how many devices may use it")
	create.Flags().DurationVar(&ttl, "ttl", 24*time.Hour, "how long it is valid")
	create.Flags().StringSliceVar(&tags, "tag", nil, "tags of the devices that come by it")
	create.Flags().StringVar(&user, "user", "", "their user")
	create.Flags().StringVar(&ownership, "ownership", "", "BYOD or COPE; what they say without it")
	create.Flags().BoolVar(&asJSON, "json", false, "as JSON, with the fingerprint for --ca-pin")
	c.AddCommand(create)
	return c
}
