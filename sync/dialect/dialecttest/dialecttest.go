// Package dialecttest checks what is so of every vendor's translator: each leaf of a document becomes exactly one thing, nothing is asked
// for that was not, and a field that nobody knows changes nothing.
package dialecttest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/sync/dialect"
)

// Translator is a vendor's.
type Translator func([]byte, dialect.Options) (dialect.Translation, error)

// Translate translates a body that can be, and checks it.
func Translate(t testing.TB, f Translator, body []byte, o dialect.Options) (dialect.Translation, *policy.Document) {
	t.Helper()
	x, err := f(body, o)
	if err != nil {
		t.Fatalf("%v: %s", err, body)
	}
	d, err := policy.Decode(x.Document, policy.Options{Strict: true})
	if err != nil {
		t.Fatalf("%v: %s", err, x.Document)
	}
	if err := Exact(x, body, d); err != nil {
		t.Fatalf("%v\n%s", err, body)
	}
	return x, d
}

// Fuzz gives a translator whatever comes.
func Fuzz(f *testing.F, translate Translator) {
	f.Fuzz(func(t *testing.T, b []byte) {
		o := dialect.Options{Whole: len(b)%2 == 0, Apps: map[string][]string{"app": {"/usr/bin/app"}}}
		x, err := translate(b, o)
		if err != nil {
			return
		}
		d, err := policy.Decode(x.Document, policy.Options{Strict: true})
		if err != nil {
			t.Fatal(err)
		}
		if err := Exact(x, b, d); err != nil {
			t.Fatal(err)
		}
		var top map[string]any
		dec := json.NewDecoder(strings.NewReader(string(b)))
		dec.UseNumber()
		if dec.Decode(&top) != nil || top["zz_new"] != nil {
			return
		}
		top["zz_new"] = map[string]any{"enabled": true, "compliance": "enforce"}
		more, err := json.Marshal(top)
		if err != nil {
			t.Fatal(err)
		}
		y, err := translate(more, o)
		if err != nil {
			return // it has become too large
		}
		if string(y.Document) != string(x.Document) || y.Stamp != x.Stamp || len(y.Named) != len(x.Named)+2 {
			t.Fatalf("%s\n%s\n%q", x.Document, y.Document, y.Named)
		}
	})
}

// Exact says what of a translation is not as it has to be.
func Exact(x dialect.Translation, body []byte, d *policy.Document) error {
	var v any
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	if err := dec.Decode(&v); err != nil {
		return err
	}
	inside, twice := map[string]bool{}, false
	for _, l := range x.Leaves {
		if l.Fate == dialect.Unread || l.Path == "" {
			return fmt.Errorf("%q is %s", l.Path, l.Fate)
		}
		if l.Fate == dialect.Sentinel && !quiet(at(v, l.Path)) {
			return fmt.Errorf("%q is said to be not configured, and is %v", l.Path, at(v, l.Path))
		}
		if text, rest, is := strings.Cut(l.Path, "»"); is {
			inside[text] = true
			twice = twice || strings.Contains(rest, "»")
		}
		if l.Fate == dialect.Translated && l.Setting != "compliance" && d.Mode(l.Setting) == enforce.Off {
			return fmt.Errorf("%q is said to be %s, which is not in the policy", l.Path, l.Setting)
		}
	}
	n := leaves(v)
	for path := range inside { // a text counts as what is in it
		text, is := at(v, path).(string)
		if !is {
			n = -1 // its path was cut, or made safe
			break
		}
		var in any
		if err := json.Unmarshal([]byte(text), &in); err != nil {
			return fmt.Errorf("%q: %w", path, err)
		}
		n += leaves(in) - 1
	}
	if n >= 0 && !twice && len(x.Leaves) != n {
		return fmt.Errorf("%d leaves, of %d", len(x.Leaves), n)
	}
	for _, s := range d.Settings() {
		if s == "dlp.zones" { // made of the programs that the operator has named
			continue
		}
		if !slices.ContainsFunc(x.Leaves, func(l dialect.Leaf) bool { return l.Fate == dialect.Translated && l.Setting == s }) {
			return fmt.Errorf("%s is asked for by no leaf", s)
		}
	}
	return nil
}

// at is what a document has at a place, or a place that the test cannot follow: a name with a point in it.
func at(v any, path string) any {
	for len(path) > 0 {
		if rest, is := strings.CutPrefix(path, "»"); is {
			text, _ := v.(string)
			if json.Unmarshal([]byte(text), &v) != nil {
				return lost{}
			}
			path = rest
			continue
		}
		end := strings.IndexAny(path[1:], ".[»") + 1
		if end == 0 {
			end = len(path)
		}
		var i int
		name := strings.TrimPrefix(path[:end], ".")
		m, object := v.(map[string]any)
		list, _ := v.([]any)
		value, has := m[name]
		switch n, _ := fmt.Sscanf(name, "[%d]", &i); {
		case object && has:
			v = value
		case n == 1 && i < len(list):
			v = list[i]
		default:
			return lost{}
		}
		path = path[end:]
	}
	return v
}

type lost struct{}

// quiet reports whether a value can mean "not configured".
func quiet(v any) bool {
	switch x := v.(type) {
	case lost, nil:
		return true
	case bool:
		return !x
	case map[string]any:
		return len(x) == 0
	case []any:
		return len(x) == 0
	}
	return slices.Contains([]string{"", "--", "-1", "0", "false"}, strings.ToLower(strings.TrimSpace(fmt.Sprint(v))))
}

// leaves counts those of a value, by itself.
func leaves(v any) (n int) {
	switch x := v.(type) {
	case map[string]any:
		for _, y := range x {
			n += leaves(y)
		}
	case []any:
		for _, y := range x {
			n += leaves(y)
		}
	}
	return max(n, 1)
}
