package clipboard

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/jezek/xgb/xproto"

	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/platform/datacontrol"
)

// On Wayland what is copied is looked into where the compositor lets a helper read and replace it (wlroots, KDE). It stays with its program
// until it is known. What is refused is replaced by something that has nothing to paste: nobody says who pastes, so its own program does not
// get it either (docs/decisions/0050).

const (
	// markRest is how long nothing is marked until what is marked is looked into: some programs say it with each letter.
	markRest = 300 * time.Millisecond
	maxMark  = 2 * time.Second // and so long at most
	pingRest = 5 * time.Second
	// leastWait is how long the agent has to answer, however long that was read.
	leastWait = time.Second
	// noneRest is how long a compositor that lets nobody do it is left alone.
	noneRest = 5 * time.Minute
)

// control looks into what is copied on this Wayland desktop until ctx ends.
func (p *Part) control(ctx context.Context) {
	pause := again
	for ctx.Err() == nil {
		p.mu.Lock()
		wanted := p.looks()
		p.mu.Unlock()
		var wait <-chan time.Time
		if wanted {
			began := time.Now()
			err := p.follow(ctx)
			if err == nil {
				continue
			}
			why := whySocket
			switch {
			case errors.Is(err, errNoSocket):
				why = whyNoSocket
			case errors.Is(err, datacontrol.ErrNone):
				why = whyControl
			}
			p.see(why)
			if time.Since(began) > maxAgain {
				pause = again
			}
			if wait = time.After(pause); why == whyControl {
				wait = time.After(noneRest)
			}
			pause = min(2*pause, maxAgain)
		} else {
			p.mu.Lock()
			p.said.NoLook, p.said.Blind = "", false
			p.mu.Unlock()
		}
		select {
		case <-ctx.Done():
		case <-wait:
		case <-p.turned:
			pause = again
		}
	}
}

// see notes whether what is copied is seen; why says why not.
func (p *Part) see(why string) {
	p.mu.Lock()
	news := p.sees != (why == "") || p.said.NoLook != why
	p.sees, p.said.NoLook = why == "", why
	changed := p.changed
	p.mu.Unlock()
	if news && changed != nil {
		changed()
	}
}

// compositor is the way to the compositor's socket, as the session's environment names it.
func compositor() string {
	name := os.Getenv("WAYLAND_DISPLAY")
	if name == "" || filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(os.Getenv("XDG_RUNTIME_DIR"), name)
}

// spot is where something is copied, or marked.
type spot struct {
	seat    uint32
	primary bool
}

// atom is what the inspector knows it by.
func (s spot) atom() xproto.Atom {
	if s.primary {
		return xproto.Atom(2*s.seat + 1)
	}
	return xproto.Atom(2 * s.seat)
}

// there is what is copied at a spot.
type there struct {
	offer       *datacontrol.Offer
	round       int // counts how often it was begun with
	began       time.Time
	marked      time.Time          // when something was marked first that was not looked into yet
	stop        context.CancelFunc // of its reading; nil: it does not go on
	first, last uint64             // questions about it, in this round
	failed      bool               // not all of it came in time
}

// desktop is a compositor that is followed.
type desktop struct {
	p       *Part
	c       *datacontrol.Conn
	look    *inspector
	spots   map[spot]*there
	marks   map[spot]*time.Timer
	due     chan *there
	heard   chan heard
	reads   chan struct{} // one for each that goes on
	number  uint64
	tasks   sync.WaitGroup
	rules   Rules
	ctx     context.Context
	replace int // how often, in the second since
	since   time.Time
}

// heard is what has been read of something that was copied.
type heard struct {
	of     spot
	there  *there
	round  int
	forms  []Form
	all    bool
	failed bool
}

var (
	errSilent   = errors.New("the compositor does not answer")
	errNoSocket = errors.New("WAYLAND_DISPLAY is not set")
)

// follow looks into what is copied until the compositor ends, ctx ends, or nothing is to be looked into.
func (p *Part) follow(ctx context.Context) error {
	path := compositor()
	if path == "" {
		return errNoSocket
	}
	opening, opened := context.WithTimeout(ctx, openWait)
	c, err := datacontrol.Open(opening, path)
	opened()
	if err != nil {
		return err
	}
	served, end := context.WithCancel(ctx)
	d := &desktop{p: p, c: c, look: &inspector{ask: p.Look, some: make(chan struct{}, 1), told: p.answered}, spots: map[spot]*there{}, marks: map[spot]*time.Timer{},
		due: make(chan *there), heard: make(chan heard), reads: make(chan struct{}, maxReads), ctx: served}
	defer d.tasks.Wait()
	defer end()
	defer c.Close()
	defer context.AfterFunc(ctx, func() { _ = c.Close() })()
	p.mu.Lock()
	p.said.Blind = false // who asked whether the agent answers has ended
	d.rules = p.rules
	wanted := p.looks()
	p.mu.Unlock()
	if !wanted { // any more
		return nil
	}
	defer func() {
		p.mu.Lock()
		p.sees = false
		p.mu.Unlock()
	}()
	return d.run()
}

