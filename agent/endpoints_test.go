package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// Addresses are looked up in the background, kept for a day and over restarts, and not forgotten because nobody answers.
func TestEndpoints(t *testing.T) {
	file := filepath.Join(t.TempDir(), "endpoints.json")
	now := time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)
	answers := map[string]string{"vpn.example.com": "198.51.100.7"}
	asked, learnt := 0, 0
	var next func(context.Context) // what runs in the background
	ctx, cancel := context.WithCancel(context.Background())
	start := func() *endpoints {
		e := newEndpoints(file, func() float64 { return 0 }, func() time.Time { return now }, func(f func(context.Context)) { next = f }, func() { learnt++ })
		e.after = func(time.Duration) <-chan time.Time { cancel(); return nil }
		e.ask = func(_ context.Context, host string) ([]netip.Addr, error) {
			asked++
			if a := answers[host]; a != "" {
				return []netip.Addr{netip.MustParseAddr(a)}, nil
			}
			return nil, errors.New("no")
		}
		return e
	}
	var sought []string
	known := func(e *endpoints, hosts ...string) string {
		next = nil
		out := e.of(hosts, sought)
		if next != nil {
			ctx, cancel = context.WithCancel(context.Background()) // it ends where it would wait
			next(ctx)
			cancel()
			for _, h := range hosts {
				if list := slices.SortedFunc(slices.Values(e.known(h)), netip.Addr.Compare); len(list) > 0 && list[0].String() != h {
					out[h] = list
				}
			}
		}
		return fmt.Sprint(out)
	}
	e := start()
	if got := known(e, "vpn.example.com", "192.0.2.1", "", "none.example.com"); got != "map[vpn.example.com:[198.51.100.7]]" || asked != 2 || learnt != 1 {
		t.Error(got, asked, learnt)
	}
	if _ = known(e, "vpn.example.com", "none.example.com"); asked != 2 {
		t.Errorf("asked again at once: %d", asked)
	}
	now = now.Add(endpointRetry)
	if _ = known(e, "vpn.example.com", "none.example.com"); asked != 3 {
		t.Errorf("not asked again: %d", asked)
	}
	answers["vpn.example.com"] = "198.51.100.8"
	now = now.Add(endpointAgain)
	if got := known(e, "vpn.example.com"); got != "map[vpn.example.com:[198.51.100.7 198.51.100.8]]" {
		t.Error(got)
	}
	// What is sought is asked for every minute, and what is not answered less and less often beside it. It begins without a look at the
	// machine, although nothing is due yet.
	sought = []string{"vpn.example.com"}
	counts := map[string]int{}
	ask := e.ask
	e.ask = func(ctx context.Context, host string) ([]netip.Addr, error) { counts[host]++; return ask(ctx, host) }
	now = now.Add(endpointRetry)
	begun := now
	e.after = func(d time.Duration) <-chan time.Time {
		if now = now.Add(d); now.Sub(begun) > time.Hour {
			cancel()
			return nil
		}
		c := make(chan time.Time, 1)
		c <- now
		return c
	}
	_ = known(e, "vpn.example.com", "none.example.com")
	if n := counts["vpn.example.com"]; n < 55 || n > 61 {
		t.Errorf("in an hour it was sought %d times", n)
	}
	if n := counts["none.example.com"]; n < 8 || n > 20 {
		t.Errorf("in an hour the silent one was asked for %d times", n)
	}
	sought = nil
	// A restart without a network, days later.
	delete(answers, "vpn.example.com")
	now = now.Add(3 * 24 * time.Hour)
	e = start()
	if got := known(e, "vpn.example.com"); got != "map[vpn.example.com:[198.51.100.7 198.51.100.8]]" {
		t.Error(got)
	}
	answers["vpn.example.com"] = "198.51.100.9"
	now = now.Add(endpointRetry)
	if got := known(e, "vpn.example.com"); got != "map[vpn.example.com:[198.51.100.9]]" {
		t.Error(got)
	}
	now = now.Add(-48 * time.Hour) // the clock was set back
	before := asked
	if _ = known(e, "vpn.example.com"); asked == before {
		t.Error("not asked after the clock was set back")
	}
	e.clear()
	if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) || len(e.kept.Hosts) != 0 {
		t.Error("something is left", err)
	}
	var many []string
	for i := range 2 * endpointNames {
		many = append(many, fmt.Sprintf("h%d.example.com", i))
	}
	if _ = known(e, many...); len(e.kept.Hosts) > endpointNames {
		t.Errorf("%d names", len(e.kept.Hosts))
	}
	// Many answers: the newest is there, and what is no host's is not.
	for i := range 3 * endpointMost {
		now = now.Add(endpointAgain)
		answers["vpn.example.com"] = fmt.Sprintf("198.51.100.%d", i)
		_ = known(e, "vpn.example.com")
	}
	if got := e.kept.Hosts["vpn.example.com"]; len(got.Found) > endpointMost || got.Found[netip.MustParseAddr("198.51.100.95")].IsZero() {
		t.Errorf("%d addresses", len(got.Found))
	}
	// Times of a clock that was a year ahead do not keep false addresses for a year, nor the newest answer out.
	now = now.Add(365 * 24 * time.Hour)
	for i := range 2 * endpointMost {
		now = now.Add(endpointAgain)
		answers["vpn.example.com"] = fmt.Sprintf("203.0.113.%d", i)
		_ = known(e, "vpn.example.com")
	}
	now = now.Add(-365 * 24 * time.Hour)
	answers["vpn.example.com"] = "198.51.100.200"
	if got := known(e, "vpn.example.com"); !strings.Contains(got, "198.51.100.200") || e.known("vpn.example.com")[0].String() != "198.51.100.200" {
		t.Errorf("after the clock was set right: %s", got)
	}
	now = now.Add(endpointKept + endpointAgain)
	if got := known(e, "vpn.example.com"); strings.Contains(got, "203.0.113.") {
		t.Errorf("a day later: %s", got)
	}
	now = now.Add(endpointAgain)
	answers["vpn.example.com"] = "224.0.0.251"
	if got := known(e, "vpn.example.com"); strings.Contains(got, "224.0.0.251") {
		t.Error(got)
	}
	if got := e.configured([]string{"a.example:1"}); len(got) != 1 || len(start().configured(nil)) != 1 {
		t.Errorf("configured before: %q", got)
	}
	for _, bad := range []string{"", "{", `{"hosts":{"a":null}}`, `{"hosts":{"a":{"found":{"x":"y"}}}}`, string(slices.Repeat([]byte("x"), endpointFile+1))} {
		if err := os.WriteFile(file, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := known(start(), "none.example.com"); got != "map[]" {
			t.Errorf("%.20q: %s", bad, got)
		}
	}
}

