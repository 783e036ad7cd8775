package clipboard

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/jezek/xgb"
	"github.com/jezek/xgb/res"
	"github.com/jezek/xgb/xfixes"
	"github.com/jezek/xgb/xproto"
)

// This file and held_linux.go speak the X11 protocol: selections as the Inter-Client Communication Conventions Manual 2.0 has them in
// section 2, XFixes 5 for who copies, X-Resource 1.2 for which process that is.

// board watches the selections of one X server, and takes over what must not leave its zone. One goroutine at a time uses it.
type board struct {
	c     *xgb.Conn
	rules Rules
	self  uint32
	told  func(Refusal)
	known *programs

	atoms  map[string]xproto.Atom
	places []xproto.Atom // properties of our windows, for what is copied
	slots  []*slot
	out    map[place]*transfer
	inbox  *inbox
}

// slot is one selection.
type slot struct {
	atom xproto.Atom
	win  xproto.Window // owns what is held, and receives it
	at   xproto.Timestamp
	// source is the program that has copied what is there.
	source *program
	stage  stage
	mine   bool // we have taken it over
	turn   int  // counts takes: an answer of an earlier owner is none of this one
	items  []*item
	size   int
	until  time.Time // when an owner that says nothing is given up
	// waiting are pastes of what has not come yet.
	waiting []xproto.SelectionRequestEvent
}

type stage uint8

const (
	free   stage = iota // somebody else has it, and may
	asking              // its owner was asked what it has
	taking              // and for that, which is coming
	held                // all has come
)

// item is what was copied, in one of its forms.
type item struct {
	target, place, kind xproto.Atom
	format              byte
	data                []byte
	parts               bool // it comes in parts (INCR)
	done, bad           bool
}

const (
	// maxItems bounds the forms of one thing, maxHeld the size of all of them, in bytes.
	maxItems = 64
	maxHeld  = 32 << 20
	// generations of properties are used in turn, so that what an earlier owner writes late is not taken for another's.
	generations = 4
	// askWait is how long an owner may take to say what it has, and itemWait to go on with it. What it has not said then is lost.
	askWait  = time.Second
	itemWait = 5 * time.Second
	// takeWait is how long it keeps the selection while it answers, at most. Most take less than a millisecond; some, such as xsel, end
	// when they lose it, with answers that they have not sent.
	takeWait = 25 * time.Millisecond
	// maxWaiting bounds the pastes that wait for what is coming.
	maxWaiting = 64
)

// selections are those that are kept. Drag and drop is one, too, and is not (decision 0043).
var selections = []string{"CLIPBOARD", "PRIMARY", "SECONDARY"}

var fixedAtoms = []string{"TARGETS", "MULTIPLE", "TIMESTAMP", "INCR", "ATOM_PAIR", "WARDER_TARGETS", "UTF8_STRING",
	// Targets that ask the owner to do something (ICCCM 2.6.3, XDS, GNOME's clipboard manager).
	"DELETE", "INSERT_SELECTION", "INSERT_PROPERTY", "SAVE_TARGETS", "XdndDirectSave0", "_SUN_SELECTION_END"}

// doing are the targets that are no form of what was copied, or cost its owner something.
var doing = []string{"TARGETS", "MULTIPLE", "TIMESTAMP", "DELETE", "INSERT_SELECTION", "INSERT_PROPERTY", "SAVE_TARGETS", "XdndDirectSave0", "_SUN_SELECTION_END"}

// xgbMu: the library keeps the tables of extensions in one place for all connections, and writes them with each.
var xgbMu sync.Mutex

// The library says on standard error what is an answer for us.
func init() { xgb.Logger.SetOutput(io.Discard) }

var errGone = errors.New("the connection has ended")

