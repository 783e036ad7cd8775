package match

import (
	"fmt"
	"regexp/syntax"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/warderd/warder/enforce/sensitive"
)

// translated is what Hyperscan looks for in place of a pattern, in its syntax, which is PCRE's. It is made of the parsed expression, so
// that nothing depends on what the two say about classes, cases, lines and ends.
type translated struct {
	text  string // "" if there is none
	flags uint32
	// From where it ends to where a match of the pattern begins, in bytes.
	least, most int
	own         int        // of these, what it has itself at most
	lead        *[256]bool // the bytes of what may come before it; nil: anything
	run         *run       // it is only looked for in such; nil: everywhere
}

// from is where a match begins at the earliest, if this ends at a place.
func (t *translated) from(text []byte, end int) int {
	from := max(0, end-t.most)
	if t.lead == nil {
		return from
	}
	at := max(0, end-t.own)
	for at > from && t.lead[text[at-1]] {
		at--
	}
	return at
}

const (
	flagMultiline = 4
	flagUTF8      = 32
)

// translate makes it. It finds more than the pattern, and the library is up to three times as fast with it: what counts is found by
// RE2 anyway. Whatever matches the pattern has the rest of it at a place that is known:
//   - without \b and the like at either end
//   - without more than must be of a repetition at either end
//   - without what comes after a long repetition, unless a word follows
func translate(x *sensitive.Expr) translated {
	parts, ahead := relax(flat(x.Tree, nil))
	w := writer{}
	var t translated
	t.least, t.most, t.lead = ahead.least, ahead.most, ahead.lead
	for _, p := range parts {
		if !w.write(p) {
			return translated{}
		}
		lo, hi := sensitive.Width(p)
		t.least, t.most, t.own = t.least+lo, t.most+hi, t.own+hi
	}
	t.text, t.flags, t.run = w.String(), w.flags, runOf(parts)
	return t
}

// flat lists the parts of an expression that come after each other.
func flat(re *syntax.Regexp, out []*syntax.Regexp) []*syntax.Regexp {
	switch re.Op {
	case syntax.OpConcat:
		for _, s := range re.Sub {
			out = flat(s, out)
		}
		return out
	case syntax.OpCapture:
		return flat(re.Sub[0], out)
	}
	return append(out, re)
}

// front is what was left out at the beginning: how wide it is, and of which bytes, if that is known.
type front struct {
	least, most int
	lead        *[256]bool
}

// relax leaves out what is not needed.
func relax(parts []*syntax.Regexp) (out []*syntax.Regexp, ahead front) {
	parts = slices.Clone(parts)
	for len(parts) > 1 {
		p := parts[0]
		if assertion(p) {
			parts = parts[1:]
			continue
		}
		if p.Op != syntax.OpRepeat && p.Op != syntax.OpQuest {
			break
		}
		lo, hi := sensitive.Width(p)
		least := least(p)
		if hi == lo || len(least) == 0 && !some(parts[1:]) {
			break
		}
		if len(least) > 0 {
			lo2, hi2 := sensitive.Width(least[0])
			lo, hi = lo-lo2, hi-hi2
		}
		ahead = front{lo, hi, bytesOf(p.Sub[0])}
		parts = append(least, parts[1:]...)
		break
	}
	for i, p := range parts { // nothing after a long repetition
		if lo, hi := sensitive.Width(p); i > 0 && p.Op == syntax.OpRepeat && hi-lo > long && !word(parts[i+1:], 2) && some(parts[:i]) {
			parts = append(parts[:i:i], least(p)...)
			break
		}
	}
	for len(parts) > 1 {
		p := parts[len(parts)-1]
		if assertion(p) {
			parts = parts[:len(parts)-1]
			continue
		}
		if (p.Op == syntax.OpRepeat && p.Max > p.Min || p.Op == syntax.OpQuest) && some(append(parts[:len(parts)-1:len(parts)-1], least(p)...)) {
			parts = append(parts[:len(parts)-1:len(parts)-1], least(p)...)
			if p.Op == syntax.OpQuest || p.Min == 0 {
				continue
			}
		}
		break
	}
	return parts, ahead
}

// bytesOf are the bytes of a part that is one character of a kind; nil for others.
func bytesOf(re *syntax.Regexp) *[256]bool {
	switch {
	case re.Op == syntax.OpCapture:
		return bytesOf(re.Sub[0])
	case re.Op == syntax.OpCharClass, re.Op == syntax.OpAnyChar, re.Op == syntax.OpAnyCharNotNL, re.Op == syntax.OpLiteral && len(re.Rune) == 1:
	default:
		return nil
	}
	var f first
	f.of(re)
	for b := utf8.RuneSelf; b < 256 && f.bytes[0xc2]; b++ { // the other bytes of characters, too
		f.bytes[b] = true
	}
	return &f.bytes
}

func assertion(re *syntax.Regexp) bool {
	switch re.Op {
	case syntax.OpBeginLine, syntax.OpEndLine, syntax.OpBeginText, syntax.OpEndText, syntax.OpWordBoundary, syntax.OpNoWordBoundary:
		return true
	}
	return false
}

