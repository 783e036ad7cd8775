package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/warderd/warder/agent"
	"github.com/warderd/warder/cmd/cli"
	"github.com/warderd/warder/platform/resolver"
	"github.com/warderd/warder/platform/tunnel"
)

func (a *app) network() *cobra.Command {
	c := a.networkShow()
	c.AddCommand(a.networkPortal())
	return c
}

func (a *app) networkPortal() *cobra.Command {
	return &cobra.Command{
		Use: "portal", Short: "Open access to a hotel's or a train's sign-in page for five minutes", Args: cobra.NoArgs,
		Example: "  warder network portal",
		Long: "Where a sign-in page stands before the network, the policy may keep it out of reach. This opens access to it for\n" +
			"five minutes, at most three times a day, and only while the policy server cannot be reached. Names that the policy\n" +
			"blocks stay refused. It ends as soon as the policy server is reached, and your company is told.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			var s agent.PortalStatus
			if err := a.client().Do(cmd.Context(), "POST", "/v1/portal", nil, &s); err != nil {
				return fmt.Errorf("cannot open access to the sign-in page: %w", err)
			}
			return a.say(cmd, s, "You can reach the sign-in page until %s (%d of %d times in a day). Open any page in your browser.\n",
				s.Until.Local().Format("15:04:05"), s.Used, s.Most)
		},
	}
}

func (a *app) networkShow() *cobra.Command {
	return &cobra.Command{
		Use: "network", Short: "What names were refused, which servers are asked, and the VPNs", Args: cobra.NoArgs,
		Example: "  sudo warder network\n  sudo warder network --json",
		Long: "Shows what the policy does about names: whether they are judged, which servers were asked, what was refused\n" +
			"lately, and which addresses can be reached because an allowed name resolved to them; and the tunnels of this machine.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			var s resolver.State
			if err := a.client().Do(cmd.Context(), "GET", "/v1/inventory/network", nil, &s); err != nil {
				return fmt.Errorf("cannot show the network: %w", err)
			}
			var lists []agent.ListStatus
			if err := a.client().Do(cmd.Context(), "GET", "/v1/lists", nil, &lists); err != nil {
				return fmt.Errorf("cannot show the lists: %w", err)
			}
			var v tunnel.State
			if err := a.client().Do(cmd.Context(), "GET", "/v1/inventory/tunnel", nil, &v); err != nil {
				return fmt.Errorf("cannot show the VPNs: %w", err)
			}
			st := a.screen(cmd)
			if a.JSON() {
				return st.JSON(struct {
					resolver.State
					Lists   []agent.ListStatus `json:"lists"`
					Tunnels tunnel.State       `json:"tunnels"`
				}{s, lists, v}, true)
			}
			now := time.Now()
			switch s.Mode {
			case "enforce":
				st.Printf("Names are judged, and refused as the policy says.\n")
				st.Printf("  firewall         %s\n", cli.Plain(s.Reach))
				st.Printf("  so far           %d refused, %d answered from memory, %d answers kept\n", s.Counts["refused"],
					s.Counts["cached"], s.Cached)
				if len(s.Domains) > 0 {
					st.Printf("  local domains    %s\n", cli.Plain(strings.Join(s.Domains, ", ")))
				}
			case "observe":
				st.Printf("Names are judged as programs look them up, and nothing is refused (the policy is not in enforce mode).\n")
			default:
				st.Printf("The policy says nothing about names.\n")
			}
			showTunnels(st, v)
			showLists(st, lists)
			if len(s.Servers) > 0 {
				st.Printf("\nServers that were asked\n")
			}
			for _, x := range s.Servers {
				st.Printf("  %-28s %d questions, %d failed, the last %s ago", cli.Plain(x.Server), x.Asked, x.Failed, since(now, x.Last))
				if x.Problem != "" {
					st.Printf(": %s", st.Warn(cli.Plain(x.Problem)))
				}
				st.Printf("\n")
			}
			if len(s.Refused) > 0 {
				st.Printf("\nRefused lately\n")
			}
			for _, x := range first(st, s.Refused) {
				word := ""
				if x.Would {
					word = "would be refused: "
				}
				st.Printf("  %-28s %s%d times, the last %s ago: %s\n", cli.Plain(x.Name), word, x.Count, since(now, x.Last), cli.Plain(x.Reason))
			}
			if len(s.Admitted) > 0 {
				st.Printf("\nCan be reached, because an allowed name resolved to it\n")
			}
			for _, x := range first(st, s.Admitted) {
				st.Printf("  %-28s %s, for another %s\n", x.Address, cli.Plain(x.Name), time.Duration(x.Seconds)*time.Second)
			}
			return nil
		},
	}
}

// showTunnels prints the tunnels, and by which way most packets leave.
func showTunnels(st cli.Screen, v tunnel.State) {
	if len(v.List) > 0 || v.Switch != "" {
		st.Printf("\nTunnels\n")
	}
	if v.Problem != "" {
		st.Printf("\n%s\n", cli.Plain("The tunnels are not known: "+v.Problem))
	}
	for _, t := range v.List {
		state := "up"
		if !t.Up {
			state = "down"
		}
		if e := v.Endpoints[t.Name]; len(e) > 0 {
			state += ", to " + strings.Join(e, ", ")
		}
		st.Printf("  %-28s %s, %s", cli.Plain(t.Name), t.Kind, cli.Plain(state))
		if t.Silent != "" {
			st.Printf(": %s", st.Warn(cli.Plain(t.Silent)))
		}
		st.Printf("\n")
	}
	for _, w := range v.Ways {
		if w.Most && len(v.List) > 0 {
			st.Printf("  most of IPv%d leaves by %s\n", w.Family, cli.Plain(w.Interface))
		}
	}
	if v.Switch != "" {
		st.Printf("  the kill switch is %s\n", cli.Plain(v.Switch))
	}
}

// showLists prints the long lists that the policy names.
func showLists(st cli.Screen, lists []agent.ListStatus) {
	if len(lists) > 0 {
		st.Printf("\nLong lists\n")
	}
	for _, l := range lists {
		kind := strings.TrimSuffix(strings.TrimPrefix(l.Setting, "network."), "_lists")
		st.Printf("  %-28s %s, ", cli.Plain(l.ID), cli.Plain(kind))
		switch {
		case l.InForce == l.SHA256:
			st.Printf("%d names, version %s\n", l.Names, cli.Plain(l.Short()))
		case l.InForce != "":
			st.Printf("%s\n", st.Warn(cli.Plain(fmt.Sprintf("version %s: %s; version %.12s with %d names is in force meanwhile", l.Short(), l.Problem,
				l.InForce, l.Names))))
		default:
			st.Printf("%s\n", st.Warn(cli.Plain(fmt.Sprintf("version %s: %s", l.Short(), l.Problem))))
		}
	}
}

// first is the beginning of a list; how long it is, is printed before it.
func first[T any](st cli.Screen, list []T) []T {
	const most = 20
	if len(list) > most {
		st.Printf("  the first %d of %d (--json shows all)\n", most, len(list))
	}
	return list[:min(len(list), most)]
}

// since is how long ago something was, in whole seconds.
func since(now, then time.Time) time.Duration { return max(0, now.Sub(then)).Round(time.Second) }
