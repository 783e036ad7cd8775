package clipboard

import (
	"bytes"
	"context"
	"errors"
	"io"
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
	pingRest = 5 * time.Second
	// readWait is how long a program may take to tell what it has.
	readWait = 8 * time.Second
	// maxReads bounds the copies that are being read: a program may never say all of one.
	maxReads = 4
	// drainWait is how long a program that says more than is looked into is let say it: many do not expect that nobody reads on.
	drainWait = 30 * time.Second
	secret    = "x-kde-passwordManagerHint"
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
			wait = time.After(pause)
			pause = min(2*pause, maxAgain)
		}
		select {
		case <-ctx.Done():
		case <-wait:
		case <-p.turned:
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

// compositor is the way to the compositor's socket, as libwayland finds it.
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
	stop        context.CancelFunc // of its reading; nil: it does not go on
	first, last uint64             // questions about it
	failed      bool               // not all of it came in time
}

// desktop is a compositor that is followed.
type desktop struct {
	p       *Part
	c       *datacontrol.Conn
	look    *inspector
	spots   map[spot]*there
	marks   map[spot]*time.Timer
	due     chan spot
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
		due: make(chan spot), heard: make(chan heard), reads: make(chan struct{}, maxReads), rules: p.current(), ctx: served}
	defer d.tasks.Wait()
	defer end()
	defer c.Close()
	defer context.AfterFunc(ctx, func() { _ = c.Close() })()
	p.mu.Lock()
	p.said.Blind = false // who asked whether the agent answers has ended
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		p.sees = false
		p.mu.Unlock()
	}()
	return d.run()
}

func (d *desktop) run() error {
	events, failed := make(chan datacontrol.Event), make(chan error, 1)
	d.tasks.Go(func() {
		for {
			e, err := d.c.Next()
			if err != nil {
				failed <- err
				return
			}
			select {
			case events <- e:
			case <-d.ctx.Done():
				return
			}
		}
	})
	d.p.see("")
	tick := time.NewTicker(pingRest)
	defer tick.Stop()
	pong := time.Now()
	for {
		select {
		case <-d.ctx.Done():
			return nil
		case err := <-failed:
			return err
		case e := <-events:
			if e.Pong {
				pong = time.Now()
			} else {
				d.selected(e)
			}
		case s := <-d.due:
			delete(d.marks, s)
			d.begin(s)
		case h := <-d.heard:
			d.ask(h)
		case <-d.look.some:
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
					d.begin(s)
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
	if t := d.spots[s]; t != nil {
		d.forget(t)
		delete(d.spots, s)
	}
	if m := d.marks[s]; m != nil {
		m.Stop()
		delete(d.marks, s)
	}
	switch {
	case e.Offer == nil:
	case e.Ours:
		_ = d.c.Forget(e.Offer)
	default:
		d.spots[s] = &there{offer: e.Offer}
		if !e.Primary {
			if d.look.first == 0 {
				d.look.first = s.atom()
			}
			d.begin(s)
			return
		}
		d.marks[s] = time.AfterFunc(markRest, func() {
			select {
			case d.due <- s:
			case <-d.ctx.Done():
			}
		})
	}
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
	t.first, t.failed = d.number+1, false
	names := t.offer.Types
	if d.rules.Looks() == fact.LookRead && slices.Contains(names, secret) {
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
	d.tasks.Go(func() {
		defer stop()
		d.read(ctx, s, t, list)
	})
}

// read reads forms of something that was copied, and hands them on: what has come after a moment, and all of it.
func (d *desktop) read(ctx context.Context, s spot, t *there, list []string) {
	tell := func(h heard) {
		h.of, h.there = s, t
		select {
		case d.heard <- h:
		case <-ctx.Done():
		}
	}
	select {
	case d.reads <- struct{}{}:
		defer func() { <-d.reads }()
	case <-ctx.Done():
		return
	case <-time.After(readWait):
		tell(heard{all: true, failed: true})
		return
	}
	type one struct {
		n    int
		data []byte
		ok   bool
	}
	some := make(chan one, len(list))
	var room sync.Mutex
	left := lookHead
	var reading sync.WaitGroup
	for n, name := range list {
		f, err := d.c.Receive(t.offer, name)
		if err != nil {
			some <- one{n, nil, false}
			continue
		}
		reading.Go(func() {
			defer f.Close()
			_ = f.SetReadDeadline(time.Now().Add(readWait))
			defer context.AfterFunc(ctx, func() { _ = f.SetReadDeadline(time.Now().Add(staleWait)) })() // nobody needs it any more
			var b bytes.Buffer
			buf := make([]byte, 64<<10)
			full := false
			for {
				k, err := f.Read(buf)
				room.Lock()
				take := min(k, left)
				left -= take
				room.Unlock()
				b.Write(buf[:take])
				if err != nil {
					some <- one{n, b.Bytes(), errors.Is(err, io.EOF)}
					return
				}
				if full = take < k; full {
					break
				}
			}
			some <- one{n, b.Bytes(), true}
			if ctx.Err() == nil {
				_ = f.SetReadDeadline(time.Now().Add(drainWait))
			}
			_, _ = io.Copy(io.Discard, f)
		})
	}
	forms := make([]Form, len(list))
	whole := func() (out []Form) {
		c := &copied{}
		for i := range forms {
			if len(forms[i].Data) > 0 && !c.has(forms[i].Data) {
				c.Forms = append(c.Forms, forms[i])
			}
		}
		return c.Forms
	}
	moment := time.NewTimer(patience)
	defer moment.Stop()
	failed := false
	for range list {
		for got := false; !got; {
			select {
			case o := <-some:
				forms[o.n], got = Form{list[o.n], o.data}, true
				failed = failed || !o.ok
			case <-moment.C:
				if part := whole(); len(part) > 0 {
					tell(heard{forms: part})
				}
			}
		}
	}
	tell(heard{forms: whole(), all: true, failed: failed})
	reading.Wait()
}

// ask has what has been read looked into.
func (d *desktop) ask(h heard) {
	if d.spots[h.of] != h.there {
		return
	}
	if h.all {
		h.there.failed = h.failed
	}
	if len(h.forms) == 0 {
		if h.failed {
			d.late(h.of)
		}
		return
	}
	d.number++
	h.there.last = d.number
	d.look.want(d.ctx, &copied{Copied: Copied{Forms: h.forms}, slot: h.of.atom(), number: d.number, until: time.Now().Add(lookWait), free: d.rules.LateIsFree()})
}

// found has come of something that was looked into.
func (d *desktop) found(l looked) {
	for s, t := range d.spots {
		if l.number < t.first || l.number > t.last || t.first == 0 {
			continue
		}
		switch {
		case l.refused:
			d.refuse(s)
		case l.number != t.last:
		case l.failed || t.failed:
			if l.failed { // it is counted
				d.free(s)
				continue
			}
			d.late(s)
		}
		return
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
