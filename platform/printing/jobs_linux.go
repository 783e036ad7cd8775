package printing

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/OpenPrinting/goipp"
	"github.com/fsnotify/fsnotify"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/platform"
	"github.com/warderd/warder/platform/bpf"
)

const settingNamed enforce.Setting = "dlp.patterns"

// Jobs looks into what is printed: into each document that comes into the spooler's directory, and in enforce mode before anything can
// open it there. A job with what may not be printed is held by the spooler, and its document cannot be opened (decision 0048).
type Jobs struct {
	platform.Listener
	log     *slog.Logger
	off     bool // this is not the real machine
	spooler *spooler
	proc    string
	daemons []string // where the spooler's program can be
	config  string   // its directory of settings
	spool   string   // where it keeps jobs if these say nothing
	look    platform.LookInto
	wait    time.Duration // who opens a document waits so long at most
	limit   time.Duration // a document may take

	ruling    atomic.Pointer[judge]
	stopped   atomic.Bool
	refreshes sync.Mutex
	mu        sync.Mutex
	watch     *watch // nil: nothing is watched
	why       string // why not
	late      int    // documents that could not be looked into in time, since the agent was started
	told      bpf.Hourly
}

const (
	askWait   = 10 * time.Second
	lookLimit = 30 * time.Second
)

func newJobs(h platform.Host, q *Queues) *Jobs {
	return &Jobs{log: h.Log, off: q.off, spooler: q.spooler, proc: q.proc, daemons: q.daemons, config: q.config, spool: q.spool, wait: askWait, limit: lookLimit}
}

// judge is what the section's rules say of sensitive data.
type judge interface {
	// SensitiveMode is the strictest mode in which something is looked for; Off: nothing is.
	SensitiveMode() enforce.Mode
	// HoldsSensitive reports whether something is refused if it is found.
	HoldsSensitive() bool
	Sensitive(*fact.Sensitive) enforce.Verdict
	SensitiveReason(enforce.Verdict, *fact.Sensitive) (reason, nearest string)
}

// rules are those in force; nil: nothing is looked for.
func (j *Jobs) rules() judge {
	if r := j.ruling.Load(); r != nil {
		return *r
	}
	return nil
}

// Section names the section whose rules it uses.
func (j *Jobs) Section() string { return settingNamed.Section() }

// Load replaces the rules. What was looked into by those before is looked into again when it is opened.
func (j *Jobs) Load(r platform.Rules) error {
	s, ok := r.(judge)
	switch {
	case r != nil && !ok:
		return platform.Unsupported{Feature: "looking into print jobs", Need: "rules that judge them"}
	case r == nil || j.off || j.look == nil || s.SensitiveMode() == enforce.Off:
		j.ruling.Store(nil)
		return j.refresh()
	}
	j.ruling.Store(&s)
	j.mu.Lock()
	w := j.watch
	j.mu.Unlock()
	if w != nil {
		w.renew()
	}
	return j.refresh()
}

// refresh watches the spooler's directory that there is now, as the mode asks, or nothing.
func (j *Jobs) refresh() error {
	j.refreshes.Lock()
	defer j.refreshes.Unlock()
	r := j.rules()
	j.mu.Lock()
	old := j.watch
	j.mu.Unlock()
	if r == nil || j.stopped.Load() {
		j.set(nil, nil)
		old.close()
		return nil
	}
	dir, err := j.directory()
	if err != nil {
		j.set(old, err)
		return err
	}
	if old.is(dir) { // also if the kernel has not what it was told: what is held is watched
		err := old.mark(r.HoldsSensitive())
		j.set(old, err)
		return err
	}
	var w *watch
	if _, wrong := os.Lstat(dir); !errors.Is(wrong, os.ErrNotExist) {
		w, err = j.open(dir, r.HoldsSensitive())
	}
	j.set(w, err)
	old.close() // once what comes after it is watched
	return err
}

func (j *Jobs) set(w *watch, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.watch, j.why = w, ""; err != nil {
		j.why = err.Error()
	}
}

// directory is where the spooler keeps its jobs (RequestRoot in cups-files.conf(5)).
func (j *Jobs) directory() (string, error) {
	b, err := readBounded(filepath.Join(j.config, "cups-files.conf"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	dir := j.spool
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) == 2 && strings.EqualFold(f[0], "RequestRoot") && filepath.IsAbs(f[1]) {
			dir = filepath.Clean(f[1])
		}
	}
	return dir, nil
}

// refreshEvery is how often the directory is looked at, beside when something appears where it is.
const refreshEvery = 10 * time.Second

