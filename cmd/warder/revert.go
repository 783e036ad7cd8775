package main

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/warderd/warder/agent"
	"github.com/warderd/warder/agent/localapi"
	"github.com/warderd/warder/cmd/usage"
	"github.com/warderd/warder/platform/service"
)

func (a *app) revert() *cobra.Command {
	var length time.Duration
	var reason string
	var lift, now, ended bool
	c := &cobra.Command{
		Use: "revert [--for 1h] --reason …", Short: "Suspend the policy and give the machine back", Args: cobra.NoArgs,
		Long: "Restores what was there before Warder and holds the policy back until the time is up, or until\n" +
			"lifted. The hold outlives restarts, and the server is told who, why and until when.",
		Example: "  sudo warder revert --for 1h --reason \"presentation with a borrowed stick, ticket 4711\"\n  sudo warder revert --lift",
		RunE: func(cmd *cobra.Command, _ []string) error {
			h := agent.HoldRequest{Reason: reason, Seconds: int64(length.Seconds()), Who: os.Getenv("SUDO_USER")}
			out := a.screen(cmd)
			switch {
			case ended && (agent.KeepAsked(a.paths()) || !service.Ended(cmd.Context())):
				return nil
			case now || ended:
				// For the package's removal: give back what a dead agent left, and hold nothing.
				return a.offline(cmd, agent.OfflineRevert, agent.HoldRequest{})
			case lift:
				if err := a.client().Do(cmd.Context(), "DELETE", "/v1/hold", nil, nil); err != nil {
					return fmt.Errorf("cannot lift the hold: %w", err)
				}
				out.printf("The hold is lifted; the policy is in force again.\n")
				return nil
			case cmd.Flags().Changed("for") && (length < time.Second || length > 30*24*time.Hour):
				return usage.Errorf("--for must be from 1s to 720h (received %s); leave it out for a hold until it is lifted", length)
			case reason == "":
				return usage.Errorf("say why with --reason: the server and the next person are told")
			}
			err := a.client().Do(cmd.Context(), "POST", "/v1/hold", h, nil)
			if errors.Is(err, localapi.ErrNoAgent) {
				err = a.offline(cmd, agent.OfflineHold, h)
			}
			if err != nil {
				return fmt.Errorf("cannot revert: %w", err)
			}
			out.printf("The machine is as it was before Warder, and the policy is held.\n")
			return nil
		},
	}
	c.Flags().DurationVar(&length, "for", 0, "how long (default: until lifted)")
	c.Flags().StringVar(&reason, "reason", "", "why")
	c.Flags().BoolVar(&lift, "lift", false, "end the hold now")
	c.Flags().BoolVar(&now, "leftovers", false, "give back what a dead agent left, without a hold")
	c.Flags().BoolVar(&ended, "ended", false, "the same, where the service has ended for good")
	_ = c.Flags().MarkHidden("leftovers")
	_ = c.Flags().MarkHidden("ended")
	return c
}

// offline gives the machine back while no agent runs, and says what was left alone.
func (a *app) offline(cmd *cobra.Command, what agent.OfflineAction, h agent.HoldRequest) error {
	left, err := agent.Offline(cmd.Context(), a.paths(), what, h)
	for _, l := range left {
		complain("left alone: %s\n", l)
	}
	return err
}
