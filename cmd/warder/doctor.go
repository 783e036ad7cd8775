package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/warderd/warder/agent"
	"github.com/warderd/warder/agent/localapi"
)

func (a *app) doctor() *cobra.Command {
	var asJSON, all bool
	c := &cobra.Command{
		Use: "doctor", Short: "Check everything that can be wrong with the agent, and say what to do", Args: cobra.NoArgs,
		Long:    "Checks each thing that can be wrong with the agent, the way to its server included. Exits 0 when nothing is,\n2 when something is, 3 when the agent cannot be reached.",
		Example: "  warder doctor\n  warder doctor --all",
		RunE: func(cmd *cobra.Command, _ []string) error {
			st := a.screen(cmd)
			var d agent.Doctor
			err := a.client().Do(cmd.Context(), "GET", "/v1/doctor", nil, &d)
			if errors.Is(err, localapi.ErrNoAgent) {
				st.printf("%s  the agent does not answer\n  do       sudo systemctl start warder; if it does not stay up: journalctl -u warder\n", st.bad("wrong"))
				return exit(agent.ExitUnreachable)
			}
			if err != nil {
				return fmt.Errorf("cannot ask the agent: %w", err)
			}
			if asJSON {
				err = st.json(d, true)
			} else {
				checks(st, d, all)
			}
			for _, c := range d.Checks {
				if !c.OK && err == nil {
					return exit(agent.ExitDegraded)
				}
			}
			return err
		},
	}
	c.Flags().BoolVar(&all, "all", false, "also what is as it should be")
	c.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	return c
}

func checks(st screen, d agent.Doctor, all bool) {
	wrong := 0
	for _, c := range d.Checks {
		switch {
		case c.OK && all:
			st.printf("%s     %s\n", st.good("fine"), c.Code)
		case c.OK:
		case c.By != "":
			wrong++
			st.printf("%s    %s\n  because  of %s\n", st.warn("wrong"), c.Means, c.By)
		default:
			wrong++
			st.printf("%s    %s (%s)\n  it says  %s\n  do       %s\n", st.bad("wrong"), c.Means, c.Severity, c.Detail, c.Do)
		}
	}
	if wrong == 0 {
		st.printf("%s  %d things were checked.\n", st.good("Nothing is wrong."), len(d.Checks))
	}
}
