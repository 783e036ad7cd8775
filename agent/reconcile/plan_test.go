package reconcile

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/warderd/warder/agent/ledger"
	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/platform"
	"github.com/warderd/warder/platform/platformtest"
)

// bench is a loop over a fake back end, with a ledger on disk.
type bench struct {
	t    *testing.T
	dir  string
	fake *platformtest.Fake
	loop *Loop
	// ledger is the loop's.
	ledger *ledger.Ledger
	now    time.Time
	by     map[enforce.Key]enforce.Program
}

func pass(enforce.Change) error { return nil }

func newBench(t *testing.T, gate enforce.Gate) *bench {
	b := &bench{t: t, dir: t.TempDir(), now: time.Unix(1000, 0)}
	b.fake = platformtest.NewFake(gate, platform.Kind{Name: "disk", Life: platform.Disk, Safe: "1", Ours: "0"},
		platform.Kind{Name: "boot", Life: platform.Boot, Safe: "1", Ours: "0", Found: true})
	b.fake.Set("disk", "a", "1")
	b.fake.Set("boot", "b", "1")
	b.start("boot1")
	return b
}

// start is a new agent on the same files: after a stop, a kill or a reboot.
func (b *bench) start(boot string) {
	b.t.Helper()
	if err := os.MkdirAll(filepath.Join(b.dir, "run"), 0o755); err != nil {
		b.t.Fatal(err)
	}
	l, err := ledger.Open(filepath.Join(b.dir, "ledger.db"), filepath.Join(b.dir, "run"), boot)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = l.Close() })
	b.ledger = l
	b.loop = New(l, func() time.Time { return b.now }, b.fake)
}

func (b *bench) run(wants ...enforce.Want) Result {
	b.t.Helper()
	return b.loop.Run(context.Background(), Ask{Wants: wants, By: b.by}, func(context.Context) {})
}

// preview returns the plan without applying it.
func (b *bench) preview(wants ...enforce.Want) (Plan, error) {
	seen, err := b.loop.List(context.Background())
	rows, lerr := b.ledger.Rows()
	return Make(b.loop.kinds, Ask{Wants: wants}, seen, rows, false, Past{}), errors.Join(err, lerr)
}

func want(kind, id, v string, mode enforce.Mode) enforce.Want {
	return enforce.Want{Key: enforce.Key{Kind: kind, ID: id}, Value: enforce.Value(v), By: []enforce.Setting{"s.x"}, Mode: mode,
		Phase: enforce.Close}
}

func (b *bench) reads(a, c string) {
	b.t.Helper()
	if got := string(b.fake.Get("disk", "a")) + string(b.fake.Get("boot", "b")); got != a+c {
		b.t.Errorf("the machine reads %q, want %q", got, a+c)
	}
}

func (b *bench) rows(n int) {
	b.t.Helper()
	rows, err := b.ledger.Rows()
	if err != nil || len(rows) != n {
		b.t.Errorf("%d rows, want %d: %v %v", len(rows), n, rows, err)
	}
}

func TestHoldAndRelease(t *testing.T) {
	b := newBench(t, pass)
	both := []enforce.Want{want("disk", "a", "0", enforce.Enforce), want("boot", "b", "0", enforce.Enforce)}
	if r := b.run(both...); len(r.Failed) != 0 || len(r.Problems) != 0 {
		t.Fatal(r.Failed, r.Problems)
	}
	b.reads("0", "0")
	b.rows(2)
	writes := b.fake.Writes
	b.run(both...)
	if b.fake.Writes != writes {
		t.Error("a second run of the same policy writes")
	}
	// A change to monitor gives everything back, and plans what it would do.
	b.run(want("disk", "a", "0", enforce.Monitor), want("boot", "b", "0", enforce.Monitor))
	b.reads("1", "1")
	b.rows(0)
	r := b.run(want("disk", "a", "0", enforce.Monitor))
	if len(r.Plan.Would) != 1 || len(r.Plan.Apply) != 0 {
		t.Errorf("monitor: %+v", r.Plan)
	}
}

// The first baseline is kept, also if the agent dies between the intent and the write, or after it.
func TestCrash(t *testing.T) {
	for _, written := range []bool{false, true} {
		b := newBench(t, pass)
		w := want("disk", "a", "0", enforce.Enforce)
		plan, err := b.preview(w)
		if err != nil {
			t.Fatal(err)
		}
		if err := b.loop.intend(plan, Seen{}, nil, false); err != nil {
			t.Fatal(err)
		}
		if written {
			b.fake.Set("disk", "a", "0")
		}
		b.start("boot1")
		b.run(w)
		b.reads("0", "1")
		b.run()
		b.reads("1", "1")
		b.rows(0)
	}
}

