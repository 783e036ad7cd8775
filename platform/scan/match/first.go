package match

import (
	"bytes"
	"regexp/syntax"
	"unicode"
	"unicode/utf8"
)

// first says where a match cannot begin, by the byte there and the one before, and where there can be none. It costs a nanosecond a
// byte or less, where asking RE2 costs half a microsecond.
type first struct {
	need     []byte    // a text that every match has in it; empty if none is known
	bytes    [256]bool // with which a match may begin
	boundary bool      // it begins with a letter, a digit or _, which has none before it
}

// firstOf reads it off an expression that has no empty match.
func firstOf(re *syntax.Regexp) first {
	var f first
	f.of(re)
	f.need = needed(re)
	if parts := flat(re, nil); parts[0].Op == syntax.OpWordBoundary {
		f.boundary = true
		for b, may := range f.bytes {
			f.boundary = f.boundary && (!may || wordByte(byte(b)))
		}
	}
	return f
}

// needed is the longest text that every match has in it.
func needed(re *syntax.Regexp) (longest []byte) {
	for _, p := range flat(re, nil) {
		var text []byte
		switch {
		case p.Op == syntax.OpLiteral && p.Flags&syntax.FoldCase == 0:
			text = []byte(string(p.Rune))
		case p.Op == syntax.OpRepeat && p.Min > 0:
			text = needed(p.Sub[0])
		}
		if len(text) > len(longest) {
			longest = text
		}
	}
	return longest
}

func wordByte(b byte) bool {
	return b == '_' || b >= '0' && b <= '9' || b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z'
}

// of adds the bytes with which a part may begin, and reports whether it may be empty.
func (f *first) of(re *syntax.Regexp) (empty bool) {
	switch re.Op {
	case syntax.OpLiteral:
		r := re.Rune[0]
		f.add(r, r)
		if re.Flags&syntax.FoldCase != 0 {
			for x := unicode.SimpleFold(r); x != r; x = unicode.SimpleFold(x) {
				f.add(x, x)
			}
		}
		return false
	case syntax.OpCharClass:
		for i := 0; i+1 < len(re.Rune); i += 2 {
			f.add(re.Rune[i], re.Rune[i+1])
		}
		return false
	case syntax.OpAnyChar, syntax.OpAnyCharNotNL:
		f.add(0, unicode.MaxRune)
		return false
	case syntax.OpAlternate:
		for _, s := range re.Sub {
			empty = f.of(s) || empty
		}
		return empty
	case syntax.OpConcat:
		for _, s := range re.Sub {
			if !f.of(s) {
				return false
			}
		}
		return true
	case syntax.OpCapture:
		return f.of(re.Sub[0])
	case syntax.OpRepeat:
		return f.of(re.Sub[0]) || re.Min == 0
	case syntax.OpQuest, syntax.OpStar:
		f.of(re.Sub[0])
		return true
	case syntax.OpPlus:
		return f.of(re.Sub[0])
	}
	return true // what has no width
}

// add adds the first bytes of a range of characters. All beyond ASCII are one.
func (f *first) add(a, b rune) {
	for r := a; r <= b && r < utf8.RuneSelf; r++ {
		f.bytes[r] = true
	}
	if b >= utf8.RuneSelf {
		for c := 0xc2; c <= 0xf4; c++ {
			f.bytes[c] = true
		}
	}
}

// narrow makes an area smaller, in which a match has so many bytes at most. It reports whether anything is left.
func (f *first) narrow(text []byte, a area, most int) (area, bool) {
	if len(f.need) > 0 && !bytes.Contains(text[a.from:min(len(text), a.to+most)], f.need) {
		return a, false
	}
	may := func(at int) bool {
		return f.bytes[text[at]] && !(f.boundary && at > 0 && wordByte(text[at-1]))
	}
	for a.from <= a.to && !may(a.from) {
		a.from++
	}
	for a.to > a.from && !may(a.to) {
		a.to--
	}
	return a, a.from <= a.to
}
