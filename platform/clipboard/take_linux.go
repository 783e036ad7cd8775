package clipboard

import (
	"runtime/debug"
	"slices"
	"time"

	"github.com/jezek/xgb"
	"github.com/jezek/xgb/xproto"

	"github.com/warderd/warder/enforce/fact"
)

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
		if s.stage == asking && !s.peek {
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
	if s.source = b.program(owner); !b.minds(s.source) || s.primary && b.lend(s) {
		return
	}
	b.ask(s)
}

// minds reports whether it matters what a program copies.
func (b *board) minds(p *program) bool { return b.looks() || b.keeps(p) }

// ask asks an owner what it has.
func (b *board) ask(s *slot) {
	s.stage, s.peek = asking, !b.keeps(s.source)
	xproto.DeleteProperty(b.c, s.win, b.atoms["WARDER_TARGETS"])
	xproto.ConvertSelection(b.c, s.win, s.atom, b.atoms["TARGETS"], b.atoms["WARDER_TARGETS"], s.at)
}

// replace gives up a window in which something may still be written.
func (b *board) replace(s *slot, it *item) {
	for i, w := range s.wins {
		if w == it.win {
			xproto.DeleteProperty(b.c, w, b.place)
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
	s.peek, s.offers, s.judged, s.number, s.known, s.end = false, nil, unasked, 0, time.Time{}, time.Time{}
	if focus != 0 {
		b.listen(focus)
	}
	if size >= large {
		time.AfterFunc(leftWait/10, debug.FreeOSMemory) // not now: somebody copies
	}
}

// offered has an owner say what forms there are of what it has. It is asked for them, and the selection is taken when they are there, or
// after a moment: what it was asked for before that it still answers.
func (b *board) offered(s *slot, list []xproto.Atom) {
	if s.peek {
		if !b.looks() || b.rules.Looks() == fact.LookRead && slices.Contains(list, b.atoms[secretHint]) {
			b.drop(s)
			return
		}
		s.offers = list
		b.fetch(s, b.texts(list))
		for _, it := range s.items {
			it.text = true
		}
		now := time.Now()
		s.stage, s.end = looking, now.Add(itemWait)
		if s.until = s.end; b.holds() {
			s.until = now.Add(patience)
		}
	} else {
		b.fetch(s, list)
		s.stage, s.until = taking, time.Now().Add(takeWait)
	}
	b.settled(s)
}

// fetch asks an owner for forms of what it has.
func (b *board) fetch(s *slot, list []xproto.Atom) {
	n := len(s.items)
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
	if !s.comes() {
		return
	}
	for _, it := range s.items {
		if !it.done {
			return
		}
	}
	if s.stage == looking {
		if s.judged == unasked {
			b.inspect(s)
		}
		return
	}
	if s.judged == pending && !s.mine && s.large() { // it would be lost
		s.stage, s.until = looking, s.known
		return
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
	if b.looks() && s.judged == unasked {
		b.inspect(s)
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
		if it.target != e.Target || it.win != e.Requestor || it.done || it.parts || !s.comes() || e.Time != s.at {
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
	more := false
	if property == b.atoms["WARDER_TARGETS"] {
		r, err := xproto.GetProperty(b.c, true, s.win, property, xproto.GetPropertyTypeAny, 0, 4*maxItems).Reply()
		if err == nil && r.Format == 32 {
			more = r.BytesAfter > 0
			for i := 0; i+4 <= len(r.Value); i += 4 {
				list = append(list, xproto.Atom(xgb.Get32(r.Value[i:])))
			}
		}
	}
	if len(list) == 0 {
		list = []xproto.Atom{b.atoms["UTF8_STRING"], xproto.AtomString}
	} else if more { // whatever is in the rest of the list
		list = append(list, b.atoms["UTF8_STRING"])
	}
	return list
}

// receive reads one form, or the next part of it.
func (b *board) receive(s *slot, it *item) {
	if it.bad { // the rest of what is too large
		r, err := xproto.GetProperty(b.c, false, it.win, b.place, xproto.GetPropertyTypeAny, 0, 0).Reply()
		xproto.DeleteProperty(b.c, it.win, b.place)
		if it.over++; err != nil || r.BytesAfter == 0 && r.Type != 0 || it.over >= maxOver {
			it.done = true
			b.settled(s)
		}
		return
	}
	room := maxHeld - b.size()
	if s.stage == looking { // whatever else is held
		room = max(room-s.size, lookHead-s.size)
	}
	room = max(room, 0)
	r, err := xproto.GetProperty(b.c, true, it.win, b.place, xproto.GetPropertyTypeAny, 0, uint32(room/4+1)).Reply()
	if err != nil {
		return
	}
	if s.mine {
		s.until = time.Now().Add(itemWait)
	} else if s.stage == looking {
		s.end = time.Now().Add(itemWait)
	}
	switch {
	case r.Type == b.atoms["INCR"] && !it.parts:
		it.parts = true // its deletion asks for the first part
		return
	case r.Type == 0 && it.parts:
		return // nothing is there now
	case r.BytesAfter > 0 || len(r.Value) > room:
		xproto.DeleteProperty(b.c, it.win, b.place)
		it.large = true
		if it.head = it.data; len(it.data) == 0 {
			it.head = r.Value
		}
		room := lookHead // of all of it, no more is ever looked into
		for _, o := range s.items {
			if o != it {
				room -= len(o.head)
			}
		}
		if it.head = it.head[:max(0, min(len(it.head), room))]; b.looks() {
			it.head = slices.Clone(it.head)
		} else {
			it.head = nil
		}
		s.size -= len(it.data)
		// An owner that nobody else asks meanwhile is let say all of it: some (xclip) cannot tell several at once.
		it.data, it.done, it.bad = nil, s.stage != looking || !it.parts, true
		b.handedOut(s)
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

// size is how much is held of all selections, without what is only looked into.
func (b *board) size() (n int) {
	for _, s := range b.slots {
		if s.stage != looking {
			n += s.size
		}
	}
	return n
}
