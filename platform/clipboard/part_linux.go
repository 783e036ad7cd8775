package clipboard

import (
	"context"
	"encoding/json"
	"sync"
	"time"

	"github.com/warderd/warder/enforce/fact"
)

// Rules say who is where, and what may be pasted.
type Rules interface {
	// Zone is where a program belongs; self is the session's user.
	Zone(p *fact.Program, self uint32) string
	// Keeps reports whether anything of a zone may not leave it, and Refuses whether it may not go to that one.
	Keeps(zone string) bool
	Refuses(from, to string) bool
}

// Part keeps the clipboard of the session that it runs in.
type Part struct {
	// Decode reads the rules that the agent gives.
	Decode func(json.RawMessage) (Rules, error)
	// Type is the session's: x11 or wayland. Display is that of its X server; "": $DISPLAY.
	Type, Display string
	// Self is the session's user.
	Self uint32

	once sync.Once
	poke chan struct{}

	mu      sync.Mutex
	rules   Rules
	bad     string // why the rules cannot be read
	said    Said
	changed func()
	n       uint64
}

// On Wayland a compositor passes on what is copied, and does not say to or from whom.
const whyWayland = "Wayland does not tell which program copies or pastes"

func (p *Part) init() { p.once.Do(func() { p.poke = make(chan struct{}, 1) }) }

// Load replaces the rules.
func (p *Part) Load(b json.RawMessage) {
	p.init()
	var r Rules
	var err error
	if b != nil {
		r, err = p.Decode(b)
	}
	p.mu.Lock()
	if p.rules, p.bad = r, ""; err != nil {
		p.rules, p.bad = nil, err.Error()
	}
	p.said.Kept, p.said.Never, p.said.Why = false, false, p.bad
	if p.rules != nil {
		p.said.Why = "it begins"
	}
	p.mu.Unlock()
	select {
	case p.poke <- struct{}{}:
	default:
	}
}

// State is what it says of the session.
func (p *Part) State() json.RawMessage {
	p.mu.Lock()
	defer p.mu.Unlock()
	b, err := json.Marshal(&p.said)
	if err != nil {
		return nil
	}
	return b
}

// say sets what it says, if the rules are still those it is about.
func (p *Part) say(of Rules, s Said) {
	p.mu.Lock()
	if of != nil && p.rules == of {
		p.said.Kept, p.said.Never, p.said.Why = s.Kept, s.Never, s.Why
	}
	changed := p.changed
	p.mu.Unlock()
	if changed != nil {
		changed()
	}
}

// refused notes a refused paste. The same one again is the same for a while, which the agent decides.
func (p *Part) refused(r Refusal) {
	p.mu.Lock()
	p.n++
	r.N = p.n
	p.said.Refused = append(p.said.Refused, r)
	if more := len(p.said.Refused) - maxRefused; more > 0 {
		p.said.Refused = append([]Refusal(nil), p.said.Refused[more:]...)
	}
	changed := p.changed
	p.mu.Unlock()
	if changed != nil {
		changed()
	}
}

func (p *Part) current() Rules {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.rules
}

// again is how long is waited for an X server that does not answer; longer each time.
const (
	again    = 500 * time.Millisecond
	maxAgain = 15 * time.Second
)

// Run keeps the clipboard until ctx ends. Without rules it is connected to nothing.
func (p *Part) Run(ctx context.Context, changed func()) {
	p.init()
	p.mu.Lock()
	p.changed = changed
	p.mu.Unlock()
	pause := again
	for ctx.Err() == nil {
		rules := p.current()
		switch {
		case rules == nil:
			p.say(nil, Said{}) // what Load set
		case p.Type == "wayland":
			p.say(rules, Said{Never: true, Why: whyWayland})
		default:
			began := time.Now()
			if err := p.serve(ctx); err != nil && ctx.Err() == nil {
				p.say(p.current(), Said{Why: "the X server does not answer: " + word(err.Error(), maxWhy)})
				if time.Since(began) > maxAgain {
					pause = again
				}
				select {
				case <-ctx.Done():
				case <-time.After(pause):
				case <-p.poke:
				}
				pause = min(2*pause, maxAgain)
			}
			continue
		}
		select {
		case <-ctx.Done():
		case <-p.poke:
		}
	}
}
