package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/warderd/warder/agent"
	"github.com/warderd/warder/agent/localapi"
	"github.com/warderd/warder/cmd/usage"
	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/enforce/usb"
)

func (a *app) explain() *cobra.Command {
	c := &cobra.Command{
		Args: cobra.NoArgs, RunE: help, Use: "explain", Short: "Why something is allowed or refused, and what would change it",
		Example: "  warder explain usb 0951:1666\n  warder explain usb --port 1-2",
	}
	c.AddCommand(a.explainUSB())
	return c
}

func (a *app) explainUSB() *cobra.Command {
	var classes []string
	var port string
	var asJSON bool
	c := &cobra.Command{
		Use: "usb VID:PID[:SERIAL] [--class 08,03] | usb --port 1-2", Short: "Explain the verdict on a USB device",
		Long: "Explains the verdict on a device that need not be plugged in. Where its classes matter and are not\n" +
			"named, the answer is that it depends.",
		Example: "  warder explain usb 0951:1666 --class 08\n  warder explain usb 046d:c52b:12345 --class hid\n  warder explain usb --port 1-2",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			in := usb.Subject{Port: port}
			switch {
			case port == "" && len(args) == 0:
				return usage.Errorf("name a device (VID:PID) or a port (--port 1-2)")
			case port != "" && len(args) > 0:
				return usage.Errorf("name a device or a port, not both")
			case len(args) > 0:
				e, err := policy.ParseUSBEntry(args[0])
				if err != nil || e.AnyProduct {
					return usage.Errorf("device %q must be VID:PID or VID:PID:SERIAL, with four hex digits each", args[0])
				}
				in.Vendor, in.Product, in.Serial = e.Vendor, e.Product, e.Serial
			}
			for _, s := range classes {
				class, err := policy.ParseClass(s)
				if err != nil {
					return usage.Errorf("class %q %w", s, err)
				}
				in.Classes = append(in.Classes, uint8(class))
			}
			x, dead, err := a.ask(cmd, "usb", in)
			if err != nil {
				return fmt.Errorf("cannot explain: %w", err)
			}
			st := a.screen(cmd)
			if asJSON {
				return st.json(x, true)
			}
			word := plain(strings.ToUpper(x.Answer.Answer))
			switch x.Answer.Answer {
			case "allow":
				word = st.good(word)
			case "deny":
				word = st.bad(word)
			default:
				word = st.warn(word)
			}
			st.printf("%s  %s\n  why      %s\n", word, x.Subject, x.Reason)
			if x.Nearest != "" {
				st.printf("  to turn  %s\n", x.Nearest)
			}
			if x.Now != "" {
				st.printf("  now      %s (read back)\n", x.Now)
			}
			st.printf("  policy   %s\n", x.Policy)
			if dead {
				st.printf("  %s\n", st.warn("the agent is dead; this is by the last policy it stored"))
			}
			return nil
		},
	}
	c.Flags().StringSliceVar(&classes, "class", nil, "USB classes of the device's interfaces, as names or two hex digits")
	c.Flags().StringVar(&port, "port", "", "the device plugged in here, as the kernel names it")
	c.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	return c
}

// ask asks a section about a subject, of the agent or of what a dead one left.
func (a *app) ask(cmd *cobra.Command, section string, subject any) (x agent.Explanation, dead bool, err error) {
	in := agent.ExplainRequest{Section: section}
	if in.Subject, err = json.Marshal(subject); err != nil {
		return x, false, err
	}
	err = a.client().Do(cmd.Context(), "POST", "/v1/explain", in, &x)
	if errors.Is(err, localapi.ErrNoAgent) {
		x, err = agent.ExplainOffline(cmd.Context(), a.paths(), in)
		return x, true, err
	}
	return x, false, err
}
