package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/warderd/warder/cmd/cli"
	"github.com/warderd/warder/sync/server"
)

func (a *app) token() *cobra.Command {
	c := &cobra.Command{Use: "token", Short: "Administrators' tokens", Args: cobra.NoArgs, RunE: cli.Help,
		Example: "  warder-server token create --data /var/lib/warder-server --role admin"}
	c.AddCommand(a.tokenCreate(), a.tokenList(), a.tokenRotate())
	return c
}

func (a *app) tokenCreate() *cobra.Command {
	var data, role, subject, facade string
	var ttl time.Duration
	c := &cobra.Command{
		Use: "create --role admin|viewer", Short: "Print a bearer token", Args: cobra.NoArgs,
		Example: "  warder-server token create --data ./var/server --role admin --subject ann@example.com --ttl 8h",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if role != "admin" && role != "viewer" {
				return cli.Usagef("--role must be admin or viewer (received %q)", role)
			}
			if ttl <= 0 || ttl > 366*24*time.Hour {
				return cli.Usagef("--ttl must be more than 0 and at most a year (received %s)", ttl)
			}
			if subject == "" || len(subject) > 256 {
				return cli.Usagef("--subject must have 1 to 256 bytes: it is what the audit log names")
			}
			if facade != "" && !slices.Contains(server.FacadeNames(), facade) {
				return cli.Usagef("--facade must be one of %s (received %q)", strings.Join(server.FacadeNames(), ", "), facade)
			}
			keys, err := existing(data)
			if err != nil {
				return err
			}
			t, err := keys.Issue(subject, role, facade, caller+" (warder-server token create)", ttl, time.Now())
			if err != nil {
				return err
			}
			a.Note(cmd, "role %s, for %s, valid until %s", role, subject, time.Now().Add(ttl).Local().Format(time.DateTime))
			return a.say(cmd, map[string]string{"token": t, "role": role, "subject": subject}, "%s\n", t)
		},
	}
	dataFlags(c, &data, nil)
	c.Flags().StringVar(&role, "role", "viewer", "admin or viewer")
	c.Flags().StringVar(&subject, "subject", "administrator", "whom the token is for; the audit log names them")
	c.Flags().StringVar(&facade, "facade", "", "for the calls of another vendor's clients alone (serve --facade): "+strings.Join(server.FacadeNames(), ", "))
	c.Flags().DurationVar(&ttl, "ttl", time.Hour, "how long it is valid")
	return c
}

func (a *app) tokenList() *cobra.Command {
	var l listFlags
	c := &cobra.Command{
		Use: "list", Short: "List the tokens that were made, newest first", Args: cobra.NoArgs,
		Long:    "Lists what the audit log has about tokens that were made: for whom and by whom. The tokens themselves are not kept.",
		Example: "  warder-server token list",
		RunE: func(cmd *cobra.Command, _ []string) error {
			type change struct {
				At          *time.Time
				By, Subject string
				Detail      []string
			}
			return a.list(cmd, "/tokens", l, url.Values{}, []string{"MADE", "FOR", "BY", "DETAIL"}, decoded(func(c change) []string {
				return []string{moment(c.At), c.Subject, c.By, strings.Join(c.Detail, ", ")}
			}))
		},
	}
	l.add(c)
	return a.targetFlags(c)
}

func (a *app) tokenRotate() *cobra.Command {
	var data string
	var drop bool
	c := &cobra.Command{
		Use: "rotate", Short: "Create a new secret for signing tokens", Args: cobra.NoArgs,
		Example: "  warder-server token rotate --data /var/lib/warder-server --drop",
		Long: "Creates a new secret for signing tokens. Tokens signed with the previous one stay valid until they expire,\n" +
			"unless you add --drop. A running server uses the new secret within seconds; other nodes need the file admin.key.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			keys, err := existing(data)
			if err != nil {
				return err
			}
			if err := keys.RotateAdmin(drop); err != nil {
				return err
			}
			return a.say(cmd, map[string]bool{"rotated": true, "dropped": drop}, "Tokens are signed with a new secret from now on.\n")
		},
	}
	dataFlags(c, &data, nil)
	c.Flags().BoolVar(&drop, "drop", false, "end every token made so far")
	return c
}

// existing reads the keys of a directory in which a server has run. A typing error in the path must not create new keys
// elsewhere.
func existing(data string) (*server.Keys, error) {
	if err := ran(data); err != nil {
		return nil, err
	}
	return server.LoadKeys(data)
}

// ran refuses a data directory in which no server has run, and becomes its user.
func ran(data string) error {
	if err := become(data); err != nil {
		return err
	}
	_, err := os.Stat(filepath.Join(data, "policy.key"))
	switch {
	case errors.Is(err, fs.ErrPermission):
		return unreadable(data)
	case err != nil:
		return &cli.Failure{Err: fmt.Errorf("no server has run with the data directory %q", data), Code: "no_server", Exit: cli.ExitUsage,
			Hint: "name the server's data directory with --data, or start a server there first: warder-server serve --data DIR"}
	}
	return nil
}

// unreadable is the error of a data directory that another user has.
func unreadable(data string) error {
	return &cli.Failure{Err: fmt.Errorf("the data directory %s can only be read by its owner", data), Code: "needs_root",
		Hint: "repeat the command with sudo, or as the server's user"}
}