// Hosts that nobody answers do not keep those away that are sought: they take turns.
func TestEndpointTurns(t *testing.T) {
	now := time.Unix(1000, 0)
	ctx, cancel := context.WithCancel(context.Background())
	var next func(context.Context)
	e := newEndpoints(filepath.Join(t.TempDir(), "e"), func() float64 { return 1 }, func() time.Time { return now },
		func(f func(context.Context)) { next = f }, func() {})
	last, longest, begun := now, time.Duration(0), now
	e.ask = func(_ context.Context, host string) ([]netip.Addr, error) {
		if now.Sub(begun) > 2*time.Hour {
			cancel()
		}
		if host == "vpn.example.com" {
			longest, last = max(longest, now.Sub(last)), now
			return []netip.Addr{netip.MustParseAddr("198.51.100.7")}, nil
		}
		now = now.Add(endpointLimit)
		return nil, errors.New("timeout")
	}
	e.after = func(d time.Duration) <-chan time.Time {
		now = now.Add(d)
		c := make(chan time.Time, 1)
		c <- now
		return c
	}
	hosts := []string{"vpn.example.com"}
	for i := range 100 {
		hosts = append(hosts, fmt.Sprintf("h%d.example.com", i))
	}
	e.of(hosts, hosts[:1])
	next(ctx)
	if longest > endpointSoon+2*endpointLimit {
		t.Errorf("it was not looked for during %s", longest)
	}
}
