package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/sync/server/fleet"
	"github.com/warderd/warder/sync/server/roster"
	"github.com/warderd/warder/sync/server/store/postgrestest"
)

func TestMain(m *testing.M) { os.Exit(postgrestest.Main(m)) }

var ctx = context.Background()

// now is a fixed moment; the store takes time as an argument.
var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// each runs a test on both databases: one suite, and both pass it.
func each(t *testing.T, f func(t *testing.T, s *Store)) {
	t.Run("sqlite", func(t *testing.T) { f(t, opened(t, filepath.Join(t.TempDir(), "server.db"))) })
	t.Run("postgres", func(t *testing.T) { f(t, opened(t, postgrestest.URL(t))) })
}

func opened(t *testing.T, database string) *Store {
	t.Helper()
	s, err := Open(ctx, database)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func put(t *testing.T, s *Store, id string, expect int, active bool) *fleet.Policy {
	t.Helper()
	p := &fleet.Policy{ID: id, Name: "Name of " + id, Active: active, Version: expect + 1, Compliance: `"warn"`,
		Data:   json.RawMessage(`{"usb":{"allowed":true}}`),
		Digest: "sha256:x", CreatedAt: now, UpdatedAt: now.Add(time.Duration(expect) * time.Minute)}
	must(t, s.PutPolicy(ctx, p, expect, []string{"usb.allowed: now managed: true (warn)"}))
	return p
}

func enrolled(t *testing.T, s *Store, id string) *Device {
	t.Helper()
	must(t, s.AddEnrollment(ctx, "token-"+id, Enrollment{ID: "e-" + id, Uses: 1, Expires: now.Add(time.Hour), CreatedAt: now,
		CreatedBy: "ann"}))
	d := &Device{Device: fleet.Device{ID: id, OS: "linux", Ownership: "COPE"}, Name: "laptop " + id, Key: json.RawMessage(`{}`),
		Host: json.RawMessage(`{}`)}
	must(t, s.Enroll(ctx, "token-"+id, d, now))
	got, err := s.Device(ctx, id)
	must(t, err)
	return got
}

func TestPolicies(t *testing.T) {
	each(t, func(t *testing.T, s *Store) {
		p := put(t, s, "policy-1", 0, true)
		got, err := s.Policy(ctx, "policy-1")
		must(t, err)
		if !reflect.DeepEqual(got, p) {
			t.Errorf("%+v, want %+v", got, p)
		}
		put(t, s, "policy-1", 1, true)
		if err := s.PutPolicy(ctx, p, 1, nil); !errors.Is(err, ErrStale) {
			t.Errorf("a version written twice: %v", err)
		}
		h, total, err := s.History(ctx, "policy-1", 0, 0, 10)
		must(t, err)
		if total != 2 || h[0].Version != 2 || h[1].By != "warder-server" || h[1].Changes[0] == "" {
			t.Errorf("%d %+v", total, h)
		}
		if v, err := s.PolicyVersion(ctx, "policy-1", 1); err != nil || !strings.Contains(string(v.Document), `"version":1`) {
			t.Errorf("%v %s", err, v.Document)
		}
		if _, err := s.PolicyVersion(ctx, "policy-1", 9); !errors.Is(err, ErrNotFound) {
			t.Error(err)
		}
		put(t, s, "policy-2", 0, false)
		must(t, s.SetDefault(ctx, "policy-1", now))
		if err := s.SetDefault(ctx, "policy-2", now); !errors.Is(err, ErrInUse) {
			t.Errorf("an inactive default: %v", err)
		}
		if err := s.SetDefault(ctx, "none", now); !errors.Is(err, ErrNotFound) {
			t.Error(err)
		}
		if err := s.DeletePolicy(ctx, "policy-1", 0, now); !errors.Is(err, ErrInUse) {
			t.Errorf("the default is deleted: %v", err)
		}
		if err := s.DeletePolicy(ctx, "policy-2", 7, now); !errors.Is(err, ErrStale) {
			t.Errorf("a stale delete: %v", err)
		}
		must(t, s.DeletePolicy(ctx, "policy-2", 1, now))
		if err := s.DeletePolicy(ctx, "policy-2", 0, now); !errors.Is(err, ErrNotFound) {
			t.Error(err)
		}
		list, total, err := s.Policies(ctx, 1, 1)
		if err != nil || total != 1 || len(list) != 1 {
			t.Error(list, total, err)
		}
		// Each change is one line of the audit log, under growing numbers.
		log, total, err := s.Audit(ctx, AuditFilter{}, 0, 100)
		must(t, err)
		for i, c := range log {
			if i > 0 && c.Sequence >= log[i-1].Sequence {
				t.Errorf("%+v", log)
			}
		}
		if total != 5 || log[0].Action != "policy.deleted" || log[4].Action != "policy.created" {
			t.Errorf("%d %+v", total, log)
		}
	})
}

func TestEnrollments(t *testing.T) {
	each(t, func(t *testing.T, s *Store) {
		put(t, s, "policy-1", 0, true)
		must(t, s.AddEnrollment(ctx, "tok", Enrollment{ID: "e1", Uses: 2, Expires: now.Add(time.Hour), Tags: []string{"eng", "pilot"},
			User: "ann", Ownership: "BYOD", Policy: "policy-1", CreatedAt: now}))
		var wg sync.WaitGroup
		var mu sync.Mutex
		passed := 0
		for i := range 8 { // many at once: two pass
			wg.Go(func() {
				d := &Device{Device: fleet.Device{ID: fmt.Sprint("d", i), OS: "linux"}, Key: json.RawMessage(`{}`),
					Host: json.RawMessage(`{}`)}
				err := s.Enroll(ctx, "tok", d, now)
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					passed++
					if d.Policy != "policy-1" || len(d.Tags) != 2 || d.User != "ann" || d.Ownership != "BYOD" {
						t.Errorf("%+v", d)
					}
				} else if !errors.Is(err, ErrUsed) {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if passed != 2 {
			t.Errorf("%d of 2 uses", passed)
		}
		must(t, s.AddEnrollment(ctx, "old", Enrollment{ID: "e2", Uses: 1, Expires: now, CreatedAt: now.Add(time.Second)}))
		must(t, s.AddEnrollment(ctx, "gone", Enrollment{ID: "e3", Uses: 1, Expires: now.Add(time.Hour),
			CreatedAt: now.Add(2 * time.Second)}))
		must(t, s.RevokeEnrollment(ctx, "e3", now))
		for _, tok := range []string{"old", "gone", "never"} {
			if err := s.Enroll(ctx, tok, &Device{Device: fleet.Device{ID: "x"}}, now); !errors.Is(err, ErrUsed) {
				t.Errorf("%s: %v", tok, err)
			}
		}
		list, err := s.Enrollments(ctx)
		total := len(list)
		if err != nil || total != 3 || list[2].Used != 2 || list[0].RevokedAt.IsZero() {
			t.Errorf("%v %d %+v", err, total, list)
		}
	})
}

func TestReports(t *testing.T) {
	each(t, func(t *testing.T, s *Store) {
		d := enrolled(t, s, "d1")
		other := enrolled(t, s, "d2")
		ev := func(seqs ...uint64) (out []enforce.Event) {
			for _, q := range seqs {
				out = append(out, enforce.Event{Seq: q, At: now, Kind: enforce.Denied, Setting: "usb.allowed",
					Subject: fmt.Sprint(q, " \x00 ü")})
			}
			return out
		}
		rec := func(n int64, counter uint64, epoch string, events []enforce.Event) *Record {
			return &Record{Device: n, At: now.Add(time.Duration(counter) * time.Second), Counter: counter, CurrentID: "policy-1",
				CurrentVersion: 3, Current: json.RawMessage(`{"serial":4}`),
				Agent: json.RawMessage(`{}`), Epoch: epoch, Events: raw(events...)}
		}
		first := rec(d.N, 1, "e", ev(1, 2))
		first.Facts, first.FactsDigest = json.RawMessage(`{"a":1}`), "f1"
		first.Findings, first.FindingsDigest, first.Standing, first.StandingBody, first.Rollup = json.RawMessage(`[{}]`), "g1", "h1",
			`["x"]`, "noncompliant"
		both := rec(other.N, 1, "e", ev(7))
		must(t, s.PutRecords(ctx, []*Record{both, first}))
		if first.Ack != 2 || both.Ack != 7 {
			t.Errorf("acks %d %d", first.Ack, both.Ack)
		}
		for _, c := range []struct {
			r    *Record
			want uint64
		}{{rec(d.N, 2, "e", ev(1, 2, 5)), 5}, {rec(d.N, 3, "e", ev(1)), 5}, {rec(d.N, 4, "e2", ev(1)), 1}, {rec(d.N, 5, "e2", nil), 0}} {
			must(t, s.PutRecords(ctx, []*Record{c.r}))
			if c.r.Ack != c.want {
				t.Errorf("ack %d, want %d", c.r.Ack, c.want)
			}
		}
		list, err := s.Events(ctx, d.N, 100)
		must(t, err)
		var got []string
		for _, e := range list {
			got = append(got, fmt.Sprint(e.Epoch, e.Seq))
		}
		if fmt.Sprint(got) != "[e21 e5 e2 e1]" || list[0].Subject != "1 \x00 ü" {
			t.Errorf("%v %q", got, list[0].Subject)
		}
		if list, _ := s.Events(ctx, d.N, 2); len(list) != 2 {
			t.Errorf("%d events", len(list))
		}
		// What was not sent again has not changed; a report that is older than the last changes nothing.
		old := rec(d.N, 3, "", nil)
		old.Findings, old.FindingsDigest = json.RawMessage(`[]`), "g0"
		must(t, s.PutRecords(ctx, []*Record{old}))
		if !old.Old || first.Old {
			t.Error("an older report is not told from a newer one")
		}
		must(t, s.PutSeen(ctx, []Seen{{Device: d.N, At: now.Add(time.Hour), Counter: 9, Assigned: now, Fresh: now.Add(time.Hour),
			Looked: now}, {Device: other.N, At: now, Counter: 1, Fresh: now.Add(time.Hour)}}))
		// the clock was set back since: a time in the future is not shown
		must(t, s.PutSeen(ctx, []Seen{{Device: d.N, At: now, Counter: 12, Fresh: now.Add(2 * time.Hour)}}))
		x, err := s.Device(ctx, "d1")
		must(t, err)
		if string(x.Report.Facts) != `{"a":1}` || x.Report.FindingsDigest != "g1" || x.Report.Rollup != "noncompliant" || x.Counter != 12 ||
			!x.LastSeen.Equal(now) || !x.AssignedAt.Equal(now) {
			t.Errorf("%+v", x)
		}
		if k, _ := s.Known(ctx, "d1"); k.Report.Facts != nil || k.Report.FactsDigest != "f1" {
			t.Errorf("%+v", k.Report)
		}
		if !x.Fresh.Equal(now.Add(2*time.Hour)) || !x.Looked.Equal(now) {
			t.Errorf("the later word does not count: %s %s", x.Fresh, x.Looked)
		}
		must(t, s.PutSeen(ctx, []Seen{{Device: d.N, At: now.Add(2 * time.Hour), Counter: 11}})) // an earlier word, late
		must(t, s.PutSeen(ctx, []Seen{{Device: d.N, At: now.Add(-time.Hour)}}))                 // heard on a socket, late
		if y, err := s.Device(ctx, "d1"); err != nil || !y.Fresh.Equal(now.Add(2*time.Hour)) {
			t.Errorf("an earlier word counts: %s %v", y.Fresh, err)
		}
		// The same from memory.
		kept := roster.New()
		people, err := s.Roster(ctx, 0, 100)
		must(t, err)
		kept.Put(people)
		clock := func(after time.Duration) roster.Clock {
			return roster.Clock{Now: now.Add(after).UnixMilli(), Most: now.Add(after + 4*time.Hour).UnixMilli()}
		}
		sum := kept.Standings("policy-1", clock(0))
		if len(sum) != 1 || sum[0].Devices != 1 || sum[0].Old {
			t.Errorf("%+v", sum)
		}
		if sum = kept.Standings("policy-1", clock(3*time.Hour)); len(sum) != 1 || !sum[0].Old {
			t.Errorf("it is old by then: %+v", sum)
		}
		for _, c := range []struct {
			rollup string
			at     time.Duration
			want   int
		}{{"noncompliant", 0, 1}, {"noncompliant", 3 * time.Hour, 0}, {"unknown", 0, 0}, {"unknown", 3 * time.Hour, 1},
			{"compliant", 0, 0}} {
			if n := kept.Count(roster.Filter{Rollup: c.rollup, Clock: clock(c.at)}, nil); n != c.want {
				t.Errorf("%+v: %d", c, n)
			}
		}
		// What an earlier version called compliant is corrected, and what is compliant stays so.
		mixed, fine := rec(d.N, 13, "", nil), rec(other.N, 13, "", nil)
		mixed.Findings, mixed.FindingsDigest, mixed.Standing, mixed.Rollup = json.RawMessage(`[{}]`), "g2", "h2", "compliant"
		mixed.StandingBody = `[{"s":"usb.allowed","m":"enforce","c":"compliant","e":"enforced"},{"s":"dlp.print_allowed","m":"enforce",` +
			`"c":"unknown","e":"unsupported"}]`
		fine.Findings, fine.FindingsDigest, fine.Standing, fine.Rollup = json.RawMessage(`[{}]`), "g3", "h3", "compliant"
		fine.StandingBody = `[{"s":"usb.allowed","m":"enforce","c":"compliant","e":"partial"}]`
		must(t, s.PutRecords(ctx, []*Record{mixed, fine}))
		must(t, s.Reckon(ctx))
		for id, want := range map[string]string{"d1": "unverified", other.ID: "compliant"} {
			if k, err := s.Known(ctx, id); err != nil || k.Report.Rollup != want {
				t.Errorf("%s: %+v %v", id, k.Report.Rollup, err)
			}
		}
		// Pruned by age; what came before stays known.
		if more, err := s.Prune(ctx, now.Add(2500*time.Millisecond)); more || err != nil {
			t.Error(more, err)
		}
		if list, _ := s.Events(ctx, d.N, 100); len(list) != 1 {
			t.Errorf("%d events are left", len(list))
		}
		again := rec(d.N, 20, "e", ev(1, 2, 5, 6))
		must(t, s.PutRecords(ctx, []*Record{again}))
		if list, _ := s.Events(ctx, d.N, 100); len(list) != 2 || again.Ack != 6 {
			t.Errorf("pruned events come back: %d, ack %d", len(list), again.Ack)
		}
	})
}

// Many writers at once, like two nodes: nothing is lost and nothing stored twice.
func TestReportsAtOnce(t *testing.T) {
	each(t, func(t *testing.T, s *Store) {
		second := opened(t, s.url)
		var ids []int64
		for i := range 6 {
			ids = append(ids, enrolled(t, s, fmt.Sprint("d", i)).N)
		}
		var wg sync.WaitGroup
		for w, node := range []*Store{s, second, s, second} {
			wg.Go(func() {
				r := rand.New(rand.NewPCG(uint64(w), 1))
				for round := range 25 {
					var list []*Record
					for _, i := range r.Perm(len(ids))[:4] {
						x := &Record{Device: ids[i], At: now, Counter: uint64(round + 1), Current: json.RawMessage(`{}`),
							Agent: json.RawMessage(`{}`), Epoch: "e"}
						for q := uint64(1); q <= uint64(round+1); q++ {
							x.Events = append(x.Events, raw(enforce.Event{Seq: q, Kind: enforce.Allowed})...)
						}
						list = append(list, x)
					}
					if err := node.PutRecords(ctx, list); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
		for _, n := range ids {
			list, err := s.Events(ctx, n, 1000)
			must(t, err)
			seen := map[uint64]bool{}
			for _, e := range list {
				if seen[e.Seq] {
					t.Errorf("device %d: %d is stored twice", n, e.Seq)
				}
				seen[e.Seq] = true
			}
			if len(seen) < 20 {
				t.Errorf("device %d: %d events", n, len(seen))
			}
		}
	})
}

// For any fleet, memory and database agree about who has which policy.
func TestAssignedIsTheSame(t *testing.T) {
	each(t, func(t *testing.T, s *Store) {
		r := rand.New(rand.NewPCG(7, 7))
		pick := func(list ...string) string { return list[r.IntN(len(list))] }
		for i := range 5 {
			put(t, s, fmt.Sprint("policy-", i), 0, i != 3)
		}
		must(t, s.SetDefault(ctx, "policy-0", now))
		for i := range 6 {
			must(t, s.AddAssignment(ctx, fleet.Assignment{ID: fmt.Sprint("a", i), Policy: fmt.Sprint("policy-", r.IntN(5)),
				Priority: r.IntN(4) * 500, CreatedAt: now.Add(time.Duration(r.IntN(3)) * time.Second),
				Target: fleet.Target{Platform: pick("", "linux", "windows"), Ownership: pick("", "ANY", "BYOD"),
					User: pick("", "", "ann's"), Tag: pick("", "eng", "en", "x_y")}}))
		}
		if err := s.AddAssignment(ctx, fleet.Assignment{ID: "z", Policy: "none", CreatedAt: now}); !errors.Is(err, ErrNotFound) {
			t.Errorf("an assignment of no policy: %v", err)
		}
		must(t, s.AddEnrollment(ctx, "tok", Enrollment{ID: "e", Uses: 1000, Expires: now.Add(time.Hour), CreatedAt: now}))
		for i := range 60 {
			d := &Device{Device: fleet.Device{ID: fmt.Sprint("d", i), OS: pick("linux", "windows", "darwin"),
				Ownership: pick("BYOD", "COPE", "")}, Key: json.RawMessage(`{}`), Host: json.RawMessage(`{}`)}
			must(t, s.Enroll(ctx, "tok", d, now))
			user, tags := pick("", "ann's", "bob"), [][]string{nil, {"eng"}, {"en", "x_y"}, {"xzy", "engine"}}[r.IntN(4)]
			must(t, s.Edit(ctx, d.ID, nil, &user, nil, &tags, now))
			if r.IntN(2) == 0 {
				must(t, s.Assign(ctx, d.ID, fmt.Sprint("policy-", r.IntN(5)), "", pick2(r, 0, 500, 1000), now))
			}
		}
		must(t, s.DeletePolicy(ctx, "policy-4", 0, now)) // some have it as their own
		st, err := s.State(ctx, nil)
		must(t, err)
		kept := roster.New()
		kept.Assign(st)
		rows, err := s.Roster(ctx, 0, 1000)
		must(t, err)
		kept.Put(rows)
		want := map[string]int{}
		byID := map[string][]int64{}
		numbers := kept.Numbers(roster.Filter{}, 0, 1000)
		list, err := s.Devices(ctx, numbers, true)
		must(t, err)
		for _, d := range list {
			id, _ := st.Assigned(&d.Device)
			want[id]++
			byID[id] = append(byID[id], d.N)
		}
		got, total := kept.Counts()
		if !reflect.DeepEqual(got, want) || len(want) < 2 || total != 60 {
			t.Errorf("in memory %v, fleet %v", got, want)
		}
		for id, ns := range byID {
			if id == "" {
				continue // a filter with an empty list matches all
			}
			if have := kept.Numbers(roster.Filter{Policy: id}, 0, 1000); !reflect.DeepEqual(have, ns) {
				t.Errorf("%s: %v, want %v", id, have, ns)
			}
		}
		must(t, s.SetState(ctx, "d1", Retired, now))
		rows, err = s.RosterOf(ctx, []string{"d1", "none"})
		must(t, err)
		kept.Put(rows)
		if _, total := kept.Counts(); total != 59 || kept.Count(roster.Filter{}, nil) != 59 ||
			kept.Count(roster.Filter{State: Retired}, nil) != 1 {
			t.Errorf("%d devices", total)
		}
		// A state that differs in one assignment moves the same devices as a full read.
		must(t, s.RemoveAssignment(ctx, "a1", now))
		must(t, s.PutPolicy(ctx, &fleet.Policy{ID: "policy-1", Version: 2, Active: false, Data: json.RawMessage(`{}`), CreatedAt: now,
			UpdatedAt: now}, 1, nil))
		next, err := s.State(ctx, st)
		must(t, err)
		fresh, err := s.State(ctx, nil)
		must(t, err)
		if !reflect.DeepEqual(next.Policies, fresh.Policies) || !next.SameAssignments(fresh) || next.SameAssignments(st) {
			t.Errorf("%+v\n%+v", next.Policies["policy-1"], fresh.Policies["policy-1"])
		}
		kept.Assign(next)
		anew := roster.New()
		anew.Assign(fresh)
		rows, err = s.Roster(ctx, 0, 1000)
		must(t, err)
		anew.Put(rows)
		x, _ := kept.Counts()
		y, _ := anew.Counts()
		if !reflect.DeepEqual(x, y) {
			t.Errorf("%v, anew %v", x, y)
		}
	})
}

func pick2(r *rand.Rand, list ...int) int { return list[r.IntN(len(list))] }

func TestRollouts(t *testing.T) {
	each(t, func(t *testing.T, s *Store) {
		p := put(t, s, "policy-1", 0, true)
		d := enrolled(t, s, "d1")
		next := *p
		next.Version, next.UpdatedAt = 2, now.Add(time.Minute)
		o := &fleet.Rollout{ID: "r1", Policy: p.ID, From: 1, To: 2, Plan: fleet.Plan{Stages: []fleet.Stage{{Percent: 10}, {Percent: 100}}},
			State: fleet.Running, StageSince: now, CreatedAt: now, CreatedBy: "ann"}
		must(t, s.StartRollout(ctx, o, &next, 1, nil))
		if err := s.StartRollout(ctx, o, &next, 1, nil); !errors.Is(err, ErrInUse) {
			t.Errorf("two rollouts at once: %v", err)
		}
		if err := s.PutPolicy(ctx, &next, 2, nil); !errors.Is(err, ErrInUse) {
			t.Errorf("a change beside a rollout: %v", err)
		}
		st, err := s.State(ctx, nil)
		must(t, err)
		if len(st.Rollouts) != 1 || st.Old[fleet.Variant{Policy: p.ID, Version: 1}] == nil || !reflect.DeepEqual(st.Rollouts[0], o) {
			t.Errorf("%+v", st.Rollouts[0])
		}
		must(t, s.PutRecords(ctx, []*Record{{Device: d.N, Moved: "r1", Was: "compliant"}}))
		must(t, s.PutRecords(ctx, []*Record{{Device: d.N, Moved: "r1", Was: "noncompliant"}}))
		if was, _, err := s.Before(ctx, "r1", d.N); was != "compliant" || err != nil {
			t.Error(was, err)
		}
		must(t, s.PutRecords(ctx, []*Record{{Device: d.N, At: now, Counter: 1, Current: json.RawMessage(`{}`), Agent: json.RawMessage(`{}`),
			Rollout: "r1", Outcome: "reverted"}}))
		if c, err := s.Tally(ctx, "r1"); err != nil || c != (fleet.Tally{Sent: 1, Reverted: 1}) {
			t.Errorf("%+v %v", c, err)
		}
		must(t, s.MoveRollout(ctx, o, fleet.Running, 1, "due", now))
		if err := s.MoveRollout(ctx, o, fleet.Running, 1, "due", now); !errors.Is(err, ErrStale) {
			t.Errorf("a stage entered twice: %v", err)
		}
		back := *p
		back.Version, back.UpdatedAt = 3, now.Add(time.Hour)
		must(t, s.StopRollout(ctx, o, &back, "too much went wrong", nil))
		if err := s.StopRollout(ctx, o, &back, "again", nil); !errors.Is(err, ErrStale) {
			t.Error(err)
		}
		got, err := s.Rollout(ctx, "r1")
		if err != nil || got.State != fleet.Stopped || got.Reason == "" || got.EndedAt.IsZero() {
			t.Errorf("%+v %v", got, err)
		}
		if x, _ := s.Policy(ctx, p.ID); x.Version != 3 {
			t.Errorf("version %d", x.Version)
		}
	})
}

func TestExceptionsAndBundles(t *testing.T) {
	each(t, func(t *testing.T, s *Store) {
		d := enrolled(t, s, "d1")
		must(t, s.AddException(ctx, "d1", Exception{ID: "x1", Device: d.N, Section: "usb", Subject: "0951:1666:S", Reason: "why",
			CreatedBy: "ann", CreatedAt: now, Until: now.Add(time.Hour)}))
		must(t, s.AddException(ctx, "d1", Exception{ID: "x2", Device: d.N, Section: "usb", Subject: "0951:1666", Reason: "code",
			CreatedAt: now.Add(1), Until: now.Add(9 * time.Hour), Offline: true}))
		got, err := s.Device(ctx, "d1")
		if err != nil || !got.Excepted.Equal(now.Add(time.Hour)) {
			t.Errorf("%v %v", got.Excepted, err)
		}
		cur, err := s.Exceptions(ctx, d.N, true, now)
		if err != nil || len(cur) != 1 || cur[0].ID != "x1" || cur[0].Subject != "0951:1666:S" {
			t.Errorf("%+v %v", cur, err)
		}
		if cur, _ := s.Exceptions(ctx, d.N, true, now.Add(time.Hour)); len(cur) != 0 {
			t.Errorf("%+v", cur)
		}
		must(t, s.EndException(ctx, "d1", d.N, "x1", now))
		if err := s.EndException(ctx, "d1", d.N, "x2", now); !errors.Is(err, ErrNotFound) {
			t.Errorf("a code cannot be taken back: %v", err)
		}
		if all, _ := s.Exceptions(ctx, d.N, false, now); len(all) != 2 {
			t.Errorf("%+v", all)
		}
		if err := s.PutBundle(ctx, "d1", d.N, "b0", []byte{1}, now); !errors.Is(err, ErrNotFound) {
			t.Errorf("a bundle nobody asked for: %v", err)
		}
		for i := range 5 {
			must(t, s.Diagnose(ctx, "d1", now))
			must(t, s.PutBundle(ctx, "d1", d.N, fmt.Sprint("b", i+1), []byte{0, 255, byte(i)}, now.Add(time.Duration(i)*time.Second)))
		}
		list, err := s.Bundles(ctx, d.N)
		if err != nil || len(list) != keepBundles || list[0].ID != "b5" || list[0].Size != 3 {
			t.Errorf("%+v %v", list, err)
		}
		if b, err := s.Bundle(ctx, d.N, "b5"); err != nil || string(b) != "\x00\xff\x04" {
			t.Errorf("%q %v", b, err)
		}
		must(t, s.Tidy(ctx, now.AddDate(0, 2, 0)))
		if list, _ := s.Bundles(ctx, d.N); len(list) != 0 {
			t.Errorf("%+v", list)
		}
	})
}

func TestIdempotency(t *testing.T) {
	each(t, func(t *testing.T, s *Store) {
		put(t, s, "policy-1", 0, true)
		c := WithActor(ctx, Actor{By: "ann", Request: "r", Key: "k", Body: "POST /x abc"})
		must(t, s.SetDefault(c, "policy-1", now))
		if err := s.SetDefault(c, "policy-1", now); !errors.Is(err, ErrReused) {
			t.Errorf("carried out twice: %v", err)
		}
		r, err := s.Replay(ctx, "ann", "k")
		if err != nil || r.Status != 0 || r.Request != "POST /x abc" {
			t.Errorf("%+v %v", r, err)
		}
		must(t, s.Answered(ctx, "ann", "k", 201, `{"a":1}`))
		if r, _ := s.Replay(ctx, "ann", "k"); r.Status != 201 || r.Response != `{"a":1}` {
			t.Errorf("%+v", r)
		}
		if _, err := s.Replay(ctx, "bob", "k"); !errors.Is(err, ErrNotFound) {
			t.Errorf("another's key: %v", err)
		}
		must(t, s.Tidy(ctx, now.Add(25*time.Hour)))
		if _, err := s.Replay(ctx, "ann", "k"); !errors.Is(err, ErrNotFound) {
			t.Error(err)
		}
	})
}

// Two processes on one database: each hears of the other's changes, and the numbers never go back.
func TestWatch(t *testing.T) {
	each(t, func(t *testing.T, s *Store) {
		other := opened(t, s.url)
		c, cancel := context.WithCancel(ctx)
		defer cancel()
		heard := make(chan int64, 100)
		var wg sync.WaitGroup
		wg.Go(func() {
			var last int64
			other.Watch(c, 100*time.Millisecond, func(c context.Context) {
				list, err := other.Changes(c, last, 100)
				if err != nil {
					return
				}
				for _, x := range list {
					last = x.Sequence
					heard <- last
				}
			})
		})
		put(t, s, "policy-1", 0, true)
		must(t, s.SetDefault(ctx, "policy-1", now))
		for want := int64(1); want <= 2; want++ {
			select {
			case got := <-heard:
				if got != want {
					t.Errorf("change %d, want %d", got, want)
				}
			case <-time.After(30 * time.Second):
				t.Fatal("the change was not heard of")
			}
		}
		must(t, other.Note(ctx, "keys.rotated", "policy.key", nil, now))
		if list, err := s.Changes(ctx, 2, 10); err != nil || len(list) != 1 || list[0].Sequence != 3 {
			t.Errorf("%+v %v", list, err)
		}
		cancel()
		wg.Wait()
	})
}

// Many processes open a new database at once: one makes its tables.
func TestOpenAtOnce(t *testing.T) {
	for name, database := range map[string]func() string{"sqlite": func() string { return filepath.Join(t.TempDir(), "x.db") },
		"postgres": func() string { return postgrestest.URL(t) }} {
		t.Run(name, func(t *testing.T) {
			db := database()
			var wg sync.WaitGroup
			for range 5 {
				wg.Go(func() {
					s, err := Open(ctx, db)
					if err != nil {
						t.Error(err)
						return
					}
					_ = s.Close()
				})
			}
			wg.Wait()
		})
	}
}

// A newer node adds to the tables while an older one is running, and the older one can be started again beside it.
func TestMigrateUnderAnOldNode(t *testing.T) {
	each(t, func(t *testing.T, old *Store) {
		put(t, old, "policy-1", 0, true)
		stop, done := make(chan struct{}), make(chan error, 1)
		go func() {
			for v := 1; ; v++ {
				select {
				case <-stop:
					done <- nil
					return
				default:
				}
				p := &fleet.Policy{ID: "policy-1", Active: true, Version: v + 1, Data: json.RawMessage(`{}`), CreatedAt: now,
					UpdatedAt: now}
				if err := old.PutPolicy(ctx, p, v, nil); err != nil {
					done <- err
					return
				}
			}
		}()
		widen := ""
		for _, table := range append([]string{"idempotency"}, tables...) {
			widen += "ALTER TABLE " + table + " ADD COLUMN colour TEXT NOT NULL DEFAULT '';\n"
		}
		next := fstest.MapFS{}
		for _, dir := range []string{"sqlite", "postgres"} {
			name := "migrations/" + dir + "/00001_init.sql"
			b, err := migrations.ReadFile(name)
			must(t, err)
			next[name] = &fstest.MapFile{Data: b}
			next["migrations/"+dir+"/00999_more.sql"] = &fstest.MapFile{
				Data: []byte("-- +goose Up\n" + widen + "CREATE TABLE more (x BIGINT);\n")}
		}
		newer := &Store{pg: old.pg, url: old.url, changed: make(chan struct{}, 1), standings: map[string]bool{}}
		if newer.pg {
			must(t, newer.openPostgres())
		} else {
			must(t, newer.openSQLite(old.url))
		}
		defer newer.Close()
		must(t, newer.migrate(ctx, next))
		time.Sleep(50 * time.Millisecond)
		close(stop)
		must(t, <-done)
		if _, err := newer.write.Exec(`INSERT INTO more VALUES (1)`); err != nil {
			t.Error(err)
		}
		again := opened(t, old.url) // an old node starts beside the new tables
		if _, err := again.Policy(ctx, "policy-1"); err != nil {
			t.Error(err)
		}
		// Everything that an old node writes, it writes beside the new columns.
		d := enrolled(t, again, "d1")
		must(t, again.PutRecords(ctx, []*Record{{Device: d.N, At: now, Counter: 1, Current: json.RawMessage(`{}`),
			Agent: json.RawMessage(`{}`), Epoch: "e",
			Standing: "h", StandingBody: "[]", Findings: json.RawMessage(`[]`), Events: raw(enforce.Event{Seq: 1})}}))
		must(t, again.PutSeen(ctx, []Seen{{Device: d.N, At: now, Counter: 2}}))
		must(t, again.AddAssignment(ctx, fleet.Assignment{ID: "a", Policy: "policy-1", CreatedAt: now}))
		must(t, again.AddException(WithActor(ctx, Actor{By: "ann", Key: "k"}), "d1",
			Exception{ID: "x", Device: d.N, Section: "usb", Subject: "0951:1666", CreatedAt: now, Until: now.Add(time.Hour)}))
		must(t, again.Diagnose(ctx, "d1", now))
		must(t, again.PutBundle(ctx, "d1", d.N, "b", []byte{1}, now))
		must(t, again.PutRecords(ctx, []*Record{{Device: d.N, Moved: "r1", Was: "compliant"}}))
		must(t, again.SetMeta(ctx, "x", "y"))
		must(t, again.Ping(ctx))
	})
}

func TestForeignFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "server.db")
	s := &Store{url: path}
	must(t, s.openSQLite(path))
	if _, err := s.write.Exec(`CREATE TABLE policies (id TEXT)`); err != nil {
		t.Fatal(err)
	}
	_ = s.Close()
	if _, err := Open(ctx, path); err == nil || !strings.Contains(err.Error(), "did not make") {
		t.Errorf("%v", err)
	}
	if info, _ := os.Stat(path); info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
}

// A dump of either database can be read by either, and is identical again.
func TestDump(t *testing.T) {
	each(t, func(t *testing.T, s *Store) {
		put(t, s, "policy-1", 0, true)
		must(t, s.SetDefault(ctx, "policy-1", now))
		d := enrolled(t, s, "d1")
		must(t, s.PutRecords(ctx, []*Record{{Device: d.N, At: now, Counter: 1 << 60, Current: json.RawMessage(`{"a":"ü\u0000"}`),
			Agent: json.RawMessage(`{}`), Epoch: "e", Events: raw(enforce.Event{Seq: 3})}}))
		must(t, s.Diagnose(ctx, "d1", now))
		must(t, s.PutBundle(ctx, "d1", d.N, "b", []byte{0, 1, 255}, now))
		vendored(t, s, "policy-2", 1)
		var first strings.Builder
		must(t, s.Dump(ctx, &first))
		for name, to := range map[string]string{"sqlite": filepath.Join(t.TempDir(), "y.db"), "postgres": postgrestest.URL(t)} {
			other := opened(t, to)
			must(t, other.Load(ctx, strings.NewReader(first.String())))
			var second strings.Builder
			must(t, other.Dump(ctx, &second))
			if first.String() != second.String() {
				t.Errorf("to %s:\n%s\n%s", name, first.String(), second.String())
			}
			if err := other.Load(ctx, strings.NewReader(first.String())); err == nil {
				t.Error("a backup over a full database")
			}
			enrolled(t, other, "d2") // its number is free
		}
		empty := opened(t, filepath.Join(t.TempDir(), "z.db"))
		for _, bad := range []string{`{"t":"users","c":["a"]}`, `{"t":"meta","c":["a;b"]}`, `{"r":[1]}`,
			`{"t":"meta","c":["name","value"]}` + "\n" + `{"r":["x"]}`, `{"t":`} {
			if empty.Load(ctx, strings.NewReader(bad)) == nil {
				t.Errorf("%s passes", bad)
			}
		}
	})
}

// raw are events as devices send them.
func raw(list ...enforce.Event) (out []RawEvent) {
	for _, e := range list {
		b, _ := json.Marshal(e)
		out = append(out, RawEvent{e.Seq, b})
	}
	return out
}
