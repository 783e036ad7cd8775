package clipboard

import "github.com/jezek/xgb/xproto"

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
		if !b.minds(s.source) {
			b.drop(s)
			continue
		}
		s.stage, s.focus = free, 0
		b.listen(w)
		if !b.lend(s) {
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
