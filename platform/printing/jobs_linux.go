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
	config  string // its directory of settings
	spool   string // where it keeps jobs if these say nothing
	look    platform.LookInto
	wait    time.Duration // who opens a document waits so long at most
	limit   time.Duration // a document may take
	retry   time.Duration // a document that could not be looked into is looked into again; 0: later each time

	ruling    atomic.Pointer[platform.SensitiveRules]
	stopped   atomic.Bool
	refreshes sync.Mutex
	mu        sync.Mutex
	watch     *watch // nil: nothing is watched
	why       string // why not
	key       string // of the rules
	known     bpf.Hourly

	// Since the agent was started:
	late    atomic.Int64 // documents that could not be looked into in time
	leftOut atomic.Int64 // events that were too many
	logged  atomic.Int64 // when something was logged that can happen often
}

const (
	askWait   = 10 * time.Second
	lookLimit = 30 * time.Second
)

func newJobs(h platform.Host, q *Queues) *Jobs {
	return &Jobs{log: h.Log, off: q.off, spooler: q.spooler, proc: q.proc, config: q.config, spool: q.spool, wait: askWait, limit: lookLimit}
}

// rules are those in force; nil: nothing is looked for.
func (j *Jobs) rules() platform.SensitiveRules {
	if r := j.ruling.Load(); r != nil {
		return *r
	}
	return nil
}

// Section names the section whose rules it uses.
func (j *Jobs) Section() string { return settingNamed.Section() }

