package main

import (
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/warderd/warder/enforce"
)

func (a *app) events() *cobra.Command {
	var follow, asJSON bool
	var last int
	c := &cobra.Command{
		Use: "events", Short: "What happened on this machine", Args: cobra.NoArgs,
		Long:    "Shows the journal of decisions. What monitor mode saw is shown to root alone.",
		Example: "  warder events\n  sudo warder events --follow\n  sudo warder events --json --last 1000",
		RunE: func(cmd *cobra.Command, _ []string) error {
			out := cmd.OutOrStdout()
			st := newStyle(out)
			show := func(e enforce.Event) {
				if asJSON {
					_ = json.NewEncoder(out).Encode(e)
					return
				}
				printEvent(out, st, e)
			}
			var list []enforce.Event
			if err := a.client().Do(cmd.Context(), "GET", fmt.Sprintf("/v1/events?last=%d", last), nil, &list); err != nil {
				return fmt.Errorf("cannot read events: %w", err)
			}
			for _, e := range list {
				show(e)
			}
			if len(list) == 0 && !follow && !asJSON {
				fmt.Fprintln(out, "No events. What monitor mode saw is shown to root.")
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

func printEvent(w io.Writer, st style, e enforce.Event) {
	kind := fmt.Sprintf("%-10s", e.Kind)
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
	fmt.Fprintf(w, "%s  %s %-7s %s%s\n    %s\n", st.dim(e.At.Local().Format(time.DateTime)), kind, e.Mode, enforce.Plain(e.Subject), enforce.Plain(more), st.dim(enforce.Plain(e.Reason)))
}
