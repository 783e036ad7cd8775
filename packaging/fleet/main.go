// Command fleet loads a policy server with thousands of simulated devices, which use the agent's own client code
// (sync/checkin, sync/push), and prints what it achieved. It starts the server's binary, on SQLite and on PostgreSQL
// with two nodes, on loopback; generator and servers share the machine.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/warderd/warder/sync/checkin"
	"github.com/warderd/warder/sync/protocol"
	"github.com/warderd/warder/sync/server/store/postgrestest"
)

var (
	binary  = flag.String("server", "bin/warder-server", "the server's binary")
	count   = flag.Int("devices", 10_000, "simulated devices, each with a socket in the end")
	active  = flag.Int("active", 3_000, "of them, those that check in at the fixed rates, on kept connections")
	rate    = flag.Float64("rate", 3000, "check-ins without news a second")
	news    = flag.Float64("news", 1000, "check-ins with findings and ten events a second")
	length  = flag.Duration("length", 20*time.Second, "of a run at a fixed rate")
	million = flag.Int("registered", 1_000_000, "devices registered for the large fleet; 0 leaves it out")
	verbose = flag.Bool("v", false, "say more")
	only    = flag.String("only", "readers,sqlite,postgres,large", "which parts")

	base      = flag.String("base", "", "the binary of an earlier version, for ratios; readers only")
	fleetSize = flag.Int("fleet", 100_000, "devices that readers ask about")
)

func main() {
	flag.Parse()
	// The generator is only a tool: its collector must not take processor time from what is measured.
	debug.SetGCPercent(1000)
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "fleet:", err)
		os.Exit(1)
	}
}

func say(format string, args ...any) { fmt.Printf(format+"\n", args...) }

// run starts the servers and measures what the flags ask for.
func run() error {
	say("%d processors, %s; generator and servers share them", runtime.NumCPU(), runtime.Version())
	dir, err := os.MkdirTemp("", "warder-fleet-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if strings.Contains(*only, "readers") {
		say("\n== Eight people read a fleet of %d, SQLite", *fleetSize)
		if err := readers(filepath.Join(dir, "readers")); err != nil {
			return err
		}
	}
	if strings.Contains(*only, "sqlite") {
		say("\n== SQLite, one node")
		if err := suite(filepath.Join(dir, "sqlite"), "", 1); err != nil {
			return err
		}
	}
	if strings.Contains(*only, "postgres") {
		pg, err := postgrestest.Start()
		if err != nil {
			return err
		}
		defer pg.Stop()
		url, err := pg.Database(context.Background())
		if err != nil {
			return err
		}
		say("\n== PostgreSQL, two nodes")
		if err := suite(filepath.Join(dir, "postgres"), url, 2); err != nil {
			return err
		}
	}
	if strings.Contains(*only, "large") && *million > 0 {
		say("\n== %d devices registered, SQLite", *million)
		return large(filepath.Join(dir, "large"))
	}
	return nil
}

// suite measures one database: check-ins, findings and sockets.
func suite(dir, database string, nodes int) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	t, err := newTarget(*binary, dir, database, nodes)
	if t != nil {
		defer t.stop()
	}
	if err != nil {
		return err
	}
	began := time.Now()
	devices, err := enroll(ctx, t, *count)
	if err != nil {
		return err
	}
	say("enrolled %d devices, each with its first report and policy, in %s", *count, time.Since(began).Round(100*time.Millisecond))
	defer func() {
		for _, d := range devices {
			d.client.Close()
		}
	}()
	polling := devices[:min(*active, len(devices))]
	for _, d := range devices[len(polling):] {
		d.client.Close()
	}
	if *active > 100 {
		steady(ctx, t, polling)
	}
	if *active <= 100 {
		return sockets(ctx, t, devices)
	}
	if err := withNews(ctx, t, polling); err != nil {
		return err
	}
	return sockets(ctx, t, devices)
}

