package api

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Both documents are JSON of their versions; WARDER_OPENAPI is a directory to write them to.
func TestDocuments(t *testing.T) {
	doc := Describe("test")
	new31, err := doc.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	old30, err := older30(doc)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		b       []byte
		version string
	}{"openapi.json": {new31, "3.1"}, "openapi-3.0.json": {old30, "3.0"}} {
		var tree map[string]any
		if err := json.Unmarshal(c.b, &tree); err != nil || !strings.HasPrefix(tree["openapi"].(string), c.version) {
			t.Errorf("%s: %v %v", name, err, tree["openapi"])
		}
		// What linters once complained about: a group without a description, a reference with something beside it, an
		// operation that does not say who may call it.
		if tags, _ := tree["tags"].([]any); len(tags) < 8 {
			t.Errorf("%s: tags %v", name, tags)
		} else {
			for _, x := range tags {
				if x.(map[string]any)["description"] == nil {
					t.Errorf("%s: %v has no description", name, x)
				}
			}
		}
		for path, item := range tree["paths"].(map[string]any) {
			for method, op := range item.(map[string]any) {
				o := op.(map[string]any)
				if o["security"] == nil || o["description"] == nil || o["responses"].(map[string]any)["4XX"] == nil {
					t.Errorf("%s: %s %s lacks security, description or errors", name, method, path)
				}
			}
		}
		if c.version == "3.0" {
			alone(t, "", tree)
		}
		if dir := os.Getenv("WARDER_OPENAPI"); dir != "" {
			if err := os.WriteFile(filepath.Join(dir, name), c.b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// alone fails for a reference with something beside it.
func alone(t *testing.T, at string, v any) {
	switch x := v.(type) {
	case []any:
		for _, y := range x {
			alone(t, at, y)
		}
	case map[string]any:
		if _, is := x["$ref"].(string); is && len(x) > 1 {
			t.Errorf("something stands beside a reference at %s", at)
		}
		for k, y := range x {
			alone(t, at+"/"+k, y)
		}
	}
}
