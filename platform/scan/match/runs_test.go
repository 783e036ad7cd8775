package match

import (
	"fmt"
	"math/rand/v2"
	"regexp/syntax"
	"strings"
	"testing"

	"github.com/warderd/warder/enforce/sensitive"
)

// number is an expression of a number's kind that is put together by chance.
func number(r *rand.Rand) string {
	var b strings.Builder
	for range 1 + r.IntN(4) {
		class := []string{`\d`, `[A-Z]`, `[A-Z0-9]`, `[0-9a-f]`, `(?:\d[ -]?)`, `(?: ?[A-Z0-9]{2})`, `(?:\d|-\d)`, `(?:\d\d)?`, `[0-9é]`}[r.IntN(9)]
		n := 4 + r.IntN(6)
		b.WriteString(class + []string{"", "?", fmt.Sprintf("{%d}", n), fmt.Sprintf("{%d,%d}", n, n+r.IntN(6))}[r.IntN(4)])
		b.WriteString([]string{"", "", "-", " ", "[ -]?", "/"}[r.IntN(6)])
	}
	s := b.String()
	return []string{s, `\b` + s + `\b`, `(?:^|\D)` + s, s + `(?m:$)`}[r.IntN(4)]
}

// table is a text in which there are numbers.
func table(r *rand.Rand, n int) []byte {
	parts := []string{"0", "12", "345", "A", "BC", "f", "é", " ", "-", "/", "\n", "x", "yz "}
	var b []byte
	for range n {
		part := parts[r.IntN(len(parts))]
		if r.IntN(3) > 0 {
			part = strings.Repeat(parts[r.IntN(5)], 1+r.IntN(6))
		}
		b = append(b, part...)
	}
	return b
}

// What is looked for in runs alone is found as elsewhere, by itself and with others.
func TestRuns(t *testing.T) {
	r := rand.New(rand.NewPCG(16, 17)) //nolint:gosec // the same each time
	most, of := 600, 0
	if raced {
		most = 10
	}
	for tried := 0; tried < most; {
		var exprs []string
		for range 1 + r.IntN(3) {
			s := number(r)
			if !usable(s) {
				continue
			}
			exprs = append(exprs, s)
			x, err := sensitive.Compile(sensitive.Pattern{Regex: s})
			if err != nil {
				t.Fatal(err)
			}
			if y := translate(&x); y.run != nil {
				of++
			}
		}
		tried += max(1, len(exprs))
		if len(exprs) > 0 {
			same(t, exprs, table(r, r.IntN(200)))
		}
	}
	if of < most/3 {
		t.Fatalf("only %d of %d patterns are looked for in runs", of, most)
	}
	t.Logf("%d patterns, %d of them in runs", most, of)
}

// Whatever has a run's length is found, wherever it is, and not everything is looked at.
func TestRunsFind(t *testing.T) {
	kinds := []string{`(?:\d[ -]?){12}\d`, `[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){3}`, `\d{3}-\d{2}-\d{4}`, `[0-9a-f]{32}`, `\d{8}`}
	var all runs
	for _, s := range kinds {
		tree, err := syntax.Parse(s, syntax.Perl)
		if err != nil {
			t.Fatal(err)
		}
		x := runOf(flat(tree, nil))
		if x == nil || all.of(x) != x {
			t.Fatalf("%s is not looked for in runs", s)
		}
	}
	r := rand.New(rand.NewPCG(3, 4)) //nolint:gosec // the same each time
	for _, share := range []int{0, 1, 10, 60, 100} {
		text := make([]byte, 4000)
		for i := range text {
			if text[i] = "ghijklmnop\n"[r.IntN(11)]; r.IntN(100) < share {
				text[i] = "0123456789-A "[r.IntN(13)]
			}
		}
		for range 10 {
			at := r.IntN(3900)
			copy(text[at:], "4111 1111 1111 1111")
		}
		list := all.find(text, nil)
		for i, k := range all.kinds {
			for from := 0; from < len(text); {
				to, n := from, 0
				for ; to < len(text) && k.may[text[to]]; to++ {
					if k.must[text[to]] {
						n++
					}
				}
				if n >= k.least && !inside(list, from, to-1) {
					t.Errorf("%d%%: %s: %q at %d is in none of %v", share, kinds[i], text[from:to], from, list)
				}
				from = to + 1
			}
		}
		sum := 0
		for i, x := range list {
			if sum += x.to - x.from + 1; i > 0 && x.from <= list[i-1].to {
				t.Errorf("%d%%: not in order: %v", share, list)
			}
		}
		if share <= 1 && sum > 2500 || share == 100 && sum != len(text) {
			t.Errorf("%d%%: %d bytes are looked at: %v", share, sum, list)
		}
	}
	for _, s := range []string{`[a-z]{12}`, `\d{4}`, `\b\d{5}\B\d{5}`, `ID-\d{12}`, `(?:^|x)\d{12}`} {
		tree, err := syntax.Parse(s, syntax.Perl)
		if err != nil {
			t.Fatal(err)
		}
		if runOf(flat(tree, nil)) != nil {
			t.Errorf("%s is looked for in runs", s)
		}
	}
}

func inside(list []area, from, to int) bool {
	for _, x := range list {
		if x.from <= from && to <= x.to {
			return true
		}
	}
	return false
}
