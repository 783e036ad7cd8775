package match

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/warderd/warder/enforce/sensitive"
)

// library is Hyperscan. Where it is not installed, nothing is shown about it.
func library(t testing.TB) *Library {
	t.Helper()
	l, err := OpenLibrary()
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skipf("libhyperscan5 is not installed: %v", err)
	}
	return l
}

type span struct{ from, to int64 }

// spans are the matches that an engine finds of each pattern, in a text that comes in pieces.
func spans(t testing.TB, e *Engine, text []byte, piece int) [][]span {
	t.Helper()
	out := make([][]span, len(e.patterns))
	x := e.Text()
	x.each = func(i int, from, to int64) { out[i] = append(out[i], span{from, to}) }
	for len(text) > 0 {
		n := min(piece, len(text))
		if _, err := x.Write(text[:n]); err != nil {
			t.Fatal(err)
		}
		text = text[n:]
	}
	if _, err := x.Close(); err != nil {
		t.Fatal(err)
	}
	return out
}

// wanted are those that Go's regexp finds.
func wanted(t testing.TB, expr string, text []byte) (out []span) {
	t.Helper()
	x, err := sensitive.Bound(expr)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(x.Text).FindAllIndex(text, -1) {
		if m[1] > m[0] {
			out = append(out, span{int64(m[0]), int64(m[1])})
		}
	}
	return out
}

// engines are all kinds, for the same patterns.
func engines(t testing.TB, list []sensitive.Pattern) map[string]*Engine {
	t.Helper()
	out := map[string]*Engine{}
	for name, o := range map[string]Options{"RE2": {}, "Hyperscan": {Library: library(t)}} {
		e, err := New(list, o)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(e.Name(), name) {
			t.Fatalf("%s is %s", name, e.Name())
		}
		t.Cleanup(e.Close)
		out[name] = e
	}
	cache := out["Hyperscan"].Cache()
	e, err := New(list, Options{Library: library(t), Cached: cache})
	if err != nil {
		t.Fatal(err)
	}
	if again := e.Cache(); !bytes.Equal(again, cache) {
		t.Fatal("what was cached is not what was compiled")
	}
	t.Cleanup(e.Close)
	out["Hyperscan, cached"] = e
	// What a version before this one has cached is not of this form: it is made anew.
	if e, err = New(list, Options{Library: library(t), Cached: append([]byte("warder-scan 1\n"), cache[len(cacheMagic):]...)}); err != nil || !bytes.Equal(e.Cache(), cache) {
		t.Fatalf("after an older one: %v", err)
	}
	e.Close()
	return out
}

// same compares all engines with Go's regexp, with the text in pieces of several sizes, and blocks of several sizes.
func same(t testing.TB, exprs []string, text []byte) {
	t.Helper()
	list := make([]sensitive.Pattern, len(exprs))
	for i, s := range exprs {
		list[i].Regex = s
	}
	want := make([][]span, len(exprs))
	for i, s := range exprs {
		want[i] = wanted(t, s, text)
	}
	for name, e := range engines(t, list) {
		for _, cut := range []struct{ block, piece int }{{usualBlock, usualBlock}, {64, 7}, {1, 1}} {
			if raced && cut.block != usualBlock {
				continue
			}
			e.block = cut.block
			got := spans(t, e, text, cut.piece)
			for i := range want {
				if !slices.Equal(got[i], want[i]) {
					t.Fatalf("%s, blocks of %d: %q (bounded: %q) in %q\n has %v\nwant %v", name, cut.block, exprs[i], e.patterns[i].expr.Text, text, got[i], want[i])
				}
			}
		}
	}
}

