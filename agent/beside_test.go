package agent

import (
	"context"
	"errors"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/warderd/warder/agent/identity"
	"github.com/warderd/warder/enforce/secret"
)

// The usual way is taken if it works in time; otherwise the first other one that does; and its error is the one that is told.
// Time stands still here while anything runs, so that a slow machine does not give a way less time than it has.
func TestFirst(t *testing.T) {
	t.Parallel()
	synctest.Test(t, testFirst)
}

func testFirst(t *testing.T) {
	type conns = way[net.Conn]
	closes := func(c net.Conn) { _ = c.Close() }
	denied := errors.New("denied")
	final := func(err error) bool { return errors.Is(err, denied) }
	open := map[string]net.Conn{}
	works := func(name string) conns {
		c, _ := net.Pipe()
		open[name] = c
		return func(context.Context) (net.Conn, error) { return c, nil }
	}
	fails := func(err error) conns { return func(context.Context) (net.Conn, error) { return nil, err } }
	silent := func(ctx context.Context) (net.Conn, error) { <-ctx.Done(); return nil, ctx.Err() }
	slow := func(w conns) conns {
		return func(ctx context.Context) (net.Conn, error) { time.Sleep(20 * time.Millisecond); return w(ctx) }
	}
	usual, other := errors.New("usual"), errors.New("other")
	for what, x := range map[string]struct {
		ways []conns
		want string
		err  error
	}{
		"alone":                 {[]conns{works("a")}, "a", nil},
		"alone, fails":          {[]conns{fails(usual)}, "", usual},
		"it works":              {[]conns{works("b"), works("c")}, "b", nil},
		"it fails":              {[]conns{fails(usual), fails(other), works("d")}, "d", nil},
		"it is silent":          {[]conns{silent, fails(other), works("e")}, "e", nil},
		"all fail":              {[]conns{fails(usual), fails(other), fails(other)}, "", usual},
		"it works, late":        {[]conns{slow(works("f")), fails(other)}, "f", nil},
		"it fails for good":     {[]conns{fails(denied), works("i")}, "", denied},
		"another is still open": {[]conns{fails(usual), silent, works("g")}, "g", nil},
	} {
		c, err := first(t.Context(), x.ways, time.Millisecond, closes, final)
		if !errors.Is(err, x.err) || (c == nil) != (x.want == "") || c != nil && c != open[x.want] {
			t.Errorf("%s: %v %v", what, c, err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := first(ctx, []conns{silent, silent}, time.Millisecond, closes, final); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("nobody answers: %v", err)
	}
	// What comes too late is closed.
	c, d := net.Pipe()
	late := slow(func(context.Context) (net.Conn, error) { return c, nil })
	if _, err := first(t.Context(), []conns{fails(usual), works("h"), late}, time.Millisecond, closes, final); err != nil {
		t.Error(err)
	}
	if _, err := d.Read(make([]byte, 1)); err == nil {
		t.Error("a late connection stays open")
	}
}

// A proxy's password is not sent in clear beside a tunnel.
func TestMayBeside(t *testing.T) {
	for proxy, want := range map[string]bool{
		"": true, "http://proxy.corp.example:3128": true, "http://me:secret@proxy.corp.example:3128": false,
		"https://me:secret@proxy.corp.example:3128": true,
	} {
		t.Setenv("HTTPS_PROXY", "")
		a := &Agent{custody: &custody{state: identity.State{Device: &identity.Device{Server: "https://policy.corp.example"}}}}
		a.config.Proxy = secret.URL(proxy)
		if got := a.mayBeside(); got != want {
			t.Errorf("%q: %v", proxy, got)
		}
	}
}

// The usual way is tried again after connections beside it, less and less often, until it works.
func TestStrays(t *testing.T) {
	t.Parallel()
	var s strays
	now := time.Unix(1000, 0)
	if s.due(now) != "" {
		t.Error("due without a stray")
	}
	s.made("policy.corp.example:443")
	tries := 0
	for range 3600 {
		if s.due(now) != "" {
			tries++
		}
		now = now.Add(time.Second)
	}
	if tries < 7 || tries > 12 {
		t.Errorf("%d tries in an hour", tries)
	}
	s.over()
	if s.due(now.Add(time.Hour)) != "" {
		t.Error("due after its end")
	}
	s.made("policy.corp.example:443")
	if s.due(now.Add(-time.Hour)) == "" {
		t.Error("not due after the clock was set back")
	}
}
