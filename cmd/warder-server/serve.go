package main

import (
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/warderd/warder/sync/server"
)

func serve() *cobra.Command {
	o := server.Options{}
	c := &cobra.Command{
		Use: "serve --data DIR", Short: "Serve the API", Args: cobra.NoArgs,
		Long:    "Serves HTTPS with the server's own certificate authority; plain HTTP only on loopback.",
		Example: "  warder-server serve --data ./var/server --http\n  warder-server serve --data /var/lib/warder-server --listen 0.0.0.0:8443 --name policy.example.com",
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			if o.Interval < 10*time.Second || o.Interval > 24*time.Hour {
				return fmt.Errorf("--interval must be from 10s to 24h (received %s)", o.Interval)
			}
			o.Log = slog.New(slog.NewTextHandler(os.Stderr, nil))
			return server.Serve(ctx, o)
		},
	}
	c.Flags().StringVar(&o.Data, "data", "", "directory of database, keys and certificates")
	c.Flags().StringVar(&o.Listen, "listen", "127.0.0.1:8443", "address to listen on")
	c.Flags().BoolVar(&o.HTTP, "http", false, "plain HTTP, on loopback alone")
	c.Flags().StringSliceVar(&o.Names, "name", nil, "host names or addresses that devices reach this server by")
	c.Flags().DurationVar(&o.Interval, "interval", 5*time.Minute, "how often devices poll")
	c.Flags().BoolVar(&o.NoPush, "no-push", false, "offer no push socket; devices poll")
	_ = c.MarkFlagRequired("data")
	return c
}
