package clipboard

import (
	"time"

	"github.com/jezek/xgb"
	"github.com/jezek/xgb/xproto"
)

// place is where somebody wants something: a property of a window.
type place struct {
	win  xproto.Window
	atom xproto.Atom
}

// transfer is something that is handed out in parts (ICCCM 2.7.2).
type transfer struct {
	of     *slot // nil: that has something else by now
	end    time.Time
	kind   xproto.Atom
	format byte
	left   []byte
	until  time.Time
}

const (
	// chunk is how much is sent at once, in bytes: a request may have 256 KiB. It can be divided by 4.
	chunk = 128 << 10
	// outWait is how long somebody may take to fetch a part, and maxOut how many may be fetching.
	outWait    = 30 * time.Second
	maxOut     = 4 * maxItems
	maxOutEach = maxItems // of one program
	// outEnd is how long all of one may take.
	outEnd = 5 * time.Minute
	// maxPairs bounds the forms that are asked for at once.
	maxPairs = 64
)

// asked answers somebody who pastes what we hold.
func (b *board) asked(s *slot, e *xproto.SelectionRequestEvent) {
	if b.slotOf(e.Requestor) != nil || !s.mine && s.stage != asking && !s.comes() {
		b.answer(e, 0)
		return
	}
	if !s.mine { // what we had is not there any more, and what is there is coming
		b.wait(s, e)
		return
	}
	to := e.Property
	if to == 0 { // from a program of before the conventions
		to = e.Target
	}
	if !b.may(s, e) {
		if !b.placate(place{e.Requestor, to}, e.Target) {
			to = 0
		}
		b.answer(e, to)
		return
	}
	if (s.judged == pending || s.judged == unasked && s.stage == taking && b.holds()) && !b.own(s, e) {
		b.wait(s, e)
		return
	}
	if it := s.item(e.Target); s.stage == taking && (e.Target == b.atoms["MULTIPLE"] || it != nil && !it.done) {
		b.wait(s, e)
		return
	}
	if e.Target == b.atoms["MULTIPLE"] {
		if e.Property == 0 || !b.several(s, e) {
			to = 0
		}
	} else if !b.hand(s, place{e.Requestor, to}, e.Target) {
		to = 0
	}
	b.answer(e, to)
}

// wait has somebody wait for what is coming.
func (b *board) wait(s *slot, e *xproto.SelectionRequestEvent) {
	if len(s.waiting) < maxWaiting {
		s.waiting = append(s.waiting, *e)
	} else {
		b.answer(e, 0)
	}
}

// may reports whether somebody may paste, and notes it if not.
func (b *board) may(s *slot, e *xproto.SelectionRequestEvent) bool {
	if b.rules == nil {
		return true
	}
	if s.judged == refused && !b.own(s, e) {
		return false // that is told
	}
	if !b.rules.Apart() {
		return true
	}
	to := b.program(e.Requestor)
	from, zone := b.zone(s.source), b.zone(to)
	if !b.rules.Refuses(from, zone) {
		return true
	}
	if e.Target != b.atoms[secretHint] && e.Target != b.atoms["TIMESTAMP"] {
		b.told(Refusal{From: from, To: zone, Copied: s.source.name, PastedIn: to.name})
	}
	return false
}

// placate tells somebody who is refused that there is something, which is none of theirs: a clipboard manager that finds nothing puts
// back what was there before.
func (b *board) placate(to place, target xproto.Atom) bool {
	switch target {
	case b.atoms["TARGETS"]:
		b.put(to, xproto.AtomAtom, 32, words([]xproto.Atom{b.atoms["TARGETS"], b.atoms[secretHint]}))
	case b.atoms[secretHint]:
		b.put(to, xproto.AtomString, 8, []byte("secret"))
	default:
		return false
	}
	return true
}

// zone is where a program belongs, for certain.
func (b *board) zone(p *program) string {
	z := b.rules.Zone(&p.Program, b.self)
	if p.unsure {
		b.known.settle(p)
		z = b.rules.Zone(&p.Program, b.self)
	}
	return z
}

