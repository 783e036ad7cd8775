package main

import (
	"errors"
	"fmt"
	"os/user"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/warderd/warder/cmd/cli"
	"github.com/warderd/warder/platform/quarantine"
)

// quarantine lists, gives back and removes files that a policy has taken out of the way. It needs no agent: they are files of
// people, who get them back also when none runs.
func (a *app) quarantine() *cobra.Command {
	c := &cobra.Command{
		Use: "quarantine", Short: "Files that a policy has taken out of the way", Args: cobra.NoArgs,
		Long: "A file that may not be where it was is kept here, whole, until an administrator releases or purges it.\n" +
			"Files with sensitive data are kept for the days that dlp.quarantine_days says, 30 if it says nothing; Warder\n" +
			"itself removes no others. Only root can see them.",
		Example: "  sudo warder quarantine list\n  sudo warder quarantine release mhq3v6tdnqj7a --to /home/anna/film.mp4",
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	c.AddCommand(a.quarantineList(), a.quarantineRelease(), a.quarantinePurge())
	return c
}

func (a *app) kept() *quarantine.Store {
	return quarantine.Open(a.paths().Quarantine(), quarantine.Default)
}

// keptList is what "warder quarantine list --json" prints.
type keptList struct {
	Files   []quarantine.Item    `json:"files"`
	Damaged []quarantine.Damaged `json:"damaged,omitempty"`
}

func (a *app) quarantineList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the files", Args: cobra.NoArgs, Example: "  sudo warder quarantine list",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := needsRoot(cmd); err != nil {
				return err
			}
			list, damaged, err := a.kept().List()
			if err != nil {
				return fmt.Errorf("cannot list the quarantine: %w", err)
			}
			out := a.screen(cmd)
			if a.JSON() {
				if list == nil {
					list = []quarantine.Item{}
				}
				return out.JSON(keptList{list, damaged}, true)
			}
			if len(list)+len(damaged) == 0 {
				out.Printf("The quarantine is empty.\n")
				return nil
			}
			var rows [][]string
			for _, x := range list {
				rows = append(rows, []string{x.ID, x.Taken.Local().Format(time.DateTime), userName(x.UID), strconv.FormatInt(x.Size, 10), where(x), x.Place, x.Reason})
			}
			if len(rows) > 0 {
				out.Table([]string{"ID", "TAKEN", "OWNER", "BYTES", "WHERE IT WAS", "ON", "WHY"}, rows)
			}
			for _, x := range damaged {
				out.Printf("%s %s: %s\n", out.Bad("damaged:"), x.ID, x.Why)
			}
			return nil
		},
	}
}

// where is where a file was, as far as that is known: its writer may have had its disk mounted for themselves alone.
func where(x quarantine.Item) string {
	if x.Path == "" {
		return "not known"
	}
	return x.Path
}

// userName is a user's name, or their number if this machine knows none.
func userName(uid uint32) string {
	id := strconv.FormatUint(uint64(uid), 10)
	if u, err := user.LookupId(id); err == nil {
		return u.Username
	}
	return id
}

func (a *app) quarantineRelease() *cobra.Command {
	var to string
	c := &cobra.Command{
		Use: "release ID --to PATH", Short: "Give a file back", Args: cobra.ExactArgs(1),
		Long: "Makes a new file with the contents, owner and permissions of the one that was taken, and removes it from the\n" +
			"quarantine. PATH is the new file, or a directory that gets it under its own name; nothing is overwritten. None\n" +
			"of PATH's directories may be a link, because somebody else could have put it there.",
		Example: "  sudo warder quarantine release mhq3v6tdnqj7a --to /home/anna/film.mp4\n  sudo warder quarantine release mhq3v6tdnqj7a --to /home/anna/",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := needsRoot(cmd); err != nil {
				return err
			}
			x, err := a.kept().Find(args[0])
			if err != nil {
				return noSuchFile(args[0], err)
			}
			if to == "" {
				return cli.Usagef("say where the file goes with --to (it was %s)", cli.Plain(where(x)))
			}
			at, err := a.kept().Release(cmd.Context(), x.ID, to)
			if err != nil {
				return fmt.Errorf("cannot release %s: %w", x.ID, err)
			}
			return a.say(cmd, map[string]any{"released": x.ID, "path": at}, "Released: %s\n", at)
		},
	}
	c.Flags().StringVar(&to, "to", "", "the path of the new file")
	return c
}

func (a *app) quarantinePurge() *cobra.Command {
	var older time.Duration
	c := &cobra.Command{
		Use: "purge {ID… | --older-than 720h}", Short: "Remove files for good",
		Long:    "Removes files from the quarantine. Nobody can get them back afterwards.",
		Example: "  sudo warder quarantine purge mhq3v6tdnqj7a\n  sudo warder quarantine purge --older-than 720h",
		RunE: func(cmd *cobra.Command, ids []string) error {
			if err := needsRoot(cmd); err != nil {
				return err
			}
			aged := cmd.Flags().Changed("older-than")
			switch {
			case aged && older < 0:
				return cli.Usagef("--older-than must not be negative (received %s)", older)
			case aged == (len(ids) > 0):
				return cli.Usagef("name the files (sudo warder quarantine list shows their IDs), or say --older-than")
			case aged:
				list, _, err := a.kept().List()
				if err != nil {
					return fmt.Errorf("cannot list the quarantine: %w", err)
				}
				for _, x := range list {
					if time.Since(x.Taken) > older {
						ids = append(ids, x.ID)
					}
				}
			}
			gone := []string{}
			var errs []error
			for _, id := range ids {
				if err := a.kept().Purge(id); err != nil {
					errs = append(errs, noSuchFile(id, err))
					continue
				}
				gone = append(gone, id)
			}
			return errors.Join(append(errs, a.say(cmd, map[string]any{"purged": gone}, "Purged: %s\n", cli.Count(len(gone), "file")))...)
		},
	}
	c.Flags().DurationVar(&older, "older-than", 0, "all that were taken longer ago")
	return c
}

// noSuchFile says which file is not there.
func noSuchFile(id string, err error) error {
	if errors.Is(err, quarantine.ErrAbsent) {
		return fmt.Errorf("the quarantine has no file %q; sudo warder quarantine list shows what it has", id)
	}
	return fmt.Errorf("file %s: %w", id, err)
}
