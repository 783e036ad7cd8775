// Package match finds sensitive data in text. What counts is what RE2 finds, one match after another; Hyperscan, where it is
// installed, only says where there is something to find. It runs in the program warder-scan alone: the agent never links it.
package match

import (
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"unicode/utf8"

	re2 "github.com/wasilibs/go-re2"

	"github.com/warderd/warder/enforce/sensitive"
)

const (
	usualBlock = 1 << 18 // bytes of text that are looked at together
	// One character on either side of a match may matter, and no more: that is what \b, ^ and $ look at.
	context = utf8.UTFMax
	stride  = 32 << 10 // bytes that RE2 gets at once, beside what a match may have
	nearby  = 32       // places that are so close together are one
	short   = 64       // bytes of an area that is looked at quickly first
)

// pattern is one pattern, ready to be looked for.
type pattern struct {
	sensitive.Pattern
	expr  sensitive.Expr
	first first
	// Expressions for RE2, made when they are needed first.
	whole *re2.Regexp // the pattern
	next  *re2.Regexp // any character, and the pattern: see findBeside
	exact *re2.Regexp // the pattern, and nothing else
	miss  *re2.Regexp // says quickly that none begins in the first short bytes
}

// prepare makes the expressions of a pattern.
func (p *pattern) prepare() (err error) {
	if p.whole != nil {
		return nil
	}
	first := ""
	if p.expr.Before {
		first = "(?s:.)"
		if p.next, err = re2.Compile(first + "(?:" + p.expr.Text + ")"); err != nil {
			return err
		}
	}
	if p.miss, err = re2.Compile(fmt.Sprintf(`\A%s(?s:.{0,%d}?)(?:%s)`, first, short, p.expr.Text)); err != nil {
		return err
	}
	if p.Validator != "" {
		if p.exact, err = re2.Compile(`\A(?:` + p.expr.Text + `)\z`); err != nil {
			return err
		}
	}
	p.whole, err = re2.Compile(p.expr.Text)
	return err
}

// Engine looks for a set of patterns. It may be used by one goroutine at a time.
type Engine struct {
	patterns []pattern
	gate     gate
	widest   int
	block    int
	hits     [][]area
}

// area is where matches of a pattern may begin: both ends are included.
type area struct{ from, to int }

// gate says where matches may begin.
type gate interface {
	// look adds to areas, for each pattern, where in a text a match may begin, in ascending order.
	look(text []byte, areas [][]area) error
	name() string
	close()
}

// Options are how an engine is made.
type Options struct {
	Library *Library // Hyperscan; nil to do without
	Cached  []byte   // what Cache has returned for the same patterns
}

// New makes an engine. Patterns that cannot be looked for are an error that names the first of them.
func New(list []sensitive.Pattern, o Options) (*Engine, error) {
	e := &Engine{hits: make([][]area, len(list)), block: usualBlock}
	for i, p := range list {
		x, err := sensitive.Compile(p)
		if err != nil {
			return nil, fmt.Errorf("pattern %d %w", i, err)
		}
		e.patterns = append(e.patterns, pattern{Pattern: p, expr: x, first: firstOf(x.Tree)})
		e.widest = max(e.widest, x.Max)
	}
	var err error
	if o.Library != nil {
		if e.gate, err = newHyperscan(o.Library, e.patterns, o.Cached); err == nil {
			return e, nil
		}
	}
	e.gate, err = newAlternation(e.patterns, all(len(list)))
	return e, err
}

func all(n int) []int {
	out := make([]int, n)
	for i := range out {
		out[i] = i
	}
	return out
}

// Name is what the engine consists of, for people.
func (e *Engine) Name() string { return e.gate.name() }

// Close frees what the library has allocated.
func (e *Engine) Close() { e.gate.close() }

// Cache is the compiled form of the patterns, for Options.Cached; nil if there is none.
func (e *Engine) Cache() []byte {
	if h, is := e.gate.(*hyperscan); is {
		return h.serialize()
	}
	return nil
}

// Found is what a text has of one pattern.
type Found struct {
	Pattern int    // its place in the list
	Count   int    // matches, sensitive.MaxCount at most
	First   []byte // the first match that counts
}

// size is how much text there is at most at a time.
func (e *Engine) size() int { return e.block + e.widest + 4*context }

// Text looks at one text, which comes in pieces.
type Text struct {
	stop    atomic.Bool
	e       *Engine
	buf     []byte
	base    int64   // where buf begins in the text
	next    []int64 // from where each pattern is looked for
	tallies []sensitive.Tally
	first   [][]byte
	each    func(pattern int, from, to int64) // for tests: every match
	err     error
}

