//go:build bench && linux && (amd64 || arm64)

package match

import (
	"bufio"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	re2 "github.com/wasilibs/go-re2"

	"github.com/warderd/warder/enforce/sensitive"
)

// typical are eight patterns as policies have them.
var typical = []sensitive.Pattern{
	{Regex: `[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\.[A-Za-z]{2,}`},
	{Regex: `\b(?:\d[ -]?){12,18}\d\b`, Validator: "luhn"},
	{Regex: `\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){3,7}(?: ?[A-Z0-9]{1,3})?\b`, Validator: "iban"},
	{Regex: `\b\d{3}-\d{2}-\d{4}\b`, Validator: "us_ssn"},
	{Regex: `-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----`},
	{Regex: `\b(?:AKIA|ASIA)[A-Z0-9]{16}\b`},
	{Regex: `(?i)\b(?:strictly confidential|internal use only|do not distribute)\b`},
	{Regex: `\bgh[pousr]_[A-Za-z0-9]{36}\b`},
}

// many are two hundred: the same, and keys of services as public lists have them.
func many() []sensitive.Pattern {
	list := slices.Clone(typical)
	for i := range 192 {
		id := fmt.Sprintf("%c%c%c", 'a'+i%26, 'a'+i/26, 'k'+i%7)
		list = append(list, sensitive.Pattern{Regex: []string{
			`(?i)\b` + id + `[_-]?(?:api|secret)[_-]?key["' :=]{1,4}[0-9a-f]{32}\b`,
			`\b` + id + `_live_[0-9A-Za-z]{24,99}\b`,
			`\b` + strings.ToUpper(id) + `-\d{4}-\d{6}\b`,
			`https://hooks\.` + id + `\.example/services/[A-Za-z0-9/]{20,80}`,
		}[i%4]})
	}
	return list
}

// mixed is text of several kinds, with so many matches in a megabyte, at random places: half of it are Go's own sources and their
// documents, and the rest logs, tables and letters.
func mixed(t testing.TB, size, hits int) []byte {
	t.Helper()
	r := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // the same each time
	words := strings.Fields("the quick report about sales in March was sent to all customers and partners who had asked for it last year because " +
		"they wanted figures of their own regions with names dates amounts and notes which nobody else should read before the meeting")
	data := []string{"jane.doe@example.org", "4111 1111 1111 1111", "DE89 3704 0044 0532 0130 00", "123-45-6789", "AKIAIOSFODNN7EXAMPLE",
		"internal use only", "ghp_0123456789abcdefghijABCDEFGHIJ012345"}
	var files []string
	_ = filepath.WalkDir(filepath.Join(runtime.GOROOT(), "src"), func(path string, d fs.DirEntry, err error) error { //nolint:staticcheck // where there is Go
		if err == nil && d.Type().IsRegular() && !strings.Contains(path, "testdata") {
			files = append(files, path)
		}
		return nil
	})
	r.Shuffle(len(files), func(i, j int) { files[i], files[j] = files[j], files[i] })
	b := make([]byte, 0, size+1<<20)
	at := 0
	next := func() {
		if at = 1 << 40; hits > 0 {
			at = len(b) + r.IntN(2*(1<<20)/hits)
		}
	}
	next()
	line := func(s string) {
		if b = append(b, s...); len(b) >= at {
			b = append(append(append(b, ' '), data[r.IntN(len(data))]...), ' ')
			next()
		}
		b = append(b, '\n')
	}
	var source []string
	for n := 0; len(b) < size; n++ {
		if n%2 == 0 {
			for len(source) < 40 {
				file, err := os.ReadFile(files[n%len(files)])
				if err != nil || !utf8.Valid(file) {
					file = nil
				}
				n += 2
				source = append(source, strings.Split(string(file), "\n")...)
			}
			for _, s := range source[:40] {
				line(s)
			}
			source = source[40:]
			continue
		}
		for range 8 {
			switch r.IntN(4) {
			case 0:
				var s []string
				for range 14 {
					s = append(s, words[r.IntN(len(words))])
				}
				line(strings.Join(s, " ") + ".")
			case 1:
				line(fmt.Sprintf("%d;%s;2026-%02d-%02d;%d.%02d;%x", r.IntN(1e6), words[r.IntN(len(words))], 1+r.IntN(12), 1+r.IntN(28), r.IntN(1e5), r.IntN(100), r.Uint32()))
			default:
				line(fmt.Sprintf("2026-11-%02dT%02d:%02d:%02dZ INFO server[%d]: request id=%016x took %d ms from 10.0.%d.%d", 1+r.IntN(28), r.IntN(24), r.IntN(60), r.IntN(60), r.IntN(9999), r.Uint64(), r.IntN(500), r.IntN(256), r.IntN(256)))
			}
		}
	}
	return []byte(strings.ToValidUTF8(string(b[:size]), "?"))
}

