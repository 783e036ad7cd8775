package server

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/gofrs/flock"

	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/platform/durable"
	"github.com/warderd/warder/sync/server/api"
	"github.com/warderd/warder/sync/server/fleet"
	"github.com/warderd/warder/sync/server/store"
	"github.com/warderd/warder/sync/server/templates"
)

// Options of a server.
type Options struct {
	Data     string        // directory of keys and certificates, and of the SQLite database
	Database string        // postgres://…; empty for SQLite in Data
	Listen   string        // host:port
	HTTP     bool          // plain HTTP; only on loopback
	Cert     string        // PEM files of a certificate from elsewhere, instead of the server's own authority
	CertKey  string        // private key of Cert
	Names    []string      // more names that devices reach it by
	Interval time.Duration // how often devices poll
	Retain   time.Duration // of events; 0 keeps them
	Spread   time.Duration // time over which sockets are told to reconnect when the server stops
	Trusted  []string      // proxies whose X-Forwarded-For is believed
	Version  string
	Log      *slog.Logger
	NoPush   bool              // offer no socket; devices poll
	Ready    func(addr string) // called once it listens
	// Facades are other vendors' consoles that it answers for, and FacadeReady is called with each one's address.
	Facades     []Facade
	FacadeReady func(vendor, addr string)

	MaxInFlight, MaxSockets, MaxConns int // 0 means the default

	tick time.Duration // how often rollouts are checked; 0 means the default
	now  func() time.Time
}

// clock is the server's; a build for tests sets it wrong.
var clock = time.Now

// stopWait is how long requests under way may take when the server stops.
const stopWait = 20 * time.Second

// Serve runs until ctx ends. Then it answers the requests it has accepted, and writes what is not stored yet.
func Serve(ctx context.Context, o Options) error {
	host, _, err := net.SplitHostPort(o.Listen)
	if err != nil {
		return fmt.Errorf("listen address %q: %w", o.Listen, err)
	}
	if o.HTTP && !loopback(host) {
		return fmt.Errorf("plain HTTP is for this machine alone: listen on 127.0.0.1, or leave --http out (listen address %q)", o.Listen)
	}
	keys, err := LoadKeys(o.Data)
	if err != nil {
		return err
	}
	for _, f := range keys.loose() {
		o.Log.Warn("others than the server's user may read a secret: chmod go= it", "file", f)
	}
	unlock, err := o.alone()
	if err != nil {
		return err
	}
	defer unlock()
	s, err := OpenStore(ctx, o.Data, o.Database, clock())
	if err != nil {
		return err
	}
	defer s.Close()
	if err := sameKey(ctx, s, keys); err != nil {
		return err
	}
	tlsConfig, err := o.tls(keys, host)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", o.Listen)
	if err != nil {
		return err
	}
	if o.now == nil {
		o.now = clock
	}
	most := o.conns()
	if o.MaxSockets == 0 {
		o.MaxSockets = 50_000
	}
	// Sockets stay open: a quarter of the connections is reserved for everything else.
	o.MaxSockets = max(min(o.MaxSockets, most*3/4), 1)
	a := &api.API{Store: s, Keys: keys, Now: o.now, Log: o.Log, Interval: o.Interval, NoPush: o.NoPush, Retain: o.Retain,
		Version: o.Version,
		Trusted: o.Trusted, TLS: tlsConfig != nil, MaxInFlight: o.MaxInFlight, MaxSockets: o.MaxSockets, Tick: o.tick}
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	others, err := o.listenFacades()
	if err != nil {
		_ = l.Close()
		return err
	}
	wait, err := a.Start(running)
	if err != nil {
		_ = l.Close()
		for _, x := range others {
			_ = x.l.Close()
		}
		return err
	}
	var beside sync.WaitGroup
	beside.Go(func() { reloading(running, keys, s, tlsConfig, o.Log) })
	h := httpServer(running, a.Handler(), o.Log)
	open := keep(l, most, o.Log)
	h.ConnState, l = open.state, open
	scheme := "http"
	if tlsConfig != nil {
		scheme, l = "https", tls.NewListener(l, tlsConfig)
	}
	l = spoken{l}
	o.Log.Info("serving", "url", scheme+"://"+l.Addr().String(), "database", s.Name(), "ca", keys.CAPin())
	if err := o.noteServing(scheme, l.Addr()); err != nil {
		o.Log.Warn("commands on this machine must be told the address with --server", "error", err)
	}
	failed := make(chan error, len(others))
	o.serveFacades(running, a, others, tlsConfig, failed)
	if o.Ready != nil {
		o.Ready(scheme + "://" + l.Addr().String())
	}
	done := make(chan error, 1)
	go func() { done <- h.Serve(l) }()
	var stopping sync.WaitGroup
	end := func() (context.Context, context.CancelFunc) {
		ending, cancel := context.WithTimeout(context.Background(), stopWait)
		stopping.Go(func() { stopFacades(ending, others) })
		return ending, cancel
	}
	select {
	case err = <-done:
		_, cancel := end()
		defer cancel()
	case err = <-failed:
		_, cancel := end()
		defer cancel()
		_ = h.Close()
		<-done
	case <-ctx.Done():
		o.Log.Info("stopping")
		_ = os.Remove(filepath.Join(o.Data, servingFile)) // the port may soon be somebody else's
		a.Stop(o.Spread)
		ending, cancel := end()
		defer cancel()
		if err = h.Shutdown(ending); errors.Is(err, context.DeadlineExceeded) {
			o.Log.Warn("requests were still under way", "after", stopWait)
			err = h.Close()
		}
		<-done
	}
	stopping.Wait()
	stop()
	beside.Wait()
	wait()
	return err
}

