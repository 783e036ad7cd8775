package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"

	"github.com/warderd/warder/cmd/cli"
	"github.com/warderd/warder/sync/server"
)

func (a *app) serve() *cobra.Command {
	o := server.Options{Version: version}
	var retain, level, format string
	var facades []string
	c := &cobra.Command{
		Use: "serve --data DIR", Short: "Serve the API", Args: cobra.NoArgs,
		Long: `Serves HTTPS with the server's own certificate authority, or with --cert; plain HTTP only on loopback.
One node needs nothing but a directory. Several nodes share a PostgreSQL database and the same key files.`,
		Example: `  warder-server serve --data ./var/server --http
  warder-server serve --data /var/lib/warder-server --listen 0.0.0.0:8443 --name policy.example.com
  WARDER_DATABASE=postgres://warder@db/warder warder-server serve --data /var/lib/warder-server --listen 0.0.0.0:8443`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			if o.Interval < 10*time.Second || o.Interval > 24*time.Hour {
				return cli.Usagef("--interval must be from 10s to 24h (received %s)", o.Interval)
			}
			if o.MaxInFlight < 0 || o.MaxSockets < 0 {
				return cli.Usagef("--max-in-flight and --max-sockets must be 0 or more (received %d, %d)", o.MaxInFlight, o.MaxSockets)
			}
			if o.Spread < 0 || o.Spread > time.Hour {
				return cli.Usagef("--spread must be from 0s to 1h (received %s)", o.Spread)
			}
			for _, s := range facades {
				f, err := server.ParseFacade(s)
				if err != nil {
					return cli.Usagef("--facade %w", err)
				}
				o.Facades = append(o.Facades, f)
			}
			var err error
			if o.Retain, err = parseRetain(retain); err != nil {
				return cli.Usagef("%w", err)
			}
			var l slog.Level
			if err := l.UnmarshalText([]byte(level)); err != nil {
				return cli.Usagef("--log-level must be debug, info, warn or error (received %q)", level)
			}
			lo := &slog.HandlerOptions{Level: l}
			switch format {
			case "text":
				o.Log = slog.New(slog.NewTextHandler(os.Stderr, lo))
			case "json":
				o.Log = slog.New(slog.NewJSONHandler(os.Stderr, lo))
			default:
				return cli.Usagef("--log-format must be text or json (received %q)", format)
			}
			// Thousands of open connections are much to mark and little to free, so collect less often, up to a limit.
			// GOGC and GOMEMLIMIT take precedence.
			if os.Getenv("GOGC") == "" {
				debug.SetGCPercent(400)
			}
			if os.Getenv("GOMEMLIMIT") == "" {
				debug.SetMemoryLimit(2 << 30)
			}
			if o.Data == "" {
				return cli.Usagef("--data must name a directory")
			}
			if err := server.OwnUser(o.Data); err != nil {
				return err
			}
			o.Ready = func(string) { _, _ = daemon.SdNotify(false, daemon.SdNotifyReady) }
			return server.Serve(ctx, o)
		},
	}
	f := c.Flags()
	dataFlags(c, &o.Data, &o.Database)
	f.StringVar(&o.Listen, "listen", "127.0.0.1:8443", "address to listen on")
	f.BoolVar(&o.HTTP, "http", false, "plain HTTP, on loopback alone (behind a proxy on this machine)")
	f.StringVar(&o.Cert, "cert", "",
		"PEM file of a certificate and its chain, instead of the server's own authority; read again when it changes")
	f.StringVar(&o.CertKey, "cert-key", "", "PEM file of its key")
	f.StringSliceVar(&o.Names, "name", nil, "host names or addresses that devices reach this server by")
	f.DurationVar(&o.Interval, "interval", 5*time.Minute, "how often devices poll")
	f.StringVar(&retain, "retain", "90d", "how long events are kept: days, or a duration; 0 keeps them")
	f.DurationVar(&o.Spread, "spread", time.Minute, "over which connected devices come back when the server stops")
	f.StringSliceVar(&o.Trusted, "trusted-proxy", nil, "addresses or CIDRs of proxies whose X-Forwarded-For is believed")
	f.StringArrayVar(&facades, "facade", nil,
		"answer another vendor's clients, too: VENDOR=ADDRESS (wso2=:9443); docs/moving.md says what comes after it")
	f.BoolVar(&o.NoPush, "no-push", false, "offer no push socket; devices poll")
	f.IntVar(&o.MaxInFlight, "max-in-flight", 0, "requests answered at once before 503 (0: 2048)")
	f.IntVar(&o.MaxSockets, "max-sockets", 0, "push sockets of this node (0: 50000)")
	f.StringVar(&level, "log-level", "info", "debug, info, warn or error")
	f.StringVar(&format, "log-format", "text", "text or json")
	return c
}

// dataFlags are flags of the commands that read the data directory. serve and restore, which create one, take no default.
// The database's address may contain a password, so the environment is the better place for it.
func dataFlags(c *cobra.Command, data, database *string) {
	text := "directory of keys, certificates and the SQLite database"
	c.Flags().StringVar(data, "data", "", text)
	if c.Name() == "serve" || c.Name() == "restore" {
		_ = c.MarkFlagRequired("data")
	} else {
		f := c.Flags().Lookup("data")
		f.Usage, *data = text+" (default $WARDER_DATA, or "+packagedData+")", first(os.Getenv("WARDER_DATA"), packagedData)
	}
	if database != nil {
		c.Flags().StringVar(database, "database", os.Getenv("WARDER_DATABASE"), "postgres:// URL; SQLite in --data without it")
		c.Flags().Lookup("database").DefValue = "$WARDER_DATABASE"
	}
}

// parseRetain reads "90d" or a duration.
func parseRetain(s string) (time.Duration, error) {
	if s == "0" {
		return 0, nil
	}
	d, err := time.ParseDuration(s)
	if days, ok := strings.CutSuffix(s, "d"); ok {
		var n int
		if n, err = strconv.Atoi(days); err == nil && n > 36500 {
			err = errors.New("too long")
		}
		d = time.Duration(n) * 24 * time.Hour
	}
	if err != nil || d < time.Hour {
		return 0, fmt.Errorf("--retain must be days like 90d, a duration of an hour or more, or 0 (received %q)", s)
	}
	return d, nil
}
