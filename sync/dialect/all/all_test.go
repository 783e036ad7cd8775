package all

import (
	"os"
	"strings"
	"testing"
)

// The tables of docs/dialects.md are what the translators do. WARDER_UPDATE=1 writes them.
func TestDocs(t *testing.T) {
	const file, begin, end = "../../../docs/dialects.md", "<!-- tables: made by sync/dialect/all -->\n\n", "<!-- end of tables -->\n"
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(b), begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatal("it has no place for the tables")
	}
	if want := before + begin + Tables() + end + after; want != string(b) {
		if os.Getenv("WARDER_UPDATE") == "" {
			t.Fatal("the tables are others: WARDER_UPDATE=1 go test -run TestDocs ./sync/dialect/all")
		}
		if err := os.WriteFile(file, []byte(want), 0o644); err != nil { //nolint:gosec // a document
			t.Fatal(err)
		}
	}
	seen := map[string]bool{}
	for _, v := range Vendors {
		if seen[v.ID] || v.Name == "" || len(v.Catalogue()) == 0 {
			t.Errorf("%+v", v)
		}
		seen[v.ID] = true
		for _, body := range []string{"", "null", "[]", "<html>", `{"count":3,"policies":[]}`} {
			if x, err := v.Translate([]byte(body)); err == nil { // no answer is no policy
				t.Errorf("%s: %q: %s", v.ID, body, x.Document)
			}
		}
	}
}