// least is what there must be of a repetition.
func least(re *syntax.Regexp) []*syntax.Regexp {
	if re.Op == syntax.OpQuest || re.Min == 0 {
		return nil
	}
	c := *re
	c.Max = c.Min
	return []*syntax.Regexp{&c}
}

// some reports whether parts are enough to look for: three bytes, or one that letters and digits are not.
func some(parts []*syntax.Regexp) bool {
	n := 0
	for _, p := range parts {
		lo, _ := sensitive.Width(p)
		if n += lo; p.Op == syntax.OpLiteral && strings.ContainsFunc(string(p.Rune), func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) && r != ' ' }) {
			n += 2
		}
	}
	return n >= 3
}

// word reports whether parts have a text of so many characters that must be there, or one of several such.
func word(parts []*syntax.Regexp, n int) bool {
	return slices.ContainsFunc(parts, func(p *syntax.Regexp) bool {
		sub := func(s *syntax.Regexp) bool { return word(flat(s, nil), n) }
		switch p.Op {
		case syntax.OpLiteral:
			return len(p.Rune) >= n
		case syntax.OpAlternate:
			return !slices.ContainsFunc(p.Sub, func(s *syntax.Regexp) bool { return !sub(s) })
		case syntax.OpRepeat:
			return p.Min > 0 && sub(p.Sub[0])
		}
		return false
	})
}

// writer writes an expression.
type writer struct {
	strings.Builder
	flags uint32
}

// long is from how many bytes on a repetition is long, and its bound left out: the library is slow with those.
const long = 64

// write reports whether there is such an expression.
func (w *writer) write(re *syntax.Regexp) bool {
	switch re.Op {
	case syntax.OpEmptyMatch:
		w.WriteString("(?:)")
	case syntax.OpLiteral:
		for _, r := range re.Rune {
			if re.Flags&syntax.FoldCase == 0 {
				w.rune(r)
				continue
			}
			set := []rune{r, r}
			for f := unicode.SimpleFold(r); f != r; f = unicode.SimpleFold(f) {
				set = append(set, f, f)
			}
			if !w.class(set) {
				return false
			}
		}
	case syntax.OpCharClass:
		return w.class(re.Rune)
	case syntax.OpAnyChar:
		return w.class([]rune{0, unicode.MaxRune})
	case syntax.OpAnyCharNotNL:
		return w.class([]rune{0, '\n' - 1, '\n' + 1, unicode.MaxRune})
	case syntax.OpBeginText:
		w.WriteString(`\A`) // of a piece: that of the text is the first one's
	case syntax.OpEndText:
		w.WriteString(`\z`)
	case syntax.OpBeginLine:
		w.WriteString(`^`)
		w.flags |= flagMultiline
	case syntax.OpEndLine:
		w.WriteString(`$`)
		w.flags |= flagMultiline
	case syntax.OpWordBoundary:
		w.WriteString(`\b`)
	case syntax.OpNoWordBoundary:
		w.WriteString(`\B`)
	case syntax.OpCapture:
		return w.group(re.Sub[0])
	case syntax.OpQuest:
		return w.group(re.Sub[0]) && w.add("?")
	case syntax.OpRepeat:
		if !w.group(re.Sub[0]) {
			return false
		}
		if re.Max > long {
			return w.add(fmt.Sprintf("{%d,}", min(re.Min, long)))
		}
		return w.add(fmt.Sprintf("{%d,%d}", re.Min, re.Max))
	case syntax.OpConcat:
		for _, s := range re.Sub {
			if !w.write(s) {
				return false
			}
		}
	case syntax.OpAlternate:
		w.WriteString("(?:")
		for i, s := range re.Sub {
			if i > 0 {
				w.WriteByte('|')
			}
			if !w.write(s) {
				return false
			}
		}
		w.WriteByte(')')
	default:
		return false
	}
	return true
}

func (w *writer) add(s string) bool {
	w.WriteString(s)
	return true
}

func (w *writer) group(re *syntax.Regexp) bool {
	return w.add("(?:") && w.write(re) && w.add(")")
}

// rune writes one character.
func (w *writer) rune(r rune) {
	switch {
	case r >= utf8.RuneSelf:
		w.flags |= flagUTF8
		fmt.Fprintf(w, `\x{%x}`, r)
	case r >= '0' && r <= '9', r >= 'A' && r <= 'Z', r >= 'a' && r <= 'z':
		w.WriteRune(r)
	default:
		fmt.Fprintf(w, `\x%02x`, r)
	}
}

// class writes a set of characters, as pairs of the first and the last of a range. Halves of surrogate pairs are in no text.
func (w *writer) class(set []rune) bool {
	const low, high = 0xd800, 0xdfff
	var some bool
	w.WriteByte('[')
	part := func(a, b rune) {
		if a > b {
			return
		}
		some = true
		w.rune(a)
		if b > a {
			w.WriteByte('-')
			w.rune(b)
		}
	}
	for i := 0; i+1 < len(set); i += 2 {
		a, b := set[i], set[i+1]
		part(a, min(b, low-1))
		part(max(a, high+1), b)
	}
	w.WriteByte(']')
	return some
}
