package clipboard

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
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
	// takes are how often something was taken over in the second of second.
	takes  int
	second time.Time
	// left are windows that were given up, in which an owner may still write: one of another number would end programs that take no
	// care. busy is until when they, or a question that is not answered, may be needed.
	left []leftWindow
	busy time.Time
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
}

type stage uint8

const (
	free   stage = iota // somebody else has it, and may
	lent                // somebody else has it while they have the keyboard
	asking              // its owner was asked what it has
	taking              // and for that, which is coming
	held                // all has come
)

// item is what was copied, in one of its forms.
type item struct {
	target, kind xproto.Atom
	win          xproto.Window
	format       byte
	data         []byte
	parts        bool // it comes in parts (INCR)
	done, bad    bool
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
		}
	}
}

// look looks if programs of other users are connected, or may connect, where only they are kept apart.
func (b *board) look() {
	if b.looked = time.Now(); b.rules == nil || !b.rules.Alone() {
		return
	}
	hosts, err := xproto.ListHosts(b.c).Reply()
	if b.others = err != nil || hosts.Mode == xproto.AccessControlDisable || len(hosts.Hosts) == 0 && !cookie(); b.others {
		return
	}
	for _, h := range hosts.Hosts { // beside whoever can read the session's own cookie
		kind, name, _ := strings.Cut(string(h.Address), "\x00")
		if h.Family != xproto.FamilyServerInterpreted || kind != "localuser" || name != b.known.user(b.self) && name != fmt.Sprint("#", b.self) {
			b.others = true
			return
		}
	}
	r, err := res.QueryClientIds(b.c, 1, []res.ClientIdSpec{{Mask: res.ClientIdMaskLocalClientPID}}).Reply() // of all clients
	if b.others = err != nil; b.others {
		return
	}
	for _, id := range r.Ids {
		if len(id.Value) == 1 {
			if uid, ok := b.known.uid(id.Value[0]); ok && uid != b.self {
				b.others = true
			}
		}
	}
}

// cookie reports whether this user has anything that others need to connect. An X server that was started without lets everybody in, and
// does not list them.
func cookie() bool {
	path := os.Getenv("XAUTHORITY")
	if home, err := os.UserHomeDir(); path == "" && err == nil {
		path = filepath.Join(home, ".Xauthority")
	}
	st, err := os.Stat(path)
	return err == nil && st.Size() > 0
}

// keeps reports whether what a program copies has to be kept.
func (b *board) keeps(p *program) bool {
	if b.rules == nil || b.rules.Alone() && !b.others {
		return false
	}
	zone := b.rules.Zone(&p.Program, b.self)
	return p.unsure || b.rules.Keeps(zone)
}

// owned has somebody else own a selection, since then.
func (b *board) owned(s *slot, owner xproto.Window, at xproto.Timestamp) {
	if s.mine && owner != 0 {
		// Two copies in the same millisecond: we have taken the selection between the second one and our hearing of it.
		if o, err := xproto.GetSelectionOwner(b.c, s.atom).Reply(); err == nil && o.Owner == s.win {
			return
		}
	}
	waiting := s.waiting // who asked us for what was there before gets what is there now
	s.waiting = nil
	b.drop(s)
	defer func() {
		if s.stage == asking {
			s.waiting = append(waiting, s.waiting...)
			return
		}
		for i := range waiting {
			b.answer(&waiting[i], 0)
		}
	}()
	if owner == 0 || b.rules == nil {
		return
	}
	s.at, s.owner = at, owner
	// Only then is it asked anything: xclip loses count of what it is handing out when it is.
	if s.source = b.program(owner); !b.keeps(s.source) || s.primary && b.lend(s) {
		return
	}
	b.ask(s)
	s.stage = asking
}

// ask asks an owner what it has.
func (b *board) ask(s *slot) {
	xproto.DeleteProperty(b.c, s.win, b.atoms["WARDER_TARGETS"])
	xproto.ConvertSelection(b.c, s.win, s.atom, b.atoms["TARGETS"], b.atoms["WARDER_TARGETS"], s.at)
}

// client is the part of a window's number that says whose it is.
func (b *board) client(w xproto.Window) uint32 { return uint32(w) &^ b.mask }

// lend leaves what is marked to a program that has the keyboard: toolkits take the mark back from who loses PRIMARY, and nobody could
// mark anything. It is taken when the keyboard goes to somebody else.
func (b *board) lend(s *slot) bool {
	for range 4 {
		f, err := xproto.GetInputFocus(b.c).Reply()
		if s.stage == lent && err == nil && f.Focus == s.focus { // it still had it after we began to listen
			return true
		}
		before := s.focus
		s.stage, s.focus = free, 0
		if err == nil && f.Focus > xproto.InputFocusPointerRoot && b.client(f.Focus) == b.client(s.owner) {
			s.stage, s.focus = lent, f.Focus
			b.listen(s.focus)
		}
		if before != 0 && before != s.focus {
			b.listen(before)
		}
		if s.stage == free {
			return false
		}
	}
	focus := s.focus
	s.stage, s.focus = free, 0
	b.listen(focus)
	return false
}