// Run follows the spooler's directory until ctx ends: it appears when a spooler is installed.
func (j *Jobs) Run(ctx context.Context) error {
	if j.off {
		<-ctx.Done()
		return nil
	}
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return err
	}
	defer w.Close()
	tick := time.NewTicker(refreshEvery)
	defer tick.Stop()
	for {
		if dir, err := j.directory(); err == nil && j.rules() != nil {
			err = arm(w, []string{filepath.Dir(dir)})
			if wrong := errors.Join(err, j.refresh()); wrong != nil {
				j.log.Warn("what is printed is not looked into", "error", wrong)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-w.Errors:
		case _, ok := <-w.Events:
			if !ok {
				return nil
			}
		case <-tick.C:
		}
	}
}

// Observe says what is watched, as the kernel has it.
func (j *Jobs) Observe(_ context.Context, out *fact.Machine) error {
	out.PrintJobs = fact.Is(fact.PrintJobs{})
	if j.rules() == nil {
		return nil
	}
	_ = j.refresh() // it is in why
	j.mu.Lock()
	w, x := j.watch, fact.PrintJobs{Why: j.why, Late: j.late}
	j.mu.Unlock()
	if w != nil {
		x.Spooler = true
		var err error
		if x.Watched, x.Holds, err = w.watched(); err != nil {
			x.Why = err.Error()
		}
	}
	x.Spooler = x.Spooler || x.Why != ""
	out.PrintJobs = fact.Is(x)
	return nil
}

// Work lists nothing.
func (j *Jobs) Work() []platform.Work { return nil }

// Stop ends what is watched. Jobs that are held stay so.
func (j *Jobs) Stop() {
	j.stopped.Store(true)
	_ = j.refresh()
}

// What is read back of a job.
const (
	jobHeld    = "the spooler holds it"
	jobRefused = "its document cannot be opened"
	jobFree    = "nothing holds it"
)

// holdWait is how long a spooler may take to hold a job. Whoever has opened its document waits meanwhile.
const holdWait = 5 * time.Second

// hold has the spooler hold a job, and reads back whether it does. note says how it goes on.
func (j *Jobs) hold(id int) (x job, done, note string) {
	ctx, cancel := context.WithTimeout(context.Background(), holdWait)
	defer cancel()
	var err error
	x.id = id
	if id > 0 {
		if _, err = j.spooler.ofJob(ctx, goipp.OpHoldJob, id); err == nil {
			x, err = j.spooler.job(ctx, id)
		}
	}
	switch {
	case err != nil:
		return x, jobRefused, err.Error()
	case !x.held:
		return x, jobRefused, ""
	}
	return x, jobHeld, fmt.Sprintf("once it is allowed, \"lp -i %d -H resume\" prints it", id)
}

// release lets a job go on that was held because it could not be looked into in time.
func (j *Jobs) release(id int) {
	ctx, cancel := context.WithTimeout(context.Background(), holdWait)
	defer cancel()
	if _, err := j.spooler.ofJob(ctx, goipp.OpReleaseJob, id); err != nil {
		j.log.Warn("a print job that has been looked into stays held", "job", id, "error", err)
	}
}

// job is what is known of a job.
func (j *Jobs) job(id int) job {
	if id == 0 {
		return job{}
	}
	ctx, cancel := context.WithTimeout(context.Background(), holdWait)
	defer cancel()
	x, _ := j.spooler.job(ctx, id) // it may have been removed
	return x
}

// tell tells of a document.
func (j *Jobs) tell(d file, n job, v enforce.Verdict, x fact.Sensitive, done, note string) {
	r := j.rules()
	if r == nil {
		return
	}
	where := "a print job"
	if x.Place = n.queue; n.queue != "" {
		where += " for " + n.queue
	}
	whose := ""
	if n.user != "" {
		whose = " of user " + n.user
	}
	text := fmt.Sprintf("job %d%s, %d bytes", n.id, whose, d.size)
	if n.id == 0 {
		text = fmt.Sprintf("a document of %d bytes", d.size)
	}
	if note != "" {
		text += ": " + note
	}
	who, what := fmt.Sprintf("%s %s %s", n.user, n.queue, done), fmt.Sprintf("%d %d %d %v", d.Dev, d.Ino, d.mtime, x.Late)
	j.mu.Lock()
	if x.Late {
		j.late++
	}
	news := j.told.News(who, what)
	if news {
		j.told.Told(who, what)
	}
	j.mu.Unlock()
	if !news {
		return
	}
	state := enforce.Reading{State: enforce.Present, Value: enforce.Value(done), How: "the print spooler"}
	j.Hand(platform.Decision{Section: j.Section(), Key: enforce.Key{Kind: "printing.job", ID: fmt.Sprintf("%s %s %d", what, done, time.Now().UnixNano())},
		Subject: where, Verdict: v, Fact: &x, Done: state, Taken: done != jobFree, Reason: func() (string, string) { return r.SensitiveReason(v, &x) }, Note: text})
}
