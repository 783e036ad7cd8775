package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/go-jose/go-jose/v4"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/sync/checkin"
	"github.com/warderd/warder/sync/protocol"
	"github.com/warderd/warder/sync/push"
)

// device is one simulated laptop: the agent's client code, without a machine.
type device struct {
	id      string
	client  *checkin.Client
	keys    []jose.JSONWebKey
	machine string
	pinned  string

	mu      sync.Mutex
	current protocol.PolicyState
	seq     uint64
	started time.Time
	whole   bool // the next report includes facts and findings
	round   int

	socket *push.Socket
	up     atomic.Bool
}

// facts are as large as a real laptop's: a dozen USB devices.
func (d *device) facts() *protocol.Facts {
	m := fact.Machine{Controllers: fact.Is([]string{"usb1", "usb2"}), Inputs: fact.Is(fact.Inputs{}), Capable: map[string]fact.Capability{}}
	for _, s := range policy.Section("usb") {
		m.Capable[string(s.Name)] = fact.Capability{Level: fact.Enforced}
	}
	var list []fact.USB
	for i := range 12 {
		list = append(list, fact.USB{Path: fmt.Sprintf("1-%d", i+1), Number: i + 2, Vendor: 0x046d, Product: uint16(0xc000 + i),
			Name:       "A device of some maker",
			Interfaces: []fact.Interface{{Class: 3, SubClass: 1, Protocol: 1}, {Number: 1, Class: 3}}, Authorized: fact.Is(true)})
	}
	m.USB = fact.Is(list)
	f := protocol.FactsOf(&m)
	f.Host = protocol.Host{Name: d.machine, OS: "linux", OSVersion: "Debian GNU/Linux 13", Arch: "amd64", Serial: d.machine}
	return &f
}

// findings are eight, one of which differs from round to round.
func (d *device) findings() []enforce.Finding {
	var out []enforce.Finding
	for i, s := range policy.Names()[:8] {
		f := enforce.Finding{Setting: s, Mode: enforce.Monitor, Compliance: enforce.Compliant, Enforcement: enforce.Observed,
			Evidence: []enforce.Evidence{{Key: "usb.default/usb1", State: enforce.Present, Value: "0",
				How: "/sys/bus/usb/devices/usb1/authorized_default"}}}
		if i == 0 && d.round%2 == 1 {
			f.Compliance, f.Reason = enforce.Noncompliant, "1 device(s) it refuses are in use, first 1-1 0951:1666"
		}
		out = append(out, f)
	}
	return out
}

// report is the device's next report, with the given number of new events.
func (d *device) report(events int) protocol.Report {
	r := protocol.Report{Policy: d.current, Agent: protocol.Agent{Version: "bench", StartedAt: d.started, Machine: d.machine,
		Run: d.pinned},
		Epoch:  "e",
		Pinned: d.pinned}
	if events > 0 {
		d.round++
	}
	r.DeviceDigest, r.FindingsDigest = d.machine, [2]string{"findings 0", "findings 1"}[d.round%2]
	if d.whole {
		r.Device = d.facts()
	}
	if d.whole || events > 0 {
		list := d.findings()
		r.Findings = &list
	}
	for i := range events {
		r.Events = append(r.Events, enforce.Event{Seq: d.seq + uint64(i) + 1, At: time.Now(), Setting: "usb.allowed_classes",
			Mode: enforce.Enforce, Kind: enforce.Denied,
			Subject: "usb 1-2 0951:1666 0019E06B9C85 (Kingston DataTraveler)",
			Reason:  `mass_storage is not in usb.allowed_classes; to allow it: add "0951:1666:0019E06B9C85" to usb.whitelist`,
			Facts: `{"path":"1-2","number":9,"vendor":2385,"product":5734,"class":0,"serial":"0019E06B9C85","interfaces":[{"config":1,` +
				`"number":0,"alternate":0,"class":8,"subclass":6,"protocol":80,"mtp":{"value":false,"known":false}}],` +
				`"hardwired":{"value":false,"known":true},"authorized":{"value":false,"known":true}}`})
	}
	return r
}

// exchange is one check-in, and handles the answer as an agent does.
func (d *device) exchange(ctx context.Context, events int) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	a, err := d.client.Exchange(ctx, d.report(events))
	if err != nil {
		return err
	}
	if events > 0 {
		if a.AckSeq != d.seq+uint64(events) {
			return fmt.Errorf("acknowledged %d, want %d", a.AckSeq, d.seq+uint64(events))
		}
		d.seq = a.AckSeq
	}
	d.whole = false
	for _, want := range a.Request {
		d.whole = d.whole || want == protocol.WantFullReport
	}
	if a.Assignment == "" {
		return nil
	}
	as, err := protocol.VerifyAssignment(a.Assignment, d.keys, d.id, d.current.Serial)
	if err != nil {
		return err
	}
	var p struct {
		ID      string `json:"id"`
		Version int    `json:"version"`
	}
	if err := json.Unmarshal(as.Policy, &p); err != nil {
		return err
	}
	d.current = protocol.PolicyState{ID: p.ID, Version: p.Version, Digest: policy.DigestOf(as.Policy), Serial: as.Serial, State: "active"}
	return nil
}