// openBoard connects to an X server.
func openBoard(display string, rules Rules, self uint32, told func(Refusal)) (b *board, err error) {
	if display == "" {
		display = os.Getenv("DISPLAY")
	}
	if display == "" {
		return nil, errors.New("DISPLAY is not set")
	}
	xgbMu.Lock()
	defer xgbMu.Unlock()
	c, err := xgb.NewConnDisplay(display)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			c.Close()
		}
	}()
	if err := xfixes.Init(c); err != nil {
		return nil, err
	}
	if err := res.Init(c); err != nil {
		return nil, err
	}
	if v, err := xfixes.QueryVersion(c, 5, 0).Reply(); err != nil {
		return nil, err
	} else if v.MajorVersion < 1 {
		return nil, fmt.Errorf("XFixes %d.%d does not tell who copies", v.MajorVersion, v.MinorVersion)
	}
	if v, err := res.QueryVersion(c, 1, 2).Reply(); err != nil {
		return nil, err
	} else if v.ServerMajor < 1 || v.ServerMajor == 1 && v.ServerMinor < 2 {
		return nil, fmt.Errorf("X-Resource %d.%d does not tell which process a program is", v.ServerMajor, v.ServerMinor)
	}
	b = &board{c: c, rules: rules, self: self, told: told, known: newPrograms(), atoms: map[string]xproto.Atom{}, out: map[place]*transfer{}}
	return b, b.begin()
}

// begin makes our windows, and asks to be told who copies.
func (b *board) begin() error {
	names := append(append([]string(nil), selections...), fixedAtoms...)
	for i := range generations * maxItems {
		names = append(names, fmt.Sprint("WARDER_", i))
	}
	cookies := make([]xproto.InternAtomCookie, len(names))
	for i, n := range names {
		cookies[i] = xproto.InternAtom(b.c, false, uint16(len(n)), n)
	}
	for i, n := range names {
		a, err := cookies[i].Reply()
		if err != nil {
			return err
		}
		if b.atoms[n] = a.Atom; i >= len(names)-generations*maxItems {
			b.places = append(b.places, a.Atom)
		}
	}
	root := xproto.Setup(b.c).DefaultScreen(b.c).Root
	for _, n := range selections {
		win, err := xproto.NewWindowId(b.c)
		if err != nil {
			return err
		}
		s := &slot{atom: b.atoms[n], win: win}
		if err := xproto.CreateWindowChecked(b.c, 0, win, root, -10, -10, 1, 1, 0, xproto.WindowClassInputOnly, 0,
			xproto.CwOverrideRedirect|xproto.CwEventMask, []uint32{1, xproto.EventMaskPropertyChange}).Check(); err != nil {
			return err
		}
		if err := xfixes.SelectSelectionInputChecked(b.c, win, s.atom, xfixes.SelectionEventMaskSetSelectionOwner|
			xfixes.SelectionEventMaskSelectionWindowDestroy|xfixes.SelectionEventMaskSelectionClientClose).Check(); err != nil {
			return err
		}
		b.slots = append(b.slots, s)
	}
	b.inbox = newInbox(b.c)
	b.review()
	return nil
}

// review judges everything that is there by new rules.
func (b *board) review() {
	for _, s := range b.slots {
		o, err := xproto.GetSelectionOwner(b.c, s.atom).Reply()
		if err == nil && o.Owner != 0 && o.Owner != s.win {
			b.owned(s, o.Owner, xproto.TimeCurrentTime)
		}
	}
}

// owned has somebody else own a selection, since then.
func (b *board) owned(s *slot, owner xproto.Window, at xproto.Timestamp) {
	b.drop(s)
	if owner == 0 || b.rules == nil {
		return
	}
	s.at = at
	s.turn++
	// Asked before it is known who it is, which takes as long: most of the time in which somebody else can paste is waiting.
	xproto.DeleteProperty(b.c, s.win, b.atoms["WARDER_TARGETS"])
	xproto.ConvertSelection(b.c, s.win, s.atom, b.atoms["TARGETS"], b.atoms["WARDER_TARGETS"], at)
	s.source = b.program(owner)
	if zone := b.rules.Zone(&s.source.Program, b.self); !s.source.unsure && !b.rules.Keeps(zone) {
		return
	}
	s.stage, s.until = asking, time.Now().Add(askWait)
}

// drop forgets what a selection had. Who waits for it gets nothing.
func (b *board) drop(s *slot) {
	for i := range s.waiting {
		b.answer(&s.waiting[i], 0)
	}
	s.stage, s.mine, s.items, s.size, s.waiting, s.source = free, false, nil, 0, nil, nil
}

