package clipboard

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
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
	// others is set while a program of another user is connected, as far as it was looked.
	others bool
	looked time.Time

	atoms  map[string]xproto.Atom
	place  xproto.Atom // a property of our windows, for what is copied
	root   xproto.Window
	mask   uint32 // of what is a client's own in the number of a window
	slots  []*slot
	out    map[place]*transfer
	inbox  *inbox
	failed error // no more windows can be made, or one of ours is gone
	// takes counts what was taken over in the second that began at second.
	takes  int
	second time.Time
	// left are windows that were given up, in which an owner may still write: a program that takes no care of errors would be ended if they
	// were gone. busy is until when they, or a question that is not answered yet, may be needed.
	left []leftWindow
	busy time.Time
	// inspector has looked into what is copied; nil: nobody does. number counts what was, and named has the names of atoms.
	inspector *inspector
	ctx       context.Context //nolint:containedctx // of what it asks
	number    uint64
	named     map[xproto.Atom]string
}

type leftWindow struct {
	win     xproto.Window
	until   time.Time
	written int // how often something was written there, which is removed: everybody can read it
}

// slot is one selection.
type slot struct {
	atom    xproto.Atom
	primary bool
	win     xproto.Window // owns what is held, and asks what there is
	at      xproto.Timestamp
	owner   xproto.Window
	// source is the program that has copied what is there.
	source *program
	stage  stage
	mine   bool // we have taken it over
	items  []*item
	size   int
	until  time.Time     // when an owner that says nothing more is given up, or what is held has to go
	focus  xproto.Window // has the keyboard while it is lent
	// waiting are pastes of what has not come yet.
	waiting []xproto.SelectionRequestEvent
	// wins receive what is copied, one for each form: toolkits hand one large thing to a window at a time. One whose form did not come is
	// replaced, so that what its owner writes late is not taken for somebody else's.
	wins []xproto.Window
	// peek says that only texts were asked for, to be looked into; offers are all forms that there are. judged is what is known of it,
	// number which question that is about, and known when it is known at the latest.
	peek   bool
	offers []xproto.Atom
	judged judged
	number uint64
	known  time.Time
	end    time.Time // what has not come by then is given up
}

type stage uint8

const (
	free    stage = iota // somebody else has it, and may
	lent                 // somebody else has it while they have the keyboard
	asking               // its owner was asked what it has
	looking              // and for its texts, which are coming or are being looked into
	taking               // and for all of that, which is coming
	held                 // all has come
)

// comes reports whether something is coming that an owner was asked for.
func (s *slot) comes() bool { return s.stage == looking || s.stage == taking }

// item is what was copied, in one of its forms.
type item struct {
	target, kind xproto.Atom
	win          xproto.Window
	format       byte
	data         []byte
	large        bool   // it is too large to be held
	head         []byte // of that, to be looked into
	text         bool   // it was asked for to be looked into
	seen         bool   // and was, whole
	parts        bool   // it comes in parts (INCR)
	done, bad    bool
	over         int // parts that have come after it was given up
}

const (
	// maxItems bounds the forms of one thing, maxHeld the size of all of them, in bytes.
	maxItems = 64
	maxHeld  = 32 << 20
	// itemWait is how long an owner may take to go on with what it was asked for. What it has not said then is lost. How long it takes to
	// say what it has does not matter: until then nobody else gets anything of it either.
	itemWait = 30 * time.Second
	// takeWait is how long it keeps the selection while it answers, at most. Most take less than a millisecond; some, such as xsel, end
	// when they lose it, with answers that they have not sent.
	takeWait = 25 * time.Millisecond
	// maxWaiting bounds the pastes that wait for what is coming.
	maxWaiting = 64
	// maxTakes is how often a second something is taken over without a pause of takeRest each.
	maxTakes = 200
	takeRest = 20 * time.Millisecond
	// leftWait is how long a window stays in which somebody may still write, and maxLeft how many do.
	leftWait    = time.Minute
	maxLeft     = 8192
	maxLeftRead = 256
	// maxOver bounds the parts of something too large that are taken and thrown away.
	maxOver = 4096
	// othersRest is how often it is looked if other users are connected, where only they are kept apart.
	othersRest = 5 * time.Second
	// large is what is given back to the system at once when it is not held any more.
	large = 4 << 20
)

