package reconcile

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/platform"
	"github.com/warderd/warder/platform/platformtest"
)

// A policy may ask that something does not exist: what another program put there is removed, again if needed, and
// restored on release. What never existed leaves no row.
func TestAbsent(t *testing.T) {
	b := newBench(t, pass)
	w := want("disk", "a", "", enforce.Enforce)
	w.Absent = true
	found := []enforce.Finding{{Setting: "s.x", Mode: enforce.Enforce, Compliance: enforce.Compliant, Enforcement: enforce.Enforced}}
	gone := func() bool { return b.fake.At(w.Key).State == enforce.Absent }
	r := b.run(w)
	if f := b.loop.Prove(found, []enforce.Want{w}, r); !gone() || f[0].Compliance != enforce.Compliant {
		t.Errorf("%v %+v", b.fake.At(w.Key), f[0])
	}
	b.rows(1)
	b.fake.Set("disk", "a", "5")
	if r = b.run(w); !gone() || len(r.Drifted) != 1 {
		t.Errorf("put there again: %v %+v", b.fake.At(w.Key), r.Drifted)
	}
	b.start("boot1") // killed
	b.run()
	b.reads("1", "1")
	b.rows(0)

	b.fake.Remove("disk", "a")
	b.run(w)
	b.rows(0)
	// Below enforce it is only planned.
	b.fake.Set("disk", "a", "1")
	w.Mode = enforce.Monitor
	if r = b.run(w); len(r.Plan.Would) != 1 || gone() {
		t.Errorf("%+v", r.Plan)
	}
}

// Releases go in reverse: what opened before the guards closes before them, and what closed after opens after;
// resources in the reverse order of their kinds, and back ends in the reverse order of the list. Also after a restart.
func TestReleaseIsReversed(t *testing.T) {
	b := newBench(t, pass)
	var order []string
	note := func(c enforce.Change) error { order = append(order, c.Key.String()); return nil }
	first := platformtest.NewFake(note, platform.Kind{Name: "k1"}, platform.Kind{Name: "k2"})
	second := platformtest.NewFake(note, platform.Kind{Name: "k3"})
	var wants []enforce.Want
	for _, f := range []struct {
		fake *platformtest.Fake
		kind string
	}{{first, "k1"}, {first, "k2"}, {second, "k3"}} {
		f.fake.Set(f.kind, "x", "1")
		wants = append(wants, want(f.kind, "x", "0", enforce.Enforce))
	}
	wants[2].Phase = enforce.Open
	loop := New(b.loop.Ledger, b.loop.Now, first, second)
	loop.Run(context.Background(), Ask{Wants: wants}, func(context.Context) { order = append(order, "guard") })
	b.start("boot1")
	loop = New(b.loop.Ledger, b.loop.Now, first, second)
	loop.Run(context.Background(), Ask{}, func(context.Context) { order = append(order, "guard") })
	if got, wanted := strings.Join(order, " "), "k1/x k2/x guard k3/x k3/x guard k2/x k1/x"; got != wanted {
		t.Errorf("order %s, want %s", got, wanted)
	}
}

// Nothing is given back of a kind for which it is unknown what is wanted; others are.
func TestBlind(t *testing.T) {
	b := newBench(t, pass)
	b.run(want("disk", "a", "0", enforce.Enforce), want("boot", "b", "0", enforce.Enforce))
	for _, lost := range []bool{false, true} {
		if lost {
			if err := b.ledger.MarkLost(); err != nil {
				t.Fatal(err)
			}
		}
		r := b.loop.Run(context.Background(), Ask{Blind: map[string]bool{"boot": true}}, func(context.Context) {})
		b.reads("1", "0")
		b.rows(1)
		if len(r.Plan.Unread) != 1 || r.Plan.Unread[0].Kind != "boot" {
			t.Errorf("lost %v: %+v", lost, r.Plan)
		}
	}
	if !b.ledger.Lost() {
		t.Error("rows are found that were not given back")
	}
	b.run()
	b.reads("1", "1")
}

// Each resource has its own error.
func TestErrorsAreTheirKeys(t *testing.T) {
	b := newBench(t, pass)
	a, c := want("disk", "a", "0", enforce.Enforce), want("boot", "b", "0", enforce.Enforce)
	b.fake.Refuse[a.Key] = errors.New("the disk is full")
	b.fake.Refuse[c.Key] = errors.New("the bus is gone")
	r := b.run(a, c)
	if got := r.Failed[a.Key]; !strings.Contains(got, "the disk is full") || strings.Contains(got, "bus") {
		t.Errorf("%q", got)
	}
	if got := r.Failed[c.Key]; !strings.Contains(got, "the bus is gone") || strings.Contains(got, "disk") {
		t.Errorf("%q", got)
	}
}

// Two settings that ask for one key: joined if possible; otherwise the one that lost says so, and which one won.
func TestTwoSettingsOneKey(t *testing.T) {
	finding := func(s enforce.Setting) enforce.Finding {
		return enforce.Finding{Setting: s, Mode: enforce.Enforce, Compliance: enforce.Compliant, Enforcement: enforce.Enforced}
	}
	for _, joined := range []bool{true, false} {
		b := newBench(t, pass)
		k := platform.Kind{Name: "k"}
		if joined {
			k.Join = func(x, y enforce.Want) (enforce.Want, bool) { x.Value += y.Value; return x, true }
		}
		b.fake = platformtest.NewFake(pass, k)
		b.fake.Set("k", "a", "before")
		b.start("boot1")
		x, y := want("k", "a", "x", enforce.Enforce), want("k", "a", "y", enforce.Enforce)
		x.By, y.By = []enforce.Setting{"s.x"}, []enforce.Setting{"s.y"}
		r := b.run(x, y)
		f := b.loop.Prove([]enforce.Finding{finding("s.x"), finding("s.y")}, []enforce.Want{x, y}, r)
		if f[0].Compliance != enforce.Compliant {
			t.Errorf("joined %v: %+v", joined, f[0])
		}
		switch {
		case joined && (f[1].Compliance != enforce.Compliant || b.fake.Get("k", "a") != "xy"):
			t.Errorf("%+v %s", f[1], b.fake.Get("k", "a"))
		case !joined && (f[1].Compliance != enforce.Noncompliant || !strings.Contains(f[1].Reason, "is x for s.x")):
			t.Errorf("%+v", f[1])
		}
		rows, err := b.ledger.Rows()
		if by := rows[x.Key].By; err != nil || slices.Contains(by, "s.y") != joined {
			t.Errorf("the row says %v, %v", by, err)
		}
	}
}

// A row whose baseline is damaged goes back to the vendor's default, and without one is left alone.
func TestDamagedBaseline(t *testing.T) {
	b := newBench(t, pass)
	b.run(want("disk", "a", "0", enforce.Enforce))
	if err := b.ledger.Close(); err != nil {
		t.Fatal(err)
	}
	spoil(t, filepath.Join(b.dir, "ledger.db"), `UPDATE rows SET baseline = '{'`)
	b.start("boot1")
	b.run()
	b.reads("1", "1")
}
