package sensitive

import (
	"errors"
	"fmt"
	"slices"
)

// Pattern is one kind of sensitive data.
type Pattern struct {
	Name      string `json:"name,omitempty"`      // "" for one without: it is told of by its place in the list
	Regex     string `json:"regex"`               // as it was written
	Validator string `json:"validator,omitempty"` // what must be true of a match, by name; "" for nothing
	MinCount  int    `json:"min_count,omitempty"` // how many matches there must be; 0 is 1
	Window    int    `json:"window,omitempty"`    // bytes of text within which they must be; 0 for anywhere
}

// The bounds of a pattern.
const (
	MaxCount  = 1000    // matches that are counted; there may be more
	MaxWindow = 1 << 20 // bytes
)

// Least is how many matches there must be.
func (p *Pattern) Least() int { return max(p.MinCount, 1) }

// String is the pattern for people, and for comparing two documents.
func (p Pattern) String() string {
	s := p.Regex
	if p.Validator != "" {
		s += " validator=" + p.Validator
	}
	if p.MinCount > 1 {
		s += fmt.Sprintf(" min_count=%d", p.MinCount)
	}
	if p.Window > 0 {
		s += fmt.Sprintf(" window=%d", p.Window)
	}
	if p.Name != "" {
		s = p.Name + ": " + s
	}
	return s
}

// Tally counts the matches of one pattern in one text, in their order.
type Tally struct {
	p     *Pattern
	check func([]byte) bool // nil: nothing
	last  []int64           // where the last matches begin, as many as there must be; used only with a window
	n     int
	found bool
}

// NewTally begins to count.
func NewTally(p *Pattern) Tally { return Tally{p: p, check: validators[p.Validator].okay()} }

// Passes reports whether a text is what the pattern's validator wants; Checks, whether it has one.
func (t *Tally) Passes(match []byte) bool { return t.check == nil || t.check(match) }

// PassesPart reports the same of a part of a match that did not pass. One number in ten has a check digit of Luhn's by chance, so a
// part must be written as cards are: in one, or in the groups that are on them.
func (t *Tally) PassesPart(part []byte) bool {
	if !t.Passes(part) {
		return false
	}
	return t.p.Validator != "luhn" || grouped(part)
}

// Checks reports whether the pattern has a validator.
func (t *Tally) Checks() bool { return t.check != nil }

// Add counts a match at an offset. It reports whether the match counts.
func (t *Tally) Add(at int64, match []byte) bool {
	if t.Full() || t.check != nil && !t.check(match) {
		return false
	}
	t.n = min(t.n+1, MaxCount)
	least := t.p.Least()
	if t.p.Window == 0 || least == 1 {
		t.found = t.found || t.n >= least
		return true
	}
	t.last = append(t.last, at)
	if len(t.last) > least {
		t.last = slices.Delete(t.last, 0, 1)
	}
	t.found = t.found || len(t.last) == least && at+int64(len(match))-t.last[0] <= int64(t.p.Window)
	return true
}

// Full reports whether no more matches are counted.
func (t *Tally) Full() bool {
	return t.n >= MaxCount && (t.found || t.p.Window == 0 || t.p.Least() == 1)
}

// Count is how many matches counted.
func (t *Tally) Count() int { return t.n }

// Found reports whether there were as many as there must be, and as close together.
func (t *Tally) Found() bool { return t.found }

// Errors of Compile, beside ErrLarge and those of the syntax.
var (
	ErrEmpty     = errors.New("matches the empty text, which is everywhere")
	ErrValidator = errors.New("names a validator that this version does not know")
)

// Compile makes of a pattern what is looked for, or says why it is not: the error goes on after the name of the pattern.
func Compile(p Pattern) (Expr, error) {
	x, err := Bound(p.Regex)
	switch {
	case err != nil:
		return x, err
	case x.Min == 0:
		return x, ErrEmpty
	case p.Validator != "" && validators[p.Validator].must == nil:
		return x, ErrValidator
	}
	return x, nil
}

// ErrTogether is the answer for a pattern that is too large beside those before it.
var ErrTogether = errors.New("is too large beside those before it to be looked for")

// Beside adds an expression to what is looked for together, or says that there is no room.
func (x *Expr) Beside(all *int) error {
	if *all+x.size > allSize {
		return ErrTogether
	}
	*all += x.size
	return nil
}

// Select compiles those of a list that can be looked for together, in their order. It returns the place of each, and why others are
// not.
func Select(list []Pattern) (taken []int, left map[int]error) {
	left = map[int]error{}
	all := 0
	for i := range list {
		x, err := Compile(list[i])
		if err == nil {
			err = x.Beside(&all)
		}
		if err != nil {
			left[i] = err
			continue
		}
		taken = append(taken, i)
	}
	return taken, left
}
