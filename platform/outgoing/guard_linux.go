package outgoing

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/platform"
	"github.com/warderd/warder/platform/bpf"
	"github.com/warderd/warder/platform/durable"
	"github.com/warderd/warder/platform/mountinfo"
)

// Guard watches the places from which files leave, while something is looked for.
type Guard struct {
	platform.Listener
	log     *slog.Logger
	off     bool // this is not the real machine
	proc    string
	passwd  string // the machine's list of users
	homes   string
	until   string // a file that says until when everything was looked into
	keep    platform.KeepData
	look    platform.LookInto
	expire  platform.Expire
	outside platform.Outside

	ruling  atomic.Pointer[rules]
	stopped atomic.Bool
	running sync.Map // looks that go on, by item

	refreshes sync.Mutex
	mu        sync.Mutex
	key       string // of the rules
	places    map[string]*place
	last      time.Time // until then the agent before this one has looked into everything
	list      []folder  // sync folders, as they were found last
	found     time.Time
	looked    bool          // they were found once
	slow      string        // why they cannot be found
	finding   chan struct{} // has one element while they are looked for
	noted     time.Time
	cleared   time.Time
	tells     sync.Mutex
	told      bpf.Hourly
}

// rules are the rules in force; nil: nothing is looked for.
func (g *Guard) rules() rules {
	if r := g.ruling.Load(); r != nil {
		return *r
	}
	return nil
}

// lateIsFree says what becomes of who has waited for long enough.
func (g *Guard) lateIsFree() bool {
	r := g.rules()
	return r == nil || r.LateIsFree()
}

// Section names the section whose rules it uses.
func (g *Guard) Section() string { return setting.Section() }

// Load replaces the rules.
func (g *Guard) Load(r platform.Rules) error {
	s, ok := r.(rules)
	switch {
	case r != nil && !ok:
		return platform.Unsupported{Feature: "looking into files", Need: "rules that judge them"}
	case r == nil || g.off || g.look == nil || s.SensitiveMode() == enforce.Off:
		g.ruling.Store(nil)
		g.mu.Lock()
		g.key = ""
		g.mu.Unlock()
		g.end()
		_ = os.Remove(g.until)
		return nil
	}
	g.ruling.Store(&s)
	g.mu.Lock()
	places, key := g.all(), s.SensitiveKey()
	same := g.key == key // they are loaded with each change of the machine
	g.key = key
	g.mu.Unlock()
	for _, p := range places {
		if !same {
			go p.renew() // a file system that does not answer may keep its lock
		}
	}
	return g.refresh()
}

// all are the places that are watched. The caller has the lock.
func (g *Guard) all() (out []*place) {
	for _, p := range g.places {
		out = append(out, p)
	}
	return out
}

// end ends what is watched.
func (g *Guard) end() {
	g.refreshes.Lock()
	defer g.refreshes.Unlock()
	g.mu.Lock()
	places := g.all()
	g.places, g.last = nil, time.Time{}
	g.mu.Unlock()
	g.close(places)
}

// close ends places, all at once.
func (g *Guard) close(places []*place) {
	var all sync.WaitGroup
	for _, p := range places {
		all.Go(func() {
			p.close()
		})
	}
	all.Wait()
}

// refresh watches the places that there are now.
func (g *Guard) refresh() error {
	g.refreshes.Lock()
	defer g.refreshes.Unlock()
	r := g.rules()
	if r == nil || g.stopped.Load() {
		return nil
	}
	want, keep, err := g.now()
	var gone, held []*place
	g.mu.Lock()
	if g.places == nil {
		g.places, g.last = map[string]*place{}, g.before()
	}
	for key, p := range g.places {
		_, is := want[key]
		if !is && (keep && p.app == "" || p.lingers(want)) && !p.dead() {
			continue
		}
		if !is || p.dead() || p.gone.Load() > 0 {
			delete(g.places, key)
			gone = append(gone, p)
		}
	}
	for key, p := range want {
		if g.places[key] != nil {
			continue
		}
		p.g, p.log, p.since = g, g.log, time.Now().Add(-mountSlack)
		if p.app != "" || p.since.After(g.last) && !g.looked {
			p.since = g.last
		}
		if wrong := p.open(); wrong != nil {
			err = errors.Join(err, wrong)
			continue
		}
		g.places[key] = p
	}
	held = g.all()
	g.mu.Unlock()
	var all sync.WaitGroup
	for _, p := range held {
		all.Go(func() { soon(func() { p.hold(r.HoldsSensitive()) }) })
	}
	all.Wait()
	g.close(gone) // once what comes after them is watched
	return err
}

// mountSlack is how long a disk may be mounted before that is noticed.
const mountSlack = 3 * time.Second

// soon does something, and waits for it for some time: a file system that does not answer may keep a place's lock.
func soon(do func()) {
	done := make(chan struct{})
	go func() {
		do()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(2 * armWait):
	}
}

