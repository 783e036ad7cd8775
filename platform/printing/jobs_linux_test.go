package printing

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/platform"
)

// policy is what is looked for: a word.
type policy struct {
	mode enforce.Mode
	deny bool // what cannot be looked into in time is refused
}

func (p policy) CanDeny() bool               { return p.HoldsSensitive() }
func (p policy) SensitiveMode() enforce.Mode { return p.mode }
func (p policy) HoldsSensitive() bool        { return p.mode == enforce.Enforce }
func (p policy) SensitiveReason(enforce.Verdict, *fact.Sensitive) (reason, nearest string) {
	return "it has a canary", ""
}

func (p policy) Sensitive(x *fact.Sensitive) enforce.Verdict {
	rule := enforce.Rule{Setting: settingNamed, Line: 11}
	switch bad := len(x.Found) > 0 || x.Late && p.deny; {
	case bad && p.mode < enforce.Enforce:
		return enforce.Verdict{Allow: true, Would: rule, WouldDeny: true, WouldMode: p.mode}
	case bad:
		return enforce.Verdict{Rule: rule, Would: rule, WouldMode: p.mode}
	}
	return enforce.Verdict{Allow: true}
}

// press is a spooler whose jobs are looked into. Its queue "q" prints into a file.
type press struct {
	t      *testing.T
	j      *Jobs
	run    func(string) string
	slow   atomic.Int64 // nanoseconds that a look takes
	looked atomic.Int32

	mu   sync.Mutex
	told []platform.Decision
}

func newPress(t *testing.T, p policy, wait time.Duration) *press {
	t.Helper()
	q, run, _ := cups(t)
	x := &press{t: t, run: run}
	x.j = &Jobs{log: slog.New(slog.DiscardHandler), spooler: q.spooler, proc: "/proc", daemons: q.daemons, config: q.config, spool: "/var/spool/none", wait: wait, limit: lookLimit,
		look: func(ctx context.Context, f *os.File, _ string) (platform.Seen, error) {
			x.looked.Add(1)
			b, err := io.ReadAll(io.NewSectionReader(f, 0, 1<<30))
			select {
			case <-ctx.Done():
				return platform.Seen{Late: true, Kind: "text"}, nil
			case <-time.After(time.Duration(x.slow.Load())):
			}
			s := platform.Seen{Kind: "text"}
			if n := bytes.Count(b, []byte("CANARY")); n > 0 {
				s.Found = []fact.SensitiveFound{{Pattern: "canary", Setting: string(settingNamed), Count: n, Mark: "aa"}}
			}
			return s, err
		}}
	x.j.Listen(func(d platform.Decision) { x.mu.Lock(); defer x.mu.Unlock(); x.told = append(x.told, d) }, func(bool) {})
	t.Cleanup(x.j.Stop)
	ctx, end := context.WithCancel(context.Background())
	over := make(chan struct{})
	go func() { defer close(over); _ = x.j.Run(ctx) }()
	t.Cleanup(func() { end(); <-over })
	x.load(p)
	run("lpadmin -p q -E -v keep:$PWD/printed -m raw")
	return x
}

// load gives it rules, and waits until the kernel has what they ask for.
func (x *press) load(p policy) {
	x.t.Helper()
	if err := x.j.Load(p); err != nil {
		x.t.Fatal(err)
	}
	var out fact.Machine
	if err := x.j.Observe(x.t.Context(), &out); err != nil {
		x.t.Fatal(err)
	}
	if got := out.PrintJobs.V; !got.Spooler || !got.Watched || got.Holds != p.HoldsSensitive() || got.Why != "" {
		x.t.Fatalf("%+v", got)
	}
}

// print prints a text, and returns the number of the job.
func (x *press) print(text string) (id int) {
	x.t.Helper()
	out := x.run(fmt.Sprintf("printf '%s' | lp -d q -", text))
	if _, err := fmt.Sscanf(out, "request id is q-%d", &id); err != nil {
		x.t.Fatal(out)
	}
	return id
}

func (x *press) printed() string {
	out := x.run("cat printed 2>/dev/null; true")
	return out
}

// held waits until the spooler holds a job and the queue goes on.
func (x *press) held(id int) {
	x.t.Helper()
	eventually(x.t, fmt.Sprint("job ", id, " is held"), func() bool {
		j, err := x.j.spooler.job(x.t.Context(), id)
		return err == nil && j.held && j.queue == "q"
	})
}