// unfocused has a window lose the keyboard.
func (b *board) unfocused(w xproto.Window) {
	for _, s := range b.slots {
		if s.stage != lent || s.focus != w {
			continue
		}
		if !b.keeps(s.source) {
			b.drop(s)
			continue
		}
		s.stage, s.focus = free, 0
		b.listen(w)
		if !b.lend(s) {
			s.stage = asking
			b.ask(s)
		}
	}
}

// listen has the X server tell what has to be known of somebody else's window now.
func (b *board) listen(w xproto.Window) {
	mask := uint32(0)
	for _, s := range b.slots {
		if s.stage == lent && s.focus == w {
			mask |= xproto.EventMaskFocusChange
		}
	}
	for to := range b.out {
		if to.win == w {
			mask |= xproto.EventMaskPropertyChange | xproto.EventMaskStructureNotify
		}
	}
	xproto.ChangeWindowAttributes(b.c, w, xproto.CwEventMask, []uint32{mask})
}

// replace gives up a window in which something may still be written.
func (b *board) replace(s *slot, it *item) {
	for i, w := range s.wins {
		if w == it.win {
			b.left = append(b.left, leftWindow{win: w, until: time.Now().Add(leftWait)})
			s.wins[i] = b.window()
		}
	}
	if len(b.left) > maxLeft {
		xproto.DestroyWindow(b.c, b.left[0].win)
		b.left = b.left[1:]
	}
}

// tooLate removes what an owner writes too late, so that it goes on, and nobody reads it.
func (b *board) tooLate(w xproto.Window, property xproto.Atom) {
	for i := range b.left {
		if x := &b.left[i]; x.win == w && x.written < maxLeftRead {
			x.written++
			xproto.DeleteProperty(b.c, w, property)
		}
	}
}

// drop forgets what a selection had. Who waits for it gets nothing.
func (b *board) drop(s *slot) {
	for i := range s.waiting {
		b.answer(&s.waiting[i], 0)
	}
	for _, it := range s.items {
		if !it.done || it.bad {
			b.replace(s, it)
			b.busy = time.Now().Add(leftWait)
		}
	}
	if s.stage == asking {
		b.busy = time.Now().Add(leftWait)
	}
	b.orphan(s)
	focus, size := s.focus, s.size
	s.stage, s.mine, s.items, s.size, s.waiting, s.source, s.focus = free, false, nil, 0, nil, nil, 0
	if focus != 0 {
		b.listen(focus)
	}
	if size >= large {
		time.AfterFunc(leftWait/10, debug.FreeOSMemory) // not now: somebody copies
	}
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

// offered has an owner say what forms there are of what it has. It is asked for them, and the selection is taken when they are there, or
// after a moment: what it was asked for before that it still answers.
func (b *board) offered(s *slot, list []xproto.Atom) {
	n := 0
	for _, target := range list {
		if n == maxItems || b.does(target) || s.item(target) != nil {
			continue
		}
		it := &item{target: target, win: s.wins[n]}
		s.items = append(s.items, it)
		n++
		xproto.DeleteProperty(b.c, it.win, b.place)
		xproto.ConvertSelection(b.c, it.win, s.atom, target, b.place, s.at)
	}
	s.stage, s.until = taking, time.Now().Add(takeWait)
	b.settled(s)
}

// takeOver takes a selection from its owner.
func (b *board) takeOver(s *slot) {
	if b.inbox.copied(s.atom, s.win) {
		return // somebody has copied something else, and is asked next
	}
	xproto.SetSelectionOwner(b.c, s.win, s.atom, s.at)
	s.mine, s.until = true, time.Now().Add(itemWait)
	if s.source.unsure { // now there is time
		b.known.settle(s.source)
	}
	if now := time.Now(); now.Sub(b.second) >= time.Second {
		b.second, b.takes = now, 0
	}
	if b.takes++; b.takes > maxTakes { // two that take it from each other, for ever
		time.Sleep(takeRest)
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
		if b.takeOver(s); !s.mine { // it is tried again, unless it has another owner by then
			s.stage, s.until = taking, time.Now().Add(takeWait)
			return
		}
	}
	if s.until = (time.Time{}); s.item(b.atoms[secretHint]) != nil {
		s.until = time.Now().Add(secretWait)
	}
	b.handedOut(s)
}

// converted is an owner's answer to what we asked.
func (b *board) converted(e *xproto.SelectionNotifyEvent) {
	s := b.slotOf(e.Requestor)
	if s == nil || s.atom != e.Selection {
		return
	}
	if e.Target == b.atoms["TARGETS"] && e.Requestor == s.win {
		if s.stage != asking || e.Time != s.at {
			xproto.DeleteProperty(b.c, s.win, b.atoms["WARDER_TARGETS"])
			return
		}
		b.offered(s, b.targets(s, e.Property))
		return
	}
	for _, it := range s.items {
		if it.target != e.Target || it.win != e.Requestor || it.done || it.parts || s.stage != taking || e.Time != s.at {
			continue
		}
		switch e.Property {
		case b.place:
			b.receive(s, it)
		case 0:
			it.done, it.bad = true, true
			b.settled(s)
		}
		return
	}
	if e.Property != 0 { // too late: everybody can read it there
		xproto.DeleteProperty(b.c, e.Requestor, e.Property)
	}
}

// robbed looks at a selection that somebody has taken in our name: the X server lets everybody say that our window owns it.
func (b *board) robbed(s *slot) {
	o, err := xproto.GetSelectionOwner(b.c, s.atom).Reply()
	if err != nil || o.Owner != s.win {
		return // somebody has it in their own, which is told
	}
	xproto.SetSelectionOwner(b.c, 0, s.atom, xproto.TimeCurrentTime)
	b.drop(s)
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
	r, err := xproto.GetProperty(b.c, true, it.win, b.place, xproto.GetPropertyTypeAny, 0, uint32(room/4+1)).Reply()
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
		xproto.DeleteProperty(b.c, it.win, b.place)
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
		if it.done = true; it.kind == 0 { // it was empty
			it.kind, it.format = r.Type, r.Format
		}
		b.handedOut(s)
	default:
		it.kind, it.format, it.data, it.done, it.bad = r.Type, r.Format, r.Value, true, r.Type == 0
		s.size += len(r.Value)
		b.handedOut(s)
	}
	b.settled(s)
}

