package clipboard

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jezek/xgb/xproto"

	"github.com/warderd/warder/enforce/fact"
)

// What is copied is looked into by the agent's scanner: its texts are read from who has it, who keeps the selection meanwhile, because
// nearly all is harmless. It is taken over if it is not, or if it takes long to know, and then nobody but the program itself gets it
// (docs/decisions/0049).

// judged is what is known of something that was copied.
type judged uint8

const (
	unasked judged = iota // it is not looked into, or nobody waits for what comes of it
	pending               // nobody but its own program gets it until it is known
	passes
	refused // nobody but its own program gets it
)

// patience is how long a copy stays with its program while it is not known what it is. A scanner that has to be started first needs some
// 30 to 130 ms, and nobody's hand is faster than that. A variable for tests.
var patience = 250 * time.Millisecond

const (
	// lookAgain is how long is waited for an agent that does not answer, at first; twice as long each time, up to maxLookAgain.
	lookAgain    = 10 * time.Millisecond
	maxLookAgain = 300 * time.Millisecond
	// awayWait is how long an agent that does not run is waited for where what is late is free: it may be starting anew.
	awayWait = 3 * time.Second
	// staleWait is how long a question may go on after something else was copied.
	staleWait = 500 * time.Millisecond
	// probeEvery is how often an agent that has not answered is asked whether it does.
	probeEvery = 5 * time.Second
	// maxNames bounds the names of atoms that are remembered.
	maxNames = 4096
)

// inspector has what was copied looked into, one after the other; of a selection only the newest.
type inspector struct {
	ask  func(context.Context, *Copied) (Judged, error)
	some chan struct{} // something has come of it
	told func(late, blind bool)
	// first is the selection that is asked about before others: what people paste by the keyboard.
	first xproto.Atom

	mu      sync.Mutex
	wanted  []*copied
	running bool
	probing bool
	current xproto.Atom // the selection that is being asked about
	stop    context.CancelFunc
	done    []looked
}

// copied is something to be looked into, and looked what has come of it.
type copied struct {
	Copied
	slot   xproto.Atom
	number uint64
	until  time.Time
	free   bool // what is late may be pasted
}

type looked struct {
	slot    xproto.Atom
	number  uint64
	refused bool
	failed  bool // nobody could be asked in time
	never   bool // because the agent does not answer that
}

// has reports whether the same is there in another form.
func (c *copied) has(data []byte) bool {
	return slices.ContainsFunc(c.Forms, func(f Form) bool { return bytes.Equal(f.Data, data) })
}

// want has something looked into, until a time.
func (i *inspector) want(ctx context.Context, c *copied) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.wanted = append(slices.DeleteFunc(i.wanted, func(o *copied) bool { return o.slot == c.slot }), c)
	if i.current == c.slot && i.stop != nil { // nobody needs that any more
		time.AfterFunc(staleWait, i.stop)
	}
	if !i.running {
		i.running = true
		go i.run(ctx)
	}
}

func (i *inspector) next() *copied {
	i.mu.Lock()
	defer i.mu.Unlock()
	if len(i.wanted) == 0 {
		i.running = false
		return nil
	}
	at := max(0, slices.IndexFunc(i.wanted, func(c *copied) bool { return c.slot == i.first }))
	c := i.wanted[at]
	i.wanted = slices.Delete(i.wanted, at, at+1)
	return c
}

func (i *inspector) run(ctx context.Context) {
	for c := i.next(); c != nil; c = i.next() {
		until, cancel := context.WithDeadline(ctx, c.until)
		i.mu.Lock()
		i.current, i.stop = c.slot, cancel
		i.mu.Unlock()
		out := i.question(until, c)
		cancel()
		i.mu.Lock()
		i.current, i.stop = 0, nil
		i.done = append(i.done, out)
		stale := slices.ContainsFunc(i.wanted, func(o *copied) bool { return o.slot == c.slot })
		i.mu.Unlock()
		if i.told != nil && ctx.Err() == nil && !stale {
			i.told(out.failed, out.failed && !out.never)
			i.probe(ctx, out.failed && !out.never)
		}
		select {
		case i.some <- struct{}{}:
		default:
		}
	}
}

