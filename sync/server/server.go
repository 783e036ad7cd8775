package server

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/sync/server/api"
	"github.com/warderd/warder/sync/server/store"
)

// Options of a server.
type Options struct {
	Data     string        // directory of database, keys and certificates
	Listen   string        // host:port
	HTTP     bool          // plain HTTP; only on loopback
	Names    []string      // more names that devices reach it by
	Interval time.Duration // devices poll at this
	Log      *slog.Logger
	NoPush   bool              // offer no socket; devices poll
	Ready    func(addr string) // called once it listens
}

// clock is the server's; a build for tests sets it wrong.
var clock = time.Now

// Serve runs until the context ends.
func Serve(ctx context.Context, o Options) error {
	host, _, err := net.SplitHostPort(o.Listen)
	if err != nil {
		return fmt.Errorf("listen address %q: %w", o.Listen, err)
	}
	if ip := net.ParseIP(host); o.HTTP && host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return fmt.Errorf("plain HTTP is for this machine alone: listen on 127.0.0.1, or leave --http out (listen address %q)", o.Listen)
	}
	keys, err := LoadKeys(o.Data)
	if err != nil {
		return err
	}
	s, err := OpenStore(ctx, o.Data, time.Now())
	if err != nil {
		return err
	}
	defer s.Close()
	a := &api.API{Store: s, PolicyKey: keys.Policy, PolicyKeys: keys.PolicyKeys(), RecoveryKey: keys.RecoveryKey(),
		Now: clock, Log: o.Log, Interval: o.Interval, NoPush: o.NoPush,
		Admin: func(token string, now time.Time) (string, string, error) {
			c, err := keys.AdminOf(token, now)
			return c.Subject, c.Role, err
		}}
	l, err := net.Listen("tcp", o.Listen)
	if err != nil {
		return err
	}
	h := &http.Server{
		Handler: a.Handler(), ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 60 * time.Second, IdleTimeout: 15 * time.Minute,
		MaxHeaderBytes: 16 << 10, BaseContext: func(net.Listener) context.Context { return ctx }, ErrorLog: slog.NewLogLogger(o.Log.Handler(), slog.LevelDebug),
	}
	scheme := "http"
	if !o.HTTP {
		ca, err := LoadCA(o.Data, time.Now())
		if err != nil {
			return err
		}
		self, _ := os.Hostname()
		certs := &renewing{ca: ca, names: append([]string{host, self, "localhost", "127.0.0.1", "::1"}, o.Names...)}
		if _, err := certs.get(nil); err != nil {
			return err
		}
		l = tls.NewListener(l, &tls.Config{GetCertificate: certs.get, MinVersion: tls.VersionTLS12})
		scheme = "https"
		o.Log.Info("serving", "url", scheme+"://"+l.Addr().String(), "ca", ca.Fingerprint())
	} else {
		o.Log.Info("serving", "url", scheme+"://"+l.Addr().String())
	}
	if o.Ready != nil {
		o.Ready(scheme + "://" + l.Addr().String())
	}
	done := make(chan error, 1)
	go func() { done <- h.Serve(l) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := h.Shutdown(stop); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return nil
}

// renewing issues the server's certificate anew before it ends: a server that runs for a year must
// not lose its fleet.
type renewing struct {
	ca    *CA
	names []string
	mu    sync.Mutex
	cert  *tls.Certificate
	until time.Time
}

func (r *renewing) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now := time.Now(); r.cert == nil || now.After(r.until) {
		c, err := r.ca.Certificate(r.names, now)
		if err != nil {
			return nil, err
		}
		r.cert, r.until = &c, now.AddDate(0, 6, 0)
	}
	return r.cert, nil
}

// OpenStore opens a data directory's database. A fresh one gets the default policy.
func OpenStore(ctx context.Context, data string, now time.Time) (*store.Store, error) {
	if err := os.MkdirAll(data, 0o700); err != nil {
		return nil, err
	}
	s, err := store.Open(filepath.Join(data, "server.db"))
	if err != nil {
		return nil, err
	}
	if _, err := s.Default(ctx); errors.Is(err, store.ErrNotFound) {
		err = firstPolicy(ctx, s, now)
		if err != nil {
			_ = s.Close()
			return nil, err
		}
	}
	return s, nil
}

// balanced is the default policy of a fresh server: what most companies would begin with, in
// monitor mode, so that nobody's machine changes before an administrator has looked.
const balanced = `{"usb":{"allowed_classes":["hid","audio","video","printer","smart_card","cdc","cdc_data","mass_storage"]},` +
	`"storage":{"encryption_required":true,"external_storage_allowed":true},"network":{"vpn_required":false},"dlp":{"print_allowed":true}}`

func firstPolicy(ctx context.Context, s *store.Store, now time.Time) error {
	p := &store.Policy{ID: "policy-default", Name: "Default Security Policy", Description: "Balance between security and usability",
		Active: true, Version: 1, Compliance: `"monitor"`, Data: json.RawMessage(balanced), CreatedAt: now, UpdatedAt: now}
	d, err := policy.Decode(p.Document(), policy.Options{Strict: true})
	if err != nil {
		return err
	}
	p.Digest = d.Digest
	if err := s.PutPolicy(ctx, p, 0, "warder-server", policy.Diff(nil, d)); err != nil && !errors.Is(err, store.ErrStale) {
		return err
	}
	return s.SetDefault(ctx, p.ID)
}
