package printing

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/OpenPrinting/goipp"
	"golang.org/x/sys/unix"

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
func (p policy) SensitiveKey() string        { return fmt.Sprint(p) }
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
	fails  atomic.Bool  // it finds nothing out
	looked atomic.Int32

	mu   sync.Mutex
	told []platform.Decision
}

func newPress(t *testing.T, p policy, wait time.Duration) *press {
	t.Helper()
	q, run, _ := cups(t)
	x := &press{t: t, run: run}
	x.j = x.jobs(q.spooler, q.config, "/var/spool/none", wait)
	x.begin()
	x.load(p)
	run("lpadmin -p q -E -v keep:$PWD/printed -m raw")
	return x
}

func (x *press) jobs(s *spooler, config, spool string, wait time.Duration) *Jobs {
	return &Jobs{log: slog.New(slog.DiscardHandler), spooler: s, proc: "/proc", config: config, spool: spool, wait: wait, limit: lookLimit, retry: 200 * time.Millisecond,
		look: func(ctx context.Context, f *os.File, _ string) (platform.Seen, error) {
			x.looked.Add(1)
			b, err := io.ReadAll(io.NewSectionReader(f, 0, 1<<30))
			select {
			case <-ctx.Done():
				return platform.Seen{Late: true, Kind: "text"}, nil
			case <-time.After(time.Duration(x.slow.Load())):
			}
			s := platform.Seen{Kind: "text", Late: x.fails.Load()}
			if bytes.HasPrefix(b, []byte("sealed")) {
				s.Unread = []string{"encrypted"}
			}
			if n := bytes.Count(b, []byte("CANARY")); n > 0 && !s.Late {
				s.Found = []fact.SensitiveFound{{Pattern: "canary", Setting: string(settingNamed), Count: n, Mark: "aa"}}
			}
			return s, err
		}}
}

// begin runs its guard until the test ends.
func (x *press) begin() {
	x.j.Listen(func(d platform.Decision) { x.mu.Lock(); defer x.mu.Unlock(); x.told = append(x.told, d) }, func(bool) {})
	x.t.Cleanup(x.j.Stop)
	ctx, end := context.WithCancel(context.Background())
	over := make(chan struct{})
	go func() { defer close(over); _ = x.j.Run(ctx) }()
	x.t.Cleanup(func() { end(); <-over })
}

// newSpool is a directory like the spooler's, without one: whatever is asked of it fails.
func newSpool(t *testing.T, p policy, wait time.Duration) (x *press, dir string) {
	t.Helper()
	top := t.TempDir()
	x, dir = &press{t: t}, filepath.Join(top, "spool")
	if err := os.Mkdir(dir, 0o710); err != nil {
		t.Fatal(err)
	}
	x.j = x.jobs(newSpooler(top+"/none"), top, dir, wait)
	x.begin()
	x.load(p)
	return x, dir
}

