package main

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/warderd/warder/agent"
	"github.com/warderd/warder/agent/localapi"
	"github.com/warderd/warder/enforce"
)

func (a *app) status() *cobra.Command {
	var asJSON, watch bool
	c := &cobra.Command{
		Use: "status", Short: "How this machine stands with its policy", Args: cobra.NoArgs,
		Long: "Exits 0 when healthy and compliant, 1 noncompliant, 2 stale, degraded or unknown, 3 when the agent\n" +
			"cannot be reached, 4 not enrolled. What monitor mode found is shown to root alone.",
		Example: "  warder status\n  warder status --json | jq .rollup\n  warder status --watch",
		RunE: func(cmd *cobra.Command, _ []string) error {
			out := a.screen(cmd)
			for {
				s, err := a.getStatus(cmd)
				if err != nil {
					return err
				}
				switch {
				case asJSON:
					_ = out.json(s, true)
				default:
					if watch {
						out.clear()
					}
					render(out, s)
				}
				if !watch {
					if code := s.Exit(); code != 0 {
						return exit(code)
					}
					return nil
				}
				select {
				case <-cmd.Context().Done():
					return nil
				case <-time.After(time.Second):
				}
			}
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	c.Flags().BoolVar(&watch, "watch", false, "again every second, until interrupted")
	return c
}

// getStatus asks the agent, or reads what a dead one left.
func (a *app) getStatus(cmd *cobra.Command) (agent.Status, error) {
	var s agent.Status
	err := a.client().Do(cmd.Context(), "GET", "/v1/status", nil, &s)
	if !errors.Is(err, localapi.ErrNoAgent) {
		return s, err
	}
	flat, ferr := agent.FlatStatus(a.paths())
	if errors.Is(ferr, fs.ErrNotExist) {
		return s, err
	}
	if ferr != nil {
		return s, errors.Join(err, ferr)
	}
	if flat.Agent == "running" {
		flat.Agent = "dead"
	}
	return flat, nil
}

func (s style) compliance(c enforce.Compliance) painted {
	switch c {
	case enforce.Compliant:
		return s.good(c)
	case enforce.Noncompliant:
		return s.bad(c)
	}
	return s.warn(c)
}

func render(st screen, s agent.Status) {
	line := func(name, format string, args ...any) {
		st.printf("  %s %s\n", st.dim(fmt.Sprintf("%-10s", name)), st.sprintf(format, args...))
	}
	st.printf("%s  %s\n", st.bold("Warder "+s.Version), headline(st, s))
	if s.Agent != "running" {
		line("agent", "%s; this is how it stood at %s", st.bad("is "+s.Agent), s.At.Local().Format(time.DateTime))
	}
	if !s.Enrolled {
		line("enrolment", "none; nothing is managed. Enrol with: sudo warder enroll --server URL --token T")
	} else {
		line("server", "%s  %s", s.Server, st.dim(s.DeviceID))
		line("check-in", "%s", checkIn(st, s))
	}
	if p := s.Policy; p != nil {
		stale := painted("")
		if p.Stale {
			stale = st.warn(", stale since " + p.Expires.Local().Format(time.DateTime))
		}
		line("policy", "%s, version %d, %s%s", p.Name, p.Version, p.State, stale)
	}
	for _, x := range s.Exceptions {
		stick := x.USB
		if stick == "" {
			stick = "a stick, which root sees,"
		}
		line("exception", "%s until %s  %s", stick, x.Until.Local().Format(time.DateTime), st.dim(x.Reason))
	}
	if h := s.Hold; h != nil {
		until := "until lifted with: sudo warder revert --lift"
		if !h.Until.IsZero() {
			until = "until " + h.Until.Local().Format(time.DateTime)
		}
		line("held", "%s", st.warn(fmt.Sprintf("by %s: %s (%s)", h.Who, h.Reason, until)))
	}
	line("usb", "%s", usbLine(st, s.USB))
	for _, r := range s.Releases {
		line("releasing", "%s for %d s, before it is taken away  %s", r.Device, r.Seconds, st.dim(r.Step))
	}
	for _, n := range []string{"insert_to_decision", "nudge_to_verified"} {
		if l, ok := s.Latency[n]; ok {
			line("latency", "%s  p50 %s  p99 %s  %s", strings.ReplaceAll(n, "_", " "), micros(l.P50), micros(l.P99), st.dim(fmt.Sprintf("(%d)", l.Count)))
		}
	}
	for _, h := range s.Health {
		line("problem", "%s", st.warn(h))
	}
	findings(st, s)
}

func headline(st screen, s agent.Status) painted {
	switch {
	case !s.Enrolled:
		return st.warn("not enrolled")
	case s.Hold != nil:
		return st.warn("held")
	case s.Policy == nil:
		return st.warn("no policy yet")
	}
	text := st.compliance(s.Rollup.Compliance)
	if s.Rollup.WrongMode {
		text = st.bad("wrong mode")
	}
	return text + st.dim(fmt.Sprintf("  %d settings, %d unsupported here", s.Rollup.Managed, s.Rollup.Unsupported))
}

func checkIn(st screen, s agent.Status) painted {
	text := painted("never")
	if !s.CheckIn.Last.IsZero() {
		text = plain(s.At.Sub(s.CheckIn.Last).Round(time.Second).String() + " ago")
	}
	if s.CheckIn.Error != "" {
		text += ", " + st.bad(s.CheckIn.Error)
	}
	if !s.CheckIn.Next.IsZero() {
		text += ", next in " + plain(max(s.CheckIn.Next.Sub(s.At), 0).Round(time.Second).String())
	}
	if s.CheckIn.Push {
		text += ", push"
	}
	if s.CheckIn.Backlog > 0 {
		text += st.sprintf(", %d events waiting", s.CheckIn.Backlog)
	}
	return text
}

func usbLine(st screen, u agent.USBStatus) painted {
	if u.Problem != "" {
		return st.warn(u.Problem)
	}
	if u.Buses == 0 {
		return "this machine has no USB bus; there is nothing to guard"
	}
	text := st.sprintf("%d devices on %d buses", u.Devices, u.Buses)
	if u.Refused > 0 {
		text += ", " + st.bad(fmt.Sprintf("%d refused", u.Refused))
	}
	if u.Guarded > 0 {
		text += ", " + st.warn(fmt.Sprintf("%d kept by a guard", u.Guarded))
	}
	return text
}

func micros(us int64) string {
	return (time.Duration(us) * time.Microsecond).Round(10 * time.Microsecond).String()
}

func findings(st screen, s agent.Status) {
	if len(s.Findings) > 0 {
		st.printf("\n")
	}
	for _, f := range s.Findings {
		state := st.compliance(f.Compliance)
		pad := strings.Repeat(" ", max(13-len(f.Compliance), 1))
		if f.Enforcement == enforce.Unsupported {
			state, pad = st.dim("unsupported"), "  "
		}
		how := string(f.Enforcement)
		if f.Enforcement == enforce.Unsupported {
			how = ""
		}
		st.printf("  %s%s %-34s %-8s %-12s %s\n", state, pad, f.Setting, f.Mode, how, st.dim(f.Reason))
	}
	if s.Hidden > 0 {
		st.printf("  %s\n", st.dim(fmt.Sprintf("%d settings in monitor mode are shown to root", s.Hidden)))
	}
}
