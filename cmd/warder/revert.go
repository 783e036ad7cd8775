package main

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/warderd/warder/agent"
	"github.com/warderd/warder/agent/localapi"
	"github.com/warderd/warder/cmd/cli"
	"github.com/warderd/warder/platform/service"
)

func (a *app) revert() *cobra.Command {
	var length time.Duration
	var reason string
	var lift, now, ended bool
	c := &cobra.Command{
		Use: "revert [--for 1h] --reason …", Short: "Suspend the policy and give the machine back", Args: cobra.NoArgs,
		Long: "Restores what was there before Warder and suspends the policy until the time is up, or until the hold\n" +
			"is lifted. The hold outlives restarts, and the server is told who, why and until when.",
		Example: "  sudo warder revert --for 1h --reason \"presentation with a borrowed stick, ticket 4711\"\n  sudo warder revert --lift",
		RunE: func(cmd *cobra.Command, _ []string) error {
			h := agent.HoldRequest{Reason: reason, Seconds: int64(length.Seconds()), Who: os.Getenv("SUDO_USER")}
			switch {
			case ended && (agent.KeepAsked(a.paths()) || !service.Ended(cmd.Context())):
				return nil
			case now || ended:
				// For the package's removal: give back what a dead agent left, and suspend nothing.
				return a.offline(cmd, agent.OfflineRevert, agent.HoldRequest{})
			case lift:
				err := a.client().Do(cmd.Context(), "DELETE", "/v1/hold", nil, nil)
				if localapi.Is(err, localapi.CodeNoHold) {
					return a.say(cmd, map[string]bool{"lifted": false}, "No hold was in force; there was nothing to lift.\n")
				}
				if err != nil {
					return fmt.Errorf("cannot lift the hold: %w", err)
				}
				return a.say(cmd, map[string]bool{"lifted": true}, "The hold is lifted; the policy is in force again.\n")
			case cmd.Flags().Changed("for") && (length < time.Second || length > 30*24*time.Hour):
				return cli.Usagef("--for must be from 1s to 720h (received %s); leave it out for a hold until it is lifted", length)
			case reason == "":
				return cli.Usagef("say why with --reason: the server and the next person are told")
			}
			var s agent.Status
			err := a.client().Do(cmd.Context(), "POST", "/v1/hold", h, &s)
			if errors.Is(err, localapi.ErrNoAgent) {
				err = a.offline(cmd, agent.OfflineHold, h)
			}
			if err != nil {
				return fmt.Errorf("cannot revert: %w", err)
			}
			until := plainUntil(length)
			if s.Hold != nil && !s.Hold.Until.IsZero() {
				until = "until " + s.Hold.Until.Local().Format(time.DateTime)
			}
			return a.say(cmd, map[string]any{"reverted": true, "hold": s.Hold},
				"The machine is as it was before Warder. The policy is suspended %s.\n", until)
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

// plainUntil says how long a hold lasts that no agent has confirmed yet.
func plainUntil(length time.Duration) string {
	if length == 0 {
		return "until it is lifted with: sudo warder revert --lift"
	}
	return "for " + length.String()
}

// offline gives the machine back while no agent runs, and lists what was left alone.
func (a *app) offline(cmd *cobra.Command, what agent.OfflineAction, h agent.HoldRequest) error {
	left, err := agent.Offline(cmd.Context(), a.paths(), what, h)
	for _, l := range left {
		cli.NewScreen(cmd.ErrOrStderr()).Printf("left alone: %s\n", l)
	}
	return err
}
