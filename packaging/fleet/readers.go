package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/sync/protocol"
)

// readers measures a server that many people read: how long their questions take in a fleet with realistic reports, and
// how much they slow the devices down; then the same with the base version, and the ratio.
func readers(dir string) error {
	now, err := read(filepath.Join(dir, "now"), *binary)
	if err != nil {
		return err
	}
	var before map[string]*hdrhistogram.Histogram
	if *base != "" {
		if before, err = read(filepath.Join(dir, "base"), *base); err != nil {
			return err
		}
	}
	say("%-52s %12s %12s %12s %12s %10s", "", "p50", "p99", "0.2.0 p50", "0.2.0 p99", "p50 ratio")
	for _, q := range order {
		h := now[q]
		if h == nil {
			continue
		}
		line := fmt.Sprintf("%-52s %12s %12s", q, us(h.ValueAtQuantile(50)), us(h.ValueAtQuantile(99)))
		if b := before[q]; b != nil {
			line += fmt.Sprintf(" %12s %12s %9.3f×", us(b.ValueAtQuantile(50)), us(b.ValueAtQuantile(99)),
				float64(h.ValueAtQuantile(50))/float64(max(b.ValueAtQuantile(50), 1)))
		}
		say("%s", line)
	}
	return nil
}

const (
	alone    = "check-ins at 200/s, nobody reads"
	watched  = "check-ins at 200/s, eight viewers read"
	creation = "a policy's creation at 4,100 policies"
	question = "what-if about 10,000 devices"
)

var questions = []struct{ name, path string }{
	{"compliance of the fleet", "/compliance"},
	{"compliance of one policy", "/policies/policy-default/compliance"},
	{"first page of devices", "/devices"},
	{"first page: noncompliant", "/devices?compliance=noncompliant"},
	{"first page: unknown", "/devices?compliance=unknown"},
	{"first page: by tag", "/devices?tag=pilot"},
	{"first page: by user", "/devices?user=user77"},
	{"first page: name begins", "/devices?name=laptop-9"},
	{"first page: of a policy", "/devices?policy_id=policy-default"},
	{"devices of a policy", "/policies/policy-default/devices"},
	{"policies with their counts", "/policies"},
}

var order = func() []string {
	var out []string
	for _, q := range questions {
		out = append(out, q.name)
	}
	return append(out, question, creation, alone, watched)
}()

// read measures one version.
func read(dir, binary string) (map[string]*hdrhistogram.Histogram, error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	t, err := newTarget(binary, dir, "", 1)
	if t != nil {
		defer t.stop()
	}
	if err != nil {
		return nil, err
	}
	devices, err := enroll(ctx, t, 200)
	if err != nil {
		return nil, err
	}
	// One policy of which 10,000 devices are asked.
	var made struct{ ID string }
	if err := t.call(0, "POST", "/api/v1/policies",
		`{"name":"asked","policy_data":{"usb":{"allowed_classes":["hid"],"whitelist":["046d:*"]}}}`, &made); err != nil {
		return nil, err
	}
	t.nodes[0].stop(syscall.SIGTERM)
	if err := reported(filepath.Join(t.nodes[0].data, "server.db"), *fleetSize, made.ID); err != nil {
		return nil, err
	}
	if err := t.nodes[0].start(binary); err != nil {
		return nil, err
	}
	began := time.Now()
	for err = t.call(0, "GET", "/api/v1/compliance", "", nil); err != nil &&
		time.Since(began) < 3*time.Minute; err = t.call(0, "GET", "/api/v1/compliance", "", nil) {
		time.Sleep(100 * time.Millisecond) // the node is still reading the devices
	}
	if err != nil {
		return nil, err
	}
	say("%s: the first answer came %.1f s after the start", binary, time.Since(began).Seconds())
	out := map[string]*hdrhistogram.Histogram{}
	ask := func(name, method, path, body string, n int) error {
		h := hdrhistogram.New(1, 600_000_000, 3)
		for i := range n + 1 {
			began := time.Now()
			var text string
			if err := t.call(0, method, "/api/v1"+path, strings.ReplaceAll(body, "%", fmt.Sprint(i)), &text); err != nil {
				return err
			}
			if i > 0 { // the first question finds cold caches
				_ = h.RecordValue(time.Since(began).Microseconds())
			}
		}
		out[name] = h
		return nil
	}
	for _, q := range questions {
		if err := ask(q.name, "GET", q.path, "", 10); err != nil {
			return nil, err
		}
	}
	if err := ask(question, "POST", "/policies/"+made.ID+"/whatif", `{"policy_data":{"usb":{"allowed_classes":["mass_storage"]}}}`,
		2); err != nil {
		return nil, err
	}
	// Devices come at a fixed rate; each time counts from when it was due.
	come := func(name string, seconds int) {
		h := out[name]
		if h == nil {
			h = hdrhistogram.New(1, 600_000_000, 3)
			out[name] = h
		}
		var mu sync.Mutex
		var all sync.WaitGroup
		failed := 0
		const rate = 200
		began := time.Now()
		for i := range rate * seconds {
			due := began.Add(time.Duration(i) * time.Second / rate)
			time.Sleep(time.Until(due))
			d := devices[i%len(devices)]
			all.Go(func() {
				events := 0
				if i%4 == 0 {
					events = 1
				}
				err := d.exchange(ctx, events)
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					failed++
					return
				}
				_ = h.RecordValue(time.Since(due).Microseconds())
			})
		}
		all.Wait()
		if failed > 0 {
			say("%s: %d of %d failed", name, failed, rate*seconds)
		}
	}
	come("", 10) // what filling the database left unwritten is written, and devices are in memory
	asked := atomic.Int64{}
	// In turn, so that whatever else the machine does affects both.
	for range 3 {
		come(alone, 10)
		var stop atomic.Bool
		var viewers sync.WaitGroup
		for v := range 8 {
			viewers.Go(func() {
				for i := v; !stop.Load(); i++ {
					var text string
					if t.call(0, "GET", "/api/v1"+questions[i%len(questions)].path, "", &text) == nil {
						asked.Add(1)
					}
					time.Sleep(250 * time.Millisecond) // somebody looks at it
				}
			})
		}
		come(watched, 10)
		stop.Store(true)
		viewers.Wait()
	}
	delete(out, "")
	say("%s: eight viewers had %d answers in 30 s; memory %d MiB", binary, asked.Load(), t.rss()/1024)
	for i := range 4100 {
		if err := t.call(0, "POST", "/api/v1/policies", fmt.Sprintf(`{"name":"p%d","policy_data":{"usb":{"allowed":true}}}`, i),
			nil); err != nil {
			return nil, err
		}
	}
	return out, ask(creation, "POST", "/policies", `{"name":"one more %","policy_data":{"usb":{"allowed":true}}}`, 50)
}