// dead reports whether it has ended by itself.
func (p *place) dead() bool {
	return p.ctx.Err() != nil
}

// lingers reports whether a folder that has been moved is watched still where it is now, until it is known where that is.
func (p *place) lingers(want map[string]*place) bool {
	at := p.gone.Load()
	for _, x := range want {
		if x.app == p.app && (x.id == p.id || x.root == p.root) {
			return false
		}
	}
	return at > 0 && time.Since(time.Unix(0, at)) < findEvery
}

// now are the places that there are. keep says that the disks could not be listed: those that are known stay.
func (g *Guard) now() (want map[string]*place, keep bool, err error) {
	want = map[string]*place{}
	var disks []platform.OutsideDisk
	if g.outside != nil {
		if disks, err = g.outside(); err != nil {
			keep, err = true, fmt.Errorf("the external disks cannot be listed: %w", err)
		}
	}
	for _, d := range disks {
		done := map[string]bool{}
		for _, m := range d.Mounts {
			// A disk that carries the running system is not watched: who opens its files may be the agent itself, or systemd.
			if done[m.Dev] || m.ReadOnly || d.System != "" {
				continue
			}
			if len(want) >= maxPlace {
				err = fmt.Errorf("only %d file systems of external disks are watched, and there are more", maxPlace)
				continue
			}
			done[m.Dev] = true
			p := &place{key: "disk " + m.Dev + " " + strconv.Itoa(m.ID), disk: m.Dev, name: d.Name, root: m.Point, mount: uint64(m.ID)} //nolint:gosec // not negative
			want[p.key] = p
		}
	}
	g.mu.Lock()
	folders := g.list
	g.mu.Unlock()
	of := map[uint32]int{}
	for _, f := range folders {
		if of[f.uid]++; of[f.uid] > maxOwn {
			err = fmt.Errorf("only %d sync folders of user %d are watched, and there are more", maxOwn, f.uid)
			continue
		}
		p := &place{key: fmt.Sprintf("folder %s %d %d", f.path, f.id.dev, f.id.ino), name: fmt.Sprintf("%s's folder of user %d", f.app.Name, f.uid), app: f.app.ID, root: f.path, id: f.id}
		want[p.key] = p
	}
	return want, keep, err
}

// findEvery is how often sync folders are looked for at most.
const findEvery = time.Minute

// findNow looks for sync folders at once, and once more: one of them is somewhere else, or on its way there.
func (g *Guard) findNow() {
	for _, pause := range []time.Duration{0, time.Second, 10 * time.Second} {
		time.Sleep(pause)
		g.mu.Lock()
		g.found = time.Time{}
		g.mu.Unlock()
		g.find()
		g.tried(g.refresh()) // also if it is where it was
	}
}

// find looks for sync folders in the background: home directories may be in the network.
func (g *Guard) find() {
	g.mu.Lock()
	if g.rules() == nil || time.Since(g.found) < findEvery {
		g.mu.Unlock()
		return
	}
	g.found = time.Now()
	g.mu.Unlock()
	select {
	case g.finding <- struct{}{}:
	default:
		g.mu.Lock()
		g.slow = "a home directory does not answer"
		g.mu.Unlock()
		return
	}
	done := make(chan struct{})
	go func() {
		list := g.folders()
		g.mu.Lock()
		news := !slices.Equal(list, g.list)
		g.list, g.slow, g.looked = list, "", true
		g.mu.Unlock()
		<-g.finding
		close(done)
		if news {
			g.tried(g.refresh())
			g.Look(false)
		}
	}()
	select {
	case <-done:
	case <-time.After(armWait):
	}
}

// Run follows what is mounted, until ctx ends.
func (g *Guard) Run(ctx context.Context) error {
	if g.off {
		<-ctx.Done()
		return nil
	}
	for ctx.Err() == nil {
		g.tried(mountinfo.Watch(ctx, func() { g.tried(g.refresh()) }, g.proc+"/self/mountinfo"))
		select {
		case <-ctx.Done():
		case <-time.After(10 * time.Second): // it could not be watched
		}
	}
	return nil
}

// tried notes what went wrong; the next look tries again.
func (g *Guard) tried(err error) {
	if err != nil {
		g.log.Warn("not all that leaves this machine is looked into", "error", err)
	}
}

// Work lists nothing.
func (g *Guard) Work() []platform.Work { return nil }

// Stop ends what is watched: a file that is being taken away is in the quarantine, or where it was.
func (g *Guard) Stop() {
	g.stopped.Store(true)
	g.end()
}

