package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
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
		Long: "Reads the machine first, or shows the last reading if that takes longer than 1.5 seconds. Exits 0\n" +
			"when healthy and compliant; 1 noncompliant; 2 stale, degraded, unknown, or unverified (what can be read\n" +
			"here holds, and some setting cannot be); 3 when the agent cannot be reached; 4 not enrolled; 64 when the\n" +
			"command is wrong. What monitor mode found is shown to root alone.",
		Example: "  warder status\n  warder status --json | jq .rollup\n  warder status --watch",
		RunE: func(cmd *cobra.Command, _ []string) error {
			out := a.screen(cmd)
			for {
				s, err := a.getStatus(cmd)
				if err != nil && asJSON { // a program reads JSON in every state
					s.At = time.Now().UTC()
					s.Agent, s.Error, s.Findings = "unreachable", err.Error(), []enforce.Finding{}
					s.Health, s.Rollup.Compliance = []agent.Problem{}, enforce.Uncertain
				} else if err != nil {
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

// statusWait is how long the agent is waited for; one that hangs has left its status, too.
const statusWait = 1900 * time.Millisecond

// getStatus asks the agent, or reads what a dead one left.
func (a *app) getStatus(cmd *cobra.Command) (agent.Status, error) {
	var s agent.Status
	ctx, cancel := context.WithTimeout(cmd.Context(), statusWait)
	defer cancel()
	err := a.client().Do(ctx, "GET", "/v1/status?look=1", nil, &s)
	hung := errors.Is(err, context.DeadlineExceeded)
	if !errors.Is(err, localapi.ErrNoAgent) && !hung {
		return s, err
	}
	if hung {
		err = fmt.Errorf("%w: the agent did not answer within %s; it hangs or is suspended", localapi.ErrUnreachable, statusWait)
	}
	flat, ferr := agent.FlatStatus(a.paths())
	if errors.Is(ferr, fs.ErrNotExist) {
		return s, err
	}
	if ferr != nil {
		return s, errors.Join(err, ferr)
	}
	switch {
	case hung:
		flat.Agent = "hung"
	case flat.Agent == "running":
		flat.Agent = "dead"
	}
	flat.Age(time.Now())
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
	if !s.LookedAt.IsZero() && s.Enrolled {
		age := time.Since(s.LookedAt).Round(time.Second)
		text := plain("just now")
		if age > 3*time.Second {
			text = plain(age.String() + " ago")
		}
		line("looked", "%s", text)
	}
	if p := s.Policy; p != nil {
		stale := painted("")
		if p.Stale {
			stale = st.warn(", stale since " + p.Expires.Local().Format(time.DateTime))
		}
		line("policy", "%s, version %d, %s%s", p.Name, p.Version, p.State, stale)
	}
	for _, x := range s.Exceptions {
		name := x.Name()
		if x.Subject == "" {
			name = "of " + x.Section + ", which root sees,"
		}
		line("exception", "%s until %s  %s", name, x.Until.Local().Format(time.DateTime), st.dim(x.Reason))
	}
	if h := s.Hold; h != nil {
		until := "until lifted with: sudo warder revert --lift"
		if !h.Until.IsZero() {
			until = "until " + h.Until.Local().Format(time.DateTime)
		}
		line("held", "%s", st.warn(fmt.Sprintf("by %s: %s (%s)", h.Who, h.Reason, until)))
	}
	for _, name := range slices.Sorted(maps.Keys(s.Sections)) {
		line(name, "%s", sectionLine(st, s.Sections[name]))
	}
	for _, w := range s.Work {
		line("working", "%s: %s, for %d s  %s", w.Subject, w.What, w.Seconds, st.dim(w.Step))
	}
	for _, n := range slices.Sorted(maps.Keys(s.Latency)) {
		if l := s.Latency[n]; !strings.HasSuffix(n, "_verified") || strings.HasPrefix(n, "nudge") {
			line("latency", "%s  p50 %s  p99 %s  %s", strings.ReplaceAll(n, "_", " "), micros(l.P50), micros(l.P99), st.dim(fmt.Sprintf("(%d)", l.Count)))
		}
	}
	for _, h := range s.Health {
		line("problem", "%s  %s", st.warn(h), st.dim(h.Do))
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

func sectionLine(st screen, x agent.SectionStatus) painted {
	if x.Problem != "" {
		return st.warn(x.Problem)
	}
	var text painted
	for i, c := range x.Counts {
		if c.N == 0 && c.Bad {
			continue
		}
		part := st.sprintf("%d %s", c.N, c.Name)
		if c.Bad {
			part = st.warn(fmt.Sprintf("%d %s", c.N, c.Name))
		}
		if i > 0 {
			text += ", "
		}
		text += part
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