// What ends with the boot is not restored after it.
func TestReboot(t *testing.T) {
	b := newBench(t, pass)
	b.run(want("disk", "a", "0", enforce.Enforce), want("boot", "b", "0", enforce.Enforce))
	b.fake.Set("boot", "b", "1")
	b.start("boot2")
	b.rows(1)
	b.run()
	b.reads("1", "1")
}

func TestConflict(t *testing.T) {
	b := newBench(t, pass)
	b.run(want("disk", "a", "0", enforce.Enforce))
	b.fake.Set("disk", "a", "7")
	r := b.run()
	b.reads("7", "1")
	if f := Conflicts(r); len(f) != 1 || f[0].Enforcement != enforce.Conflicting || f[0].Setting != "s.x" {
		t.Errorf("%+v", f)
	}
}

// Another program's change is repaired; after five repairs a minute the resource is reported and left alone.
func TestDriftAndContention(t *testing.T) {
	b := newBench(t, pass)
	w := want("disk", "a", "0", enforce.Enforce)
	b.run(w)
	for i := range 5 {
		b.fake.Set("disk", "a", "9")
		b.now = b.now.Add(time.Second)
		if r := b.run(w); len(r.Drifted) != 1 {
			t.Fatalf("repair %d: %+v", i, r)
		}
		b.reads("0", "1")
	}
	b.fake.Set("disk", "a", "9")
	r := b.run(w)
	b.reads("9", "1")
	f := b.loop.Prove([]enforce.Finding{{Setting: "s.x", Mode: enforce.Enforce, Compliance: enforce.Compliant}}, []enforce.Want{w}, r)
	if f[0].Enforcement != enforce.Contended || f[0].Compliance != enforce.Noncompliant {
		t.Errorf("%+v", f)
	}
	if !r.Drifted[0].Contended || !b.loop.Rests(w.Key) || !r.Rested.Equal(b.now.Add(quiet)) {
		t.Errorf("%+v", r)
	}
	// It is left alone until nobody has touched it for five minutes, even if it reads as wanted by then.
	for _, v := range []enforce.Value{"0", "9"} {
		b.now = b.now.Add(quiet - time.Second)
		b.fake.Set("disk", "a", v)
		if r = b.run(w); !r.Contended[w.Key] || len(r.Drifted) != 0 || !b.loop.Rests(w.Key) {
			t.Errorf("%+v", r)
		}
		b.reads(string(v), "1")
	}
	b.now = b.now.Add(quiet - time.Second)
	b.by = map[enforce.Key]enforce.Program{w.Key: {PID: 7}} // written, and the same as before
	if r = b.run(w); !r.Contended[w.Key] {
		t.Errorf("%+v", r)
	}
	b.by = nil
	b.now = b.now.Add(quiet + time.Second)
	if r = b.run(w); r.Contended[w.Key] || len(r.Drifted) != 0 || b.loop.Rests(w.Key) {
		t.Errorf("%+v", r)
	}
	b.reads("0", "1")
}

// Below enforce, another program's change is reported, once per change, and left.
func TestDriftBelowEnforce(t *testing.T) {
	b := newBench(t, pass)
	w := want("disk", "a", "0", enforce.Monitor)
	if r := b.run(w); len(r.Drifted) != 0 {
		t.Fatalf("%+v", r)
	}
	b.by = map[enforce.Key]enforce.Program{w.Key: {PID: 7, Name: "/bin/sh"}}
	for _, v := range []enforce.Value{"0", "9"} {
		was := b.fake.At(w.Key)
		b.fake.Set("disk", "a", v)
		r := b.run(w)
		if len(r.Drifted) != 1 || !r.Drifted[0].Was.Same(was) || !r.Drifted[0].From.Is(v) || r.Drifted[0].By.Name != "/bin/sh" ||
			!r.Drifted[0].Left() {
			t.Errorf("%+v", r.Drifted)
		}
		if r = b.run(w); len(r.Drifted) != 0 {
			t.Errorf("told again: %+v", r.Drifted)
		}
		b.reads(string(v), "1")
	}
	if b.fake.Writes != 0 {
		t.Errorf("%d writes", b.fake.Writes)
	}
	for range 10 { // more than anybody wants to read
		b.fake.Set("disk", "a", "1")
		b.run(w)
		b.fake.Set("disk", "a", "9")
		b.run(w)
	}
	b.fake.Set("disk", "a", "1")
	if r := b.run(w); len(r.Drifted) != 0 {
		t.Error("it is told for ever")
	}
	// That was no contention: enforce begins at once, and so does another value afterwards.
	if b.loop.Rests(w.Key) {
		t.Error("it rests without a repair")
	}
	w.Mode = enforce.Enforce
	b.run(w)
	b.reads("0", "1")
	for range 7 {
		b.fake.Set("disk", "a", "9")
		b.run(w)
	}
	b.reads("9", "1")
	if r := b.run(want("disk", "a", "3", enforce.Enforce)); r.Contended[w.Key] {
		t.Errorf("%+v", r)
	}
	b.reads("3", "1")
}

