package all

import (
	"os"
	"strings"
	"testing"

	"github.com/warderd/warder/sync/dialect"
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
		if err := dialect.Check(v.Rows); err != nil || seen[v.ID] || v.Name == "" || len(v.Rows) == 0 {
			t.Errorf("%s: %v", v.ID, err)
		}
		seen[v.ID] = true
		for _, body := range []string{"", "null", "[]", "<html>", `{"count":3,"policies":[]}`} {
			if x, err := v.Translate([]byte(body), dialect.Options{}); err == nil { // no answer is no policy
				t.Errorf("%s: %q: %s", v.ID, body, x.Document)
			}
		}
	}
}
