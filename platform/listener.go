package platform

import "sync/atomic"

// Listener is who is told of a guard's decisions: a guard contains one. The zero value is nobody.
type Listener struct{ p atomic.Pointer[listening] }

type listening struct {
	hand func(Decision)
	look func(soon bool)
}

// Listen sets who is told.
func (l *Listener) Listen(hand func(Decision), look func(soon bool)) {
	l.p.Store(&listening{hand, look})
}

// Hand hands a decision over.
func (l *Listener) Hand(d Decision) {
	if x := l.p.Load(); x != nil && x.hand != nil {
		x.hand(d)
	}
}

// Look asks for a look at the machine: soon, or once it has come to rest.
func (l *Listener) Look(soon bool) {
	if x := l.p.Load(); x != nil && x.look != nil {
		x.look(soon)
	}
}