// alone prevents a second server on a directory with a SQLite database: the two would not learn of each other's devices
// in time.
func (o *Options) alone() (func(), error) {
	if o.Database != "" {
		return func() {}, nil
	}
	l := flock.New(filepath.Join(o.Data, servingLock), flock.SetPermissions(0o600))
	ok, err := l.TryLock()
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, fmt.Errorf("another warder-server serves from %s; for several nodes use --database postgres://…", o.Data)
	}
	return func() { _ = l.Unlock() }, nil
}

// sameKey refuses a node whose policy key is not the fleet's: devices would refuse its policies.
func sameKey(ctx context.Context, s *store.Store, k *Keys) error {
	const name = "policy_key"
	mine := k.Signing().KeyID
	theirs, err := s.Meta(ctx, name)
	if err != nil || theirs == mine {
		return err
	}
	if theirs != "" && !k.Follows(theirs) {
		return fmt.Errorf("policy.key in this data directory is not the key that this database's devices trust (%s): copy the key files "+
			"from the node that has it", theirs)
	}
	if theirs != "" {
		if err := s.Note(ctx, "keys.rotated", mine, []string{"policies are signed with this key; it follows " + theirs},
			clock()); err != nil {
			return err
		}
	}
	return s.SetMeta(ctx, name, mine)
}

// reloading reads keys that another process has rotated.
func reloading(ctx context.Context, k *Keys, s *store.Store, c *tls.Config, log *slog.Logger) {
	t := time.NewTicker(2 * time.Second)
	defer t.Stop()
	tickets := time.Time{}
	for {
		if c != nil && time.Since(tickets) > time.Hour {
			tickets = time.Now()
			c.SetSessionTicketKeys(k.tickets(tickets))
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		if err := k.noteIssued(context.WithoutCancel(ctx), s); err != nil {
			log.Error("what was issued cannot be written into the audit log", "error", err)
		}
		before, tokens := k.Signing().KeyID, k.adminID()
		if err := k.Reload(); err != nil {
			log.Error("keys cannot be read again; the ones before stay", "error", err)
			continue
		}
		if k.adminID() != tokens {
			log.Info("the tokens' secret was rotated", "key", k.adminID())
			if err := s.Note(ctx, "tokens.rotated", k.adminID(), nil, clock()); err != nil {
				log.Error("audit log", "error", err)
			}
		}
		if k.Signing().KeyID != before {
			log.Info("the policy key was rotated", "key", k.Signing().KeyID)
			if err := sameKey(ctx, s, k); err != nil {
				log.Error("policy key", "error", err)
			}
		}
	}
}

// conns is how many connections there may be.
func (o *Options) conns() int {
	if o.MaxConns > 0 {
		return o.MaxConns
	}
	return connsOf(openable())
}

// servingFile, in the data directory, says how commands on this machine reach the server.
const servingFile = "serving.json"

// servingLock is locked by a server on SQLite for as long as it runs.
const servingLock = "serving.lock"

// serving is the content of servingFile.
type serving struct {
	URL string `json:"url"`
	Own bool   `json:"own_authority"` // the certificate is one of the server's own authority
}

// reached says how a command on this machine reaches the server. A certificate from elsewhere is for one name; the
// server's own also covers this machine.
func (o *Options) reached(scheme string, at net.Addr) serving {
	host, port, _ := net.SplitHostPort(at.String())
	if ip := net.ParseIP(host); ip == nil || ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	if o.Cert != "" && len(o.Names) > 0 {
		host = o.Names[0]
	}
	return serving{URL: scheme + "://" + net.JoinHostPort(host, port), Own: scheme == "https" && o.Cert == ""}
}

// noteServing writes servingFile.
func (o *Options) noteServing(scheme string, at net.Addr) error {
	b, err := json.Marshal(o.reached(scheme, at))
	if err != nil {
		return err
	}
	return replaceFile(filepath.Join(o.Data, servingFile), b)
}

// Local says how a command on the server's own machine reaches the server of a data directory: its URL, and the PEM of
// the authority to trust, "" for the system's.
func Local(dir string, now time.Time) (url, ca string, err error) {
	b, err := durable.Read(filepath.Join(dir, servingFile), 4<<10)
	if errors.Is(err, fs.ErrNotExist) {
		return "", "", fmt.Errorf("no server runs with the data directory %s", dir)
	}
	if err != nil {
		return "", "", err
	}
	var s serving
	if err := json.Unmarshal(b, &s); err != nil {
		return "", "", fmt.Errorf("%s: %w", servingFile, err)
	}
	// Over TLS the server's certificate is checked. Without TLS, anybody on this machine may have taken the port since.
	if lock := filepath.Join(dir, servingLock); strings.HasPrefix(s.URL, "http:") {
		if _, err := os.Stat(lock); err == nil {
			l := flock.New(lock)
			if free, err := l.TryLock(); err == nil && free {
				_ = l.Unlock()
				return "", "", fmt.Errorf("no server runs with the data directory %s", dir)
			}
		}
	}
	if !s.Own {
		return s.URL, "", nil
	}
	authority, err := LoadCA(dir, now)
	if err != nil {
		return "", "", err
	}
	return s.URL, authority.PEM(), nil
}

// aead are the authenticated cipher suites of TLS 1.2; those of TLS 1.3 all are.
var aead = []uint16{
	tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
	tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
	tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
}

// tls returns the certificate that devices see: the administrator's own, or one of the server's authority. Nil for
// plain HTTP.
func (o *Options) tls(keys *Keys, host string) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, CipherSuites: aead}
	switch {
	case (o.Cert == "") != (o.CertKey == ""):
		return nil, errors.New("--cert and --cert-key belong together")
	case o.HTTP && o.Cert != "":
		return nil, errors.New("--http and --cert exclude each other")
	case o.HTTP:
		return nil, nil
	case o.Cert != "":
		f := &fileCert{cert: o.Cert, key: o.CertKey}
		if _, err := f.get(nil); err != nil {
			return nil, err
		}
		c.GetCertificate = f.get
		return c, nil
	}
	ca, err := keys.CA(time.Now())
	if err != nil {
		return nil, err
	}
	self, _ := os.Hostname()
	certs := &renewing{ca: ca, names: append([]string{host, self, "localhost", "127.0.0.1", "::1"}, o.Names...)}
	if _, err := certs.get(nil); err != nil {
		return nil, err
	}
	c.GetCertificate = certs.get
	return c, nil
}