// saw waits for a decision.
func (x *press) saw(parts ...string) platform.Decision {
	x.t.Helper()
	var all []string
	var got platform.Decision
	for range 300 {
		x.mu.Lock()
		all = nil
		for _, d := range x.told {
			line := fmt.Sprintf("%s allow=%v would=%v done=%s taken=%v note=%s late=%v found=%d", d.Subject, d.Verdict.Allow, d.Verdict.WouldDeny, d.Done.Value, d.Taken, d.Note, d.Fact.(*fact.Sensitive).Late, len(d.Fact.(*fact.Sensitive).Found))
			all = append(all, line)
			hits := 0
			for _, p := range parts {
				if strings.Contains(line, p) {
					hits++
				}
			}
			if hits == len(parts) {
				got = d
			}
		}
		x.mu.Unlock()
		if got.Fact != nil {
			return got
		}
		time.Sleep(100 * time.Millisecond)
	}
	x.t.Fatalf("nothing was told with %q:\n%s", parts, strings.Join(all, "\n"))
	return got
}

// In enforce mode a document is looked into before anything can open it; a job with what may not be printed is held, its queue goes on, and
// it is printed when that is allowed.
func TestJobs(t *testing.T) {
	for _, policyOf := range []string{"stop-printer", "retry-job", "abort-job", "retry-current-job"} {
		t.Run(policyOf, func(t *testing.T) {
			t.Parallel()
			x := newPress(t, policy{mode: enforce.Enforce}, askWait)
			x.run("lpadmin -p q -o printer-error-policy=" + policyOf)
			x.print("first;")
			id := x.print("with a CANARY;")
			x.held(id)
			d := x.saw("a print job for q", "allow=false", "done="+jobHeld, "taken=true", "found=1", fmt.Sprintf("job %d of user root", id))
			if f := d.Fact.(*fact.Sensitive); f.Where != fact.InPrintJob || f.Place != "q" || f.Kind != "text" {
				t.Errorf("%+v", f)
			}
			x.print("last;")
			eventually(t, "the others are printed", func() bool { return x.printed() == "first;last;" })
			// Its user lets it go on, which changes nothing.
			for range 3 {
				x.run(fmt.Sprintf("lp -i %d -H resume", id))
				time.Sleep(200 * time.Millisecond)
				x.held(id)
			}
			x.print("more;")
			eventually(t, "the queue goes on", func() bool { return x.printed() == "first;last;more;" })
			if out := x.run("lpstat -p q"); !strings.Contains(out, "enabled") {
				t.Errorf("the queue: %s", out)
			}
			before := x.looked.Load()
			// It can be printed once that is allowed, from its own spool file.
			x.load(policy{mode: enforce.Monitor})
			if err := x.j.Load(nil); err != nil {
				t.Fatal(err)
			}
			x.run(fmt.Sprintf("lp -i %d -H resume", id))
			eventually(t, "it is printed", func() bool { return x.printed() == "first;last;more;with a CANARY;" })
			if n := x.looked.Load(); n != before {
				t.Errorf("%d documents were looked into without rules", n-before)
			}
		})
	}
}

// Below enforce mode nothing waits and nothing is held.
func TestJobsBelowEnforce(t *testing.T) {
	t.Parallel()
	for _, mode := range []enforce.Mode{enforce.Monitor, enforce.Warn} {
		x := newPress(t, policy{mode: mode}, askWait)
		x.slow.Store(int64(500 * time.Millisecond))
		id := x.print("with a CANARY;")
		eventually(t, "it is printed", func() bool { return x.printed() == "with a CANARY;" })
		x.saw("allow=true would=true", "done="+jobFree, "taken=false", fmt.Sprintf("job %d of user root", id))
	}
}