func TestSameAsGo(t *testing.T) {
	for _, x := range []struct {
		text  string
		exprs []string
	}{
		{"aaaa aaa aa a", []string{`aa`, `a+`, `a{2,3}`, `\ba{2}`, `a{2}\b`, `\Ba`, `a+?`, `(?:aa|a)`, `(?:a|aa)`}},
		{"one\ntwo\n\nthree", []string{`(?m)^t\w+`, `(?m)\w+$`, `^one`, `three$`, `(?m)^\w`, `\Aone`, `e\z`, `(?s)o.t`, `o.t`, `e$`, `(?m)e$`, `(?m:^)t|e\z`}},
		{"Straße ſtraße K K k σςΣ é\u00e9\U0001F600", []string{`(?i)straße`, `(?i)k`, `(?i)σ+`, `\pL+`, `[^a-z ]+`, `.{3}`, `\W`, `é`, `(?i)S`, `[\x{1F600}-\x{1F64F}]`, `\bk\b`}},
		{"x\x00y\x0bz \t\f\r\nq", []string{`\s+`, `[[:space:]]+`, `\S+`, `x.y`, `\x00`, `z $`, `(?m)z\s*$`}},
		{"no match here at all", []string{`zzz`, `\d+`}},
		{"", []string{`a`}},
		{"mail: john.doe@example.com, 4111 1111 1111 1111; 123-45-6789.", []string{
			`[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\.[A-Za-z]{2,}`, `\b(?:\d[ -]?){13,19}\b`, `\b\d{3}-\d{2}-\d{4}\b`, `(?:\d[ -]*?){13,16}`}},
		{strings.Repeat("ab", 700) + "!", []string{`(?:ab)+!`, `a[ab]*!`, `(?:a|b){1000}`, `[ab]+`, `b[ab]{3,}?a`}},
		{"-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END", []string{`-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----`, `(?i)begin[ a-z]*key`}},
	} {
		if raced { // nothing here runs beside anything else; the makefile runs it without the detector
			continue
		}
		same(t, x.exprs, []byte(x.text))
		for _, s := range x.exprs { // alone, too: nothing may depend on the others
			same(t, []string{s}, []byte(x.text))
		}
	}
}

// generated is an expression that is put together by chance.
func generated(r *rand.Rand, depth int) string {
	atoms := []string{"a", "b", "ab", "ba", `\d`, `\w`, `\W`, `\s`, "[ab]", "[^a]", ".", "é", "(?s:.)", `[a-cé]`, "(?i:K)", `\b`, `\B`, "(?m:^)", "(?m:$)", `\z`, "1", " ", "-"}
	if depth == 0 {
		return atoms[r.IntN(len(atoms))]
	}
	x := func() string { return generated(r, depth-1) }
	switch r.IntN(9) {
	case 0:
		return "(?:" + x() + "|" + x() + ")"
	case 1:
		return "(?:" + x() + ")" + []string{"*", "+", "?", "*?", "+?", "??"}[r.IntN(6)]
	case 2:
		n := r.IntN(4)
		return fmt.Sprintf("(?:%s){%d,%d}", x(), n, n+r.IntN(4))
	case 3:
		return fmt.Sprintf("(?:%s){%d}", x(), 1+r.IntN(3))
	case 4:
		return "(" + x() + ")"
	default:
		return x() + x()
	}
}

// madeText is a text that is put together by chance.
func madeText(r *rand.Rand, n int) []byte {
	parts := []string{"a", "b", "ab", "aa", "1", "2", " ", "\n", "é", "k", "K", "-", "_", "\r", "\v", "😀", "."}
	var b []byte
	for range n {
		b = append(b, parts[r.IntN(len(parts))]...)
	}
	return b
}

// usable reports whether an expression is looked for, and whether engines agree on what it means: Go and RE2 differ on a repetition
// of something that may be empty (golang.org/issue/46123).
func usable(s string) bool {
	if _, err := sensitive.Compile(sensitive.Pattern{Regex: s}); err != nil {
		return false
	}
	tree, err := syntax.Parse(s, syntax.Perl)
	return err == nil && !emptyLoop(tree)
}

