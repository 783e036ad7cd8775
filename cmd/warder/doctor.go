package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/warderd/warder/agent"
	"github.com/warderd/warder/agent/localapi"
	"github.com/warderd/warder/cmd/cli"
)

func (a *app) doctor() *cobra.Command {
	var all bool
	c := &cobra.Command{
		Use: "doctor", Short: "Check everything that can be wrong with the agent, and say what to do", Args: cobra.NoArgs,
		Long: "Checks each thing that can be wrong with the agent, the way to its server included. Exits 0 when nothing is,\n2 when " +
			"something is, 3 when the agent cannot be reached.",
		Example: "  warder doctor\n  warder doctor --all",
		RunE: func(cmd *cobra.Command, _ []string) error {
			st := a.screen(cmd)
			var d agent.Doctor
			err := a.client().Do(cmd.Context(), "GET", "/v1/doctor", nil, &d)
			if errors.Is(err, localapi.ErrNoAgent) {
				return &cli.Failure{Err: err, Code: "no_agent", Exit: agent.ExitUnreachable,
					Hint: a.howToStart(cmd.Context()) + "\nif it does not stay up: journalctl -u warder"}
			}
			if err != nil {
				return fmt.Errorf("cannot ask the agent: %w", err)
			}
			if a.JSON() {
				err = st.JSON(d, true)
			} else {
				checks(st, d, all)
			}
			for _, c := range d.Checks {
				if !c.OK && err == nil {
					return cli.Exit(agent.ExitDegraded)
				}
			}
			return err
		},
	}
	c.Flags().BoolVar(&all, "all", false, "also list what is in order")
	return c
}

// checks prints the doctor's table: problems first, and with all what is in order, too.
func checks(st cli.Screen, d agent.Doctor, all bool) {
	wrong := 0
	for _, c := range d.Checks {
		switch {
		case c.OK && all:
			st.Printf("%s     %-18s %s\n", st.Good("fine"), c.Code, st.Dim("would mean: "+c.Means))
		case c.OK:
		case c.By != "":
			wrong++
			st.Printf("%s    %s\n  because  of %s\n", st.Warn("wrong"), c.Means, c.By)
		default:
			wrong++
			st.Printf("%s    %s (%s)\n  it says  %s\n  do       %s\n", st.Bad("wrong"), c.Means, c.Severity, c.Detail, c.Do)
		}
	}
	if wrong == 0 {
		st.Printf("%s  %d things were checked.\n", st.Good("Nothing is wrong."), len(d.Checks))
	}
}
