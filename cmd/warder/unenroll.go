package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/warderd/warder/agent"
	"github.com/warderd/warder/agent/localapi"
)

func (a *app) unenroll() *cobra.Command {
	return &cobra.Command{
		Use: "unenroll", Short: "Give the machine back and forget the server", Args: cobra.NoArgs,
		Long: "Restores what was there before Warder, then erases this machine's identity. The server keeps the\ndevice in its list " +
			"until an administrator retires it.",
		Example: "  sudo warder unenroll",
		RunE: func(cmd *cobra.Command, _ []string) error {
			err := a.client().Do(cmd.Context(), "POST", "/v1/unenroll", nil, nil)
			if errors.Is(err, localapi.ErrNoAgent) {
				err = a.offline(cmd, agent.OfflineUnenroll, agent.HoldRequest{})
			}
			if err != nil {
				return fmt.Errorf("cannot unenroll: %w", err)
			}
			return a.say(cmd, map[string]bool{"enrolled": false}, "Unenrolled. The machine is as it was before Warder.\n")
		},
	}
}
