package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/warderd/warder/sync/dialect"
	"github.com/warderd/warder/sync/server/api"
	"github.com/warderd/warder/sync/server/facade"
	"github.com/warderd/warder/sync/server/facade/apperian"
	"github.com/warderd/warder/sync/server/facade/manageengine"
	"github.com/warderd/warder/sync/server/facade/mocana"
	"github.com/warderd/warder/sync/server/facade/wso2"
)

// Facade is another vendor's console that the server answers for, at an address of its own.
type Facade struct {
	Vendor string
	Listen string // host:port
	api.FacadeOptions
	Enveloped bool // wso2 alone: /mdm-admin answers in an envelope
}

// facades are those that there are.
var facades = map[string]func(*Facade) *facade.Vendor{
	"apperian":     func(*Facade) *facade.Vendor { return apperian.Facade() },
	"mocana":       func(*Facade) *facade.Vendor { return mocana.Facade() },
	"manageengine": func(*Facade) *facade.Vendor { return manageengine.Facade() },
	"wso2":         func(f *Facade) *facade.Vendor { return wso2.Facade(wso2.Options{Enveloped: f.Enveloped}) },
}

// FacadeNames are the vendors that there are façades for.
func FacadeNames() []string { return slices.Sorted(maps.Keys(facades)) }

// ParseFacade reads "wso2=:9443,android:linux,whole": the vendor, the address, and what the operator says beside it.
func ParseFacade(s string) (Facade, error) {
	var f Facade
	parts := strings.Split(s, ",")
	var ok bool
	if f.Vendor, f.Listen, ok = strings.Cut(parts[0], "="); !ok || facades[f.Vendor] == nil {
		return f, fmt.Errorf("must be VENDOR=ADDRESS, and the vendor one of %s (received %q)", strings.Join(FacadeNames(), ", "), s)
	}
	if _, _, err := net.SplitHostPort(f.Listen); err != nil {
		return f, fmt.Errorf("the address of %s must be host:port (received %q)", f.Vendor, f.Listen)
	}
	for _, p := range parts[1:] {
		kind, platform, is := strings.Cut(p, ":")
		app, program, isApp := strings.Cut(platform, "=")
		switch {
		case kind == "app" && isApp && (f.Vendor == "apperian" || f.Vendor == "mocana") && app != "" && !strings.Contains(app, "/") && dialect.Program(program) && !slices.Contains(f.Apps[app], program):
			if f.Apps == nil {
				f.Apps = map[string][]string{}
			}
			f.Apps[app] = append(f.Apps[app], program)
		case p == "whole":
			f.Whole = true
		case p == "envelope" && f.Vendor == "wso2":
			f.Enveloped = true
		case is && kind != "" && f.Vendor == "wso2" && slices.Contains([]string{"linux", "windows", "darwin"}, platform):
			if f.Types == nil {
				f.Types = map[string][]string{}
			}
			kind = strings.ToLower(kind)
			f.Types[kind] = append(f.Types[kind], platform)
		default:
			return f, fmt.Errorf("after the address of %s comes whole, envelope or TYPE:PLATFORM with linux, windows or darwin (wso2), or app:ID=PATH with the path of a program, once (apperian, mocana) (received %q)", f.Vendor, p)
		}
	}
	return f, nil
}

// listening is one façade that listens.
type listening struct {
	server *http.Server
	l      net.Listener
	done   chan error
}

// listenFacades listens for all façades, before any of them answers.
func (o *Options) listenFacades() (list []*listening, err error) {
	defer func() {
		if err != nil {
			for _, x := range list {
				_ = x.l.Close()
			}
		}
	}()
	for i := range o.Facades {
		f := &o.Facades[i]
		if slices.ContainsFunc(o.Facades[:i], func(g Facade) bool { return g.Vendor == f.Vendor }) {
			return list, fmt.Errorf("facade %s: there can be one of each vendor, because what is written at one is the other's, too", f.Vendor)
		}
		if host, _, _ := net.SplitHostPort(f.Listen); o.HTTP && !loopback(host) {
			return list, fmt.Errorf("facade %s: plain HTTP is for this machine alone: listen on 127.0.0.1, or leave --http out (address %q)", f.Vendor, f.Listen)
		}
		l, err := net.Listen("tcp", f.Listen)
		if err != nil {
			return list, fmt.Errorf("facade %s: %w", f.Vendor, err)
		}
		list = append(list, &listening{l: l, done: make(chan error, 1)})
	}
	return list, nil
}

// loopback reports whether an address is this machine's alone.
func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// facadeConns is how many connections a façade has: scripts of administrators, and no devices.
const facadeConns = 256

// serveFacades has façades answer, until stopFacades. One that cannot go on says so.
func (o *Options) serveFacades(running context.Context, a *api.API, list []*listening, t *tls.Config, failed chan<- error) {
	for i, x := range list {
		f := &o.Facades[i]
		v := facades[f.Vendor](f)
		x.server = httpServer(running, a.Facade(v, f.FacadeOptions), o.Log)
		open := keep(x.l, min(facadeConns, o.conns()), o.Log)
		l := net.Listener(open)
		x.server.ConnState = open.state
		scheme := "http"
		if t != nil {
			scheme, l = "https", tls.NewListener(l, t)
		}
		o.Log.Info("answering for another console", "facade", f.Vendor, "url", scheme+"://"+l.Addr().String())
		if o.FacadeReady != nil {
			o.FacadeReady(f.Vendor, scheme+"://"+l.Addr().String())
		}
		go func() {
			err := x.server.Serve(spoken{l})
			if x.done <- err; !errors.Is(err, http.ErrServerClosed) {
				failed <- fmt.Errorf("facade %s: %w", f.Vendor, err)
			}
		}()
	}
}

// stopFacades answers what is under way, and ends.
func stopFacades(ctx context.Context, list []*listening) {
	var all sync.WaitGroup
	for _, x := range list {
		all.Go(func() {
			if err := x.server.Shutdown(ctx); errors.Is(err, context.DeadlineExceeded) {
				_ = x.server.Close()
			}
			<-x.done
		})
	}
	all.Wait()
}

// httpServer is a server with the limits that all of ours have.
func httpServer(running context.Context, h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler: h, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 60 * time.Second, WriteTimeout: 90 * time.Second,
		IdleTimeout:    15 * time.Minute,
		MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		BaseContext: func(net.Listener) context.Context { return running },
	}
}
