package clipboard

import (
	"bytes"
	"context"
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

const (
	// lookAgain is how long is waited for an agent that does not answer.
	lookAgain = 300 * time.Millisecond
	// maxNames bounds the names of atoms that are remembered.
	maxNames = 4096
)

// inspector has what was copied looked into, one after the other, in the order in which it was copied; of a selection only the newest.
type inspector struct {
	ask  func(context.Context, *Copied) (Judged, error)
	some chan struct{} // something has come of it

	mu      sync.Mutex
	wanted  []*copied
	running bool
	done    []looked
}

// copied is something to be looked into, and looked what has come of it.
type copied struct {
	Copied
	slot   xproto.Atom
	number uint64
	until  time.Time
}

type looked struct {
	number  uint64
	refused bool
	failed  bool // nobody could be asked in time
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
	c := i.wanted[0]
	i.wanted = i.wanted[1:]
	return c
}

func (i *inspector) run(ctx context.Context) {
	for c := i.next(); c != nil; c = i.next() {
		out := looked{number: c.number, failed: true}
		until, cancel := context.WithDeadline(ctx, c.until)
		for out.failed && until.Err() == nil {
			j, err := i.ask(until, &c.Copied)
			if err == nil {
				out.failed, out.refused = false, j.Refused
				break
			}
			select { // it may be starting anew
			case <-until.Done():
			case <-time.After(lookAgain):
			}
		}
		cancel()
		i.mu.Lock()
		i.done = append(i.done, out)
		i.mu.Unlock()
		select {
		case i.some <- struct{}{}:
		default:
		}
	}
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

// texts are those of the forms of something that have text in them. Those that only tell where something is from, and pictures, are left
// out; documents are read where there is no text without them, because making one can keep a program busy for long.
func (b *board) texts(list []xproto.Atom) (out []xproto.Atom) {
	var documents []xproto.Atom
	plain := false
	for i, name := range b.names(list) {
		kind, _, _ := strings.Cut(strings.ToLower(name), ";")
		switch {
		case kind == "utf8_string", kind == "string", kind == "text/plain":
			plain = true
			out = append(out, list[i])
		case strings.HasPrefix(kind, "text/"), kind == "application/rtf", kind == "application/xhtml+xml", kind == "application/json", kind == "application/xml", kind == "image/svg+xml":
			out = append(out, list[i])
		case kind == "text", kind == "compound_text", strings.HasPrefix(kind, "application/"):
			documents = append(documents, list[i])
		}
	}
	if !plain {
		out = append(out, documents...)
	}
	return out
}

// names are the names of atoms.
func (b *board) names(list []xproto.Atom) []string {
	ask := map[xproto.Atom]xproto.GetAtomNameCookie{}
	for _, a := range list {
		if _, known := b.named[a]; !known && a != 0 {
			ask[a] = xproto.GetAtomName(b.c, a)
		}
	}
	if len(b.named)+len(ask) > maxNames {
		clear(b.named)
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
	hold := b.rules.Looks() == fact.LookHold
	c := &copied{slot: s.atom, until: time.Now().Add(lookWait)}
	c.Program = s.source.name
	room := lookHead
	var list []xproto.Atom
	for _, it := range s.items {
		list = append(list, it.target)
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
		// What is too large to be held would be lost for everybody: it is only taken from its owner if it has to be.
		if s.until = time.Now().Add(takeWait); slices.ContainsFunc(s.items, func(it *item) bool { return it.head != nil }) {
			s.until = s.known
		}
	}
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
	case j == refused && s.stage == looking:
		b.seize(s)
	case j == passes && !s.mine && s.peek:
		b.drop(s) // its owner has kept it
	default:
		b.handedOut(s)
	}
}

// seize takes something over that was only looked into, with all its forms.
func (b *board) seize(s *slot) {
	b.fetch(s, s.offers)
	s.stage, s.until = taking, time.Now().Add(takeWait)
	b.settled(s)
}

// own reports whether somebody who pastes is the program that has copied, as it runs now.
func (b *board) own(s *slot, e *xproto.SelectionRequestEvent) bool {
	to := b.program(e.Requestor)
	return s.source != nil && to.Known && s.source.Known && to.born != "" && to.pid == s.source.pid && to.born == s.source.born
}
