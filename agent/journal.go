package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/warderd/warder/agent/ledger"
	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/fact"
	enforceusb "github.com/warderd/warder/enforce/usb"
	"github.com/warderd/warder/platform"
	"github.com/warderd/warder/platform/usb"
)

// journal takes decisions from the guard without making it wait, and writes them down.
type journal struct {
	a    *Agent
	mu   sync.Mutex
	list []usb.Decision
	lost int
	wake chan struct{}
	told map[string]time.Time
}

// maxQueue bounds the decisions that wait for the disk; a guard that is flooded keeps deciding.
const maxQueue = 10_000

func newJournal(a *Agent) *journal {
	return &journal{a: a, wake: make(chan struct{}, 1), told: map[string]time.Time{}}
}

// put is called by the guard while it holds a device's lock.
func (j *journal) put(d usb.Decision) {
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

func (j *journal) drain() {
	j.mu.Lock()
	list, lost := j.list, j.lost
	j.list, j.lost = nil, 0
	j.mu.Unlock()
	if lost > 0 {
		j.a.record(enforce.Event{At: j.a.o.Now().UTC(), Setting: "usb", Mode: enforce.Enforce, Kind: "dropped", Subject: "usb",
			Reason: "decisions came faster than they could be written down", Count: lost})
	}
	changed := false
	for i := range list {
		changed = j.write(&list[i]) || changed
	}
	if changed {
		j.a.soon()
	}
}

// write records one decision, and reports whether the machine has to be looked at again.
func (j *journal) write(d *usb.Decision) bool {
	a := j.a
	if d.Released != nil && d.Released.Forced {
		// Whatever the policy is by now; and each time, because each is a loss of its own.
		s := d.Verdict.Rule.Setting
		if s == "" {
			s = "usb"
		}
		a.record(enforce.Event{At: a.o.Now().UTC(), Setting: s, Mode: enforce.Enforce, Kind: enforce.Forced, Subject: subjectOf(d),
			Reason: enforce.Plain(d.Released.Note), Done: d.Done})
	}
	by, judged := d.By.(*judge)
	if !judged {
		return false // there was no policy to judge by
	}
	rules := by.rules
	if d.Plugged {
		a.latency.record(insertToDecision, d.Decided.Sub(d.Received))
		a.latency.record(insertToVerified, d.Verified.Sub(d.Received))
	}
	if d.Changed {
		j.remember(d)
	}
	e := eventOf(a.o.Now(), rules, d)
	if e.Kind == enforce.Allowed && onlyHub(&d.Device) {
		return d.Plugged
	}
	what := fmt.Sprintf("%s %s %s %s", e.Kind, e.Setting, e.Mode, e.Done)
	subject := "usb.device/" + d.Device.Key()
	if a.store.Seen(a.o.Boot, subject, what) {
		return d.Plugged || d.Changed
	}
	if e.Kind == enforce.WouldDeny && e.Mode == enforce.Warn {
		e.Told = j.tell(e)
	}
	if a.record(e) {
		// After the event is durable: a kill between the two tells it twice, and never loses it.
		a.store.Remember(a.o.Boot, subject, what)
	}
	return d.Plugged || d.Changed
}

// remember keeps the row of a device that the guard wrote. Its baseline follows from its root hub's.
func (j *journal) remember(d *usb.Decision) {
	rows, err := j.a.ledger.Rows()
	if err != nil {
		j.a.note("ledger", err.Error())
		return
	}
	key := enforce.Key{Kind: "usb.device", ID: d.Device.Key()}
	held := func(k enforce.Key) (enforce.Reading, bool) { r, ok := rows[k]; return r.Baseline, ok }
	base := d.Done
	for _, k := range (usb.Backend{Ports: j.a.ports}).Kinds() {
		if k.Name == key.Kind && k.From != nil {
			base = k.From(key, base, held)
		}
	}
	row := ledger.Row{Key: key, Life: platform.Present, Baseline: base, Last: d.Done, By: []enforce.Setting{d.Verdict.Rule.Setting}}
	if err := j.a.ledger.Note([]ledger.Row{row}); err != nil {
		j.a.note("ledger", err.Error())
		return
	}
	j.a.note("ledger", "")
}

func onlyHub(u *fact.USB) bool {
	for _, i := range u.Interfaces {
		if i.Class != 0x09 {
			return false
		}
	}
	return true
}

// eventOf says in words what was decided about a device and what the machine holds now.
func eventOf(now time.Time, rules *enforceusb.Rules, d *usb.Decision) enforce.Event {
	v := d.Verdict
	e := enforce.Event{At: now.UTC(), Subject: usb.Subject(&d.Device), Verdict: v, Done: d.Done, Setting: v.Rule.Setting, Kind: enforce.Allowed}
	switch {
	case d.Err != nil:
		e.Kind = enforce.Failed
	case v.Guard != enforce.NoGuard:
		e.Kind = enforce.Guarded
	case !v.Allow:
		e.Kind = enforce.Denied
	case v.WouldDeny:
		e.Kind, e.Setting = enforce.WouldDeny, v.Would.Setting
	}
	if e.Setting == "" {
		e.Setting = v.Would.Setting
	}
	e.Mode = rules.Mode(e.Setting)
	if e.Setting == "" {
		e.Setting = "usb"
	}
	var nearest string
	e.Reason, nearest = rules.Explain(v, &d.Device)
	if d.Err != nil {
		e.Reason += "; the machine does not hold it: " + d.Err.Error()
	} else if nearest != "" && e.Kind != enforce.Allowed {
		e.Reason += "; to change it: " + nearest
	}
	if d.Released != nil && d.Released.Note != "" {
		e.Reason += "; its disk: " + enforce.Plain(d.Released.Note)
	}
	e.Subject = subjectOf(d)
	e.Facts = factsOf(&d.Device)
	return e
}

// subjectOf names a device for people.
func subjectOf(d *usb.Decision) string {
	s := usb.Subject(&d.Device)
	if d.Device.Name != "" {
		s += " (" + d.Device.Name + ")"
	}
	return s
}

// maxFacts bounds what an event carries of a device; one with more interfaces than that fits is
// described by its subject alone.
const maxFacts = 4 << 10

func factsOf(u *fact.USB) enforce.Facts {
	b, err := json.Marshal(u)
	if err != nil || len(b) > maxFacts {
		return ""
	}
	return enforce.Facts(b)
}

// tellAgain: the user is told once per distinct event and hour.
const tellAgain = time.Hour

func (j *journal) tell(e enforce.Event) string {
	what := string(e.Setting) + " " + e.Subject
	if at, ok := j.told[what]; ok && j.a.o.Now().Sub(at) < tellAgain {
		return "already told within the hour"
	}
	if len(j.told) > 1000 {
		j.told = map[string]time.Time{}
	}
	j.told[what] = j.a.o.Now()
	told := j.a.o.Tell("Warder: "+e.Subject+" is against this company's policy: "+e.Reason, j.a.o.Seat())
	if len(told) == 0 {
		return "no session"
	}
	return fmt.Sprint(told)
}

// record journals an event, shows it to those who follow, and has it sent soon.
func (a *Agent) record(e enforce.Event) bool {
	if e.Personal() {
		e.Users = a.o.Seat()
	}
	seq, err := a.store.Append(e)
	if err != nil {
		a.note("store", err.Error())
		return false
	}
	a.note("store", "")
	e.Seq = seq
	if seq%1000 == 0 {
		if err := a.store.Fold(); err != nil {
			a.note("store", err.Error())
		}
	}
	a.mu.Lock()
	for c := range a.follow {
		select {
		case c <- e:
		default: // a follower that does not read loses lines, not the journal
		}
	}
	a.mu.Unlock()
	a.reportSoon()
	return true
}
