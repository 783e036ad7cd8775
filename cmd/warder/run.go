package main

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"

	"github.com/warderd/warder/agent"
	"github.com/warderd/warder/enforce/secret"
	"github.com/warderd/warder/platform/service"
)

func (a *app) run() *cobra.Command {
	return &cobra.Command{
		Use: "run", Short: "Run the agent (the service does)", Args: cobra.NoArgs,
		Example: "  sudo warder run\n  warder run --state ./var/agent",
		RunE: func(cmd *cobra.Command, _ []string) error {
			p := &service.Program{Run: a.serve}
			if a.state == "" {
				if err := needsRoot(cmd); err != nil {
					return err
				}
				return service.Run(p)
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			return a.serve(ctx)
		},
	}
}

// serve runs the agent until ctx ends.
func (a *app) serve(ctx context.Context) error {
	agent.Tune()
	level := new(slog.LevelVar)
	watch, _ := daemon.SdWatchdogEnabled(false)
	o := simulated(agent.Options{
		Paths: a.paths(), Version: version, Level: level, Tuned: true,
		Log:   slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level, ReplaceAttr: untimed})),
		Watch: watch / 2,
		Ready: func() { _, _ = daemon.SdNotify(false, daemon.SdNotifyReady) },
		Alive: func() { _, _ = daemon.SdNotify(false, daemon.SdNotifyWatchdog) },
	})
	ag, err := agent.New(o)
	if err != nil {
		return err
	}
	err = ag.Run(ctx)
	if cerr := ag.Close(); err == nil {
		err = cerr
	}
	return err
}

// untimed leaves the time out: the system journal adds its own.
func untimed(groups []string, at slog.Attr) slog.Attr {
	if len(groups) == 0 && at.Key == slog.TimeKey && os.Getenv("JOURNAL_STREAM") != "" {
		return slog.Attr{}
	}
	// Only the log receives text unchanged, so passwords in URLs are removed here.
	switch v := at.Value.Any().(type) {
	case string:
		return slog.String(at.Key, secret.Scrub(v))
	case error:
		return slog.String(at.Key, secret.Scrub(v.Error()))
	}
	if at.Value.Kind() == slog.KindTime {
		return slog.String(at.Key, at.Value.Time().Format(time.TimeOnly))
	}
	return at
}