// Text begins a text.
func (e *Engine) Text() *Text {
	t := &Text{e: e, next: make([]int64, len(e.patterns)), first: make([][]byte, len(e.patterns)),
		tallies: make([]sensitive.Tally, len(e.patterns))}
	for i := range e.patterns {
		t.tallies[i] = sensitive.NewTally(&e.patterns[i].Pattern)
	}
	return t
}

// ErrFull means that nothing more is counted: everything has been found as often as it is counted.
var ErrFull = errors.New("no more is counted")

// Write adds a piece of text. Bytes that are not UTF-8 become U+FFFD, one for each.
func (t *Text) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 && t.err == nil {
		room := min(len(p), t.e.size()-len(t.buf))
		t.buf = append(t.buf, p[:room]...)
		if p = p[room:]; len(t.buf) >= t.e.size() {
			t.look(false)
		}
	}
	return n - len(p), t.err
}

// Stop has whoever looks at the text end soon. Any goroutine may call it.
func (t *Text) Stop() { t.stop.Store(true) }

// ErrStopped is what a text says that was stopped.
var ErrStopped = errors.New("the text was stopped")

// Close ends the text and returns what was found; of one that was stopped, what was found until then.
func (t *Text) Close() ([]Found, error) {
	if t.err == nil && !t.stop.Load() {
		t.look(true)
	}
	if t.err != nil && !errors.Is(t.err, ErrFull) && !errors.Is(t.err, ErrStopped) {
		return nil, t.err
	}
	var out []Found
	for i := range t.tallies {
		if t.tallies[i].Found() {
			out = append(out, Found{Pattern: i, Count: t.tallies[i].Count(), First: t.first[i]})
		}
	}
	return out, nil
}

// look finds what begins in the buffer. Unless the text ends here, what begins near its end is left for the next time.
func (t *Text) look(last bool) {
	text := t.buf
	if !last { // a character may have come in two pieces
		text = text[:len(text)-partial(text)]
	}
	if !utf8.Valid(text) {
		text = valid(text)
	}
	for i := range t.e.hits {
		t.e.hits[i] = t.e.hits[i][:0]
	}
	// Where a pattern is looked for: from its place on, and not where a match might end beyond what is here.
	bounds := func(i int) (low, high int) {
		if high = len(text) - 1; !last {
			high -= t.e.patterns[i].expr.Max + context
		}
		return int(t.next[i] - t.base), high
	}
	if err := t.e.gate.look(text, t.e.hits); err != nil {
		t.err = err
		return
	}
	full := len(t.tallies) > 0
	for i := range t.e.patterns {
		if t.stop.Load() {
			t.err = ErrStopped
			return
		}
		low, high := bounds(i)
		for _, a := range t.e.hits[i] {
			if a.from, a.to = max(a.from, low), min(a.to, high); a.from > a.to || t.tallies[i].Full() {
				continue
			}
			if err := t.find(i, text, a); err != nil {
				t.err = err
				return
			}
			low = max(low, int(t.next[i]-t.base))
		}
		t.next[i] = max(t.next[i], t.base+int64(high)+1)
		full = full && t.tallies[i].Full()
	}
	if full {
		t.err = ErrFull
	}
	if last {
		return
	}
	var rest [utf8.UTFMax]byte
	n := copy(rest[:], t.buf[len(t.buf)-partial(t.buf):])
	keep := max(0, len(text)-t.e.widest-2*context)
	for keep > 0 && !utf8.RuneStart(text[keep]) {
		keep--
	}
	t.base += int64(keep)
	t.buf = append(append(t.buf[:0], text[keep:]...), rest[:n]...)
}

// partial is how many bytes at the end are a character that has not come whole.
func partial(b []byte) int {
	for n := 1; n < utf8.UTFMax && n <= len(b); n++ {
		if c := b[len(b)-n]; utf8.RuneStart(c) {
			if c >= utf8.RuneSelf && !utf8.FullRune(b[len(b)-n:]) {
				return n
			}
			return 0
		}
	}
	return 0
}

// valid makes UTF-8 of anything.
func valid(b []byte) []byte {
	out := make([]byte, 0, len(b)+len(b)/8)
	for len(b) > 0 {
		r, n := utf8.DecodeRune(b)
		if r == utf8.RuneError && n <= 1 {
			out = utf8.AppendRune(out, utf8.RuneError)
		} else {
			out = append(out, b[:n]...)
		}
		b = b[n:]
	}
	return out
}

// add counts a match, and returns where the next one may begin. One that its validator refuses may be the number that is looked for
// with another beside it, such as a card's with its date: what of it passes from the same beginning counts, and otherwise the next
// one may begin at its next word.
func (t *Text) add(i int, text []byte, from, to int) int {
	if t.each != nil {
		t.each(i, t.base+int64(from), t.base+int64(to))
	}
	n, value := &t.tallies[i], t.e.patterns[i].value(text[from:to])
	if n.Checks() && !n.Passes(value) {
		to = t.part(i, text, from, to)
	} else {
		t.count(i, from, value)
	}
	t.next[i] = t.base + int64(to)
	return to
}

