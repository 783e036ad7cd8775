package main

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/warderd/warder/enforce"
)

func (a *app) events() *cobra.Command {
	var follow, asJSON bool
	var last int
	c := &cobra.Command{
		Use: "events", Short: "What happened on this machine", Args: cobra.NoArgs,
		Long: "Shows the journal of decisions. What monitor mode saw is shown to root alone, and what was plugged in\n" +
			"to root and to who sat at the machine then.",
		Example: "  warder events\n  sudo warder events --follow\n  sudo warder events --json --last 1000",
		RunE: func(cmd *cobra.Command, _ []string) error {
			out := a.screen(cmd)
			show := func(e enforce.Event) {
				if asJSON {
					_ = out.json(e, false)
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
			if len(list) == 0 && !follow && !asJSON {
				out.printf("No events that you may see. What monitor mode saw is shown to root, and what was plugged in to who sat here.\n")
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
	c.Flags().BoolVarP(&follow, "follow", "f", false, "go on with what happens now")
	c.Flags().BoolVar(&asJSON, "json", false, "one JSON object a line")
	c.Flags().IntVar(&last, "last", 20, "how many of the newest to begin with")
	return c
}

func printEvent(st screen, e enforce.Event) {
	kind := st.sprintf("%-10s", e.Kind)
	switch e.Kind {
	case enforce.Allowed:
		kind = st.good(kind)
	case enforce.Denied, enforce.Failed, enforce.Forced:
		kind = st.bad(kind)
	default:
		kind = st.warn(kind)
	}
	more := ""
	if e.Count > 1 {
		more = fmt.Sprintf(" ×%d", e.Count)
	}
	if e.Told != "" {
		more += "; told: " + e.Told
	}
	st.printf("%s  %s %-7s %s%s\n    %s\n", st.dim(e.At.Local().Format(time.DateTime)), kind, e.Mode, e.Subject, more, st.dim(e.Reason))
}