// reported registers devices with realistic reports: facts, nine findings of a dozen kinds, ten events.
func reported(path string, n int, asked string) error {
	if err := register(path, n); err != nil {
		return err
	}
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=synchronous(OFF)&_pragma=journal_mode(WAL)&_txlock=immediate")
	if err != nil {
		return err
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	rows, err := db.Query(`SELECT n FROM devices WHERE enrollment = 'bench' ORDER BY n`)
	if err != nil {
		return err
	}
	var numbers []int64
	for rows.Next() {
		var n int64
		if err := rows.Scan(&n); err != nil {
			return err
		}
		numbers = append(numbers, n)
	}
	_ = rows.Close()
	aged := false
	if err := db.QueryRow(`SELECT count(*) > 0 FROM pragma_table_info('seen') WHERE name = 'fresh'`).Scan(&aged); err != nil {
		return err
	}
	tx, err := db.Begin()
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	r := rand.New(rand.NewPCG(1, 2))
	now := time.Now()
	sim := &device{machine: "m"}
	facts, _ := json.Marshal(sim.facts())
	do := func(text string, args ...any) {
		if err == nil {
			_, err = tx.Exec(text, args...)
		}
	}
	type standing struct{ hash, body, findings, rollup string }
	var standings []standing
	for i := range 12 {
		sim.round = i % 2
		list := sim.findings()
		list[1+i%7].Enforcement = enforce.Partial
		f, _ := json.Marshal(list)
		type short struct {
			S enforce.Setting     `json:"s"`
			M enforce.Mode        `json:"m"`
			C enforce.Compliance  `json:"c"`
			E enforce.Enforcement `json:"e"`
		}
		var said []short
		for _, x := range list {
			said = append(said, short{x.Setting, x.Mode, x.Compliance, x.Enforcement})
		}
		b, _ := json.Marshal(said)
		s := standing{protocol.Digest(said)[:16], string(b), string(f), string(enforce.RollUp(list).Compliance)}
		standings = append(standings, s)
		do(`INSERT OR IGNORE INTO standings (hash, body) VALUES (?,?)`, s.hash, s.body)
	}
	sim.seq = 0
	events, _ := json.Marshal(sim.report(10).Events)
	for i, n := range numbers {
		s := standings[r.IntN(len(standings))]
		at := now.Add(-time.Duration(r.IntN(300)) * time.Second)
		if i%5 == 0 {
			at = now.Add(-time.Duration(r.IntN(1000)) * time.Hour) // a fifth is away
		}
		current := "policy-default"
		if i < 10_000 {
			current = asked
			do(`UPDATE devices SET policy = ?, priority = 1000 WHERE n = ?`, asked, n)
			do(`INSERT INTO events (device, epoch, first, last, received, body) VALUES (?,'e',1,10,?,?)`, n, at.UnixMilli(), string(events))
		}
		do(
			`INSERT OR REPLACE INTO reports (device, counter, held_id, held_version, held, agent, previous, facts_digest, facts, findings_digest, findings, findings_at, standing, rollup)
			VALUES (?,1,?,1,?,'{}','','f',?,'g',?,?,?,?)`, n, current, `{"id":"`+current+`","version":1}`, string(facts), s.findings,
			at.UnixMilli(), s.hash, s.rollup)
		if aged {
			do(`INSERT OR REPLACE INTO seen (device, at, counter, assigned, fresh) VALUES (?,?,1,?,?)`, n, at.UnixMilli(), at.UnixMilli(),
				at.Add(24*time.Hour).UnixMilli())
			do(`UPDATE seen SET fresh = ? WHERE device = ? AND at > ?`, now.Add(10*time.Minute).UnixMilli(), n,
				now.Add(-time.Hour).UnixMilli())
		} else {
			do(`INSERT OR REPLACE INTO seen (device, at, counter, assigned) VALUES (?,?,1,?)`, n, at.UnixMilli(), at.UnixMilli())
		}
		if err != nil {
			return err
		}
	}
	return tx.Commit()
}