// Load replaces the rules. What was looked into by those before is looked into again when it is opened.
func (j *Jobs) Load(r platform.Rules) error {
	s, ok := r.(platform.SensitiveRules)
	switch {
	case r != nil && !ok:
		return platform.Unsupported{Feature: "looking into print jobs", Need: "rules that judge them"}
	case r == nil || j.off || j.look == nil || s.SensitiveMode() == enforce.Off:
		j.ruling.Store(nil)
		return j.refresh()
	}
	j.ruling.Store(&s)
	j.mu.Lock()
	w, key := j.watch, s.SensitiveKey()
	same := j.key == key
	j.key = key
	j.mu.Unlock()
	if w != nil && !same {
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
	return requestRoot(string(b), j.config, j.spool), nil
}

// requestRoot reads cups-files.conf as CUPS 2.4 does: a word and the rest of its line, up to a # without a \ before it. What is no absolute
// path is one in ServerRoot.
func requestRoot(text, config, usual string) string {
	root, dir := config, ""
	for line := range strings.Lines(text) {
		for i := range len(line) {
			if line[i] == '#' && (i == 0 || line[i-1] != '\\') {
				line = line[:i]
				break
			}
		}
		line = strings.TrimSpace(strings.ReplaceAll(line, `\#`, "#"))
		word, value := line, ""
		if i := strings.IndexAny(line, " \t"); i >= 0 {
			word, value = line[:i], strings.TrimSpace(line[i:])
		}
		switch {
		case value == "":
		case strings.EqualFold(word, "RequestRoot"):
			dir = value
		case strings.EqualFold(word, "ServerRoot") && filepath.IsAbs(value):
			root = value
		}
	}
	switch {
	case dir == "":
		return usual
	case !filepath.IsAbs(dir):
		dir = filepath.Join(root, dir)
	}
	return filepath.Clean(dir)
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
	said := ""
	for {
		if j.rules() != nil {
			dir, err := j.directory()
			if err == nil {
				err = errors.Join(arm(w, []string{filepath.Dir(dir)}), j.refresh())
			}
			now := fmt.Sprint(err)
			if err != nil && now != said {
				j.log.Warn("what is printed is not looked into", "error", err)
			}
			said = now
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
	w, x := j.watch, fact.PrintJobs{Why: j.why, Late: int(j.late.Load()), LeftOut: int(j.leftOut.Load())}
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

// Stop ends what is watched. Jobs with sensitive data stay held.
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

const (
	// holdWait is how long a spooler may take to answer, and holdLimit to hold a job: any local user can keep it busy. Whoever has opened
	// its document waits meanwhile, because a filter that fails can stop the queue for everybody.
	holdWait  = 5 * time.Second
	holdLimit = time.Minute
	holdPause = time.Second
)

// hold has the spooler hold a job, and reads back whether it does. note says how it goes on.
func (j *Jobs) hold(ctx context.Context, id int) (x job, done, note string) {
	if id == 0 {
		return job{}, jobRefused, ""
	}
	x.id = id
	for end := time.Now().Add(holdLimit); ; {
		err := j.holdNow(ctx, &x)
		if err == nil && x.held {
			return x, jobHeld, fmt.Sprintf("once it is allowed, \"lp -i %d -H resume\" prints it", id)
		}
		if !errors.Is(err, errNoAnswer) || time.Now().After(end) {
			return x, jobRefused, said(err)
		}
		select {
		case <-ctx.Done():
			return x, jobRefused, said(err)
		case <-time.After(holdPause):
		}
	}
}

func said(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// holdNow asks for it once. What has been asked for is seen to its end, also if ctx ends meanwhile: the spooler does it all the same, and a
// job that we hold is to be known as ours.
func (j *Jobs) holdNow(ctx context.Context, x *job) error {
	ctx, cancel := context.WithTimeout(ctx, holdWait)
	defer cancel()
	was := *x
	now, err := j.spooler.job(ctx, x.id)
	if err != nil {
		return err
	}
	now.ours = was.ours
	if *x = now; x.held {
		return nil
	}
	ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), holdWait)
	defer cancel()
	_, err = j.spooler.ofJob(ctx, goipp.OpHoldJob, x.id)
	if x.ours = x.ours || !errors.Is(err, errNoSpooler) && !errors.Is(err, errRefused); err != nil {
		return err
	}
	now, err = j.spooler.job(ctx, x.id)
	if err != nil {
		return err
	}
	now.ours = x.ours
	*x = now
	return nil
}

const (
	releaseTries = 3
	releasePause = time.Second
)

// release lets a job go on that was held because it could not be looked into in time. A spooler that was asked to hold it, and was not heard,
// may do so only now.
func (j *Jobs) release(id int) {
	if id == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), holdWait)
	defer cancel()
	for try := 1; ; try++ {
		_, err := j.spooler.ofJob(ctx, goipp.OpReleaseJob, id)
		if err == nil {
			return
		}
		x, unread := j.spooler.job(ctx, id)
		if unread == nil && !x.held && try > 1 {
			return
		}
		if try == releaseTries || ctx.Err() != nil {
			if unread != nil || x.held {
				j.log.Warn("a print job that nothing was found in may stay held", "job", id, "error", err)
			}
			return
		}
		time.Sleep(releasePause)
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

// missed notes that something was printed that was not looked into, or could not be.
func (j *Jobs) missed(why string) {
	j.late.Add(1)
	if now, last := time.Now().Unix(), j.logged.Load(); now-last >= 10 && j.logged.CompareAndSwap(last, now) {
		j.log.Warn("not all that is printed is looked into", "why", why)
	}
}

// told is what is told of a document.
type told struct {
	file    file
	job     job
	judge   platform.SensitiveRules
	verdict enforce.Verdict
	is      fact.Sensitive
	done    string
	note    string
	err     error
}

// tell tells of a document. Whose a job is, its user says: what bounds how much is told goes by the queue.
func (j *Jobs) tell(t told) {
	where := "a print job"
	if t.is.Place = t.job.queue; t.job.queue != "" {
		where += " for " + t.job.queue
	}
	text := fmt.Sprintf("a document of %d bytes", t.file.size)
	if t.job.id > 0 {
		text = fmt.Sprintf("job %d, %d bytes", t.job.id, t.file.size)
		if t.job.user != "" {
			text = fmt.Sprintf("job %d of user %s, %d bytes", t.job.id, t.job.user, t.file.size)
		}
	}
	if t.note != "" {
		text += ": " + t.note
	}
	who, what := t.job.queue+" "+t.done, fmt.Sprintf("%d %d %d %v", t.file.Dev, t.file.Ino, t.file.mtime, t.is.Late)
	if !t.is.Late && len(t.is.Found) == 0 { // not read whole: once in a while of each reason
		who, what = t.job.queue+" "+t.job.user+" unread", strings.Join(t.is.Unread, "; ")
	}
	j.mu.Lock()
	news, before := j.known.News(who, what), j.known.Knows(who, what)
	if news {
		j.known.Told(who, what)
	}
	j.mu.Unlock()
	if !news {
		if !before {
			j.leftOut.Add(1)
		}
		return
	}
	state := enforce.Reading{State: enforce.Present, Value: enforce.Value(t.done), How: "the print spooler"}
	j.Hand(platform.Decision{Section: j.Section(), Key: enforce.Key{Kind: "printing.job", ID: fmt.Sprintf("%s %s %d", what, t.done, time.Now().UnixNano())},
		Subject: where, Verdict: t.verdict, Fact: &t.is, Done: state, Err: t.err, Taken: t.done != jobFree, Note: text,
		Reason: func() (string, string) { return t.judge.SensitiveReason(t.verdict, &t.is) }})
}