// steady is check-ins without news: at the requested rate, then upwards until the server falls behind.
func steady(ctx context.Context, t *target, devices []*device) {
	time.Sleep(12 * time.Second) // let the writes of the enrollment finish
	openLoop(ctx, devices, *rate/2, 5*time.Second, 0)
	// At half the rate and at the full one: the difference is the queue for the processors.
	for _, x := range []float64{*rate / 2, *rate} {
		before := t.used()
		r := openLoop(ctx, devices, x, *length, 0)
		say("without news, %.0f asked  %s%s", x, r, why(r))
		say("  %s", t.used().since(before))
	}
	reached := 0.0
	for x := *rate; x < 20*(*rate); x *= 1.15 {
		r := openLoop(ctx, devices, x, *length/3, 0)
		if r.errors > 0 || r.h.ValueAtQuantile(99) > 50_000 || r.achieved < .98*x {
			say("  falls behind    %.0f asked  %s%s", x, r, why(r))
			break
		}
		reached = x
	}
	say("  highest rate (p99 ≤ 50 ms, no error): %.0f/s; server memory %d MiB", reached, t.rss()/1024)
}

// why says what ended a run: an error, or the slowest answers.
func why(r result) string {
	if r.first == nil {
		return ""
	}
	return "  first error: " + r.first.Error()
}

// withNews is check-ins with changed findings and ten events each, acknowledged when durable.
func withNews(ctx context.Context, t *target, devices []*device) error {
	before, spent := t.metric("warder_events_stored_total"), t.used()
	var sent int
	r := openLoop(ctx, devices, *news, *length, 10)
	sent += r.done - r.errors
	say("findings and 10 events, %.0f asked  %s%s", *news, r, why(r))
	say("  %s", t.used().since(spent))
	reached := 0.0
	for x := *news; x < 20*(*news); x *= 1.15 {
		r := openLoop(ctx, devices, x, *length/3, 10)
		sent += r.done - r.errors
		if r.errors > 0 || r.achieved < .95*x || r.h.ValueAtQuantile(99) > 1_000_000 {
			say("  falls behind    %.0f asked  %s%s", x, r, why(r))
			break
		}
		reached = x
	}
	stored := t.metric("warder_events_stored_total") - before
	say("  highest rate (p99 ≤ 1 s, no error): %.0f/s; events acknowledged %d, stored %.0f", reached, sent*10, stored)
	if int(stored) < sent*10 {
		return fmt.Errorf("%d events acknowledged and %d stored", sent*10, int(stored))
	}
	return nil
}

