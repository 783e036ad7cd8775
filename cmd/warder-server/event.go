package main

import (
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/warderd/warder/cmd/cli"
)

func (a *app) event() *cobra.Command {
	c := &cobra.Command{
		Use: "event", Short: "What happened on devices", Args: cobra.NoArgs, RunE: cli.Help,
		Example: "  warder-server event list --kind denied",
	}
	c.AddCommand(a.eventList())
	return c
}

func (a *app) eventList() *cobra.Command {
	var l listFlags
	var device, kind, setting string
	c := &cobra.Command{
		Use: "list", Short: "List the events of all devices, newest first", Args: cobra.NoArgs,
		Example: "  warder-server event list --kind denied\n  warder-server event list --device device-ABCDEFGHIJKLMNOP --limit 10",
		RunE: func(cmd *cobra.Command, _ []string) error {
			q := url.Values{}
			for name, v := range map[string]string{"device_id": device, "kind": kind, "setting": setting} {
				if v != "" {
					q.Set(name, v)
				}
			}
			type event struct {
				Name  string `json:"device_name"`
				Event struct {
					At                                   *time.Time
					Kind, Mode, Setting, Subject, Reason string
				}
			}
			return a.list(cmd, "/events", l, q, []string{"AT", "DEVICE", "KIND", "MODE", "SUBJECT", "REASON"},
				decoded(func(e event) []string {
					if e.Event.Setting == "agent" || strings.HasSuffix(e.Event.Setting, ".exception") {
						e.Event.Mode = "-" // no setting decided it
					}
					return []string{moment(e.Event.At), e.Name, e.Event.Kind, e.Event.Mode, e.Event.Subject, e.Event.Reason}
				}))
		},
	}
	l.add(c)
	c.Flags().StringVar(&device, "device", "", "only events of the device with this id")
	c.Flags().StringVar(&kind, "kind", "", "only events of this kind: denied, drift, failed, …")
	c.Flags().StringVar(&setting, "setting", "", "only events of this setting (usb.allowed), or of a section (usb.)")
	return a.targetFlags(c)
}