// put writes a document, and read opens one in another program.
func put(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func read(path string) string {
	out, _ := exec.Command("cat", path).CombinedOutput()
	return string(out)
}

// seen waits until a document has been looked into.
func (x *press) seen(path string) {
	x.t.Helper()
	eventually(x.t, path+" has been looked into", func() bool {
		now, err := statOf(unix.AT_FDCWD, path)
		w := x.watching()
		w.mu.Lock()
		defer w.mu.Unlock()
		d := w.known[now.inode]
		return err == nil && d != nil && d.done && d.file == now
	})
}

func (x *press) watching() *watch {
	x.j.mu.Lock()
	defer x.j.mu.Unlock()
	return x.j.watch
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
			line := fmt.Sprintf("%s allow=%v would=%v done=%s taken=%v note=%s late=%v found=%d err=%v", d.Subject, d.Verdict.Allow, d.Verdict.WouldDeny, d.Done.Value, d.Taken, d.Note, d.Fact.(*fact.Sensitive).Late, len(d.Fact.(*fact.Sensitive).Found), d.Err)
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

// What could not be read whole is told, and printed.
func TestJobsUnread(t *testing.T) {
	t.Parallel()
	x := newPress(t, policy{mode: enforce.Enforce}, askWait)
	x.print("sealed;")
	d := x.saw("allow=true would=false", "done="+jobFree, "taken=false", "parts of it were not read: encrypted")
	if f := d.Fact.(*fact.Sensitive); f.Late || len(f.Found) > 0 || len(f.Unread) != 1 {
		t.Errorf("%+v", f)
	}
	x.print("sealed again;") // which is told once in a while
	eventually(t, "both are printed and looked into", func() bool { return x.printed() == "sealed;sealed again;" && x.looked.Load() >= 2 })
	time.Sleep(200 * time.Millisecond)
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.told) != 1 {
		t.Errorf("%d events", len(x.told))
	}
}

// Below enforce mode nothing waits and nothing is held.
func TestJobsBelowEnforce(t *testing.T) {
	t.Parallel()
	for _, mode := range []enforce.Mode{enforce.Monitor, enforce.Warn} {
		x := newPress(t, policy{mode: mode}, askWait)
		x.slow.Store(int64(time.Hour))
		x.print("with a CANARY;")
		eventually(t, "it is printed while it is looked into", func() bool { return x.printed() == "with a CANARY;" && x.looked.Load() > 0 })
		x.j.Stop()

		x = newPress(t, policy{mode: mode}, askWait)
		id := x.print("with a CANARY;")
		x.saw("allow=true would=true", "done="+jobFree, "taken=false", fmt.Sprintf("job %d of user root", id))
		if j, err := x.j.spooler.job(t.Context(), id); err != nil || j.held {
			t.Errorf("%+v %v", j, err)
		}
	}
}

// What takes too long is let through, or held until it has been looked into.
func TestJobsLate(t *testing.T) {
	t.Parallel()
	x := newPress(t, policy{mode: enforce.Enforce}, 300*time.Millisecond)
	x.slow.Store(int64(2 * time.Second))
	x.print("clean;")
	x.saw("allow=true", "late=true", tookTooLong, "taken=false", "found=0")
	eventually(t, "it is printed", func() bool { return x.printed() == "clean;" })
	// It is on paper by the time it is known.
	id := x.print("a CANARY;")
	x.saw("allow=true", "late=true", fmt.Sprint("job ", id))
	x.saw("allow=false", "done="+jobFree, "taken=false", "found=1", "err=it was let through", "a print job for q", fmt.Sprint("job ", id))
	if got := x.printed(); got != "clean;a CANARY;" {
		t.Errorf("printed is %q", got)
	}
	var out fact.Machine
	if _ = x.j.Observe(t.Context(), &out); out.PrintJobs.V.Late != 2 {
		t.Errorf("%+v", out.PrintJobs.V)
	}

	x.load(policy{mode: enforce.Enforce, deny: true})
	id = x.print("also clean;")
	x.saw("allow=false", "late=true", "done="+jobHeld, fmt.Sprint("job ", id))
	eventually(t, "it is printed after it was looked into", func() bool { return strings.HasSuffix(x.printed(), ";also clean;") })

	id = x.print("a second CANARY;")
	x.saw("allow=false", "late=true", "done="+jobHeld, fmt.Sprint("job ", id))
	x.saw("allow=false", "found=1", "done="+jobHeld, fmt.Sprint("job ", id))
	x.held(id)

	// One that cannot be looked into is tried again, and goes on by itself; who lets it go on before that changes nothing.
	x.slow.Store(0)
	x.fails.Store(true)
	id = x.print("not readable;")
	x.held(id)
	x.run(fmt.Sprintf("lp -i %d -H resume", id))
	time.Sleep(500 * time.Millisecond)
	x.held(id)
	x.fails.Store(false)
	eventually(t, "it goes on", func() bool { return strings.HasSuffix(x.printed(), ";not readable;") })
	if got := x.printed(); strings.Contains(got, "second") {
		t.Errorf("printed is %q", got)
	}
}

// Rules that are loaded again and are the same end no look, and others have everything looked into again.
func TestJobsSameRules(t *testing.T) {
	t.Parallel()
	x, dir := newSpool(t, policy{mode: enforce.Enforce}, askWait)
	x.slow.Store(int64(500 * time.Millisecond))
	put(t, dir+"/d00001-001", "a CANARY")
	for range 8 {
		time.Sleep(100 * time.Millisecond)
		x.load(policy{mode: enforce.Enforce})
	}
	x.seen(dir + "/d00001-001")
	if n := x.looked.Load(); n != 1 {
		t.Errorf("it was looked into %d times", n)
	}
	x.load(policy{mode: enforce.Enforce, deny: true})
	if got := read(dir + "/d00001-001"); !strings.Contains(got, "not permitted") || x.looked.Load() != 2 {
		t.Errorf("%q after %d looks", got, x.looked.Load())
	}
}

// A file that has another one's number is another one; and a document that is known to be guilty stays so, however many are opened.
func TestJobsFull(t *testing.T) {
	t.Parallel()
	x, dir := newSpool(t, policy{mode: enforce.Enforce}, askWait)
	put(t, dir+"/d00001-001", "a CANARY")
	put(t, dir+"/d00002-001", "clean")
	x.seen(dir + "/d00001-001")
	x.seen(dir + "/d00002-001")
	w := x.watching()
	full := func(n int) { w.mu.Lock(); w.asks += n; w.mu.Unlock() }
	full(maxAsks)
	if got := read(dir + "/d00001-001"); !strings.Contains(got, "not permitted") {
		t.Errorf("guilty, and %q", got)
	}
	if got := read(dir + "/d00002-001"); got != "clean" {
		t.Errorf("clean, and %q", got)
	}
	full(-maxAsks)

	// No room: what waits makes room for what somebody waits for.
	x.slow.Store(int64(time.Hour))
	for i := range maxWaiting + 2*maxLooks {
		put(t, fmt.Sprintf("%s/d%05d-001", dir, 100+i), fmt.Sprint("waits ", i))
	}
	eventually(t, "there is no room", func() bool { w.mu.Lock(); defer w.mu.Unlock(); return len(w.waiting) == maxWaiting })
	go read(dir + "/d00359-001")
	eventually(t, "somebody waits", func() bool { w.mu.Lock(); defer w.mu.Unlock(); return w.asks == 1 && len(w.waiting) <= maxWaiting })
	// The number of a clean one is given to another.
	var before unix.Stat_t
	_ = unix.Stat(dir+"/d00002-001", &before)
	w.mu.Lock()
	old := w.known[inode{unix.Mkdev(unix.Major(before.Dev), unix.Minor(before.Dev)), before.Ino}]
	w.mu.Unlock()
	if old == nil || !old.done {
		t.Fatalf("%+v", old)
	}
	put(t, dir+"/d00002-001", "now a CANARY, and longer")
	got := make(chan string, 1)
	go func() { got <- read(dir + "/d00002-001") }()
	select {
	case out := <-got:
		t.Errorf("another one is opened at once: %q", out)
	case <-time.After(time.Second):
	}
	if err := x.j.Load(nil); err != nil {
		t.Fatal(err)
	}
	<-got
}

// A spooler that does not answer: the document cannot be opened all the same, and it is told.
func TestJobsSpoolerGone(t *testing.T) {
	t.Parallel()
	x, dir := newSpool(t, policy{mode: enforce.Enforce, deny: true}, askWait)
	put(t, dir+"/d00007-001", "a CANARY")
	if got := read(dir + "/d00007-001"); !strings.Contains(got, "not permitted") {
		t.Errorf("%q", got)
	}
	x.saw("a print job", "done="+jobRefused, "taken=true", "job 7", errNoSpooler.Error())
	// Whoever calls a program of theirs so is not the spooler.
	sh, err := os.ReadFile("/bin/cat")
	if err != nil {
		t.Fatal(err)
	}
	own := filepath.Join(t.TempDir(), "cupsd")
	if err := os.WriteFile(own, sh, 0o755); err != nil {
		t.Fatal(err)
	}
	_ = os.Chmod(filepath.Dir(own), 0o755)
	for uid, want := range map[uint32]string{0: "a CANARY", 65534: "not permitted"} {
		c := exec.Command(own)
		f, err := os.CreateTemp(t.TempDir(), "out")
		if err != nil {
			t.Fatal(err)
		}
		_ = os.Chmod(dir, 0o711)
		_ = os.Chmod(filepath.Dir(dir), 0o755)
		_ = os.Chmod(filepath.Dir(filepath.Dir(dir)), 0o755)
		_ = os.Chmod(filepath.Dir(filepath.Dir(own)), 0o755)
		_ = os.Chmod(dir+"/d00007-001", 0o644)
		c.Args = append(c.Args, dir+"/d00007-001")
		c.Stdout, c.Stderr = f, f
		c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		_ = c.Run()
		if out, _ := os.ReadFile(f.Name()); !strings.Contains(string(out), want) {
			t.Errorf("as user %d: %q", uid, out)
		}
	}
}

// A user who takes all connections of the spooler: whoever has opened a guilty document waits until its job is held, and no queue stops.
func TestJobsSpoolerBusy(t *testing.T) {
	t.Parallel()
	x := newPress(t, policy{mode: enforce.Enforce}, askWait)
	x.run("lpadmin -p q -o printer-error-policy=stop-printer")
	x.slow.Store(int64(2 * time.Second))
	id := x.print("a CANARY;")
	eventually(t, "it waits", func() bool { return x.asking() == 1 })
	var all []net.Conn
	for range 300 { // MaxClients is 100
		c, err := (&net.Dialer{Timeout: 100 * time.Millisecond}).DialContext(t.Context(), "unix", x.j.spooler.socket)
		if err != nil {
			break
		}
		all = append(all, c)
	}
	time.Sleep(10 * time.Second) // more than two questions' patience
	if x.asking() != 1 {
		t.Error("it does not wait any more")
	}
	for _, c := range all {
		_ = c.Close()
	}
	x.held(id)
	x.saw("done="+jobHeld, fmt.Sprint("job ", id), "found=1")
	x.print("more;")
	eventually(t, "the queue goes on", func() bool { return x.printed() == "more;" })
}

// What waits when the agent ends, or when the rules go, goes on at once, and nothing is held after that.
func TestJobsEnd(t *testing.T) {
	t.Parallel()
	x := newPress(t, policy{mode: enforce.Enforce}, time.Hour)
	x.slow.Store(int64(time.Hour))
	x.print("a CANARY waits;")
	eventually(t, "it waits", func() bool { return x.asking() == 1 })
	if err := x.j.Load(nil); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it goes on", func() bool { return x.printed() == "a CANARY waits;" })

	x.load(policy{mode: enforce.Enforce})
	x.print("another CANARY;")
	eventually(t, "it waits", func() bool { return x.asking() == 1 })
	x.j.Stop()
	eventually(t, "it goes on", func() bool { return x.printed() == "a CANARY waits;another CANARY;" })
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, d := range x.told {
		t.Errorf("told: %s %s", d.Done.Value, d.Note)
	}
}

// A job that is held because its document could not be looked into goes on when the agent ends, and when the rules do.
func TestJobsLateEnd(t *testing.T) {
	t.Parallel()
	for what, end := range map[string]func(*press){"stop": func(x *press) { x.j.Stop() }, "monitor": func(x *press) { x.load(policy{mode: enforce.Monitor}) },
		"no rules": func(x *press) { _ = x.j.Load(nil) }} {
		x := newPress(t, policy{mode: enforce.Enforce, deny: true}, 200*time.Millisecond)
		x.slow.Store(int64(time.Hour))
		id := x.print("clean;")
		x.held(id)
		end(x)
		eventually(t, what+": it goes on", func() bool { return strings.Contains(x.printed(), "clean;") })
	}
}

// tap lets a test act once the spooler has done something, before its answer is read.
type tap struct {
	http.RoundTripper
	op    goipp.Op
	after func()
}

func (p *tap) RoundTrip(r *http.Request) (*http.Response, error) {
	b, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	var q goipp.Message
	if err := q.DecodeBytes(b); err != nil {
		return nil, err
	}
	r = r.Clone(r.Context())
	r.Body = io.NopCloser(bytes.NewReader(b))
	w, err := p.RoundTripper.RoundTrip(r)
	if goipp.Op(q.Code) == p.op && err == nil {
		p.after()
	}
	return w, err
}

// So it does if that end comes between the spooler's deed and its answer, or if the answer is lost.
func TestJobsLateEndMeanwhile(t *testing.T) {
	t.Parallel()
	for what, end := range map[string]func(x *press, over <-chan struct{}){
		"stop":     func(x *press, over <-chan struct{}) { go x.j.Stop(); <-over },
		"no rules": func(x *press, over <-chan struct{}) { go func() { _ = x.j.Load(nil) }(); <-over },
		"no answer": func(x *press, _ <-chan struct{}) {
			time.Sleep(patience + time.Second)
			go x.j.Stop()
		},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			x := newPress(t, policy{mode: enforce.Enforce, deny: true}, 200*time.Millisecond)
			x.slow.Store(int64(time.Hour))
			var held atomic.Bool
			w := x.watching()
			w.mu.Lock()
			over := w.ctx.Done()
			x.j.spooler.web.Transport = &tap{x.j.spooler.web.Transport, goipp.OpHoldJob, func() {
				if !held.Swap(true) {
					end(x, over)
				}
			}}
			w.mu.Unlock()
			x.print("clean;")
			eventually(t, "it is held", held.Load)
			eventually(t, "it goes on", func() bool { return x.printed() == "clean;" })
		})
	}
}

