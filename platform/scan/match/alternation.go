package match

import (
	"fmt"
	"regexp/syntax"
	"strings"

	re2 "github.com/wasilibs/go-re2"
)

// alternation is the gate without Hyperscan: all patterns as one expression. Whatever begins a match of one of them is inside a match
// of that, because RE2 finds the first that there is and goes on behind it.
type alternation struct {
	groups []group
}

// group is some of the patterns as one expression.
type group struct {
	re       *re2.Regexp
	patterns []int
}

// newAlternation makes it for some of the patterns. They are taken as they were written: a repetition without a bound finds all that
// one with a bound does, and needs less memory.
func newAlternation(patterns []pattern, which []int) (*alternation, error) {
	a := &alternation{}
	return a, a.add(patterns, which)
}

func (a *alternation) add(patterns []pattern, which []int) error {
	if len(which) == 0 {
		return nil
	}
	var parts []string
	for _, i := range which {
		tree, err := syntax.Parse(patterns[i].Regex, syntax.Perl)
		if err != nil {
			return fmt.Errorf("pattern %d: %w", i, err)
		}
		parts = append(parts, "(?:"+tree.String()+")")
	}
	re, err := re2.Compile(strings.Join(parts, "|"))
	switch {
	case err == nil:
		a.groups = append(a.groups, group{re, which})
		return nil
	case len(which) == 1:
		return fmt.Errorf("pattern %d: %w", which[0], err)
	}
	if err := a.add(patterns, which[:len(which)/2]); err != nil { // too large for one
		return err
	}
	return a.add(patterns, which[len(which)/2:])
}

func (a *alternation) look(text []byte, areas [][]area) error {
	for _, g := range a.groups {
		first := g.patterns[0]
		for _, m := range g.re.FindAllIndex(text, -1) {
			if m[1] > m[0] {
				areas[first] = join(areas[first], area{m[0], m[1] - 1}, nearby)
			}
		}
		for _, i := range g.patterns[1:] {
			areas[i] = append(areas[i], areas[first]...)
		}
	}
	return nil
}

// join adds an area, and makes one of those that overlap or are near each other. It is told of them in their order, or nearly.
func join(list []area, x area, near int) []area {
	for n := len(list); n > 0 && x.from <= list[n-1].to+near; n-- {
		x.from, x.to = min(x.from, list[n-1].from), max(x.to, list[n-1].to)
		list = list[:n-1]
	}
	return append(list, x)
}

func (a *alternation) name() string { return "RE2" }

func (a *alternation) close() {}