// secretWait is how long a secret of a password manager is held: it would have removed it by itself. A variable for its test.
var secretWait = 30 * time.Second

// selections are those that are kept. Drag and drop is one, too, and is not (decision 0043).
var selections = []string{"CLIPBOARD", "PRIMARY", "SECONDARY"}

var fixedAtoms = []string{"TARGETS", "MULTIPLE", "TIMESTAMP", "INCR", "ATOM_PAIR", "WARDER_TARGETS", "WARDER_CONTENTS", "UTF8_STRING",
	// Targets that ask the owner to do something (ICCCM 2.6.3, XDS, GNOME's clipboard manager).
	"DELETE", "INSERT_SELECTION", "INSERT_PROPERTY", "SAVE_TARGETS", "XdndDirectSave0", "_SUN_SELECTION_END",
	secretHint}

// secretHint is a form that tells clipboard managers to let what was copied be; its content is "secret". Password managers say it, and
// so do we to whom something is refused.
const secretHint = "x-kde-passwordManagerHint"

// doing are the targets that are no form of what was copied, or cost its owner something.
var doing = []string{"TARGETS", "MULTIPLE", "TIMESTAMP", "DELETE", "INSERT_SELECTION", "INSERT_PROPERTY", "SAVE_TARGETS", "XdndDirectSave0", "_SUN_SELECTION_END"}

// xgbMu: the library keeps the tables of extensions in one place for all connections, and writes them with each.
var xgbMu sync.Mutex

// The library says on standard error what is an answer for us.
func init() { xgb.Logger.SetOutput(io.Discard) }

var (
	errGone      = errors.New("the connection has ended")
	errNoDisplay = errors.New("DISPLAY is not set")
)

