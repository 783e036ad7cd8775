package clipboard

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"
)

// Part keeps the clipboard of the session that it runs in.
type Part struct {
	// Decode reads the rules that the agent gives.
	Decode func(json.RawMessage) (Rules, error)
	// Type is the session's: x11 or wayland. Display is that of its X server; "": $DISPLAY.
	Type, Display string
	// Self is the session's user.
	Self uint32
	// Look asks the agent about something that was copied; nil: nothing is looked into.
	Look func(context.Context, *Copied) (Judged, error)

	once   sync.Once
	poke   chan struct{}
	turned chan struct{} // for what looks into copies on Wayland: the rules may be others

	asking chan string // what the X server beside a compositor is asked; of the goroutine that runs

	mu      sync.Mutex
	rules   Rules
	said    Said
	sees    bool // what is copied on Wayland
	changed func()
	n       uint64
	told    map[Refusal]time.Time // when, of those in said; without their numbers
	asked   time.Time             // since when it is waited for a sign of what keeps the clipboard; zero: it is not
}

func (p *Part) init() {
	p.once.Do(func() { p.poke, p.turned = make(chan struct{}, 1), make(chan struct{}, 1) })
}

// looks reports whether what is copied is to be looked into. The caller has the lock.
func (p *Part) looks() bool { return p.rules != nil && p.rules.Looks() != "" && p.Look != nil }

// Load replaces the rules.
func (p *Part) Load(b json.RawMessage) {
	p.init()
	var r Rules
	var err error
	if b != nil {
		r, err = p.Decode(b)
	}
	p.mu.Lock()
	p.rules = nil
	p.said.Kept, p.said.Why, p.asked = false, "", time.Time{}
	switch {
	case err != nil:
		p.said.Why = whyRules
	case b != nil:
		p.rules, p.said.Why = r, whyBegins
	}
	p.mu.Unlock()
	for _, c := range []chan struct{}{p.poke, p.turned} {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

// silence is how long what keeps the clipboard may say nothing, after which it does not count.
const silence = 20 * time.Second

// State is what it says of the session. Each time, a sign is asked for that the clipboard is still kept.
func (p *Part) State() json.RawMessage {
	p.init()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.rules != nil && (p.said.Kept || p.said.Why == whyDisplay) {
		if p.asked.IsZero() {
			p.asked = time.Now()
		} else if time.Since(p.asked) > silence {
			p.said.Kept, p.said.Why = false, whyDisplay
		}
		select {
		case p.poke <- struct{}{}:
		default:
		}
	}
	p.said.Type = p.Type
	p.said.Looks = p.looks() && (p.Type != "wayland" || p.sees)
	b, err := json.Marshal(&p.said)
	if err != nil {
		return nil
	}
	return b
}

// alive is the sign that State has asked for.
func (p *Part) alive() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.asked = (time.Time{}); p.said.Why == whyDisplay && p.rules != nil {
		p.said.Kept, p.said.Why = true, ""
	}
}

// say sets what it says, if the rules are still those it is about.
func (p *Part) say(of Rules, s Said) {
	p.mu.Lock()
	if of != nil && p.rules == of {
		p.said.Kept, p.said.Why, p.asked = s.Kept, s.Why, time.Time{}
	}
	changed := p.changed
	p.mu.Unlock()
	if changed != nil {
		changed()
	}
}

// answered notes whether the agent has said in time what becomes of something that was copied, or nothing at all.
func (p *Part) answered(late, blind bool) {
	p.mu.Lock()
	news := p.said.Blind != blind
	if p.said.Blind = blind; late {
		p.said.Late++
	}
	changed := p.changed
	p.mu.Unlock()
	if (news || late) && changed != nil {
		changed()
	}
}

// refusedRest is how long the same refusal is not told again.
const refusedRest = time.Minute

// refused notes a refused paste.
func (p *Part) refused(r Refusal) {
	p.mu.Lock()
	now := time.Now()
	if at, is := p.told[r]; is && now.Sub(at) < refusedRest {
		p.mu.Unlock()
		return
	}
	if p.told == nil || len(p.told) > 4*maxRefused {
		p.told = map[Refusal]time.Time{}
	}
	p.told[r] = now
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
	again    = 100 * time.Millisecond
	maxAgain = 15 * time.Second
)

// Run keeps the clipboard until ctx ends. Without rules it is connected to nothing.
func (p *Part) Run(ctx context.Context, changed func()) {
	p.init()
	p.mu.Lock()
	p.changed = changed
	p.mu.Unlock()
	if p.Type == "wayland" && p.Look != nil {
		done := make(chan struct{})
		go func() { defer close(done); p.control(ctx) }()
		defer func() { <-done }()
	}
	pause := again
	for ctx.Err() == nil {
		rules := p.current()
		switch {
		case rules == nil:
			p.say(nil, Said{}) // what Load set
		case p.Type == "wayland" && rules.Alone():
			p.beside(ctx, rules)
			continue
		case p.Type == "wayland":
			p.say(rules, Said{Why: whyWayland})
		default:
			began := time.Now()
			if err := p.serve(ctx); err != nil && ctx.Err() == nil {
				why := whyDisplay
				if errors.Is(err, errNoDisplay) {
					why = whyNone
				}
				p.say(p.current(), Said{Why: why})
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

// openWait is how long an X server may take to answer until it is said that it does not.
const openWait = 10 * time.Second

// open connects, however long that takes: an X server that is stopped answers when it goes on.
func (p *Part) open(ctx, served context.Context, rules Rules) (*board, error) {
	type opened struct {
		b   *board
		err error
	}
	done := make(chan opened, 1)
	go func() {
		var look *inspector
		if p.Look != nil {
			look = &inspector{ask: p.Look, some: make(chan struct{}, 1), told: p.answered}
		}
		b, err := openBoard(served, p.Display, look, rules, p.Self, p.refused)
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
	served, end := context.WithCancel(ctx)
	defer end()
	p.mu.Lock()
	p.said.Blind = false // who asked whether the agent answers has ended
	p.mu.Unlock()
	b, err := p.open(ctx, served, rules)
	if err != nil {
		return err
	}
	defer b.inbox.stop()
	defer b.c.Close()
	defer context.AfterFunc(ctx, b.c.Close)() // whatever is waited for then
	p.say(rules, Said{Kept: true})
	var judged <-chan struct{}
	if b.inspector != nil {
		judged = b.inspector.some
	}
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
					b.letGo()
					p.say(nil, Said{})
				}
			}
		case <-timer.C:
			b.late(time.Now())
		case <-judged:
			for _, l := range b.inspector.take() {
				b.found(l)
			}
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