// fleetUp waits until all sockets are up.
func fleetUp(t *target, devices []*device, limit time.Duration) (time.Duration, int) {
	began := time.Now()
	for {
		up := 0
		for _, d := range devices {
			if d.up.Load() {
				up++
			}
		}
		if up == len(devices) || time.Since(began) > limit {
			return time.Since(began), up
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// sockets is the fleet on push: memory, a change for all, and all at once after a restart.
func sockets(ctx context.Context, t *target, devices []*device) error {
	for _, d := range devices {
		d.client.Close() // the kept connections of earlier runs are not what is measured
	}
	// Restarted, so that the memory of earlier runs is not counted.
	for _, n := range t.nodes {
		n.stop(syscall.SIGTERM)
		if err := n.start(*binary); err != nil {
			return err
		}
	}
	time.Sleep(2 * time.Second)
	before := t.rss()
	var firstNudge, lastNudge atomic.Int64
	var nudges, failures, busy atomic.Int64
	lag := hdrhistogram.New(1, 120_000, 3)
	var mu sync.Mutex
	var changed time.Time
	target := 0
	var has atomic.Int64
	nudged := func(d *device, n protocol.Nudge) {
		if n.Type != protocol.NudgeCheckIn {
			return
		}
		now := time.Now().UnixNano()
		firstNudge.CompareAndSwap(0, now)
		lastNudge.Store(now)
		nudges.Add(1)
		go func() {
			time.Sleep(checkin.First(d.id, time.Duration(n.Within)*time.Millisecond))
			for range 20 {
				err := d.exchange(ctx, 0)
				if err == nil {
					err = d.exchange(ctx, 0) // the report that the device has it
				}
				if err == nil {
					break
				}
				failures.Add(1)
				time.Sleep(time.Second)
			}
			if d.version() >= target {
				has.Add(1)
				mu.Lock()
				_ = lag.RecordValue(max(time.Since(changed).Milliseconds(), 1))
				mu.Unlock()
			}
			d.client.Close() // an agent with a socket checks in once an hour; its other connection is closed by then
		}()
	}
	for i, d := range devices {
		d.connect(ctx, t.nodes[i%len(t.nodes)].url, nudged)
		if i%10 == 9 {
			time.Sleep(20 * time.Millisecond) // 500 a second
		}
	}
	took, up := fleetUp(t, devices, 2*time.Minute)
	for _, d := range devices {
		d.client.Close()
	}
	time.Sleep(20 * time.Second) // idle now; the server gives back the memory of the handshakes
	after := t.rss()
	say("%d of %d sockets up in %s; idle: %.1f KiB of server memory each (RSS %d → %d MiB)", up, len(devices),
		took.Round(100*time.Millisecond),
		float64(after-before)/float64(max(up, 1)), before/1024, after/1024)

	var p struct {
		Version int `json:"version"`
	}
	if err := t.call(0, "GET", "/api/v1/policies/policy-default", "", &p); err != nil {
		return err
	}
	target = p.Version + 1
	mu.Lock()
	changed = time.Now()
	mu.Unlock()
	if err := t.call(0, "PUT", "/api/v1/policies/policy-default", `{"policy_data":{"usb":{"allowed_classes":["hid","audio"]}}}`,
		nil); err != nil {
		return err
	}
	for time.Since(changed) < time.Minute && int(has.Load()) < len(devices) {
		time.Sleep(20 * time.Millisecond)
	}
	mu.Lock()
	say("a policy change: %d nudged, the last %s after the change; %d have it and have said so, p50 %.1fs, the last %.1fs; %d errors",
		nudges.Load(),
		time.Unix(0, lastNudge.Load()).Sub(changed).Round(time.Millisecond), has.Load(), float64(lag.ValueAtQuantile(50))/1000,
		float64(lag.Max())/1000, failures.Load())
	mu.Unlock()

	// All at once: every node is killed and comes back, and every device checks in as soon as it can.
	for _, n := range t.nodes {
		n.stop(syscall.SIGKILL)
	}
	time.Sleep(time.Second)
	began := time.Now()
	for _, n := range t.nodes {
		if err := n.start(*binary); err != nil {
			return err
		}
	}
	var peak atomic.Int64
	watch, stopWatch := context.WithCancel(ctx)
	go func() {
		for watch.Err() == nil {
			peak.Store(max(peak.Load(), int64(t.rss())))
			time.Sleep(100 * time.Millisecond)
		}
	}()
	var back atomic.Int64
	herd := hdrhistogram.New(1, 300_000, 3)
	var wg sync.WaitGroup
	for _, d := range devices {
		wg.Go(func() {
			c := checkin.NewCadence(nil)
			for range 50 {
				err := d.exchange(ctx, 0)
				d.client.Close() // the next one is an hour away
				if err == nil {
					back.Add(1)
					mu.Lock()
					_ = herd.RecordValue(max(time.Since(began).Milliseconds(), 1))
					mu.Unlock()
					return
				}
				wait := c.Failed(err)
				var s *checkin.StatusError
				if asStatus(err, &s) && s.Code == 503 {
					busy.Add(1)
				}
				time.Sleep(min(wait, 40*time.Second))
			}
		})
	}
	wg.Wait()
	_, up = fleetUp(t, devices, 30*time.Second)
	stopWatch()
	say("all at once after kill -9: %d of %d back, p50 %.1fs, p99 %.1fs, the last %.1fs; %d answers 503 with Retry-After; %d sockets up "+
		"after %.1fs; server memory at most %d MiB",
		back.Load(), len(devices), float64(herd.ValueAtQuantile(50))/1000, float64(herd.ValueAtQuantile(99))/1000, float64(herd.Max())/1000,
		busy.Load(), up, time.Since(began).Seconds(), peak.Load()/1024)
	return nil
}