// openBoard connects to an X server.
func openBoard(ctx context.Context, display string, look *inspector, rules Rules, self uint32, told func(Refusal)) (b *board, err error) {
	if display == "" {
		display = os.Getenv("DISPLAY")
	}
	if display == "" {
		return nil, errNoDisplay
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
	b = &board{c: c, rules: rules, self: self, told: told, known: newPrograms(), atoms: map[string]xproto.Atom{}, out: map[place]*transfer{},
		named: map[xproto.Atom]string{}, inspector: look, ctx: ctx}
	return b, b.begin()
}

// begin makes our windows, and asks to be told who copies.
func (b *board) begin() error {
	names := append(append([]string(nil), selections...), fixedAtoms...)
	cookies := make([]xproto.InternAtomCookie, len(names))
	for i, n := range names {
		cookies[i] = xproto.InternAtom(b.c, false, uint16(len(n)), n)
	}
	for i, n := range names {
		a, err := cookies[i].Reply()
		if err != nil {
			return err
		}
		b.atoms[n] = a.Atom
	}
	b.place = b.atoms["WARDER_CONTENTS"]
	if b.inspector != nil {
		b.inspector.first = b.atoms["CLIPBOARD"]
	}
	setup := xproto.Setup(b.c)
	b.root, b.mask = setup.DefaultScreen(b.c).Root, setup.ResourceIdMask
	for _, n := range selections {
		s := &slot{atom: b.atoms[n], primary: n == "PRIMARY"}
		for range 1 + maxItems {
			s.wins = append(s.wins, b.window())
		}
		s.win, s.wins = s.wins[0], s.wins[1:]
		if err := xfixes.SelectSelectionInputChecked(b.c, s.win, s.atom, xfixes.SelectionEventMaskSetSelectionOwner|
			xfixes.SelectionEventMaskSelectionWindowDestroy|xfixes.SelectionEventMaskSelectionClientClose).Check(); err != nil {
			return err
		}
		b.slots = append(b.slots, s)
	}
	if b.failed != nil {
		return b.failed
	}
	b.inbox = newInbox(b.c)
	b.review()
	return nil
}

// window makes a window that nobody sees.
func (b *board) window() xproto.Window {
	win, err := xproto.NewWindowId(b.c)
	if err != nil {
		b.failed = err
		return 0
	}
	xproto.CreateWindow(b.c, 0, win, b.root, -10, -10, 1, 1, 0, xproto.WindowClassInputOnly, 0, xproto.CwOverrideRedirect|xproto.CwEventMask,
		[]uint32{1, xproto.EventMaskPropertyChange | xproto.EventMaskStructureNotify})
	return win
}

// ours reports whether a window is one of ours, and in use.
func (b *board) ours(w xproto.Window) bool { return b.slotOf(w) != nil }

// review judges everything that is there by new rules.
func (b *board) review() {
	if b.rules == nil {
		return
	}
	b.known.note(b.rules.Programs())
	b.look()
	for _, s := range b.slots {
		o, err := xproto.GetSelectionOwner(b.c, s.atom).Reply()
		if err == nil && o.Owner != 0 && o.Owner != s.win {
			b.owned(s, o.Owner, xproto.TimeCurrentTime)
		} else if s.mine {
			b.again(s)
		}
	}
}

// again has what we hold looked into anew, or not any more.
func (b *board) again(s *slot) {
	s.judged, s.number, s.known = unasked, 0, time.Time{}
	if b.looks() && s.stage == held {
		b.inspect(s)
	}
	b.handedOut(s)
}

// keeps reports whether what a program copies has to be kept.
func (b *board) keeps(p *program) bool {
	if b.rules == nil || !b.rules.Apart() || b.rules.Alone() && !b.others {
		return false
	}
	zone := b.rules.Zone(&p.Program, b.self)
	return p.unsure || b.rules.Keeps(zone)
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
		if s.win == w || slices.Contains(s.wins, w) {
			return s
		}
	}
	return nil
}

// late does what it is time for: it gives up on those who do not answer, and on what must not be held any longer.
func (b *board) late(now time.Time) {
	for _, s := range b.slots {
		if s.judged == pending && !now.Before(s.known) {
			b.found(looked{number: s.number, failed: true})
		}
		if s.until.IsZero() || now.Before(s.until) {
			continue
		}
		switch {
		case s.stage == looking && s.judged == pending: // it takes long to know
			b.seize(s)
		case s.stage == looking && now.Before(s.end): // its owner takes long for some of it: what is there is looked into
			if b.inspect(s); s.stage == looking && s.judged == unasked {
				s.until = s.end
			}
		case s.stage == looking: // its owner does not say all of it
			b.giveUp(s)
			b.settled(s)
		case s.stage == taking && !s.mine:
			if b.takeOver(s); s.mine {
				b.settled(s)
			}
		case s.stage == taking:
			b.giveUp(s)
			b.settled(s)
		case s.stage == held:
			xproto.SetSelectionOwner(b.c, 0, s.atom, s.at)
			b.drop(s)
		}
	}
	for len(b.left) > 0 && !now.Before(b.left[0].until) {
		xproto.DestroyWindow(b.c, b.left[0].win)
		b.left = b.left[1:]
	}
	b.lateOut(now)
	if b.rules != nil && b.rules.Alone() && !now.Before(b.looked.Add(othersRest)) {
		was := b.others
		if b.look(); b.others && !was {
			b.review()
		}
	}
}

// giveUp waits for nothing more of what was asked for.
func (b *board) giveUp(s *slot) {
	for _, it := range s.items {
		if !it.done {
			if s.stage == looking && it.head == nil { // what has come of it is looked into, and it stays with its owner if it may
				it.large, it.head = true, slices.Clone(it.data[:min(len(it.data), lookHead)])
			}
			s.size -= len(it.data)
			it.data, it.done, it.bad = nil, true, true
		}
	}
}