// probe asks about nothing, again and again, until the agent answers: people may not copy anything for hours.
func (i *inspector) probe(ctx context.Context, failed bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if !failed || i.probing {
		return
	}
	i.probing = true
	go func() {
		for err := ErrAway; err != nil && !errors.Is(err, ErrNever) && ctx.Err() == nil; {
			select {
			case <-ctx.Done():
			case <-time.After(probeEvery):
				_, err = i.ask(ctx, &Copied{})
			}
		}
		i.mu.Lock()
		i.probing = false
		i.mu.Unlock()
		if ctx.Err() == nil {
			i.told(false, false)
		}
	}()
}

// question asks about one copy until it is answered.
func (i *inspector) question(ctx context.Context, c *copied) looked {
	out := looked{slot: c.slot, number: c.number, failed: true}
	var away time.Time // since when it does not run
	for pause := lookAgain; ctx.Err() == nil; pause = min(2*pause, maxLookAgain) {
		j, err := i.ask(ctx, &c.Copied)
		switch {
		case err == nil:
			out.failed, out.refused = false, j.Refused
			return out
		case errors.Is(err, ErrNever):
			out.never = true
			return out
		case !errors.Is(err, ErrAway):
			away = time.Time{}
		case away.IsZero():
			away = time.Now()
		case c.free && time.Since(away) > awayWait:
			return out
		}
		select { // it may be starting anew
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
	return out
}

// take is what has come since the last time.
func (i *inspector) take() []looked {
	i.mu.Lock()
	defer i.mu.Unlock()
	out := i.done
	i.done = nil
	return out
}

// looks reports whether what is copied is looked into.
func (b *board) looks() bool { return b.rules != nil && b.rules.Looks() != "" && b.inspector != nil }

// holds reports whether what is copied is looked into before it can be pasted.
func (b *board) holds() bool { return b.looks() && b.rules.Looks() == fact.LookHold }

// texts are those of the forms of something that have text in them, as textual orders them.
func (b *board) texts(list []xproto.Atom) (out []xproto.Atom) {
	for _, i := range textual(b.names(list)) {
		out = append(out, list[i])
	}
	return out
}

// textual are the places of those of the forms of something that have text in them, those first that people see: there is a bound.
// Pictures are left out; documents are read where there is no text without them, because making one can keep a program busy for long.
func textual(names []string) (out []int) {
	var rich, others, documents []int
	for i, name := range names {
		kind, _, _ := strings.Cut(strings.ToLower(name), ";")
		switch to := &others; {
		case kind == "utf8_string", kind == "string", kind == "text/plain", kind == "text", kind == "compound_text":
			out = append(out, i)
		case kind == "text/html", kind == "text/rtf", kind == "application/rtf":
			to = &rich
			fallthrough
		case strings.HasPrefix(kind, "text/"), kind == "application/xhtml+xml", kind == "application/json", kind == "application/xml", kind == "image/svg+xml":
			*to = append(*to, i)
		case strings.HasPrefix(kind, "application/"):
			documents = append(documents, i)
		}
	}
	if len(out) == 0 {
		others = append(others, documents...)
	}
	return slices.Concat(out, rich, others)
}

// names are the names of atoms.
func (b *board) names(list []xproto.Atom) []string {
	if len(b.named)+len(list) > maxNames {
		clear(b.named)
	}
	ask := map[xproto.Atom]xproto.GetAtomNameCookie{}
	for _, a := range list {
		if _, known := b.named[a]; !known && a != 0 {
			ask[a] = xproto.GetAtomName(b.c, a)
		}
	}
	out := make([]string, len(list))
	for i, a := range list {
		if cookie, asked := ask[a]; asked {
			if r, err := cookie.Reply(); err == nil {
				b.named[a] = word(r.Name, maxType)
			}
			delete(ask, a)
		}
		out[i] = b.named[a]
	}
	return out
}

// inspect has what has come looked into.
func (b *board) inspect(s *slot) {
	hold := b.holds()
	c := &copied{slot: s.atom, until: time.Now().Add(lookWait), free: b.rules.LateIsFree()}
	c.Program = s.source.name
	room := lookHead
	var list []xproto.Atom
	for _, it := range s.items {
		list = append(list, it.target)
		it.seen = it.done
	}
	texts := b.texts(list)
	for _, it := range s.items {
		data := it.data
		if it.head != nil {
			data = it.head
		}
		if data = data[:min(len(data), room)]; len(data) == 0 || !slices.Contains(texts, it.target) || c.has(data) {
			continue
		}
		room -= len(data)
		c.Forms = append(c.Forms, Form{Type: b.names([]xproto.Atom{it.target})[0], Data: data})
	}
	b.number++
	c.number = b.number
	switch {
	case len(c.Forms) == 0 || !hold && s.item(b.atoms[secretHint]) != nil:
		b.judge(s, passes)
		return
	case !hold:
		s.judged = unasked
		b.inspector.want(b.ctx, c)
		if s.stage == looking {
			b.drop(s)
		}
		return
	}
	s.judged, s.number, s.known = pending, c.number, c.until
	b.inspector.want(b.ctx, c)
	if s.stage == looking {
		// What is marked would lose its mark, and what is too large to be held would be lost for everybody: that is only taken from its
		// owner if it has to be.
		if s.until = time.Now().Add(patience); s.primary || s.large() {
			s.until = s.known
		}
	}
}

// large reports whether some of it is too large to be held.
func (s *slot) large() bool {
	return slices.ContainsFunc(s.items, func(it *item) bool { return it.large })
}

// unseen reports whether texts have come that were not asked about.
func (s *slot) unseen() bool {
	return slices.ContainsFunc(s.items, func(it *item) bool { return it.text && it.done && !it.seen })
}

// rest reports whether texts are still coming that were asked for to be looked into.
func (s *slot) rest() bool {
	return slices.ContainsFunc(s.items, func(it *item) bool { return it.text && !it.done })
}

// found has come of something that was looked into.
func (b *board) found(l looked) {
	for _, s := range b.slots {
		if s.judged != pending || s.number != l.number {
			continue
		}
		if b.rules != nil && (l.refused || l.failed && !b.rules.LateIsFree()) {
			b.judge(s, refused)
		} else {
			b.judge(s, passes)
		}
	}
}

// judge has something that was copied pass, or not.
func (b *board) judge(s *slot, j judged) {
	s.judged, s.known = j, time.Time{}
	switch {
	case j == refused && !s.mine && s.comes():
		b.seize(s)
	case j == passes && (s.rest() || s.unseen()): // what comes, and what has come meanwhile, is looked into, too
		s.judged = unasked
		if !s.mine {
			s.stage, s.until = looking, s.end
		}
		if !s.rest() {
			b.inspect(s)
		}
	case j == passes && !s.mine && s.peek:
		b.drop(s) // its owner has kept it
	default:
		b.handedOut(s)
	}
}

// seize takes something over that was only looked into, with all its forms: at once if it is refused, because nobody but its own program
// needs them, and otherwise when they have come.
func (b *board) seize(s *slot) {
	b.fetch(s, s.offers)
	if s.stage, s.until = taking, s.known; s.judged == refused {
		if s.until = time.Now().Add(takeWait); !s.mine {
			b.takeOver(s)
		}
		if s.mine {
			b.handedOut(s) // who waits is refused
		}
	}
	b.settled(s)
}

// own reports whether somebody who pastes is the program that has copied, as it runs now.
func (b *board) own(s *slot, e *xproto.SelectionRequestEvent) bool {
	to := b.program(e.Requestor)
	return s.source != nil && to.Known && s.source.Known && to.born != "" && to.pid == s.source.pid && to.born == s.source.born
}
