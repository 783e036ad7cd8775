package main

import (
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/warderd/warder/cmd/cli"
	"github.com/warderd/warder/sync/server"
	"github.com/warderd/warder/sync/server/api"
)

func (a *app) enrollment() *cobra.Command {
	c := &cobra.Command{Use: "enrollment", Short: "Enrollment tokens", Args: cobra.NoArgs, RunE: cli.Help,
		Example: "  warder-server enrollment create --data /var/lib/warder-server --json"}
	var data, database, user, ownership string
	var uses int
	var ttl time.Duration
	var tags []string
	create := &cobra.Command{
		Use: "create", Short: "Print an enrollment token", Args: cobra.NoArgs,
		Long:    "Prints a token by which devices enroll. The API does the same: POST /api/v1/enrollments.",
		Example: "  warder-server enrollment create --data ./var/server --uses 100 --ttl 168h --tag pilot --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if uses < 1 || ttl <= 0 {
				return cli.Usagef("--uses and --ttl must be more than 0 (received %d, %s)", uses, ttl)
			}
			if ownership != "" && ownership != "BYOD" && ownership != "COPE" {
				return cli.Usagef("--ownership must be BYOD or COPE (received %q)", ownership)
			}
			if err := api.CheckTags(tags); err != nil {
				return cli.Usagef("%w", err)
			}
			if err := ran(data); err != nil {
				return err
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
			if a.JSON() { // on one line: scripts rely on it since 0.1
				return a.screen(cmd).JSON(map[string]any{"id": e.ID, "token": t, "ca_pin": ca.Fingerprint(), "uses": uses,
					"expires_at": e.Expires.UTC().Truncate(time.Second)}, false)
			}
			a.screen(cmd).Printf("%s\n", t)
			return nil
		},
	}
	dataFlags(create, &data, &database)
	create.Flags().IntVar(&uses, "uses", 1, "how many devices may use it")
	create.Flags().DurationVar(&ttl, "ttl", 24*time.Hour, "how long it is valid")
	create.Flags().StringSliceVar(&tags, "tag", nil, "tags of the devices that come by it")
	create.Flags().StringVar(&user, "user", "", "their user")
	create.Flags().StringVar(&ownership, "ownership", "", "BYOD or COPE; what they say without it")
	c.AddCommand(create, a.enrollmentList())
	return c
}

func (a *app) enrollmentList() *cobra.Command {
	var l listFlags
	var state string
	c := &cobra.Command{
		Use: "list", Short: "List enrollment tokens, newest first", Args: cobra.NoArgs,
		Long:    "Lists the tokens by their ids: the server keeps only a hash of a token.",
		Example: "  warder-server enrollment list --state usable",
		RunE: func(cmd *cobra.Command, _ []string) error {
			q := url.Values{}
			if state != "" {
				q.Set("state", state)
			}
			type enrollment struct {
				ID, State, User, Note string
				Uses, Used            int
				Tags                  []string
				Expires               *time.Time `json:"expires_at"`
				By                    string     `json:"created_by"`
			}
			return a.list(cmd, "/enrollments", l, q, []string{"ENROLMENT", "STATE", "USED", "EXPIRES", "MADE BY", "TAGS", "NOTE"},
				decoded(func(e enrollment) []string {
					return []string{e.ID, e.State, fmt.Sprintf("%d of %d", e.Used, e.Uses), moment(e.Expires), e.By,
						strings.Join(e.Tags, ","), e.Note}
				}))
		},
	}
	l.add(c)
	c.Flags().StringVar(&state, "state", "", "usable, used_up, expired or revoked")
	return a.targetFlags(c)
}
