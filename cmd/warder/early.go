package main

import (
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"

	"github.com/warderd/warder/agent"
)

// early puts the policy in force from early in the boot until the agent takes over. Its unit runs it; people do not.
func (a *app) early() *cobra.Command {
	return &cobra.Command{
		Use: "early", Short: "Put the policy in force while the machine boots (the service does)", Args: cobra.NoArgs, Hidden: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			// Not the configured state directory: its disk may not be mounted yet, and nothing is stored there.
			return agent.Early(ctx, agent.Options{
				Paths: a.paths(), Version: version,
				Log:   slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{ReplaceAttr: untimed})),
				Ready: func() { _, _ = daemon.SdNotify(false, daemon.SdNotifyReady) },
			})
		},
	}
}
