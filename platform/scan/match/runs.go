package match

import (
	"math/bits"
	"regexp/syntax"
	"slices"
	"unicode/utf8"

	"github.com/warderd/warder/enforce/sensitive"
)

// run is what every match of some patterns is part of, those of numbers above all: so many bytes after one another, all of a few
// kinds. Usual text has few of those, and they are found by looking at three bytes in a run's length. The library, which has no word to go
// by in such a pattern, looks at all of them: it gets only the runs, and is up to ten times as fast with the other patterns.
type run struct {
	may, must [256]bool // the bytes of a run, and those of which it has at least so many
	least     int
}

const (
	shortRun  = 8   // bytes: below that too many must be looked at
	mostRuns  = 16  // kinds of runs, a bit each
	usualRun  = 0.5 // how much of usual text may be of a run's bytes
	restRuns  = 8   // after a text with too many, so many are not looked at
	manyBytes = 64 << 10
	pieceCost = 128 // looking at a piece costs as much as so many bytes more of it
)

// runOf says what all matches of an expression are part of, or returns nil if that does not help: a run is of too many kinds of bytes,
// or too short, or a word is in every match, by which the library is quicker.
func runOf(parts []*syntax.Regexp) *run {
	r := &run{}
	for _, p := range parts {
		lo, _ := sensitive.Width(p)
		if r.least += lo; !r.add(p, true) {
			return nil
		}
	}
	var share float64
	for b := range usual {
		if r.may[b] {
			share += usual[b]
		}
	}
	if r.least < shortRun || share > usualRun || word(parts, 3) {
		return nil
	}
	return r
}

// add adds the bytes that a part may have, which is in every match or not. It reports false for what looks at its surroundings, which
// are not there at the ends of a run.
func (r *run) add(re *syntax.Regexp, always bool) bool {
	switch re.Op {
	case syntax.OpEmptyMatch:
		return true
	case syntax.OpLiteral:
		for _, c := range re.Rune {
			r.one(&syntax.Regexp{Op: syntax.OpLiteral, Rune: []rune{c}, Flags: re.Flags}, always)
		}
		return true
	case syntax.OpCharClass, syntax.OpAnyChar, syntax.OpAnyCharNotNL:
		r.one(re, always)
		return true
	case syntax.OpAlternate, syntax.OpConcat, syntax.OpCapture, syntax.OpRepeat, syntax.OpQuest:
		always = always && re.Op != syntax.OpQuest && (re.Op != syntax.OpRepeat || re.Min > 0)
		for _, s := range re.Sub {
			if !r.add(s, always) {
				return false
			}
		}
		return true
	}
	return false
}

// one adds the bytes of one character of a kind.
func (r *run) one(re *syntax.Regexp, always bool) {
	for b, is := range bytesOf(re) {
		r.may[b] = r.may[b] || is
		r.must[b] = r.must[b] || is && always
	}
}

// usual is how much of usual text a byte is: letters in English, tables and logs, and source code.
var usual = func() (share [256]float64) {
	for i, n := range []float64{82, 15, 28, 43, 127, 22, 20, 61, 70, 2, 8, 40, 24, 67, 75, 19, 1, 60, 63, 91, 28, 10, 24, 2, 20, 1} {
		share['a'+i] = 0.6 * n / 1003
		share['A'+i] = 0.05 * n / 1003
	}
	for b := range share {
		switch {
		case b == ' ':
			share[b] = 0.14
		case b >= '0' && b <= '9':
			share[b] = 0.01
		case share[b] == 0 && b > ' ' && b < utf8.RuneSelf:
			share[b] = 0.08 / 33
		}
	}
	return share
}()

// runs are several kinds, which are looked for together.
type runs struct {
	kinds []*run
	bits  [256]uint16 // which kinds a byte may be of
	step  int         // of so many places one after the other, one is two bytes before the end of a run, or further
	past  [mostRuns]int
	rest  int // so many texts are not looked at, because the last one had too many runs
}

// of is the run that a pattern's is the same as. It is nil when there are too many already.
func (r *runs) of(x *run) *run {
	if at := slices.IndexFunc(r.kinds, func(k *run) bool { return *k == *x }); at >= 0 {
		return r.kinds[at]
	}
	if len(r.kinds) == mostRuns {
		return nil
	}
	for b, may := range x.may {
		if may {
			r.bits[b] |= 1 << len(r.kinds)
		}
	}
	if r.step == 0 || x.least-2 < r.step {
		r.step = x.least - 2
	}
	r.kinds = append(r.kinds, x)
	return x
}

// find lists the pieces of a text that have all runs in them, in their order. Where there are so many that looking at all of the text
// costs less, it is that.
func (r *runs) find(text []byte, list []area) []area {
	list = list[:0]
	everything := area{0, len(text) - 1}
	if r.rest > 0 {
		r.rest--
		return append(list, everything)
	}
	r.past = [mostRuns]int{}
	looked := 0
	for at := 0; at+2 < len(text); at += r.step {
		kinds := r.bits[text[at]] & r.bits[text[at+1]] & r.bits[text[at+2]]
		if kinds == 0 {
			continue
		}
		for ; kinds != 0; kinds &= kinds - 1 {
			i := bits.TrailingZeros16(kinds)
			if at < r.past[i] {
				continue
			}
			from, to, whole := r.kinds[i].around(text, at)
			r.past[i] = to
			if looked += to - from; whole {
				list = join(list, area{from, to - 1}, pieceCost/2)
			}
		}
		if looked+pieceCost*len(list) > len(text)*3/4 {
			if len(text) > manyBytes { // which says something about what comes after it
				r.rest = restRuns
			}
			return append(list[:0], everything)
		}
	}
	return list
}

// around is the run that has a place in it, and whether it is one in which there may be a match.
func (r *run) around(text []byte, at int) (from, to int, whole bool) {
	n := 0
	count := func(b byte) {
		if r.must[b] {
			n++
		}
	}
	for from = at; from > 0 && r.may[text[from-1]]; from-- {
		count(text[from-1])
	}
	for to = at; to < len(text) && r.may[text[to]]; to++ {
		count(text[to])
	}
	return from, to, n >= r.least
}
