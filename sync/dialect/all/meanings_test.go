package all

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/sync/dialect"
)

// meanings says of each row what values mean, and of each setting which of two values is the stricter one. It is read by people: a mistake
// in it would be carried to laptops.
func meanings() string {
	var b strings.Builder
	for _, v := range Vendors {
		for _, r := range v.Rows {
			if r.Setting == "" || r.How == dialect.Names || r.How == dialect.Secret {
				continue
			}
			fmt.Fprintf(&b, "%s %s: %s", v.ID, r.Full(), r.Setting)
			for _, word := range []string{"true", "false", "0", "1", "2", "4", "5", "8", "90", "1440", "black-list", "white-list", "https://a.example/"} {
				doc, _ := dialect.Read(fmt.Appendf(nil, `{"v":%q}`, word))
				x := dialect.Build(v.ID, doc, dialect.Options{Whole: true})
				x.Value(r, doc.Root().Get("v"))
				t, err := x.Finish()
				if err != nil {
					return err.Error()
				}
				if value := set(t, r.Setting); value != "" {
					fmt.Fprintf(&b, " %s=%s", word, value)
				}
			}
			b.WriteString("\n")
		}
	}
	for _, s := range slices.Sorted(slices.Values(slices.Concat(policy.Names(), slices.Collect(maps.Keys(dialect.Coming))))) {
		row, now := policy.Find(s)
		if !now {
			row = dialect.Coming[s]
		}
		if row.Order != policy.NoOrder {
			fmt.Fprintf(&b, "%s: %s\n", s, []string{"", "false is stricter", "true is stricter", "less is stricter", "more is stricter"}[row.Order])
		}
	}
	return b.String()
}

// set is the value of a setting in a translation, or what is kept of it.
func set(t dialect.Translation, s enforce.Setting) string {
	if v, kept := t.Kept[s]; kept {
		return fmt.Sprint(v)
	}
	var doc struct {
		Data map[string]map[string]json.RawMessage `json:"policy_data"`
	}
	if json.Unmarshal(t.Document, &doc) != nil {
		return "?"
	}
	section, field, _ := strings.Cut(string(s), ".")
	return string(doc.Data[section][field])
}

// WARDER_UPDATE=1 writes testdata/meanings.txt, to be read before it is committed.
func TestMeanings(t *testing.T) {
	const file = "testdata/meanings.txt"
	got := meanings()
	if os.Getenv("WARDER_UPDATE") != "" {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil { //nolint:gosec // a document
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil || got != string(want) {
		t.Errorf("values mean something else than %s says (%v):\n%s", file, err, got)
	}
}

// Each object of a vendor's document can have a field that nobody knows: it is named, and changes nothing else.
func TestUnknownEverywhere(t *testing.T) {
	for id, names := range map[string][]string{"apperian": {"applied.json"}, "manageengine": {"many.json", "sample.json"}, "mocana": {"sample.json", "browser.json"}, "wso2": {"many.json", "sample.json"}} {
		v, _ := Find(id)
		for _, name := range names {
			body, err := os.ReadFile("../" + id + "/testdata/" + name)
			if err != nil {
				t.Fatal(err)
			}
			o := dialect.Options{Whole: true, Apps: map[string][]string{"app": {"/usr/bin/app"}}}
			before, err := v.Translate(body, o)
			if err != nil {
				t.Fatal(err)
			}
			n := 0
			for i := 0; ; i++ {
				changed, at, more := insert(t, body, i)
				if !more {
					break
				}
				n++
				x, err := v.Translate(changed, o)
				if err != nil {
					t.Fatalf("%s %s: %v", id, at, err)
				}
				said := slices.ContainsFunc(x.Named, func(u dialect.Unsupported) bool { return strings.Contains(u.Name, "zz_new") })
				if owned := slices.ContainsFunc([]string{"devices[", "deviceGroups["}, func(p string) bool { return strings.HasPrefix(at, p) }); !said && !owned && !inWhole(x, at) {
					t.Errorf("%s %s: a new field in %q is not named", id, name, at)
				}
				if string(x.Document) != string(before.Document) || fmt.Sprint(x.Kept) != fmt.Sprint(before.Kept) {
					t.Errorf("%s %s: a new field in %q changes %s %v", id, name, at, x.Document, x.Kept)
				}
			}
			if n < 1 {
				t.Errorf("%s %s: %d objects", id, name, n)
			}
		}
	}
}

// inWhole reports whether a new field was named with all that is around it.
func inWhole(x dialect.Translation, at string) bool {
	return slices.ContainsFunc(x.Leaves, func(l dialect.Leaf) bool {
		return l.Fate == dialect.Named && strings.HasPrefix(l.Path, at) && strings.Contains(l.Path, "zz_new")
	})
}

// insert puts a field into the object with a number, also where it is in a text, and says where that is.
func insert(t *testing.T, body []byte, number int) (changed []byte, at string, ok bool) {
	var v any
	if err := json.Unmarshal(body, &v); err != nil {
		t.Fatal(err)
	}
	count := 0
	var walk func(v any, path string) any
	walk = func(v any, path string) any {
		switch x := v.(type) {
		case map[string]any:
			for name, y := range x {
				x[name] = y
			}
			if count == number {
				x["zz_new"], at, ok = "some value", path, true
			}
			count++
			for _, name := range slices.Sorted(maps.Keys(x)) {
				x[name] = walk(x[name], strings.TrimPrefix(strings.Replace(path+"."+name, "».", "»", 1), "."))
			}
		case []any:
			for i := range x {
				x[i] = walk(x[i], fmt.Sprintf("%s[%d]", path, i))
			}
		case string:
			var in map[string]any
			if json.Unmarshal([]byte(x), &in) == nil {
				b, _ := json.Marshal(walk(in, path+"»"))
				return string(b)
			}
		}
		return v
	}
	v = walk(v, "")
	changed, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return changed, at, ok
}
