// Package sensitive says what counts as sensitive data: expressions and their bounds, checks of numbers, and how often something must
// be found. It is pure, and knows no documents and no engine; platform/scan finds what it describes.
package sensitive

import (
	"errors"
	"fmt"
	"math"
	"regexp/syntax"
	"unicode"
	"unicode/utf8"
)

// The bounds of an expression.
const (
	// MaxRepeat is how often a part of an expression is repeated at most: RE2 knows no more, also not for parts inside parts.
	MaxRepeat = 1000
	// MaxWidth is how many bytes a match has at most. What comes in pieces is searched with so much overlap.
	MaxWidth = 32 << 10
	// What an engine makes of it, in instructions of RE2, roughly: of an expression as it was written, of one with bounds of ours, and of
	// all that are looked for together.
	maxSize, usualSize, allSize = 400_000, 100_000, 2_000_000
)

// ErrLarge is the answer for an expression that cannot be bounded.
var ErrLarge = errors.New("is too large to be looked for")

// Expr is an expression that has a bound for everything: what it can match, and what it costs.
type Expr struct {
	Text string // RE2 syntax, with a bound for each repetition
	// Repeat is the bound that repetitions without one have got; 0 if there were none. Those inside others have less.
	Repeat   int
	Min, Max int  // bytes that a match has, in UTF-8
	Before   bool // what comes before a match may matter: \b, ^
	Tree     *syntax.Regexp
	size     int
}

// Bound makes an expression of a text in RE2 syntax. Repetitions without a bound (*, +, {n,}) get one; the bounded expression is what
// counts, for every engine.
func Bound(text string) (Expr, error) {
	tree, err := syntax.Parse(text, syntax.Perl)
	if err != nil {
		return Expr{}, err
	}
	tries := []int{0}
	if levels(tree) > 0 {
		tries = []int{1, MaxRepeat, MaxRepeat / 2, MaxRepeat / 4, MaxRepeat / 8, MaxRepeat / 16, MaxRepeat / 32, MaxRepeat / 64, MaxRepeat / 128, MaxRepeat / 256, 1}
	}
	for i, most := range tries {
		re := clone(tree)
		if most > 0 {
			bound(re, float64(most))
		}
		x := Expr{Before: looksBefore(re), Tree: re, Repeat: most}
		size := 0
		enough := usualSize
		if len(tries) == 1 || i == 0 || i == len(tries)-1 {
			enough = maxSize
		}
		if x.Min, x.Max, size = measure(re); x.Max <= MaxWidth && size <= enough {
			x.size = size
			if i == 0 && len(tries) > 1 { // it can be bounded at all: how far?
				continue
			}
			x.Text = re.String()
			if _, err := syntax.Parse(x.Text, syntax.Perl); err == nil {
				return x, nil
			}
		} else if i == 0 {
			break
		}
	}
	return Expr{}, fmt.Errorf("%w: a match may have %d bytes at most, and classes with many characters, such as \\pL, may not be repeated so often", ErrLarge, MaxWidth)
}

func clone(re *syntax.Regexp) *syntax.Regexp {
	c := *re
	c.Sub = make([]*syntax.Regexp, len(re.Sub))
	for i, s := range re.Sub {
		c.Sub[i] = clone(s)
	}
	return &c
}

// unbounded reports whether this part is repeated without a bound.
func unbounded(re *syntax.Regexp) bool {
	return re.Op == syntax.OpStar || re.Op == syntax.OpPlus || re.Op == syntax.OpRepeat && re.Max < 0
}

// levels counts how many repetitions without a bound are inside each other at most.
func levels(re *syntax.Regexp) (n int) {
	for _, s := range re.Sub {
		n = max(n, levels(s))
	}
	if unbounded(re) {
		n++
	}
	return n
}

// known is the largest product of the bounds that are there already, from here inwards.
func known(re *syntax.Regexp) float64 {
	n := 1.0
	for _, s := range re.Sub {
		n = max(n, known(s))
	}
	if re.Op == syntax.OpRepeat && re.Max > 1 {
		n *= float64(re.Max)
	}
	return n
}

// bound gives each repetition without a bound one, so that no product along a path exceeds most.
func bound(re *syntax.Regexp, most float64) {
	if unbounded(re) {
		n := int(math.Pow(most/known(re), 1/float64(levels(re))) + 1e-9)
		least := 0
		switch re.Op {
		case syntax.OpPlus:
			least = 1
		case syntax.OpRepeat:
			least = re.Min
		}
		re.Op, re.Min, re.Max = syntax.OpRepeat, least, max(n, least, 1)
	}
	if re.Op == syntax.OpRepeat && re.Max > 1 {
		most /= float64(re.Max)
	}
	for _, s := range re.Sub {
		bound(s, most)
	}
}

// looksBefore reports whether a match may depend on what comes before it.
func looksBefore(re *syntax.Regexp) bool {
	switch re.Op {
	case syntax.OpBeginLine, syntax.OpBeginText, syntax.OpWordBoundary, syntax.OpNoWordBoundary:
		return true
	}
	for _, s := range re.Sub {
		if looksBefore(s) {
			return true
		}
	}
	return false
}

// measure returns how many bytes a match has, and how large the program will be, roughly. Numbers stop at a bound far above what is
// accepted.
func measure(re *syntax.Regexp) (least, most, size int) {
	const enough = 1 << 30
	switch re.Op {
	case syntax.OpLiteral:
		for _, r := range re.Rune {
			lo, hi := utf8.RuneLen(r), utf8.RuneLen(r)
			if re.Flags&syntax.FoldCase != 0 {
				for f := unicode.SimpleFold(r); f != r; f = unicode.SimpleFold(f) {
					lo, hi = min(lo, utf8.RuneLen(f)), max(hi, utf8.RuneLen(f))
				}
			}
			least, most, size = least+lo, most+hi, size+2*hi
		}
	case syntax.OpCharClass:
		for i := 0; i+1 < len(re.Rune); i += 2 {
			lo, hi := length(re.Rune[i]), length(re.Rune[i+1])
			if i == 0 {
				least = lo
			}
			least, most, size = min(least, lo), max(most, hi), size+1+3*(hi-lo)
		}
	case syntax.OpAnyChar, syntax.OpAnyCharNotNL:
		return 1, utf8.UTFMax, 10
	case syntax.OpAlternate:
		for i, s := range re.Sub {
			lo, hi, n := measure(s)
			if i == 0 {
				least = lo
			}
			least, most, size = min(least, lo), max(most, hi), size+n+1
		}
	case syntax.OpRepeat:
		lo, hi, n := measure(re.Sub[0])
		times := re.Max
		if times < 0 {
			times = enough
		}
		least, most, size = lo*re.Min, hi*min(times, enough/max(hi, 1)), (n+1)*min(times, enough/(n+1))
	case syntax.OpQuest:
		_, most, size = measure(re.Sub[0])
		size++
	default: // concatenations, captures, and what has no width
		size = 1
		for _, s := range re.Sub {
			lo, hi, n := measure(s)
			least, most, size = least+lo, most+hi, size+n
		}
	}
	return min(least, enough), min(most, enough), min(size, enough)
}

// length is how many bytes a rune has. Half of a surrogate pair has none in UTF-8, and its neighbors have three.
func length(r rune) int {
	if n := utf8.RuneLen(r); n > 0 {
		return n
	}
	return 3
}

// Width is how many bytes a match of a part has, at least and at most.
func Width(re *syntax.Regexp) (least, most int) {
	least, most, _ = measure(re)
	return least, most
}