// A document that is known to be guilty is not held once the rules are gone.
func TestJobsGone(t *testing.T) {
	t.Parallel()
	x := newPress(t, policy{mode: enforce.Enforce}, askWait)
	x.run("cupsdisable q")
	x.slow.Store(int64(500 * time.Millisecond))
	id := x.print("a CANARY;")
	eventually(t, "it is looked into", func() bool { return x.looked.Load() > 0 })
	if err := x.j.Load(nil); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second)
	if j, err := x.j.spooler.job(t.Context(), id); err != nil || j.held {
		t.Errorf("%+v %v", j, err)
	}
}

// The kernel's marks are made again when they are not there.
func TestJobsMarks(t *testing.T) {
	t.Parallel()
	x, dir := newSpool(t, policy{mode: enforce.Enforce}, askWait)
	w := x.watching()
	x.j.refreshes.Lock() // nobody makes them again until it has been seen
	err := unix.FanotifyMark(w.fan, unix.FAN_MARK_FLUSH, 0, unix.AT_FDCWD, dir)
	tells, asks, wrong := w.watched()
	x.j.refreshes.Unlock()
	if err != nil || tells || asks || wrong != nil {
		t.Errorf("after they were removed: %v %v %v %v", err, tells, asks, wrong)
	}
	x.load(policy{mode: enforce.Enforce})
}