// What another program changes during a run is drift of the next one.
func TestDriftDuringARun(t *testing.T) {
	b := newBench(t, pass)
	w := want("disk", "a", "0", enforce.Enforce)
	b.run(w)
	b.loop.Run(context.Background(), Ask{Wants: []enforce.Want{w}}, func(context.Context) { b.fake.Set("disk", "a", "9") })
	b.reads("9", "1")
	if r := b.run(w); len(r.Drifted) != 1 || !r.Drifted[0].Was.Is("0") || !r.Drifted[0].From.Is("9") {
		t.Errorf("%+v", r.Drifted)
	}
	b.reads("0", "1")
}

// A program that restores a value before we look is reported, too, and that is no contention.
func TestPutBack(t *testing.T) {
	b := newBench(t, pass)
	w := want("disk", "a", "0", enforce.Enforce)
	b.run(w)
	b.by = map[enforce.Key]enforce.Program{w.Key: {PID: 7}}
	for i := range 10 {
		b.now = b.now.Add(time.Second)
		r := b.run(w)
		if len(r.Drifted) > 1 || (len(r.Drifted) == 1) != (i <= maxRepairs) || len(r.Drifted) == 1 && !r.Drifted[0].Back ||
			r.Contended[w.Key] || b.loop.Rests(w.Key) {
			t.Errorf("%d: %+v", i, r)
		}
	}
	b.fake.Set("disk", "a", "9")
	if r := b.run(w); len(r.Drifted) != 1 || r.Drifted[0].Back {
		t.Errorf("%+v", r.Drifted)
	}
	b.reads("0", "1")
	// The announcement of a write that was just repaired, a little later, is not news.
	b = newBench(t, pass)
	b.run(w)
	b.fake.Set("disk", "a", "9")
	b.run(w)
	b.by = map[enforce.Key]enforce.Program{w.Key: {PID: 7}}
	for after, want := range map[time.Duration]int{echo / 2: 0, 2 * echo: 1} {
		at := b.now
		b.now = at.Add(after)
		if r := b.run(w); len(r.Drifted) != want {
			t.Errorf("after %s: %+v", after, r.Drifted)
		}
		b.now = at
	}
}

// A resource that was touched and is gone before we look is reported.
func TestDriftThatIsGone(t *testing.T) {
	b := newBench(t, pass)
	w := want("boot", "b", "0", enforce.Enforce)
	b.run(w)
	b.fake.Remove("boot", "b")
	b.by = map[enforce.Key]enforce.Program{w.Key: {PID: 7}, {Kind: "boot", ID: "never"}: {PID: 8}}
	if r := b.run(); len(r.Drifted) != 1 || r.Drifted[0].By.PID != 7 || r.Drifted[0].Change.By[0] != "s.x" {
		t.Errorf("%+v", r.Drifted)
	}
	if r := b.run(); len(r.Drifted) != 0 {
		t.Errorf("again: %+v", r.Drifted)
	}
}