// program is who has a window.
func (b *board) program(w xproto.Window) *program {
	r, err := res.QueryClientIds(b.c, 1, []res.ClientIdSpec{{Client: uint32(w), Mask: res.ClientIdMaskLocalClientPID}}).Reply()
	if err != nil || len(r.Ids) != 1 || len(r.Ids[0].Value) != 1 {
		return b.known.of(0)
	}
	return b.known.of(r.Ids[0].Value[0])
}

// slotOf is the selection that a window of ours is for.
func (b *board) slotOf(w xproto.Window) *slot {
	for _, s := range b.slots {
		if s.win == w {
			return s
		}
	}
	return nil
}

// offered has an owner say what forms there are of what it has. It is asked for them, and the selection is taken when they are there, or
// after a moment: what it was asked for before that it still answers.
func (b *board) offered(s *slot, list []xproto.Atom) {
	n := 0
	for _, target := range list {
		if n == maxItems || b.does(target) || s.item(target) != nil {
			continue
		}
		it := &item{target: target, place: b.places[s.turn%generations*maxItems+n]}
		s.items = append(s.items, it)
		n++
		xproto.DeleteProperty(b.c, s.win, it.place)
		xproto.ConvertSelection(b.c, s.win, s.atom, target, it.place, s.at)
	}
	s.stage, s.until = taking, time.Now().Add(takeWait)
	b.settled(s)
}

// takeOver takes a selection from its owner.
func (b *board) takeOver(s *slot) {
	xproto.SetSelectionOwner(b.c, s.win, s.atom, s.at)
	s.mine, s.until = true, time.Now().Add(itemWait)
	if s.source.unsure { // now there is time
		b.known.settle(s.source)
	}
}

func (b *board) does(target xproto.Atom) bool {
	for _, n := range doing {
		if b.atoms[n] == target {
			return true
		}
	}
	return target == 0
}

func (s *slot) item(target xproto.Atom) *item {
	for _, it := range s.items {
		if it.target == target {
			return it
		}
	}
	return nil
}

// settled notes if all has come, and answers who waited for it.
func (b *board) settled(s *slot) {
	if s.stage != taking {
		return
	}
	for _, it := range s.items {
		if !it.done {
			return
		}
	}
	if s.stage = held; !s.mine {
		b.takeOver(s)
	}
	waiting := s.waiting
	s.waiting = nil
	for i := range waiting {
		b.asked(s, &waiting[i])
	}
}

// converted is an owner's answer to what we asked.
func (b *board) converted(e *xproto.SelectionNotifyEvent) {
	s := b.slotOf(e.Requestor)
	if s == nil || s.atom != e.Selection {
		return
	}
	if e.Target == b.atoms["TARGETS"] {
		if s.stage != asking || e.Time != s.at {
			xproto.DeleteProperty(b.c, s.win, b.atoms["WARDER_TARGETS"])
			return
		}
		b.offered(s, b.targets(s, e.Property))
		return
	}
	for _, it := range s.items {
		if it.target != e.Target || it.done || it.parts || s.stage != taking {
			continue
		}
		if e.Property != it.place {
			if e.Property == 0 {
				it.done, it.bad = true, true
				b.settled(s)
			}
			return
		}
		b.receive(s, it)
		return
	}
}

// targets reads what forms an owner has. One that does not say has text.
func (b *board) targets(s *slot, property xproto.Atom) (list []xproto.Atom) {
	if property == b.atoms["WARDER_TARGETS"] {
		r, err := xproto.GetProperty(b.c, true, s.win, property, xproto.GetPropertyTypeAny, 0, 4*maxItems).Reply()
		if err == nil && r.Format == 32 {
			for i := 0; i+4 <= len(r.Value); i += 4 {
				list = append(list, xproto.Atom(xgb.Get32(r.Value[i:])))
			}
		}
	}
	if len(list) == 0 {
		list = []xproto.Atom{b.atoms["UTF8_STRING"], xproto.AtomString}
	}
	return list
}