// pass is one look at a text, in pieces of a megabyte.
func pass(t testing.TB, e *Engine, text []byte) (time.Duration, int) {
	began, n := time.Now(), 0
	x := e.Text()
	x.each = func(int, int64, int64) { n++ }
	for at := 0; at < len(text); at += 1 << 20 {
		if _, err := x.Write(text[at:min(len(text), at+1<<20)]); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := x.Close(); err != nil {
		t.Fatal(err)
	}
	return time.Since(began), n
}

// middle is the median of ratios.
func middle(list []float64) float64 {
	slices.Sort(list)
	return list[len(list)/2]
}

// TestSpeed compares with a loop in C, ripgrep, and one alternation of go-re2, in turn in the same run. It fails at nothing: figures
// are for people.
func TestSpeed(t *testing.T) {
	dir := t.TempDir()
	loop := filepath.Join(dir, "loop")
	if out, err := exec.Command("gcc", "-O2", "-o", loop, "testdata/loop.c", "-lhs").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, x := range []struct {
		name string
		list []sensitive.Pattern
		hits int
		size int
	}{{"8 patterns, 20 hits a MB", typical, 20, 64 << 20}, {"200 patterns, 20 hits a MB", many(), 20, 64 << 20}, {"8 patterns, 5,000 hits a MB", typical, 5000, 64 << 20}, {"200 patterns, 5,000 hits a MB", many(), 5000, 16 << 20}} {
		text := mixed(t, x.size, x.hits)
		file := filepath.Join(dir, "text")
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		e, err := New(x.list, Options{Library: library(t)})
		if err != nil {
			t.Fatal(err)
		}
		alone, err := New(x.list, Options{})
		if err != nil {
			t.Fatal(err)
		}
		var exprs strings.Builder
		for i := range e.patterns { // the whole patterns, as somebody writes them who has only Hyperscan
			w := writer{}
			if w.write(e.patterns[i].expr.Tree) {
				fmt.Fprintf(&exprs, "%d\t%s\n", w.flags, w.String())
			}
		}
		list := filepath.Join(dir, "list")
		if err := os.WriteFile(list, []byte(exprs.String()), 0o600); err != nil {
			t.Fatal(err)
		}
		c := exec.Command(loop, list, file)
		in, _ := c.StdinPipe()
		outPipe, _ := c.StdoutPipe()
		c.Stderr = os.Stderr
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(outPipe)
		rg := []string{"--no-unicode", "-j1", "--count-matches", "--no-config"}
		var parts []string
		for _, p := range x.list {
			rg = append(rg, "-e", p.Regex)
			parts = append(parts, "(?:"+p.Regex+")")
		}
		one := re2.MustCompile(strings.Join(parts, "|"))
		var ours, cs, rgs, ownRE2, alt []float64
		var hits, hitsC int
		for range 5 {
			d, n := pass(t, e, text)
			hits = n
			ours = append(ours, d.Seconds())
			fmt.Fprintln(in)
			if !lines.Scan() {
				t.Fatal("the loop has ended")
			}
			var sec float64
			fmt.Sscan(lines.Text(), &sec, &hitsC)
			cs = append(cs, sec)
			began := time.Now()
			if out, err := exec.Command("rg", append(rg, file)...).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			rgs = append(rgs, time.Since(began).Seconds())
			d, _ = pass(t, alone, text)
			ownRE2 = append(ownRE2, d.Seconds())
			began = time.Now()
			for at := 0; at < len(text); at += 1 << 20 {
				one.FindAllIndex(text[at:min(len(text), at+1<<20)], -1)
			}
			alt = append(alt, time.Since(began).Seconds())
		}
		in.Close()
		_ = c.Wait()
		ratio := func(a, b []float64) float64 {
			var out []float64
			for i := range a {
				out = append(out, a[i]/b[i])
			}
			return middle(out)
		}
		mb := float64(len(text)) / 1e6
		t.Logf("%s (%d found, %d ends for the C loop; %s)\n  ours %.0f MB/s · C loop %.0f (%.2f of it) · ripgrep %.0f (%.2f times) · ours without Hyperscan %.0f · go-re2's alternation %.0f (%.2f of it)",
			x.name, hits, hitsC, e.Name(), mb/middle(ours), mb/middle(cs), ratio(cs, ours), mb/middle(rgs), ratio(rgs, ours), mb/middle(ownRE2), mb/middle(alt), ratio(alt, ownRE2))
	}
}
