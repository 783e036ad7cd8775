package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/secret"
	"github.com/warderd/warder/enforce/section"
	"github.com/warderd/warder/platform"
)

// journal receives decisions from guards without making them wait, and writes events.
type journal struct {
	boot     string
	now      func() time.Time
	store    eventStore
	sections []section.Section
	health   *health
	latency  *latencies
	seat     func() []uint32
	notices  *notices // nil: nobody is told
	// remember stores a ledger row that a guard wrote; look asks for another look at the machine, and report for a
	// check-in.
	remember     func(enforce.Key, enforce.Reading, []enforce.Setting) error
	look, report func()

	wake chan struct{}

	untold map[enforce.Setting]time.Time // since when a finding lasts of which nobody could be told

	mu   sync.Mutex
	list []platform.Decision
	lost int
	// lasting is what people are to be told of.
	lasting []enforce.Finding
	follow  map[chan enforce.Event]struct{}
}

// eventStore stores events, and what was already told in this boot.
type eventStore interface {
	Append(enforce.Event) (seq uint64, err error)
	Fold() error
	Seen(boot, subject, what string) bool
	Remember(boot, subject, what string)
}

// maxQueue bounds the decisions waiting for the disk. A guard whose queue is full keeps deciding.
const maxQueue = 10_000

// put queues a decision. Guards call it; it never waits.
func (j *journal) put(d platform.Decision) {
	j.mu.Lock()
	if len(j.list) < maxQueue {
		j.list = append(j.list, d)
	} else {
		j.lost++
	}
	j.mu.Unlock()
	select {
	case j.wake <- struct{}{}:
	default:
	}
}

// run writes queued decisions until ctx ends, and then the rest.
func (j *journal) run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			j.drain()
			return nil
		case <-j.wake:
			j.drain()
		}
	}
}

// drain writes every decision that is queued now.
func (j *journal) drain() {
	j.mu.Lock()
	list, lost, lasting := j.list, j.lost, j.lasting
	j.list, j.lost, j.lasting = nil, 0, nil
	j.mu.Unlock()
	if lost > 0 {
		j.record(enforce.Event{At: j.now().UTC(), Setting: "agent", Mode: enforce.Enforce, Kind: "dropped", Subject: "decisions",
			Reason: "decisions came faster than they could be written down", Count: lost})
	}
	changed := false
	for i := range list {
		changed = j.write(&list[i]) || changed
	}
	for i := range lasting {
		j.warn(&lasting[i])
	}
	if changed {
		j.look()
	}
}

// write records one decision, and reports whether another look at the machine is needed.
func (j *journal) write(d *platform.Decision) bool {
	if d.Forced {
		// Whatever the policy is by now, and each time, because each is a separate loss.
		j.record(enforce.Event{At: j.now().UTC(), Setting: settingOf(d), Mode: enforce.Enforce, Kind: enforce.Forced, Subject: d.Subject,
			Reason: d.Note, Done: d.Done, Section: d.Section})
	}
	if d.Reason == nil {
		return false // there was no policy to judge by
	}
	if errors.Is(d.Err, enforce.ErrContended) {
		return false // it is left alone, and reported as drift
	}
	if d.New {
		j.latency.record(d.Clock+"_to_decision", d.Decided.Sub(d.Received))
		j.latency.record(d.Clock+"_to_verified", d.Verified.Sub(d.Received))
	}
	if d.Changed {
		problem := ""
		if err := j.remember(d.Key, d.Done, []enforce.Setting{d.Verdict.Rule.Setting}); err != nil {
			problem = err.Error()
		}
		j.health.of(ledgerBad, "guard", problem)
	}
	e := eventOf(j.now(), d)
	if e.Kind == enforce.Allowed && d.Quiet {
		return d.New
	}
	what := fmt.Sprintf("%s %s %s %s", e.Kind, e.Setting, e.Mode, e.Done)
	if e.Kind == enforce.WouldDeny {
		// Nothing is done about this device, so its reading is not news. Just after a switch from enforce it still
		// reads refused.
		what = fmt.Sprintf("%s %s %s", e.Kind, e.Setting, e.Mode)
	}
	// A device that has just arrived is always reported, because device numbers are reused after 127. So is one that
	// was allowed in between and is refused again.
	if !d.New && !(d.Changed && d.Usable > 0 && !d.Verdict.Allow) && j.store.Seen(j.boot, d.Key.String(), what) {
		return d.New || d.Changed
	}
	if (e.Kind == enforce.WouldDeny && e.Mode == enforce.Warn || e.Kind == enforce.Denied && d.Taken) && j.notices != nil {
		e.Told = j.notices.about(e.Setting, e.Subject, e.Reason)
	}
	if j.record(e) {
		// After the event is durable: a kill between the two reports it twice, but never loses it.
		j.store.Remember(j.boot, d.Key.String(), what)
	}
	return d.New || d.Changed
}

// settingOf is the setting that an event belongs to: the one that decided, or else the section's name.
func settingOf(d *platform.Decision) enforce.Setting {
	if s := d.Verdict.Rule.Setting; s != "" {
		return s
	}
	return enforce.Setting(d.Section)
}