// receive reads one form, or the next part of it.
func (b *board) receive(s *slot, it *item) {
	room := maxHeld - b.size()
	r, err := xproto.GetProperty(b.c, true, s.win, it.place, xproto.GetPropertyTypeAny, 0, uint32(room/4+1)).Reply()
	if err != nil {
		return
	}
	if s.mine {
		s.until = time.Now().Add(itemWait)
	}
	switch {
	case r.Type == b.atoms["INCR"] && !it.parts:
		it.parts = true // its deletion asks for the first part
		return
	case r.Type == 0 && it.parts:
		return // nothing is there now
	case r.BytesAfter > 0 || len(r.Value) > room:
		xproto.DeleteProperty(b.c, s.win, it.place)
		s.size -= len(it.data)
		it.data, it.done, it.bad = nil, true, true
	case it.parts && len(r.Value) > 0:
		if it.kind, it.format = r.Type, r.Format; r.Format == 0 {
			it.format = 8
		}
		it.data = append(it.data, r.Value...)
		s.size += len(r.Value)
		return
	case it.parts:
		it.done = true
	default:
		it.kind, it.format, it.data, it.done, it.bad = r.Type, r.Format, r.Value, true, r.Type == 0
		s.size += len(r.Value)
	}
	b.settled(s)
}

// size is how much is held of all selections.
func (b *board) size() (n int) {
	for _, s := range b.slots {
		n += s.size
	}
	return n
}

// late gives up on those who do not answer.
func (b *board) late(now time.Time) {
	for _, s := range b.slots {
		switch {
		case s.stage == asking && now.After(s.until):
			b.offered(s, nil) // it is taken all the same, and nothing is in it
		case s.stage == taking && !s.mine && now.After(s.until):
			b.takeOver(s)
		case s.stage == taking && now.After(s.until):
			for _, it := range s.items {
				if !it.done {
					s.size -= len(it.data)
					it.data, it.done, it.bad = nil, true, true
				}
			}
			b.settled(s)
		}
	}
	b.lateOut(now)
}

// next is when something is late at the earliest; the zero value if nothing can be.
func (b *board) next() (at time.Time) {
	for _, s := range b.slots {
		if (s.stage == asking || s.stage == taking) && (at.IsZero() || s.until.Before(at)) {
			at = s.until
		}
	}
	for _, t := range b.out {
		if at.IsZero() || t.until.Before(at) {
			at = t.until
		}
	}
	return at
}

// holding reports whether anything is held that would be lost.
func (b *board) holding() bool {
	for _, s := range b.slots {
		if s.stage != free {
			return true
		}
	}
	return len(b.out) > 0
}

// take takes what has come.
func (b *board) take(in *arrived) {
	// The newest owner of each selection first, and no other: who copies again and again is looked at once.
	for _, e := range in.owners {
		for _, s := range b.slots {
			if s.atom == e.Selection && e.Owner != s.win {
				b.owned(s, e.Owner, e.SelectionTimestamp)
			}
		}
	}
	for _, e := range in.events {
		switch e := e.(type) {
		case xproto.SelectionNotifyEvent:
			b.converted(&e)
		case xproto.SelectionRequestEvent:
			if s := b.slotOf(e.Owner); s != nil && s.atom == e.Selection {
				b.asked(s, &e)
			} else {
				b.answer(&e, 0)
			}
		case xproto.PropertyNotifyEvent:
			if s := b.slotOf(e.Window); s != nil && e.State == xproto.PropertyNewValue {
				for _, it := range s.items {
					if it.place == e.Atom && it.parts && !it.done && s.stage == taking {
						b.receive(s, it)
						break
					}
				}
			} else if s == nil && e.State == xproto.PropertyDelete {
				b.goOn(place{e.Window, e.Atom})
			}
		case xproto.DestroyNotifyEvent:
			b.ended(e.Window)
		}
	}
}

// serve keeps the clipboard until the X server ends, ctx ends, or there are no rules and nothing is held.
func (p *Part) serve(ctx context.Context) error {
	rules := p.current()
	b, err := openBoard(p.Display, rules, p.Self, p.refused)
	if err != nil {
		return err
	}
	defer b.inbox.stop()
	defer b.c.Close()
	p.say(rules, Said{Kept: true})
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		if at := b.next(); at.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(time.Until(at) + time.Millisecond)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-p.poke:
			if now := p.current(); now != b.rules {
				if b.rules = now; now != nil {
					b.review()
					p.say(now, Said{Kept: true})
				}
			}
		case <-timer.C:
			b.late(time.Now())
		case <-b.inbox.some:
			in := b.inbox.get()
			if in.ended {
				return errGone
			}
			b.take(&in)
		}
		if b.rules == nil && !b.holding() {
			return nil
		}
	}
}