// next is when something is late at the earliest; the zero value if nothing can be.
func (b *board) next() (at time.Time) {
	sooner := func(t time.Time) {
		if at.IsZero() || t.Before(at) {
			at = t
		}
	}
	for _, s := range b.slots {
		if (s.stage == looking || s.stage == taking || s.stage == held) && !s.until.IsZero() {
			sooner(s.until)
		}
		if s.judged == pending {
			sooner(s.known)
		}
	}
	for _, t := range b.out {
		sooner(t.until)
	}
	if len(b.left) > 0 {
		sooner(b.left[0].until)
	}
	if b.rules == nil && time.Now().Before(b.busy) {
		sooner(b.busy)
	}
	if b.rules != nil && b.rules.Alone() {
		sooner(b.looked.Add(othersRest))
	}
	return at
}

// holding reports whether anything is held that would be lost.
func (b *board) holding() bool {
	for _, s := range b.slots {
		if s.mine || s.stage == taking {
			return true
		}
	}
	return len(b.out) > 0 || time.Now().Before(b.busy)
}

// take takes what has come.
func (b *board) take(in *arrived) {
	// The newest owner of each selection first, and no other: who copies again and again is looked at once.
	for _, e := range in.owners {
		for _, s := range b.slots {
			if s.atom != e.Selection {
				continue
			}
			// Anybody may send such an event. Who owns it, the X server says.
			if o, err := xproto.GetSelectionOwner(b.c, s.atom).Reply(); err == nil && o.Owner != e.Owner {
				e.Owner, e.SelectionTimestamp = o.Owner, xproto.TimeCurrentTime
			}
			switch {
			case e.Owner != s.win:
				b.owned(s, e.Owner, e.SelectionTimestamp)
			case !s.mine:
				b.robbed(s)
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
					if it.win != e.Window || b.place != e.Atom || !it.parts {
						continue
					}
					if !it.done && s.comes() {
						b.receive(s, it)
					} else if it.over++; it.over < maxOver { // too much, or too late: its owner goes on, and ends
						xproto.DeleteProperty(b.c, e.Window, e.Atom)
					}
					break
				}
			} else if s == nil && e.State == xproto.PropertyNewValue {
				b.tooLate(e.Window, e.Atom)
			} else if s == nil && e.State == xproto.PropertyDelete {
				b.goOn(place{e.Window, e.Atom})
			}
		case xproto.DestroyNotifyEvent:
			if b.ours(e.Window) { // anybody may; what we are told of goes with it
				b.failed = errGone
			}
			b.ended(e.Window)
		case xproto.SelectionClearEvent:
			if s := b.slotOf(e.Owner); s != nil && s.atom == e.Selection && s.mine {
				b.robbed(s)
			}
		case xproto.FocusOutEvent:
			// Not while a menu or a key holds the keyboard for a moment, nor when it goes to a part of the same window.
			if (e.Mode == xproto.NotifyModeNormal || e.Mode == xproto.NotifyModeWhileGrabbed) && e.Detail != xproto.NotifyDetailInferior {
				b.unfocused(e.Event)
			}
		}
	}
}

// letGo has nothing more be taken over. What is held stays, for everybody.
func (b *board) letGo() {
	for _, s := range b.slots {
		if !s.mine {
			b.drop(s)
		} else {
			b.again(s)
		}
	}
}

// finish answers who has asked us until now: a program whose question is never answered waits for a long time.
func (b *board) finish() {
	_, err := xproto.GetInputFocus(b.c).Reply() // what was sent before has come when this has, but for the inbox
	time.Sleep(takeWait)
	for err == nil {
		in := b.inbox.get()
		if in.ended || len(in.events)+len(in.owners) == 0 {
			return
		}
		b.take(&in)
	}
}