// What takes too long is let through, or held until it has been looked into.
func TestJobsLate(t *testing.T) {
	t.Parallel()
	x := newPress(t, policy{mode: enforce.Enforce}, 300*time.Millisecond)
	x.slow.Store(int64(2 * time.Second))
	x.print("clean;")
	x.saw("allow=true", "late=true", "could not be looked into in time", "taken=false")
	eventually(t, "it is printed", func() bool { return x.printed() == "clean;" })

	x.load(policy{mode: enforce.Enforce, deny: true})
	id := x.print("also clean;")
	x.saw("allow=false", "late=true", "done="+jobHeld, fmt.Sprint("job ", id))
	eventually(t, "it is printed after it was looked into", func() bool { return x.printed() == "clean;also clean;" })

	id = x.print("a CANARY;")
	x.saw("allow=false", "late=true", "done="+jobHeld, fmt.Sprint("job ", id))
	x.saw("allow=false", "found=1", "done="+jobHeld, fmt.Sprint("job ", id))
	x.held(id)
	if got := x.printed(); got != "clean;also clean;" {
		t.Errorf("printed is %q", got)
	}
}

// What waits when the agent ends, or when the rules go, goes on; and the kernel's marks are made again when somebody has removed them.
func TestJobsEnd(t *testing.T) {
	t.Parallel()
	x := newPress(t, policy{mode: enforce.Enforce}, askWait)
	x.slow.Store(int64(3 * time.Second))
	x.print("waits;")
	eventually(t, "it waits", func() bool { return x.asking() == 1 })
	if err := x.j.Load(nil); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it goes on", func() bool { return x.printed() == "waits;" })

	x.load(policy{mode: enforce.Enforce})
	x.print("more;")
	eventually(t, "it waits", func() bool { return x.asking() == 1 })
	x.j.Stop()
	eventually(t, "it goes on", func() bool { return x.printed() == "waits;more;" })
	time.Sleep(3 * time.Second)
}

func (x *press) asking() int {
	x.j.mu.Lock()
	w := x.j.watch
	x.j.mu.Unlock()
	if w == nil {
		return -1
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.asks
}

// A spooler that is installed later is watched as soon as its directory is there, and one whose directory is replaced, too.
func TestJobsAppears(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	x := &press{t: t, j: &Jobs{log: slog.New(slog.DiscardHandler), spooler: newSpooler(dir + "/none"), proc: "/proc", config: dir, spool: filepath.Join(dir, "spool", "cups"), wait: askWait, limit: lookLimit,
		look: func(context.Context, *os.File, string) (platform.Seen, error) { return platform.Seen{}, nil }}}
	t.Cleanup(x.j.Stop)
	ctx, end := context.WithCancel(context.Background())
	over := make(chan struct{})
	go func() { defer close(over); _ = x.j.Run(ctx) }()
	t.Cleanup(func() { end(); <-over })
	if err := x.j.Load(policy{mode: enforce.Enforce}); err != nil {
		t.Fatal(err)
	}
	now := func() fact.PrintJobs {
		var out fact.Machine
		if err := x.j.Observe(t.Context(), &out); err != nil {
			t.Fatal(err)
		}
		return out.PrintJobs.V
	}
	if got := now(); got != (fact.PrintJobs{}) {
		t.Errorf("without a spooler: %+v", got)
	}
	if err := os.MkdirAll(x.j.spool, 0o710); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is watched", func() bool { x.j.mu.Lock(); defer x.j.mu.Unlock(); return x.j.watch.is(x.j.spool) })
	if got := now(); got != (fact.PrintJobs{Spooler: true, Watched: true, Holds: true}) {
		t.Errorf("with one: %+v", got)
	}
	if err := os.Rename(x.j.spool, x.j.spool+".old"); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(x.j.spool, 0o710); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the new one is watched", func() bool { x.j.mu.Lock(); defer x.j.mu.Unlock(); return x.j.watch.is(x.j.spool) })
	// The administrator has it elsewhere.
	if err := os.WriteFile(filepath.Join(dir, "cups-files.conf"), []byte("# RequestRoot /nowhere\nrequestroot "+dir+"/spool\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := now(); !got.Holds || !x.j.watch.is(dir+"/spool") {
		t.Errorf("elsewhere: %+v in %s", got, x.j.watch.dir)
	}
}

// Names of documents, and of what is none.
func TestNames(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]int{"d00012-001": 12, "d00012-1000": 12, "d1234567-001": 1234567, "c00012": 0, "d00012": 0, "d00012-001 (deleted)": 0, "0000001f": 0, "d99999999999-001": 0, "d9999999999-001": 0} {
		if got := jobOf(name); got != want {
			t.Errorf("%s: %d, want %d", name, got, want)
		}
	}
}
