package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/warderd/warder/agent"
	"github.com/warderd/warder/agent/localapi"
	"github.com/warderd/warder/enforce/secret"
)

func (a *app) enroll() *cobra.Command {
	var e agent.Enrollment
	var token string
	c := &cobra.Command{
		Use: "enroll --server URL --token T [--ca-pin sha256:…]", Short: "Enroll this machine with a policy server", Args: cobra.NoArgs,
		Long: "Registers this machine. With --ca-pin the server's own certificate authority is the only one\n" +
			"trusted from then on; without it the system's authorities must vouch for the server.",
		Example: "  sudo warder enroll --server https://policy.example.com --token T --ca-pin sha256:5f0c…",
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			e.Token = secret.Text(token)
			err := a.client().Do(ctx, "POST", "/v1/enroll", e, nil)
			if err != nil && os.Getenv("HTTPS_PROXY")+os.Getenv("https_proxy") != "" && !errors.Is(err, localapi.ErrNoAgent) {
				// A running agent enrolls by itself: it has the service's environment.
				err = fmt.Errorf("%w (HTTPS_PROXY is set in this shell; the agent does not see it: write proxy = \"…\" into %s)", err,
					a.paths().ConfigFile())
			}
			running := true
			if errors.Is(err, localapi.ErrNoAgent) {
				// No agent is running: store the enrollment for its next start.
				running = false
				err = agent.EnrollOffline(ctx, a.paths(), e)
			}
			if err != nil {
				return fmt.Errorf("cannot enroll: %w", err)
			}
			result := struct {
				Enrolled bool   `json:"enrolled"`
				Server   string `json:"server"`
				Running  bool   `json:"agent_running"`
			}{true, e.Server, running}
			if !running {
				return a.say(cmd, result, "Enrolled. No agent runs yet: %s\n", a.howToStart(ctx))
			}
			return a.say(cmd, result, "Enrolled. Try: warder status\n")
		},
	}
	c.Flags().StringVar(&e.Server, "server", "", "URL of the policy server")
	c.Flags().StringVar(&token, "token", "", "enrollment token")
	c.Flags().StringVar(&e.CAPin, "ca-pin", "", "fingerprint of the server's certificate authority, sha256:…")
	_ = c.MarkFlagRequired("server")
	_ = c.MarkFlagRequired("token")
	return c
}