func (d *desktop) run() error {
	events, failed := make(chan datacontrol.Event, 64), make(chan error, 1)
	d.tasks.Go(func() {
		for {
			e, err := d.c.Next()
			if err != nil {
				failed <- err
				return
			}
			select {
			case events <- e:
			case <-d.ctx.Done(): // it is closed
			}
		}
	})
	d.p.see("")
	tick := time.NewTicker(pingRest)
	defer tick.Stop()
	pong := time.Now()
	event := func(e datacontrol.Event) {
		if e.Pong {
			pong = time.Now()
		} else {
			d.selected(e)
		}
	}
	for {
		select {
		case <-d.ctx.Done():
			return nil
		case err := <-failed:
			return err
		case e := <-events:
			event(e)
		case t := <-d.due:
			for s, is := range d.spots {
				if is == t {
					delete(d.marks, s)
					d.begin(s)
				}
			}
		case h := <-d.heard:
			d.ask(h)
		case <-d.look.some:
			for more := true; more; { // what is replaced is what is there
				select {
				case e := <-events:
					event(e)
				default:
					more = false
				}
			}
			for _, l := range d.look.take() {
				d.found(l)
			}
		case <-d.p.turned:
			d.p.mu.Lock()
			now, looks := d.p.rules, d.p.looks()
			d.p.mu.Unlock()
			if !looks {
				return nil
			}
			if now != d.rules {
				d.rules = now
				for s := range d.spots {
					if d.marks[s] == nil {
						d.begin(s)
					}
				}
			}
		case <-tick.C:
			if time.Since(pong) > silence {
				return errSilent
			}
			if err := d.c.Ping(); err != nil {
				return err
			}
		}
	}
}

// selected has something else be copied, or marked.
func (d *desktop) selected(e datacontrol.Event) {
	s := spot{e.Seat, e.Primary}
	marked := d.clear(s)
	switch {
	case e.Gone:
		d.clear(spot{e.Seat, true})
	case e.Offer == nil:
	case e.Ours:
		_ = d.c.Forget(e.Offer)
	default:
		t := &there{offer: e.Offer}
		d.spots[s] = t
		if !e.Primary {
			if d.look.first == 0 {
				d.look.first = s.atom()
			}
			d.begin(s)
			return
		}
		if t.marked = marked; marked.IsZero() {
			t.marked = time.Now()
		}
		d.marks[s] = time.AfterFunc(min(markRest, time.Until(t.marked.Add(maxMark))), func() {
			select {
			case d.due <- t:
			case <-d.ctx.Done():
			}
		})
	}
}

// clear forgets what is at a spot, and says since when something is marked there that was not looked into.
func (d *desktop) clear(s spot) (marked time.Time) {
	t, m := d.spots[s], d.marks[s]
	if m != nil {
		m.Stop()
	}
	if t != nil {
		d.forget(t)
		if m != nil {
			marked = t.marked
		}
	}
	delete(d.spots, s)
	delete(d.marks, s)
	return marked
}

func (d *desktop) forget(t *there) {
	if t.stop != nil {
		t.stop()
	}
	_ = d.c.Forget(t.offer)
}

// begin has what is copied at a spot read.
func (d *desktop) begin(s spot) {
	t := d.spots[s]
	if t == nil {
		return
	}
	if t.stop != nil {
		t.stop()
	}
	t.round++
	t.began, t.first, t.failed = time.Now(), d.number+1, false
	names := t.offer.Types
	if d.rules.Looks() == fact.LookRead && slices.Contains(names, secretHint) {
		return
	}
	var list []string
	for _, i := range textual(names) {
		list = append(list, names[i])
	}
	if t.offer.More { // whatever is in the rest
		for _, n := range []string{"text/plain;charset=utf-8", "text/plain", "UTF8_STRING"} {
			if !slices.Contains(list, n) {
				list = slices.Insert(list, 0, n)
			}
		}
	}
	if list = list[:min(len(list), maxForms)]; len(list) == 0 {
		return
	}
	ctx, stop := context.WithCancel(d.ctx)
	t.stop = stop
	of := heard{of: s, there: t, round: t.round}
	offer := t.offer
	d.tasks.Go(func() {
		defer stop()
		d.read(ctx, of, offer, list)
	})
}

// ask has what has been read looked into.
func (d *desktop) ask(h heard) {
	t := h.there
	if d.spots[h.of] != t || t.round != h.round {
		return
	}
	if h.all {
		t.failed = h.failed
	}
	if len(h.forms) == 0 {
		if h.failed {
			d.late(h.of)
		}
		return
	}
	d.number++
	t.last = d.number
	until := t.began.Add(lookWait)
	if least := time.Now().Add(leastWait); until.Before(least) {
		until = least
	}
	d.look.want(d.ctx, &copied{Copied: Copied{Forms: h.forms}, slot: h.of.atom(), number: d.number, until: until, free: d.rules.LateIsFree()})
}

// about is what an answer is about, if that is still there. Questions are numbered for all spots together.
func (d *desktop) about(l looked) (s spot, t *there) {
	for s, t := range d.spots {
		if s.atom() == l.slot && t.first <= l.number && l.number <= t.last {
			return s, t
		}
	}
	return s, nil
}

// found has come of something that was looked into.
func (d *desktop) found(l looked) {
	switch s, t := d.about(l); {
	case t == nil:
	case l.refused:
		d.refuse(s)
	case l.number != t.last: // more of it is asked about
	case l.failed: // which is counted
		d.free(s)
	case t.failed:
		d.late(s)
	}
}

// late is for something that could not be read in time.
func (d *desktop) late(s spot) {
	d.p.mu.Lock()
	d.p.said.Late++
	d.p.mu.Unlock()
	d.free(s)
}

// free refuses what is late, if that is not free.
func (d *desktop) free(s spot) {
	if !d.rules.LateIsFree() {
		d.refuse(s)
	}
}

// refuse replaces what is copied at a spot.
func (d *desktop) refuse(s spot) {
	if d.rules.Looks() != fact.LookHold {
		return
	}
	if now := time.Now(); now.Sub(d.since) >= time.Second {
		d.since, d.replace = now, 0
	}
	if d.replace++; d.replace > maxTakes { // two that replace what the other one has, for ever
		time.Sleep(takeRest)
	}
	_ = d.c.Replace(s.seat, s.primary) // an error ends the connection, which is noticed
}
