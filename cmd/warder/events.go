package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/warderd/warder/agent"
	"github.com/warderd/warder/cmd/cli"
	"github.com/warderd/warder/enforce"
)

func (a *app) events() *cobra.Command {
	var follow bool
	var last int
	c := &cobra.Command{
		Use: "events", Short: "What happened on this machine", Args: cobra.NoArgs, Annotations: map[string]string{cli.JSONLines: "yes"},
		Long: "Shows the journal of decisions, oldest first. Root sees every event. Other users see what was plugged in\n" +
			"while they sat at the machine, unless the policy only monitors. With --json: one object a line.",
		Example: "  warder events\n  sudo warder events --follow\n  sudo warder events --json --last 1000",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if last < 1 || last > agent.MaxEvents {
				return cli.Usagef("--last must be from 1 to %d (received %d)", agent.MaxEvents, last)
			}
			out := a.screen(cmd)
			show := func(e enforce.Event) {
				if a.JSON() {
					_ = out.JSON(e, false)
					return
				}
				printEvent(out, e)
			}
			var list []enforce.Event
			if err := a.client().Do(cmd.Context(), "GET", fmt.Sprintf("/v1/events?last=%d", last), nil, &list); err != nil {
				return fmt.Errorf("cannot read events: %w", err)
			}
			for _, e := range list {
				show(e)
			}
			if len(list) == 0 && !a.JSON() {
				if follow {
					out.Printf("No events yet. New ones appear here; Ctrl-C ends this.\n")
				} else if os.Geteuid() == 0 {
					out.Printf("No events yet.\n")
				} else {
					out.Printf("No events that you may see. Root sees all of them (sudo warder events); other users see what was " +
						"plugged in\n" +
						"while they sat at this machine, unless the policy only monitors.\n")
				}
			}
			if !follow {
				return nil
			}
			return a.client().Stream(cmd.Context(), "/v1/events/follow", func(raw json.RawMessage) error {
				var e enforce.Event
				if err := json.Unmarshal(raw, &e); err != nil {
					return err
				}
				show(e)
				return nil
			})
		},
	}
	c.Flags().BoolVarP(&follow, "follow", "f", false, "then show new events as they happen")
	c.Flags().IntVar(&last, "last", 20, "how many of the newest events to show first")
	return c
}

// printEvent prints an event in two lines: what happened, and why.
func printEvent(st cli.Screen, e enforce.Event) {
	kind := st.Sprintf("%-10s", e.Kind)
	switch e.Kind {
	case enforce.Allowed:
		kind = st.Good(kind)
	case enforce.Denied, enforce.Failed, enforce.Forced:
		kind = st.Bad(kind)
	default:
		kind = st.Warn(kind)
	}
	more := ""
	if e.Count > 1 {
		more = fmt.Sprintf(" ×%d", e.Count)
	}
	if e.Told != "" {
		more += "; told: " + e.Told
	}
	mode := e.Mode.String()
	if e.Setting == "agent" || strings.HasSuffix(string(e.Setting), ".exception") {
		mode = "-" // no setting decided it
	}
	st.Printf("%s  %s %-7s %s%s\n    %s\n", st.Dim(e.At.Local().Format(time.DateTime)), kind, mode, e.Subject, more, st.Dim(e.Reason))
}
