package main

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/warderd/warder/sync/server"
)

func (a *app) backup() *cobra.Command {
	var data, database, to string
	c := &cobra.Command{
		Use: "backup --to FILE", Short: "Write keys and database to a file, while the server runs", Args: cobra.NoArgs,
		Long: "Writes everything that is needed to restore the server: the keys that devices trust, and the whole database as of\n" +
			"one moment, in the same form from SQLite and from PostgreSQL. The file contains secrets: mode 0600.",
		Example: "  warder-server backup --data /var/lib/warder-server --to /backup/warder.tar.gz",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := server.OwnUser(data); err != nil {
				return err
			}
			if err := ran(data); err != nil {
				return err
			}
			if err := server.Backup(cmd.Context(), data, database, to, time.Now()); err != nil {
				return err
			}
			a.Note(cmd, "the backup is written; it contains secrets")
			return a.say(cmd, map[string]string{"file": to}, "%s\n", to)
		},
	}
	dataFlags(c, &data, &database)
	c.Flags().StringVar(&to, "to", "", "file to write; it must not exist yet")
	_ = c.MarkFlagRequired("to")
	return c
}

func (a *app) restore() *cobra.Command {
	var data, database, from string
	c := &cobra.Command{
		Use: "restore --data DIR --from FILE", Short: "Make a data directory from a backup", Args: cobra.NoArgs,
		Long: "Reads a backup into a new directory and an empty database, SQLite or PostgreSQL, whichever it came from.\n" +
			"Devices accept the restored server as the one they know.",
		Example: "  warder-server restore --data /var/lib/warder-server --from /backup/warder.tar.gz",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := server.OwnUser(data); err != nil {
				return err
			}
			if err := server.Restore(cmd.Context(), data, database, from); err != nil {
				return err
			}
			return a.say(cmd, map[string]string{"data": data}, "The backup is restored into the directory %s.\n", data)
		},
	}
	dataFlags(c, &data, &database)
	c.Flags().StringVar(&from, "from", "", "file that backup wrote")
	_ = c.MarkFlagRequired("from")
	return c
}