// settle checks in until neither side has news.
func (d *device) settle(ctx context.Context) error {
	for range 4 {
		before, whole := d.current, d.whole
		if err := d.exchange(ctx, 0); err != nil {
			return err
		}
		if before == d.current && !whole && !d.whole {
			return nil
		}
	}
	return errors.New("it does not come to rest")
}

// version is the version of the device's policy.
func (d *device) version() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.current.Version
}

// enroll registers n devices, each with a key of its own.
func enroll(ctx context.Context, s *target, n int) ([]*device, error) {
	token, err := s.token(n)
	if err != nil {
		return nil, err
	}
	out := make([]*device, n)
	err = parallel(16, n, func(i int) error {
		key, err := protocol.NewDeviceKey()
		if err != nil {
			return err
		}
		machine := fmt.Sprintf("laptop-%06d", i)
		node := s.nodes[i%len(s.nodes)]
		res, _, err := checkin.Enroll(ctx, checkin.Server{URL: node.url, CA: s.ca}, "", token, key,
			protocol.Host{Name: machine, OS: "linux", Ownership: "COPE"}, machine)
		if err != nil {
			return err
		}
		keys, err := protocol.ParseKeys(res.PolicyKeys)
		if err != nil {
			return err
		}
		c, err := checkin.NewClient(checkin.Server{URL: node.url, CA: s.ca}, res.DeviceID, key, time.Now)
		if err != nil {
			return err
		}
		d := &device{id: res.DeviceID, client: c, keys: keys, machine: machine, pinned: protocol.KeysDigest(keys),
			started: time.Now().UTC().Truncate(time.Second), whole: true}
		d.current.State = "none"
		out[i] = d
		return d.settle(ctx)
	})
	return out, err
}

// parallel calls f for 0 to n-1 from several goroutines, until one fails.
func parallel(workers, n int, f func(int) error) error {
	var wg sync.WaitGroup
	var next atomic.Int64
	var first atomic.Pointer[error]
	for range workers {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= n || first.Load() != nil {
					return
				}
				if err := f(i); err != nil {
					first.CompareAndSwap(nil, &err)
				}
			}
		})
	}
	wg.Wait()
	if p := first.Load(); p != nil {
		return *p
	}
	return nil
}

// result of a run at a fixed rate.
type result struct {
	h        *hdrhistogram.Histogram // microseconds from when it was due
	done     int
	errors   int
	first    error
	took     time.Duration
	achieved float64
	worst    []int64 // with -v: milliseconds, by the second in which it was due
}

// String is a result on one line.
func (r result) String() string {
	return fmt.Sprintf("%.0f/s: p50 %s  p90 %s  p99 %s  max %s  (%d, %d errors)", r.achieved, us(r.h.ValueAtQuantile(50)),
		us(r.h.ValueAtQuantile(90)), us(r.h.ValueAtQuantile(99)), us(r.h.Max()), r.done, r.errors)
}

func us(n int64) string { return fmt.Sprintf("%.1fms", float64(n)/1000) }

// openLoop starts check-ins at a fixed rate whether or not earlier ones have been answered, and measures from the
// moment each was due.
func openLoop(ctx context.Context, devices []*device, rate float64, length time.Duration, events int) result {
	total := int(rate * length.Seconds())
	r := result{h: hdrhistogram.New(1, 60_000_000, 3)}
	var mu sync.Mutex
	var wg sync.WaitGroup
	start := time.Now()
	order := rand.Perm(len(devices))
	for i := range total {
		due := start.Add(time.Duration(float64(i) / rate * float64(time.Second)))
		if d := time.Until(due); d > 0 {
			time.Sleep(d)
		}
		d := devices[order[i%len(order)]]
		wg.Go(func() {
			err := d.exchange(ctx, events)
			took := time.Since(due).Microseconds()
			mu.Lock()
			defer mu.Unlock()
			_ = r.h.RecordValue(min(max(took, 1), 60_000_000))
			if *verbose {
				sec := int(due.Sub(start).Seconds())
				for len(r.worst) <= sec {
					r.worst = append(r.worst, 0)
				}
				r.worst[sec] = max(r.worst[sec], took/1000)
			}
			r.done++
			if err != nil {
				r.errors++
				if r.first == nil {
					r.first = err
				}
			}
		})
	}
	wg.Wait()
	r.took = time.Since(start)
	r.achieved = float64(r.done) / r.took.Seconds()
	if *verbose {
		say("  worst by second, ms: %v", r.worst)
	}
	return r
}

// connect maintains a push socket, and reacts to a nudge as the agent does.
func (d *device) connect(ctx context.Context, url string, nudged func(*device, protocol.Nudge)) {
	d.socket = &push.Socket{URL: url, Device: d.id, HTTP: d.client.HTTPClient(), Sign: d.client.Sign, Now: time.Now,
		Nudged: func(n protocol.Nudge) { nudged(d, n) }, Up: func(up bool) { d.up.Store(up) }}
	go d.socket.Run(ctx)
}