// hand writes one form to where it is wanted.
func (b *board) hand(s *slot, to place, target xproto.Atom) bool {
	switch target {
	case b.atoms["TARGETS"]:
		list := []xproto.Atom{b.atoms["TARGETS"], b.atoms["TIMESTAMP"], b.atoms["MULTIPLE"]}
		for _, it := range s.items {
			if !it.bad {
				list = append(list, it.target)
			}
		}
		b.put(to, xproto.AtomAtom, 32, words(list))
		return true
	case b.atoms["TIMESTAMP"]:
		b.put(to, xproto.AtomInteger, 32, words([]xproto.Timestamp{s.at}))
		return true
	}
	it := s.item(target)
	if it == nil || it.bad {
		return false
	}
	if len(it.data) <= chunk {
		b.put(to, it.kind, it.format, it.data)
		return true
	}
	mine := 0
	for other := range b.out {
		if b.client(other.win) == b.client(to.win) {
			mine++
		}
	}
	if len(b.out) >= maxOut || mine >= maxOutEach {
		return false
	}
	now := time.Now()
	b.out[to] = &transfer{of: s, kind: it.kind, format: it.format, left: it.data, until: now.Add(outWait), end: now.Add(outEnd)}
	b.listen(to.win)
	b.put(to, b.atoms["INCR"], 32, words([]int{len(it.data)}))
	return true
}

// several hands out the forms that are named in pairs, of a target and a property each; what cannot be is struck out there.
func (b *board) several(s *slot, e *xproto.SelectionRequestEvent) bool {
	r, err := xproto.GetProperty(b.c, false, e.Requestor, e.Property, xproto.GetPropertyTypeAny, 0, 2*maxPairs).Reply()
	if err != nil || r.Format != 32 || len(r.Value) == 0 || r.BytesAfter > 0 {
		return false
	}
	for i := 0; i+8 <= len(r.Value); i += 8 {
		target, property := xproto.Atom(xgb.Get32(r.Value[i:])), xproto.Atom(xgb.Get32(r.Value[i+4:]))
		if property == 0 || target == b.atoms["MULTIPLE"] || !b.hand(s, place{e.Requestor, property}, target) {
			xgb.Put32(r.Value[i+4:], 0)
		}
	}
	b.put(place{e.Requestor, e.Property}, b.atoms["ATOM_PAIR"], 32, r.Value)
	return true
}

// goOn sends the next part to somebody who has taken the one before.
func (b *board) goOn(to place) {
	t := b.out[to]
	if t == nil {
		return
	}
	n := min(chunk, len(t.left))
	b.put(to, t.kind, t.format, t.left[:n])
	if n == 0 {
		b.over(to)
		return
	}
	if t.left, t.until = t.left[n:], time.Now().Add(outWait); t.until.After(t.end) {
		t.until = t.end
	}
}

// over ends a transfer.
func (b *board) over(to place) {
	delete(b.out, to)
	b.listen(to.win)
}

// orphan lets what is being handed out of a selection go on, after that has something else: as far as there is room for it.
func (b *board) orphan(s *slot) {
	room := maxHeld
	for to, t := range b.out {
		if t.of == s {
			t.of = nil
		}
		if t.of == nil {
			if room -= len(t.left); room < 0 { // it ends here, and does not hang
				b.put(to, t.kind, t.format, nil)
				b.over(to)
			}
		}
	}
}

// ended ends what went to a window that has gone.
func (b *board) ended(w xproto.Window) {
	for to := range b.out {
		if to.win == w {
			delete(b.out, to)
		}
	}
}

// lateOut ends what nobody fetches.
func (b *board) lateOut(now time.Time) {
	for to, t := range b.out {
		if now.After(t.until) {
			b.over(to)
		}
	}
}

// put writes a property.
func (b *board) put(to place, kind xproto.Atom, format byte, data []byte) {
	if format != 16 && format != 32 {
		format = 8
	}
	n := len(data) / int(format/8)
	xproto.ChangeProperty(b.c, xproto.PropModeReplace, to.win, to.atom, kind, format, uint32(n), data[:n*int(format/8)])
}

// answer tells somebody where what they wanted is; 0: they do not get it.
func (b *board) answer(e *xproto.SelectionRequestEvent, at xproto.Atom) {
	n := xproto.SelectionNotifyEvent{Time: e.Time, Requestor: e.Requestor, Selection: e.Selection, Target: e.Target, Property: at}
	xproto.SendEvent(b.c, false, e.Requestor, xproto.EventMaskNoEvent, string(n.Bytes()))
}

// words are values of 32 bits as a property has them.
func words[T ~uint32 | ~int](list []T) []byte {
	out := make([]byte, 4*len(list))
	for i, v := range list {
		xgb.Put32(out[4*i:], uint32(v))
	}
	return out
}