// handedOut answers who waited for what has come.
func (b *board) handedOut(s *slot) {
	waiting := s.waiting
	s.waiting = nil
	for i := range waiting {
		b.asked(s, &waiting[i])
	}
}

// size is how much is held of all selections.
func (b *board) size() (n int) {
	for _, s := range b.slots {
		n += s.size
	}
	return n
}

// late does what it is time for: it gives up on those who do not answer, and on what must not be held any longer.
func (b *board) late(now time.Time) {
	for _, s := range b.slots {
		if s.until.IsZero() || now.Before(s.until) {
			continue
		}
		switch {
		case s.stage == taking && !s.mine:
			if b.takeOver(s); s.mine {
				b.settled(s)
			}
		case s.stage == taking:
			for _, it := range s.items {
				if !it.done {
					s.size -= len(it.data)
					it.data, it.done, it.bad = nil, true, true
				}
			}
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

// next is when something is late at the earliest; the zero value if nothing can be.
func (b *board) next() (at time.Time) {
	sooner := func(t time.Time) {
		if at.IsZero() || t.Before(at) {
			at = t
		}
	}
	for _, s := range b.slots {
		if (s.stage == taking || s.stage == held) && !s.until.IsZero() {
			sooner(s.until)
		}
	}
	for _, t := range b.out {
		sooner(t.until)
	}
	if len(b.left) > 0 {
		sooner(b.left[0].until)
	}
	if b.rules == nil && !b.busy.IsZero() {
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
			switch {
			case s.atom != e.Selection:
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
					if it.win == e.Window && b.place == e.Atom && it.parts && !it.done && s.stage == taking {
						b.receive(s, it)
						break
					}
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

// openWait is how long an X server may take to answer until it is said that it does not.
const openWait = 10 * time.Second

// open connects, however long that takes: an X server that is stopped answers when it goes on.
func (p *Part) open(ctx context.Context, rules Rules) (*board, error) {
	type opened struct {
		b   *board
		err error
	}
	done := make(chan opened, 1)
	go func() {
		b, err := openBoard(p.Display, rules, p.Self, p.refused)
		done <- opened{b, err}
	}()
	slow := time.NewTimer(openWait)
	defer slow.Stop()
	for {
		select {
		case o := <-done:
			return o.b, o.err
		case <-slow.C:
			p.say(rules, Said{Why: whyDisplay})
		case <-ctx.Done():
			return nil, ctx.Err() // the program ends
		}
	}
}

// serve keeps the clipboard until the X server ends, ctx ends, or there are no rules and nothing is held.
func (p *Part) serve(ctx context.Context) error {
	rules := p.current()
	b, err := p.open(ctx, rules)
	if err != nil {
		return err
	}
	defer b.inbox.stop()
	defer b.c.Close()
	defer context.AfterFunc(ctx, b.c.Close)() // whatever is waited for then
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
			p.alive()
			if now := p.current(); now != b.rules {
				if b.rules = now; now != nil {
					b.review()
					p.say(now, Said{Kept: true})
				} else {
					p.say(nil, Said{})
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
		if b.failed != nil {
			return b.failed
		}
		if b.rules == nil && !b.holding() {
			b.finish()
			return nil
		}
	}
}