func emptyLoop(re *syntax.Regexp) bool {
	switch re.Op {
	case syntax.OpStar, syntax.OpPlus, syntax.OpRepeat, syntax.OpQuest:
		if x, err := sensitive.Bound(re.Sub[0].String()); err != nil || x.Min == 0 {
			return true
		}
	}
	return slices.ContainsFunc(re.Sub, emptyLoop)
}

func TestGeneratedSameAsGo(t *testing.T) {
	library(t)
	r := rand.New(rand.NewPCG(16, 2026)) //nolint:gosec // the same each time
	tried := 0
	most := 1200
	if raced {
		most = 30
	}
	for tried < most {
		var exprs []string
		for range 1 + r.IntN(4) {
			if s := generated(r, 1+r.IntN(3)); usable(s) {
				exprs = append(exprs, s)
			}
		}
		if len(exprs) == 0 {
			continue
		}
		tried += len(exprs)
		same(t, exprs, madeText(r, r.IntN(120)))
	}
	t.Logf("%d patterns", tried)
}

func FuzzSameAsGo(f *testing.F) {
	f.Add(`\ba+b`, "aab ab")
	f.Add(`(?i)[k-z]{2,}\d$`, "Kk1 zz9")
	f.Add(`(?m)^.{3}$`, "abc\nédf\n")
	f.Fuzz(func(t *testing.T, expr, text string) {
		if len(expr) > 60 || len(text) > 300 || !utf8.ValidString(expr) || !utf8.ValidString(text) || !usable(expr) {
			return
		}
		if x, err := sensitive.Bound(expr); err != nil || x.Max > 4000 {
			return
		}
		same(t, []string{expr}, []byte(text))
	})
}

// A validator judges the first group of an expression.
func TestGroups(t *testing.T) {
	for name, e := range engines(t, []sensitive.Pattern{{Regex: `(?:^|\D)(\d{16})(?:\D|$)`, Validator: "luhn"}, {Regex: `card:? ?([\d ]{19})`, Validator: "luhn"}}) {
		for text, want := range map[string]int{",4111111111111111;": 1, "card: 4111 1111 1111 1111": 2, "card 4111 1111 1111 1112": 0} {
			x := e.Text()
			_, _ = x.Write([]byte(text))
			found, err := x.Close()
			if err != nil || want > 0 != (len(found) == 1 && found[0].Pattern == want-1 && !bytes.Contains(found[0].First, []byte("card"))) {
				t.Errorf("%s, %q: %+v, %v", name, text, found, err)
			}
		}
	}
}

// A number counts although there is another one beside it.
func TestNeighbors(t *testing.T) {
	const card, regex = "4111 1111 1111 1111", `\b(?:\d[ -]?){12,18}\d\b`
	for name, e := range engines(t, []sensitive.Pattern{{Regex: regex, Validator: "luhn"}, {Regex: `(?:\d[ -]?){12,18}\d`, Validator: "luhn"}}) {
		for text, want := range map[string]int{
			card: 1, card + " 12/27": 1, "no. 1 " + card: 1, "12 " + card + " 34": 1, "2024 " + card: 1, card + " 12 27 123": 1, "1 2 3 " + card: 1,
			"12345678 " + card: 1, card + " " + card: 2, card + "-5500000000000004": 2, "4111 1111 1111 1112": 0, "1234567890123456789012": 0, card + " 1 " + card + " 2": 2,
			strings.Repeat("1234 ", 30) + card + strings.Repeat(" 1234", 30): 1,
		} {
			for _, block := range []int{usualBlock, 1} {
				e.block = block
				x := e.Text()
				_, _ = x.Write([]byte("text: " + text + "\n"))
				found, err := x.Close()
				if err != nil {
					t.Fatal(err)
				}
				for i := range 2 {
					n := 0
					for _, f := range found {
						if f.Pattern == i {
							n = f.Count
						}
					}
					if n < want || want == 0 && n > 0 && len(text) < 30 {
						t.Errorf("%s, pattern %d, %q: %d, want %d", name, i, text, n, want)
					}
				}
			}
		}
	}
}