// count counts a match at a place.
func (t *Text) count(i, from int, value []byte) {
	if t.tallies[i].Add(t.base+int64(from), value) && t.first[i] == nil {
		t.first[i] = slices.Clone(value)
	}
}

// value is what of a match its validator judges: the first group of the expression, if there is one.
func (p *pattern) value(match []byte) []byte {
	if p.exact == nil || p.exact.NumSubexp() == 0 {
		return match
	}
	if m := p.exact.FindSubmatchIndex(match); m != nil && m[2] >= 0 {
		return match[m[2]:m[3]]
	}
	return match
}

// longest is how many bytes a number has at most, with what is between its digits. No validator takes more.
const longest = 80

// part looks for a part of a refused match that counts: from its beginning to the end of a word in it, the longest first.
func (t *Text) part(i int, text []byte, from, to int) (next int) {
	p := &t.e.patterns[i]
	edge := func(at int) bool { return wordByte(text[at-1]) != wordByte(text[at]) }
	for end := min(to-1, from+longest); end > from; end-- {
		if !edge(end) || !wordByte(text[end-1]) {
			continue
		}
		s := text[from:end]
		if v := p.value(s); t.tallies[i].PassesPart(v) && p.exact.Match(s) {
			t.count(i, from, v)
			return end
		}
	}
	for at := from + 1; at < to; at++ {
		if edge(at) && wordByte(text[at]) {
			return at
		}
	}
	return to
}

// find has RE2 find the matches that begin in an area. What RE2 gets goes so far that a match which begins there ends in it, with a
// character more.
func (t *Text) find(i int, text []byte, a area) error {
	p := &t.e.patterns[i]
	if err := p.prepare(); err != nil {
		return fmt.Errorf("pattern %d: %w", i, err)
	}
	a, some := p.first.narrow(text, a, p.expr.Max)
	if !some {
		return nil
	}
	if a.to-a.from < short && !p.miss.Match(text[a.from-p.before(t, text, a.from):min(len(text), a.to+p.expr.Max+context)]) &&
		(!p.expr.Before || t.base+int64(a.from) > 0) {
		return nil
	}
	if p.expr.Before {
		t.findBeside(p, i, text, a)
		return nil
	}
	for at := a.from; at <= a.to && !t.tallies[i].Full() && !t.stop.Load(); {
		if a.to-at < short || t.tallies[i].Checks() { // most of what RE2 gets is for the match's end: it need not go on there
			high := min(a.to, at+stride)
			m := p.whole.FindIndex(text[at:min(len(text), high+p.expr.Max+context)])
			if m == nil || at+m[0] > high {
				at = high + 1
				continue
			}
			at = t.add(i, text, at+m[0], at+m[1])
			continue
		}
		high := min(a.to, at+stride)
		piece := text[at:min(len(text), high+p.expr.Max+context)]
		from := at
		for _, m := range p.whole.FindAllIndex(piece, -1) {
			if from+m[0] > high || t.tallies[i].Full() {
				break
			}
			t.add(i, text, from+m[0], from+m[1])
			at = from + m[1]
		}
		at = max(at, high+1)
	}
	return nil
}

// before is how many bytes the character before a place has, if it matters to the pattern; 0 where the text begins.
func (p *pattern) before(t *Text, text []byte, at int) int {
	if !p.expr.Before || t.base == 0 && at == 0 {
		return 0
	}
	_, n := utf8.DecodeLastRune(text[:at])
	return n
}

// findBeside is the same for patterns to which it matters what comes before a match. RE2 takes a text for the whole text, so it gets
// the character before, and an expression that begins with any character.
func (t *Text) findBeside(p *pattern, i int, text []byte, a area) {
	step := short
	for at := a.from; at <= a.to && !t.tallies[i].Full() && !t.stop.Load(); {
		for at < len(text) && !utf8.RuneStart(text[at]) {
			at++
		}
		high := min(a.to, at+step)
		end := min(len(text), high+p.expr.Max+context)
		var m []int
		if n := p.before(t, text, at); n == 0 {
			m = p.whole.FindIndex(text[:end])
		} else if m = p.next.FindIndex(text[at-n : end]); m != nil {
			_, first := utf8.DecodeRune(text[at-n+m[0]:])
			m[0], m[1] = at-n+m[0]+first, at-n+m[1]
		}
		if m == nil || m[0] > high {
			at, step = high+1, min(2*step, stride)
			continue
		}
		at, step = t.add(i, text, m[0], m[1]), short
	}
}