// What a guard wrote, and what we gave back, is nobody's drift.
func TestNoDrift(t *testing.T) {
	b := newBench(t, pass)
	w := want("disk", "a", "0", enforce.Enforce)
	b.run(w)
	b.fake.Set("disk", "a", "5") // by a guard, say
	if err := b.loop.Remember(w.Key, b.fake.At(w.Key), w.By); err != nil {
		t.Fatal(err)
	}
	if r := b.run(w); len(r.Drifted) != 0 {
		t.Errorf("%+v", r.Drifted)
	}
	if r := b.run(want("disk", "a", "3", enforce.Enforce)); len(r.Drifted) != 0 {
		t.Errorf("another policy: %+v", r.Drifted)
	}
	w.Mode = enforce.Monitor
	for range 2 {
		if r := b.run(w); len(r.Drifted) != 0 {
			t.Errorf("given back: %+v", r.Drifted)
		}
	}
	b.reads("1", "1")
}

// Compliance is what was read back, never what a call returned.
func TestProve(t *testing.T) {
	b := newBench(t, pass)
	w := want("disk", "a", "0", enforce.Enforce)
	found := []enforce.Finding{{Setting: "s.x", Mode: enforce.Enforce, Compliance: enforce.Compliant, Enforcement: enforce.Enforced}}
	b.fake.Stuck[w.Key] = true
	f := b.loop.Prove(found, []enforce.Want{w}, b.run(w))
	if f[0].Compliance != enforce.Noncompliant || f[0].Enforcement != enforce.NotEnforced ||
		!strings.Contains(f[0].Reason, "reads 1, wanted 0") {
		t.Errorf("a write that does nothing: %+v", f[0])
	}
	delete(b.fake.Stuck, w.Key)
	f = b.loop.Prove(found, []enforce.Want{w}, b.run(w))
	if f[0].Compliance != enforce.Compliant || len(f[0].Evidence) != 1 || f[0].Evidence[0].Value != "0" {
		t.Errorf("as wanted: %+v", f[0])
	}
	b.fake.Blind = errors.New("cannot look")
	r := b.run(w)
	f = b.loop.Prove(found, []enforce.Want{w}, r)
	if f[0].Compliance != enforce.Uncertain || len(r.Problems) == 0 {
		t.Errorf("unreadable: %+v", f[0])
	}
	b.rows(1) // what could not be read is not forgotten
	b.fake.Blind = nil
	b.run()
	b.reads("1", "1")
}

// If the ledger is lost, values that only we write go back to the vendor's default.
func TestLostLedger(t *testing.T) {
	b := newBench(t, pass)
	b.run(want("disk", "a", "0", enforce.Enforce), want("boot", "b", "0", enforce.Enforce))
	if err := b.ledger.Close(); err != nil {
		t.Fatal(err)
	}
	noise(t, filepath.Join(b.dir, "ledger.db"))
	b.start("boot1")
	if b.ledger.Health().OK() || !b.ledger.Lost() {
		t.Fatal("the loss is not said")
	}
	b.run(want("disk", "a", "0", enforce.Enforce))
	b.reads("0", "1")
	b.run()
	b.reads("1", "1")
	if b.ledger.Lost() {
		t.Error("still lost after everything was given back")
	}
}

// A device that arrives between the snapshot and the list is in no want. While the default that refused it is in force
// it stays refused, also without the ledger; once the default is released it is given back.
func TestNewcomerBetweenSnapshotAndList(t *testing.T) {
	from := func(_ enforce.Key, seen enforce.Reading, changed func(enforce.Key) (enforce.Reading, bool)) enforce.Reading {
		if base, ok := changed(enforce.Key{Kind: "hub", ID: "h"}); ok {
			return base
		}
		return seen
	}
	for _, lost := range []bool{false, true} {
		b := newBench(t, pass)
		b.fake = platformtest.NewFake(pass, platform.Kind{Name: "hub", Life: platform.Boot, Safe: "1", Ours: "0", Found: true},
			platform.Kind{Name: "dev", Life: platform.Present, Safe: "1", Ours: "0", Found: true, From: from, Urgent: true})
		b.fake.Set("hub", "h", "1")
		b.start("boot1")
		b.run(want("hub", "h", "0", enforce.Enforce))
		if lost {
			if err := b.ledger.MarkLost(); err != nil {
				t.Fatal(err)
			}
		}
		b.fake.Set("dev", "new", "0")
		b.run(want("hub", "h", "0", enforce.Enforce))
		if got := b.fake.Get("dev", "new"); got != "0" {
			t.Errorf("lost %v: a refused newcomer reads %s while the default is in force", lost, got)
		}
		b.run()
		if h, d := b.fake.Get("hub", "h"), b.fake.Get("dev", "new"); h != "1" || d != "1" {
			t.Errorf("lost %v: after the release the hub reads %s and the device %s", lost, h, d)
		}
	}
}