// before is until when everything was looked into by the agent before this one; now, if there was none.
func (g *Guard) before() time.Time {
	now := time.Now().Add(-coarse)
	b, err := durable.Read(g.until, 64)
	if err != nil {
		return now
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	if at := time.Unix(0, n); err == nil && at.Before(now) {
		return at
	}
	return now
}

// noteEvery is how often that is written at most. It is in memory, and lost when the machine is.
const noteEvery = 5 * time.Second

// caughtUp notes that everything was looked into, if that is so everywhere.
func (g *Guard) caughtUp() {
	now := time.Now()
	g.mu.Lock()
	due := g.looked && now.Sub(g.noted) >= noteEvery
	places := g.all()
	g.mu.Unlock()
	for _, p := range places {
		due = due && p.quiet()
	}
	if !due {
		return
	}
	if err := os.WriteFile(g.until+".new", []byte(strconv.FormatInt(now.Add(-time.Second).UnixNano(), 10)), 0o600); err == nil {
		_ = os.Rename(g.until+".new", g.until)
	}
	g.mu.Lock()
	g.noted = now
	g.mu.Unlock()
}

// settingOf is the setting that a document is against.
func settingOf(x *fact.Sensitive) enforce.Setting {
	if len(x.Found) > 0 {
		return enforce.Setting(x.Found[0].Setting)
	}
	return "dlp.scan_timeout"
}

const (
	inQuarantine = "it is in quarantine"
	wasRemoved   = "its name there was removed, or its disk was, before it could be taken away"
)

// tell tells of a file with sensitive data: taken is its name in the quarantine, or why says why it is still there; both are empty
// if nothing is done about it.
func (g *Guard) tell(it item, v enforce.Verdict, taken, why string) {
	r := it.judge
	note := fmt.Sprintf("%s wrote %s, %d bytes", it.who, g.file(it.path), it.size)
	done := enforce.Reading{State: enforce.Present, Value: "it is still there", How: "the file"}
	switch {
	case taken != "":
		note += ": what was in it was taken away, and is in quarantine as " + taken
		done.Value = inQuarantine
	case why == wasRemoved:
		done = enforce.Reading{State: enforce.Absent, How: "the file"}
		note += ": " + why
	case why != "":
		note += ": " + why
	}
	g.hand(&it, "", v, r, done, note)
}

// tellLate tells of a file that could not be looked into in time.
func (g *Guard) tellLate(it item, why string) {
	r := g.rules()
	if r == nil {
		return
	}
	it.fact = fact.Sensitive{Where: fact.InFile, Place: it.place.name, Bytes: it.size, Found: []fact.SensitiveFound{}, Late: true}
	g.hand(&it, "", r.Sensitive(&it.fact), r, enforce.Reading{State: enforce.Unknown, How: "it could not be looked into"},
		fmt.Sprintf("%s wrote %s, %d bytes, which could not be looked into in time: %s", it.who, g.file(it.path), it.size, why))
}

// tellUnread tells of a file in which nothing was found, of which parts were not read: once in a while of each reason.
func (g *Guard) tellUnread(it item, v enforce.Verdict) {
	why := strings.Join(it.fact.Unread, "; ")
	g.hand(&it, "unread: "+why, v, it.judge, enforce.Reading{State: enforce.Present, Value: "it is still there", How: "the file"},
		fmt.Sprintf("%s wrote %s, %d bytes; parts of it were not read: %s", it.who, g.file(it.path), it.size, why))
}

// hand tells of a file. What is told again within the hour is the same file, or what is the same to whoever calls this.
func (g *Guard) hand(it *item, what string, v enforce.Verdict, r rules, done enforce.Reading, note string) {
	// Who writes a thousand files is told of as often as who is refused a thousand times.
	who := fmt.Sprintf("%s %d %s", it.place.name, it.who.UID, done.Value)
	if what == "" {
		what = fmt.Sprintf("%d %d %d", it.dev, it.ino, it.stamp.mtime)
	} else {
		who += " unread" // however many of these there are, others are told of
	}
	g.tells.Lock()
	news := g.told.News(who, what)
	if news {
		g.told.Told(who, what)
	}
	g.tells.Unlock()
	if !news {
		return
	}
	x := it.fact
	g.Hand(platform.Decision{Section: g.Section(), Key: enforce.Key{Kind: "outgoing.file", ID: fmt.Sprintf("%s %d %d", who, it.ino, time.Now().UnixNano())},
		Subject: "a file on " + it.place.name, Verdict: v, Fact: &x, Done: done, Taken: done.Value == inQuarantine, Reason: func() (string, string) { return r.SensitiveReason(v, &x) }, Note: note})
}

// file names a file in an event, which everybody who may read events sees: not by its path, unless the policy says so.
func (g *Guard) file(path string) string {
	if path == "" {
		return "a file whose path is not known"
	}
	if r := g.rules(); r != nil && r.PlainPaths() {
		return fmt.Sprintf("file %q", enforce.Plain(path))
	}
	m := hmac.New(sha256.New, nameKey())
	m.Write([]byte(path))
	return "file #" + hex.EncodeToString(m.Sum(nil)[:4])
}

// nameKey is this process's own: marks can be compared until the agent starts anew.
var nameKey = sync.OnceValue(func() []byte {
	k := make([]byte, 32)
	_, _ = rand.Read(k)
	return k
})
