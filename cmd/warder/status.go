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
	"github.com/warderd/warder/cmd/cli"
	"github.com/warderd/warder/enforce"
)

func (a *app) status() *cobra.Command {
	var watch bool
	c := &cobra.Command{
		Use: "status", Short: "How this machine stands with its policy", Args: cobra.NoArgs,
		Long: "Reads the machine first, or shows the last reading if that takes longer than 1.5 seconds. Exits 0\n" +
			"when healthy and compliant; 1 noncompliant; 2 stale, degraded, unknown, or unverified (what can be read\n" +
			"here complies, and some setting cannot be read) or suspended; 3 when the agent cannot be reached; 4 not enrolled; " +
			"64 when the\n" +
			"command is wrong. What monitor mode found is shown to root alone.",
		Example: "  warder status\n  warder status --json | jq .rollup\n  warder status --watch",
		RunE: func(cmd *cobra.Command, _ []string) error {
			out := a.screen(cmd)
			for {
				s, err := a.getStatus(cmd)
				if err != nil && a.JSON() { // programs get JSON in every state
					s.At = time.Now().UTC()
					s.Agent, s.Error, s.Findings = "unreachable", err.Error(), []enforce.Finding{}
					s.Health, s.Rollup.Compliance = []agent.Problem{}, enforce.Uncertain
				} else if err != nil {
					return err
				}
				switch {
				case a.JSON():
					_ = out.JSON(s, true)
				default:
					if watch {
						out.Clear()
					}
					render(out, s)
				}
				if !watch {
					if code := s.Exit(); code != 0 {
						return cli.Exit(code)
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
	c.Flags().BoolVar(&watch, "watch", false, "again every second, until interrupted")
	return c
}

// statusWait is how long to wait for the agent. One that hangs has left its status in a file.
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

// compliance paints a compliance by what it means.
func compliance(s cli.Screen, c enforce.Compliance) cli.Painted {
	switch c {
	case enforce.Compliant:
		return s.Good(c)
	case enforce.Noncompliant:
		return s.Bad(c)
	}
	return s.Warn(c)
}

// render prints the whole status.
func render(st cli.Screen, s agent.Status) {
	line := func(name, format string, args ...any) {
		st.Printf("  %s %s\n", st.Dim(fmt.Sprintf("%-10s", name)), st.Sprintf(format, args...))
	}
	st.Printf("%s  %s\n", st.Bold("Warder "+s.Version), headline(st, s))
	if s.Agent != "running" {
		line("agent", "%s; this is how it stood at %s", st.Bad("is "+s.Agent), s.At.Local().Format(time.DateTime))
	}
	if !s.Enrolled {
		line("enrollment", "none; nothing is managed. Enroll with: sudo warder enroll --server URL --token T")
	} else {
		line("server", "%s  %s", s.Server, st.Dim(s.DeviceID))
		line("check-in", "%s", checkIn(st, s))
	}
	if !s.LookedAt.IsZero() && s.Enrolled {
		age := time.Since(s.LookedAt).Round(time.Second)
		text := cli.Plain("just now")
		if age > 3*time.Second {
			text = cli.Plain(age.String() + " ago")
		}
		line("looked", "%s", text)
	}
	if p := s.Policy; p != nil {
		stale := cli.Painted("")
		if p.Stale {
			stale = st.Warn(", stale since " + p.Expires.Local().Format(time.DateTime))
		}
		line("policy", "%s, version %d, %s%s", p.Name, p.Version, p.State, stale)
	}
	for _, x := range s.Exceptions {
		name := x.Name()
		if x.Subject == "" {
			name = x.Section + " (only root sees for what)"
		}
		line("exception", "%s until %s  %s", name, x.Until.Local().Format(time.DateTime), st.Dim(x.Reason))
	}
	if p := s.Portal; p != nil {
		line("portal", "%s", st.Warn(fmt.Sprintf("access to a sign-in page is open until %s (%d of %d times in a day)",
			p.Until.Local().Format(time.TimeOnly), p.Used, p.Most)))
	}
	if h := s.Hold; h != nil {
		until := "until it is lifted with: sudo warder revert --lift"
		if !h.Until.IsZero() {
			until = "until " + h.Until.Local().Format(time.DateTime)
		}
		line("suspended", "%s", st.Warn(fmt.Sprintf("%s, by %s: %s", until, h.Who, h.Reason)))
	}
	for _, name := range slices.Sorted(maps.Keys(s.Sections)) {
		line(name, "%s", sectionLine(st, s.Sections[name]))
	}
	for _, w := range s.Work {
		line("working", "%s: %s, since %d s  %s", w.Subject, w.What, w.Seconds, st.Dim(w.Step))
	}
	for _, n := range slices.Sorted(maps.Keys(s.Latency)) {
		if l := s.Latency[n]; !strings.HasSuffix(n, "_verified") || strings.HasPrefix(n, "nudge") {
			line("latency", "%s: p50 %s, p99 %s  %s", strings.ReplaceAll(n, "_", " "), micros(l.P50), micros(l.P99),
				st.Dim(fmt.Sprintf("(%d measured)", l.Count)))
		}
	}
	for _, h := range s.Health {
		line("problem", "%s  %s", st.Warn(h), st.Dim(h.Do))
	}
	findings(st, s)
}

// headline is the state in a word or two.
func headline(st cli.Screen, s agent.Status) cli.Painted {
	switch {
	case !s.Enrolled:
		return st.Warn("not enrolled")
	case s.Hold != nil:
		return st.Warn("policy suspended")
	case s.Policy == nil:
		return st.Warn("no policy yet")
	}
	all := s.Rollup.Managed + s.Rollup.Unsupported
	if all == 0 && s.Hidden > 0 {
		return st.Dim(fmt.Sprintf("%s in monitor mode; only root can see them", cli.Count(s.Hidden, "setting")))
	}
	text := compliance(st, s.Rollup.Compliance)
	if s.Rollup.WrongMode {
		text = st.Bad("wrong mode")
	}
	return text + st.Dim(fmt.Sprintf("  %s managed, %d of them unsupported here", cli.Count(all, "setting"),
		s.Rollup.Unsupported))
}

// checkIn describes the last and the next check-in.
func checkIn(st cli.Screen, s agent.Status) cli.Painted {
	text := cli.Painted("never")
	if !s.CheckIn.Last.IsZero() {
		text = cli.Plain(s.At.Sub(s.CheckIn.Last).Round(time.Second).String() + " ago")
	}
	if s.CheckIn.Error != "" {
		text += ", " + st.Bad(s.CheckIn.Error)
	}
	if !s.CheckIn.Next.IsZero() {
		text += ", next in " + cli.Plain(max(s.CheckIn.Next.Sub(s.At), 0).Round(time.Second).String())
	}
	if s.CheckIn.Push {
		text += ", push connected"
	}
	if s.CheckIn.Backlog > 0 {
		text += st.Sprintf(", %s waiting to be sent", cli.Count(s.CheckIn.Backlog, "event"))
	}
	return text
}

// sectionLine prints a section's figures.
func sectionLine(st cli.Screen, x agent.SectionStatus) cli.Painted {
	if x.Problem != "" {
		return st.Warn(x.Problem)
	}
	var text cli.Painted
	for i, c := range x.Counts {
		if c.N == 0 && c.Bad {
			continue
		}
		label := fmt.Sprintf("%d %s", c.N, c.Name)
		if c.N == 1 {
			label = "1 " + singular(c.Name)
		}
		part := cli.Plain(label)
		if c.Bad {
			part = st.Warn(label)
		}
		if i > 0 {
			text += ", "
		}
		text += part
	}
	return text
}

// singular returns a count's name for one of it: "buses" becomes "bus"; "refused" stays.
func singular(name string) string {
	if s, ok := strings.CutSuffix(name, "ses"); ok {
		return s + "s"
	}
	return strings.TrimSuffix(name, "s")
}

func micros(us int64) string {
	return (time.Duration(us) * time.Microsecond).Round(10 * time.Microsecond).String()
}

// findings prints the table of settings.
func findings(st cli.Screen, s agent.Status) {
	const row = "  %s%s %-34s %-8s %-15s %s\n"
	if len(s.Findings) > 0 {
		st.Printf("\n  %s\n", st.Dim(fmt.Sprintf("%-13s %-34s %-8s %-15s %s", "STATE", "SETTING", "MODE", "HERE", "WHY")))
	}
	for _, f := range s.Findings {
		state := compliance(st, f.Compliance)
		pad := strings.Repeat(" ", max(13-len(f.Compliance), 1))
		if f.Enforcement == enforce.Unsupported {
			state, pad = st.Dim("unsupported"), "  "
		}
		how := strings.ReplaceAll(string(f.Enforcement), "_", " ")
		if f.Enforcement == enforce.Unsupported {
			how = ""
		}
		st.Printf(row, state, pad, f.Setting, f.Mode, how, st.Dim(f.Reason))
	}
	if s.Hidden > 0 {
		st.Printf("  %s\n", st.Dim(fmt.Sprintf("%s in monitor mode; only root can see them", cli.Count(s.Hidden, "setting"))))
	}
}