// What was refused by a default that was given back never becomes a baseline: neither in the same run, which hears of
// it a moment later, nor in the next run of the same boot. What another program refused before us stays refused.
func TestRefusedWhileGivenBack(t *testing.T) {
	from := func(_ enforce.Key, seen enforce.Reading, changed func(enforce.Key) (enforce.Reading, bool)) enforce.Reading {
		if base, ok := changed(enforce.Key{Kind: "hub", ID: "h"}); ok {
			return base
		}
		return seen
	}
	hub, dev := want("hub", "h", "0", enforce.Enforce), want("dev", "new", "1", enforce.Enforce)
	fresh := func() *bench {
		b := newBench(t, pass)
		b.fake = platformtest.NewFake(pass, platform.Kind{Name: "hub", Life: platform.Boot, Safe: "1", Ours: "0", Found: true},
			platform.Kind{Name: "dev", Life: platform.Present, Safe: "1", Ours: "0", Found: true, From: from, Urgent: true})
		b.fake.Set("hub", "h", "1")
		b.start("boot1")
		return b
	}
	dirs := func(b *bench) string { return string(b.fake.Get("hub", "h") + " " + b.fake.Get("dev", "new")) }

	b := fresh()
	b.run(hub)
	b.run() // gives the default back
	if !b.loop.Releasing() {
		t.Error("it does not look again")
	}
	b.fake.Set("dev", "new", "0") // it was on its way
	b.run()
	if got := dirs(b); got != "1 1" {
		t.Errorf("what was on its way: %s", got)
	}
	b.fake.Set("dev", "new", "0") // by another program, now
	b.run()
	if got := dirs(b); got != "1 0" {
		t.Errorf("another program's refusal is undone: %s", got)
	}

	// The same, and the agent is stopped before it comes.
	b = fresh()
	b.run(hub)
	b.run()
	b.fake.Set("dev", "new", "0")
	b.start("boot1")
	b.run(hub, dev)
	if got := dirs(b); got != "0 1" {
		t.Fatalf("under the policy: %s", got)
	}
	b.run()
	if got := dirs(b); got != "1 1" {
		t.Errorf("a working device is taken away on release: %s", got)
	}

	// The same, and nothing is wanted any more.
	b = fresh()
	b.run(hub)
	b.run()
	b.start("boot1")
	b.fake.Set("dev", "new", "0")
	b.run()
	if got := dirs(b); got != "1 1" {
		t.Errorf("what was on its way when the agent was killed: %s", got)
	}
	b.start("boot1")
	b.fake.Set("dev", "new", "0")
	b.run()
	if got := dirs(b); got != "1 0" {
		t.Errorf("after a restart another program's refusal is undone: %s", got)
	}

	// It arrives at each of the lists of the run that gives back, also while the guards take long.
	for at := 1; at <= 4; at++ {
		b = fresh()
		b.run(hub)
		n := 0
		b.loop.Backends = []platform.Backend{arriving{b.fake, func() {
			switch n++; n {
			case at - 1:
				b.fake.Set("dev", "before", "0")
			case at:
				b.fake.Set("dev", "new", "0")
			}
		}}}
		b.loop.Run(t.Context(), Ask{}, func(context.Context) { b.now = b.now.Add(2 * releasing) })
		b.run()
		if got := dirs(b); got != "1 1" || b.fake.Get("dev", "before") == "0" || n < at {
			t.Errorf("what arrives at list %d of %d: %s", at, n, got)
		}
	}

	// It arrives after the agent was killed between giving the default back and noting that.
	b = fresh()
	b.run(hub)
	b.loop.Backends = []platform.Backend{dying{b.fake}}
	func() {
		defer func() { _ = recover() }()
		b.run()
	}()
	b.start("boot1")
	b.run()
	b.fake.Set("dev", "new", "0")
	b.run()
	if got := dirs(b); got != "1 1" {
		t.Errorf("what arrives after a kill within the run: %s", got)
	}

	// Giving it back fails once.
	b = fresh()
	b.run(hub)
	b.run()
	b.fake.Set("dev", "new", "0")
	b.loop.Backends = []platform.Backend{failing{b.fake}}
	b.run()
	b.loop.Backends = []platform.Backend{b.fake}
	b.run()
	if got := dirs(b); got != "1 1" {
		t.Errorf("what could not be given back at once: %s", got)
	}

	// Refused before we came.
	b = fresh()
	b.fake.Set("dev", "new", "0")
	b.run(hub, dev)
	b.run()
	if got := dirs(b); got != "1 0" {
		t.Errorf("what another program refused: %s", got)
	}
	b.now = b.now.Add(releasing)
	if b.loop.Releasing() {
		t.Error("it looks for ever")
	}
}

