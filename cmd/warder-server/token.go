package main

import (
	"fmt"
	"os"
	"os/user"
	"time"

	"github.com/spf13/cobra"

	"github.com/warderd/warder/cmd/usage"
	"github.com/warderd/warder/sync/server"
)

func token() *cobra.Command {
	c := &cobra.Command{Use: "token", Short: "Administrators' tokens"}
	c.AddCommand(tokenCreate(), tokenRotate())
	return c
}

func tokenCreate() *cobra.Command {
	var data, role, subject string
	var ttl time.Duration
	c := &cobra.Command{
		Use: "create --data DIR --role admin|viewer", Short: "Print a bearer token", Args: cobra.NoArgs,
		Example: "  warder-server token create --data ./var/server --role admin --subject ann@example.com --ttl 8h",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if role != "admin" && role != "viewer" {
				return usage.Errorf("--role must be admin or viewer (received %q)", role)
			}
			if ttl <= 0 || ttl > 366*24*time.Hour {
				return usage.Errorf("--ttl must be more than nothing and at most a year (received %s)", ttl)
			}
			if subject == "" || len(subject) > 256 {
				return usage.Errorf("--subject must have 1 to 256 bytes: it is what the audit log names")
			}
			keys, err := existing(data)
			if err != nil {
				return err
			}
			by := "warder-server"
			if u, err := user.Current(); err == nil {
				by = u.Username + " (warder-server token create)"
			}
			t, err := keys.Issue(subject, role, by, ttl, time.Now())
			if err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), t)
			return nil
		},
	}
	dataFlags(c, &data, nil)
	c.Flags().StringVar(&role, "role", "viewer", "admin or viewer")
	c.Flags().StringVar(&subject, "subject", "administrator", "whom the token is for; the audit log names them")
	c.Flags().DurationVar(&ttl, "ttl", time.Hour, "how long it is valid")
	return c
}

func tokenRotate() *cobra.Command {
	var data string
	var drop bool
	c := &cobra.Command{
		Use: "rotate --data DIR", Short: "Sign tokens with a new secret", Args: cobra.NoArgs,
		Long: "Makes a new secret for tokens. Those signed with the one before stay valid until they expire, unless --drop.\nA running server takes it within seconds; other nodes need the file admin.key.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			keys, err := existing(data)
			if err != nil {
				return err
			}
			if err := keys.RotateAdmin(drop); err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), "rotated")
			return nil
		},
	}
	dataFlags(c, &data, nil)
	c.Flags().BoolVar(&drop, "drop", false, "no token made before is valid any more")
	return c
}

// existing reads the keys of a directory in which a server has run: a typing error must not make
// new ones elsewhere.
func existing(data string) (*server.Keys, error) {
	if _, err := os.Stat(data); err != nil {
		return nil, fmt.Errorf("no server has run with this data directory yet: %w", err)
	}
	return server.LoadKeys(data)
}