// eventOf describes a decision about a subject, and what the machine reads now.
func eventOf(now time.Time, d *platform.Decision) enforce.Event {
	v := d.Verdict
	e := enforce.Event{At: now.UTC(), Subject: d.Subject, Verdict: v, Done: d.Done, Setting: v.Rule.Setting, Mode: enforce.Enforce,
		Kind: enforce.Allowed, Section: d.Section}
	switch {
	case d.Err != nil:
		e.Kind = enforce.Failed
	case v.Guard != enforce.NoGuard:
		e.Kind = enforce.Guarded
	case !v.Allow:
		e.Kind = enforce.Denied
	case v.WouldDeny:
		e.Kind, e.Setting, e.Mode = enforce.WouldDeny, v.Would.Setting, v.WouldMode
	}
	if e.Setting == "" {
		e.Setting, e.Mode = v.Would.Setting, v.WouldMode
	}
	if e.Setting == "" {
		e.Setting = enforce.Setting(d.Section)
	}
	var nearest string
	e.Reason, nearest = d.Reason()
	if d.Err != nil {
		e.Reason += "; the machine does not show it: " + d.Err.Error()
	} else if nearest != "" && e.Kind != enforce.Allowed {
		e.Reason += "; to allow it: " + nearest
	}
	if d.Usable > 0 && !v.Allow {
		e.Reason += fmt.Sprintf("; it could be used for up to %s before that", span(d.Usable))
	}
	if d.Note != "" {
		e.Reason += "; " + d.Note
	}
	if b, err := json.Marshal(d.Fact); err == nil && d.Fact != nil {
		e.Facts = enforce.Facts(b)
	}
	return e
}

// span formats a length of time, rounded to what a person needs.
func span(d time.Duration) time.Duration {
	switch {
	case d < time.Minute:
		return ceil(d, 100*time.Millisecond)
	case d < time.Hour:
		return ceil(d, time.Second)
	}
	return ceil(d, time.Minute)
}

func ceil(d, unit time.Duration) time.Duration { return (d + unit - 1).Truncate(unit) }

// Bounds of an event. Facts that do not fit are left out, because subject and reason describe the event.
const (
	maxFacts   = 4 << 10
	maxSubject = 1 << 10
	maxWords   = 8 << 10
)

// redact removes from an event what must not be stored, whoever wrote it: passwords in URLs, unprintable characters,
// overlong text, and what its section marks as private.
func redact(sections []section.Section, e *enforce.Event) {
	e.Subject = clip(enforce.Plain(secret.Scrub(e.Subject)), maxSubject)
	e.Reason = clip(enforce.Plain(secret.Scrub(e.Reason)), maxWords)
	e.Done.How = secret.Scrub(e.Done.How)
	if len(e.Facts) > maxFacts {
		e.Facts = ""
	}
	name := e.Section
	if name == "" {
		name = e.Setting.Section()
	}
	if s, ok := section.Find(sections, name); ok && s.Redact != nil {
		s.Redact(e)
	}
}

// clip shortens a text without splitting a character.
func clip(s string, most int) string {
	if len(s) <= most {
		return s
	}
	cut := most
	for cut > 0 && s[cut]&0xc0 == 0x80 {
		cut--
	}
	return s[:cut] + "…"
}

// warns is what lasts against a setting in warn mode: people are told of it, unless they have been, or are told of each case. It
// replaces what was to be told before, and does not wait.
func (j *journal) warns(list []enforce.Finding) {
	j.mu.Lock()
	j.lasting = list
	j.mu.Unlock()
	select {
	case j.wake <- struct{}{}:
	default:
	}
}

// warn tells the people at the machine of a finding that lasts, and records it. That nobody could be told is recorded once as long as it
// lasts, too.
func (j *journal) warn(f *enforce.Finding) {
	told := j.notices.lasting(f)
	switch told {
	case toldBefore, toldEnough:
		return
	case toldNobody:
		if j.untold[f.Setting].Equal(f.Since) {
			return
		}
		j.untold[f.Setting] = f.Since
	}
	j.record(enforce.Event{At: j.now().UTC(), Setting: f.Setting, Mode: f.Mode, Kind: enforce.Warned, Subject: "the people at the machine", Reason: f.Reason, Told: told,
		Section: f.Setting.Section()})
}

// record journals an event, passes it to followers, and has it sent soon.
func (j *journal) record(e enforce.Event) bool {
	redact(j.sections, &e)
	if e.Personal() {
		e.Users = j.seat()
	}
	seq, err := j.store.Append(e)
	if err != nil {
		j.health.set(storeBad, err.Error())
		return false
	}
	j.health.set(storeBad, "")
	e.Seq = seq
	if seq%1000 == 0 {
		if err := j.store.Fold(); err != nil {
			j.health.set(storeBad, err.Error())
		}
	}
	j.mu.Lock()
	for c := range j.follow {
		select {
		case c <- e:
		default: // a follower that does not read loses lines; the journal does not
		}
	}
	j.mu.Unlock()
	j.report()
	return true
}

// followed passes events on as they come, until leave is called.
func (j *journal) followed() (events chan enforce.Event, leave func()) {
	events = make(chan enforce.Event, 256)
	j.mu.Lock()
	j.follow[events] = struct{}{}
	j.mu.Unlock()
	return events, func() {
		j.mu.Lock()
		delete(j.follow, events)
		j.mu.Unlock()
	}
}