// arriving is a back end whose machine changes before it is listed.
type arriving struct {
	platform.Backend
	before func()
}

func (a arriving) List(ctx context.Context) (map[enforce.Key]enforce.Reading, error) {
	a.before()
	return a.Backend.List(ctx)
}

// dying is a back end whose agent dies once it has given something back, and failing one that gives nothing back.
type (
	dying   struct{ platform.Backend }
	failing struct{ platform.Backend }
)

func (d dying) Apply(ctx context.Context, list []enforce.Change) map[enforce.Key]error {
	failed := d.Backend.Apply(ctx, list)
	if len(baselines(list)) > 0 {
		panic("killed")
	}
	return failed
}

func (f failing) Apply(_ context.Context, list []enforce.Change) map[enforce.Key]error {
	failed := map[enforce.Key]error{}
	for _, c := range list {
		failed[c.Key] = errors.New("input/output error")
	}
	return failed
}

func TestShutGate(t *testing.T) {
	b := newBench(t, func(enforce.Change) error { return errors.New("shut") })
	r := b.run(want("disk", "a", "0", enforce.Enforce))
	b.reads("1", "1")
	if len(r.Failed) != 1 {
		t.Errorf("%+v", r.Failed)
	}
}

func TestProbe(t *testing.T) {
	no, yes := func(context.Context) error { return errors.New("no") }, func(context.Context) error { return nil }
	for _, c := range []struct {
		governed, exempt func(context.Context) error
		want             Proof
	}{{yes, yes, Proved}, {yes, no, Proved}, {no, no, Unprovable}, {no, yes, Refuted}} {
		if got := Probe(context.Background(), c.governed, c.exempt); got != c.want {
			t.Errorf("%d, want %d", got, c.want)
		}
	}
	// The server came back between the two probes: that refutes nothing.
	n := 0
	flaky := func(context.Context) error {
		if n++; n == 1 {
			return errors.New("not yet")
		}
		return nil
	}
	if got := Probe(context.Background(), flaky, yes); got != Proved {
		t.Errorf("%d", got)
	}
}

// Whatever happens in between (policies, modes, kills, failing writes, others' changes that are taken back), the empty
// plan restores the machine exactly.
func TestAlwaysBack(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		b := newBench(t, pass)
		for range rapid.IntRange(1, 8).Draw(rt, "steps") {
			var wants []enforce.Want
			for _, k := range []string{"disk/a", "boot/b"} {
				kind, id, _ := strings.Cut(k, "/")
				if rapid.Bool().Draw(rt, "wants "+k) {
					w := want(kind, id, fmt.Sprint(rapid.IntRange(0, 2).Draw(rt, "value")),
						enforce.Mode(rapid.IntRange(1, 3).Draw(rt, "mode")))
					if kind == "disk" && rapid.Bool().Draw(rt, "absent") {
						w.Value, w.Absent = "", true
					}
					wants = append(wants, w)
				}
			}
			switch rapid.IntRange(0, 3).Draw(rt, "fate") {
			case 0: // killed after the intent
				plan, err := b.preview(wants...)
				if err != nil {
					rt.Fatal(err)
				}
				rows, _ := b.ledger.Rows()
				if err := b.loop.intend(plan, Seen{}, rows, false); err != nil {
					rt.Fatal(err)
				}
				b.start("boot1")
			case 1: // killed half way through the writes
				plan, _ := b.preview(wants...)
				rows, _ := b.ledger.Rows()
				_ = b.loop.intend(plan, Seen{}, rows, false)
				if len(plan.Apply) > 0 {
					_ = b.fake.Apply(context.Background(), plan.Apply[:1])
				}
				b.start("boot1")
			default:
				b.run(wants...)
			}
		}
		b.run()
		if a, c := b.fake.Get("disk", "a"), b.fake.Get("boot", "b"); a != "1" || c != "1" {
			rt.Fatalf("the machine reads %s and %s", a, c)
		}
	})
}
