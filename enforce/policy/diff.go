package policy

import (
	"fmt"
	"sort"

	"github.com/warderd/warder/enforce"
)

// Diff describes what changes from a to b, one line each; nil stands for no policy. Everything that takes effect is
// listed; a rename alone gives no line.
func Diff(a, b *Document) []string {
	if a == nil {
		a = &Document{}
	}
	if b == nil {
		b = &Document{}
	}
	var out []string
	for _, s := range settings {
		ma, mb := a.Mode(s.Name), b.Mode(s.Name)
		switch {
		case ma == enforce.Off && mb == enforce.Off:
			continue
		case ma == enforce.Off:
			out = append(out, fmt.Sprintf("%s: now managed: %s (%s)", s.Name, s.text(b), mb))
			continue
		case mb == enforce.Off:
			out = append(out, fmt.Sprintf("%s: no longer managed (was %s)", s.Name, s.text(a)))
			continue
		}
		if s.list {
			out = append(out, listDiff(s.Name, s.show(a), s.show(b))...)
		} else if x, y := s.text(a), s.text(b); x != y {
			out = append(out, fmt.Sprintf("%s: %s → %s", s.Name, x, y))
		}
		if ma != mb {
			out = append(out, fmt.Sprintf("%s: mode %s → %s", s.Name, ma, mb))
		}
	}
	return append(out, unknownDiff(a, b)...)
}

// unknownDiff covers settings that only a newer version knows: their values cannot be compared.
func unknownDiff(a, b *Document) (out []string) {
	had := map[enforce.Setting]bool{}
	for _, u := range a.Unknown {
		had[u.Setting] = true
	}
	for _, u := range b.Unknown {
		if !had[u.Setting] {
			out = append(out, fmt.Sprintf("%s: now managed, unknown to this version", u.Setting))
		}
		delete(had, u.Setting)
	}
	var gone []string
	for s := range had {
		gone = append(gone, fmt.Sprintf("%s: no longer managed", s))
	}
	sort.Strings(gone)
	return append(out, gone...)
}

// text is a setting's value on one line.
func (s Setting) text(d *Document) string {
	v := s.show(d)
	if !s.list {
		return v[0]
	}
	switch {
	case len(v) == 0:
		return "empty list"
	case len(v) > 8:
		return fmt.Sprintf("%d entries", len(v))
	}
	return fmt.Sprint(v)
}

// maxDiff bounds how many added and how many removed entries of a list are named one by one; the versions themselves
// contain them all.
const maxDiff = 100

// listDiff lists the added and removed entries.
func listDiff(name enforce.Setting, a, b []string) (out []string) {
	had := make(map[string]bool, len(a))
	for _, x := range a {
		had[x] = true
	}
	say := func(sign, entry string, n int) {
		if n <= maxDiff {
			out = append(out, fmt.Sprintf("%s: %s %s", name, sign, entry))
		}
	}
	rest := func(sign string, n int) {
		if n > maxDiff {
			out = append(out, fmt.Sprintf("%s: %s %d more", name, sign, n-maxDiff))
		}
	}
	has, n := make(map[string]bool, len(b)), 0
	for _, x := range b {
		if !had[x] && !has[x] {
			n++
			say("+", x, n)
		}
		has[x] = true
	}
	rest("+", n)
	n = 0
	for _, x := range a {
		if !has[x] {
			n++
			say("-", x, n)
			has[x] = true
		}
	}
	rest("-", n)
	return out
}