// fileCert reads a certificate again when its file has changed, so that a renewal needs no restart.
type fileCert struct {
	cert, key string
	mu        sync.Mutex
	stamp     time.Time
	looked    time.Time
	have      *tls.Certificate
}

// get returns the certificate, read again if its file has changed.
func (f *fileCert) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.have != nil && time.Since(f.looked) < 10*time.Second {
		return f.have, nil
	}
	f.looked = time.Now()
	info, err := os.Stat(f.cert)
	if err == nil && f.have != nil && info.ModTime().Equal(f.stamp) {
		return f.have, nil
	}
	if err == nil {
		var c tls.Certificate
		if c, err = tls.LoadX509KeyPair(f.cert, f.key); err == nil {
			f.have, f.stamp = &c, info.ModTime()
			return f.have, nil
		}
	}
	if f.have != nil {
		return f.have, nil // half written: continue with the previous one
	}
	return nil, fmt.Errorf("certificate: %w", err)
}

// renewing renews the server's certificate before it expires, because a server may run for years.
type renewing struct {
	ca    *CA
	names []string
	mu    sync.Mutex
	cert  *tls.Certificate
	until time.Time
}

// get returns the certificate, renewed when it is close to its end.
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

// OpenStore opens the database of a server. A new one gets the default policy. An existing empty file was not left by a
// server, and is refused.
func OpenStore(ctx context.Context, data, database string, now time.Time) (*store.Store, error) {
	if err := os.MkdirAll(data, 0o700); err != nil {
		return nil, err
	}
	if database == "" {
		database = filepath.Join(data, "server.db")
		info, err := os.Stat(database)
		if err == nil && info.Size() == 0 {
			return nil, fmt.Errorf("%s is empty: restore a backup, or remove it to start with a new one", database)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	} else if !store.Postgres(database) {
		return nil, errors.New("--database must be a postgres:// URL; without it the database is SQLite in the data directory")
	}
	s, err := store.Open(ctx, database)
	if err != nil {
		return nil, err
	}
	if _, err = s.Default(ctx); errors.Is(err, store.ErrNotFound) {
		err = firstPolicy(ctx, s, now)
	}
	if err != nil {
		_ = s.Close()
		return nil, err
	}
	return s, nil
}

// firstPolicy is the default policy of a new server: what most companies would begin with, in monitor mode, so that
// nobody's machine changes before an administrator has looked.
func firstPolicy(ctx context.Context, s *store.Store, now time.Time) error {
	t, _ := templates.Find("template-balanced")
	p := &fleet.Policy{ID: "policy-default", Name: "Default Security Policy", Description: t.Description, Active: true, Version: 1,
		Compliance: `"monitor"`, Data: fleet.Compact(t.Data), CreatedAt: now, UpdatedAt: now}
	d, err := policy.Decode(p.Document(), policy.Options{Strict: true})
	if err != nil {
		return err
	}
	p.Digest = d.Digest
	// Two nodes may begin at once; the second finds it done.
	if err := s.PutPolicy(ctx, p, 0, policy.Diff(nil, d)); err != nil && !errors.Is(err, store.ErrStale) {
		return err
	}
	return s.SetDefault(ctx, p.ID, now)
}
