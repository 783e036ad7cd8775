package agent

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"
)

// The usual way is taken if it works in time; otherwise the first other one that does; and its error is the one that is told.
func TestFirst(t *testing.T) {
	t.Parallel()
	type way = func(context.Context) (net.Conn, error)
	open := map[string]net.Conn{}
	works := func(name string) way {
		c, _ := net.Pipe()
		open[name] = c
		return func(context.Context) (net.Conn, error) { return c, nil }
	}
	fails := func(err error) way { return func(context.Context) (net.Conn, error) { return nil, err } }
	silent := func(ctx context.Context) (net.Conn, error) { <-ctx.Done(); return nil, ctx.Err() }
	usual, other := errors.New("usual"), errors.New("other")
	for what, x := range map[string]struct {
		ways []way
		want string
		err  error
	}{
		"alone":                 {[]way{works("a")}, "a", nil},
		"alone, fails":          {[]way{fails(usual)}, "", usual},
		"it works":              {[]way{works("b"), works("c")}, "b", nil},
		"it fails":              {[]way{fails(usual), fails(other), works("d")}, "d", nil},
		"it is silent":          {[]way{silent, fails(other), works("e")}, "e", nil},
		"all fail":              {[]way{fails(usual), fails(other), fails(other)}, "", usual},
		"it works, late":        {[]way{func(context.Context) (net.Conn, error) { time.Sleep(20 * time.Millisecond); return works("f")(nil) }, fails(other)}, "f", nil}, //nolint:staticcheck // no context
		"another is still open": {[]way{fails(usual), silent, works("g")}, "g", nil},
	} {
		c, err := first(t.Context(), x.ways, time.Millisecond)
		if !errors.Is(err, x.err) || (c == nil) != (x.want == "") || c != nil && c != open[x.want] {
			t.Errorf("%s: %v %v", what, c, err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := first(ctx, []way{silent, silent}, time.Millisecond); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("nobody answers: %v", err)
	}
	// What comes too late is closed.
	c, d := net.Pipe()
	late := func(context.Context) (net.Conn, error) { time.Sleep(20 * time.Millisecond); return c, nil }
	if _, err := first(t.Context(), []way{fails(usual), works("h"), late}, time.Millisecond); err != nil {
		t.Error(err)
	}
	if _, err := d.Read(make([]byte, 1)); err == nil {
		t.Error("a late connection stays open")
	}
}