// More events than an hour takes are counted.
func TestJobsLeftOut(t *testing.T) {
	t.Parallel()
	x, dir := newSpool(t, policy{mode: enforce.Monitor}, askWait)
	for i := range 30 {
		put(t, fmt.Sprintf("%s/d%05d-001", dir, i+1), fmt.Sprint("CANARY ", i))
	}
	eventually(t, "all are looked into", func() bool {
		x.mu.Lock()
		defer x.mu.Unlock()
		return len(x.told) == 20 && x.j.leftOut.Load() == 10
	})
}

func (x *press) asking() int {
	w := x.watching()
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
	x := &press{t: t}
	x.j = x.jobs(newSpooler(dir+"/none"), dir, filepath.Join(dir, "spool", "cups"), askWait)
	x.begin()
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
	eventually(t, "it is watched", func() bool { return x.watching().is(x.j.spool) })
	if got := now(); got != (fact.PrintJobs{Spooler: true, Watched: true, Holds: true}) {
		t.Errorf("with one: %+v", got)
	}
	if err := os.Rename(x.j.spool, x.j.spool+".old"); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(x.j.spool, 0o710); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the new one is watched", func() bool { return x.watching().is(x.j.spool) })
	// The administrator has it elsewhere.
	if err := os.WriteFile(filepath.Join(dir, "cups-files.conf"), []byte("# RequestRoot /nowhere\nrequestroot "+dir+"/spool\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := now(); !got.Holds || !x.watching().is(dir+"/spool") {
		t.Errorf("elsewhere: %+v in %s", got, x.watching().dir)
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

// Where the spooler's directory is, as CUPS reads its settings.
func TestRequestRoot(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"": "/usual", "RequestRoot /a": "/a", "  requestroot\t/a/b/ # here": "/a/b", "RequestRoot /my spool": "/my spool", "RequestRoot spool": "/etc/cups/spool",
		"ServerRoot /srv/cups\nRequestRoot spool": "/srv/cups/spool", "RequestRoot spool\nServerRoot /srv": "/srv/spool", "#RequestRoot /a": "/usual", "RequestRoot": "/usual",
		"RequestRoot /a\\#b": "/a#b", "RequestRoot /a\nRequestRoot /b": "/b", "RequestRootX /a": "/usual",
	} {
		if got := requestRoot(text, "/etc/cups", "/usual"); got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}

func FuzzRequestRoot(f *testing.F) {
	f.Add("ServerRoot /srv\nRequestRoot a # b\n")
	f.Fuzz(func(t *testing.T, text string) {
		if got := requestRoot(text, "/etc/cups", "/usual"); !filepath.IsAbs(got) {
			t.Errorf("%q: %q", text, got)
		}
	})
}
