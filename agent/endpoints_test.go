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
	wanted := false
	known := func(e *endpoints, hosts ...string) string {
		next = nil
		_ = e.of(hosts, wanted)
		if next != nil {
			ctx, cancel = context.WithCancel(context.Background()) // it ends where it would wait
			next(ctx)
			cancel()
		}
		return fmt.Sprint(e.of(hosts, wanted))
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
	// While nothing leaves until a tunnel works, its server is looked for every minute, and only while somebody answers.
	wanted = true
	before := asked
	now = now.Add(endpointSoon - time.Second)
	if _ = known(e, "vpn.example.com"); asked != before {
		t.Errorf("asked after less than a minute: %d", asked-before)
	}
	now = now.Add(time.Second)
	answers["vpn.example.com"] = "198.51.100.7"
	var waits []time.Duration
	e.after = func(d time.Duration) <-chan time.Time {
		waits, now = append(waits, d), now.Add(d)
		if len(waits) == 2 {
			answers = map[string]string{}
		}
		if len(waits) == 4 {
			cancel()
			return nil
		}
		c := make(chan time.Time, 1)
		c <- now
		return c
	}
	if _ = known(e, "vpn.example.com"); asked != before+5 || waits[0] != endpointSoon || waits[1] != endpointSoon || waits[3] != endpointRetry {
		t.Errorf("asked %d times, with pauses %s", asked-before, waits)
	}
	wanted = false
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
	before = asked
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
	now = now.Add(endpointAgain)
	answers["vpn.example.com"] = "224.0.0.251"
	if got := e.kept.Hosts["vpn.example.com"]; len(got.Found) > endpointMost || got.Found[netip.MustParseAddr("198.51.100.95")].IsZero() {
		t.Errorf("%d addresses", len(got.Found))
	}
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
