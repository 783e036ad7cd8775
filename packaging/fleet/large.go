package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	_ "modernc.org/sqlite" // the driver

	"github.com/warderd/warder/sync/checkin"
)

func asStatus(err error, s **checkin.StatusError) bool { return errors.As(err, s) }

// large compares a server with a thousand devices to one with a million, by the same thousand.
func large(dir string) error {
	ctx := context.Background()
	t, err := newTarget(*binary, dir, "", 1)
	if t != nil {
		defer t.stop()
	}
	if err != nil {
		return err
	}
	devices, err := enroll(ctx, t, 1000)
	if err != nil {
		return err
	}
	measure := func() (cold, warm, withNews *hdrhistogram.Histogram, err error) {
		// Cold: the node has just started and has no device in memory.
		t.nodes[0].stop(syscall.SIGTERM)
		if err := t.nodes[0].start(*binary); err != nil {
			return nil, nil, nil, err
		}
		for _, d := range devices[:50] {
			_ = d.exchange(ctx, 0) // connections and code are warm
		}
		hs := [3]*hdrhistogram.Histogram{}
		for i, events := range []int{0, 0, 10} {
			hs[i] = hdrhistogram.New(1, 60_000_000, 3)
			for _, d := range devices[50:] {
				if i == 0 {
					_ = d.client.Offset()
				}
				began := time.Now()
				if err := d.exchange(ctx, events); err != nil {
					return nil, nil, nil, err
				}
				_ = hs[i].RecordValue(time.Since(began).Microseconds())
			}
		}
		return hs[0], hs[1], hs[2], nil
	}
	show := func(name string, h *hdrhistogram.Histogram) string {
		return fmt.Sprintf("%s p50 %s p99 %s", name, us(h.ValueAtQuantile(50)), us(h.ValueAtQuantile(99)))
	}
	c1, w1, n1, err := measure()
	if err != nil {
		return err
	}
	say("with     1000 registered: %s; %s; %s", show("first check-in of a device", c1), show("next", w1), show("with 10 events", n1))
	t.nodes[0].stop(syscall.SIGTERM)
	began := time.Now()
	if err := register(filepath.Join(t.nodes[0].data, "server.db"), *million); err != nil {
		return err
	}
	say("registered %d more in %s", *million, time.Since(began).Round(time.Second))
	if err := t.nodes[0].start(*binary); err != nil {
		return err
	}
	c2, w2, n2, err := measure()
	if err != nil {
		return err
	}
	say("with %d registered: %s; %s; %s", *million+1000, show("first check-in of a device", c2), show("next", w2),
		show("with 10 events", n2))
	ratio := func(a, b *hdrhistogram.Histogram) float64 {
		return float64(b.ValueAtQuantile(50)) / float64(a.ValueAtQuantile(50))
	}
	say("ratio of medians: first %.2f, next %.2f, with events %.2f", ratio(c1, c2), ratio(w1, w2), ratio(n1, n2))
	for _, q := range []struct{ name, path string }{{"first page of devices", "/devices"}, {"page 50000", "/devices?page=50000"},
		{"page 10000 of 100", "/devices?page=10000&page_size=100"},
		{"policies with counts", "/policies"}, {"devices of the default policy", "/policies/policy-default/devices"},
		{"compliance summary", "/compliance"}, {"devices by tag", "/devices?tag=pilot"}} {
		h := hdrhistogram.New(1, 60_000_000, 3)
		var first time.Duration
		for i := range 7 {
			began := time.Now()
			var text string
			if err := t.call(0, "GET", "/api/v1"+q.path, "", &text); err != nil {
				return err
			}
			if i == 0 {
				first = time.Since(began)
				continue
			}
			_ = h.RecordValue(time.Since(began).Microseconds())
		}
		say("%-30s first %s, then p50 %s", q.name, us(first.Microseconds()), us(h.ValueAtQuantile(50)))
	}
	began = time.Now()
	if err := t.call(0, "PUT", "/api/v1/policies/default", `{"policy_id":"policy-default"}`, nil); err != nil {
		return err
	}
	say("setting the default for all: %s", time.Since(began).Round(time.Millisecond))
	say("server memory %d MiB", t.rss()/1024)
	return nil
}

// register writes devices straight into the database, as the rows that enrollment makes.
func register(path string, n int) error {
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=synchronous(OFF)&_pragma=journal_mode(WAL)&_txlock=immediate")
	if err != nil {
		return err
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	var key, host string
	if err := db.QueryRow(`SELECT key, host FROM devices LIMIT 1`).Scan(&key, &host); err != nil {
		return err
	}
	tx, err := db.Begin()
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	now := time.Now().UnixMilli()
	const each = 500
	row := "(" + strings.TrimSuffix(strings.Repeat("?,", 15), ",") + ")"
	text := `INSERT INTO devices (id, name, key, machine, host, os, ownership, username, tags, policy, priority, compliance, state, ` +
		`enrolled_at, enrollment) VALUES ` +
		strings.TrimSuffix(strings.Repeat(row+",", each), ",")
	for done := 0; done < n; done += each {
		args := make([]any, 0, 15*each)
		for i := range each {
			id := fmt.Sprintf("device-R%015d", done+i)
			tags := ""
			if (done+i)%1000 == 0 {
				tags = ",pilot,"
			}
			args = append(args, id, "laptop "+id, key, id, host, "linux", "COPE", "", tags, nil, 1000, "", "enrolled", now, "bench")
		}
		if _, err := tx.Exec(text, args...); err != nil {
			return err
		}
	}
	if _, err := tx.Exec(`INSERT INTO seen (device, at, counter, assigned) SELECT n, enrolled_at, 1, enrolled_at FROM devices WHERE ` +
		`enrollment = 'bench'`); err != nil {
		return err
	}
	if _, err := tx.Exec(
		`INSERT INTO reports (device, counter, held_id, held_version, held, agent, previous, facts_digest, facts, findings_digest, findings, findings_at, standing, rollup) SELECT n, 1, 'policy-default', 1, '{"id":"policy-default","version":1,"serial":1}', '{}', '', 'f', '{}', 'g', '[]', enrolled_at, 'none',
		CASE WHEN n % 10 = 0 THEN 'noncompliant' ELSE 'compliant' END FROM devices WHERE enrollment = 'bench'`); err != nil {
		return err
	}
	return tx.Commit()
}
