// Package templates has the policies that an administrator can begin with, as documents beside the code. It owns their
// text; a test passes each through the strict decoder.
package templates

import (
	"embed"
	"encoding/json"
	"fmt"
)

//go:embed *.json
var files embed.FS

// Template is one of them.
type Template struct {
	ID             string          `json:"id"`
	Name           string          `json:"name"`
	Description    string          `json:"description"`
	RecommendedFor []string        `json:"recommended_for"`
	Compliance     string          `json:"compliance"`
	Data           json.RawMessage `json:"policy_data"`
}

// All lists them, the strictest first.
var All = func() []Template {
	var out []Template
	for _, name := range []string{"strict", "balanced", "byod"} {
		b, err := files.ReadFile(name + ".json")
		var t Template
		if err == nil {
			err = json.Unmarshal(b, &t)
		}
		if err != nil {
			panic(fmt.Sprintf("template %s: %v", name, err)) // embedded, and read by a test
		}
		out = append(out, t)
	}
	return out
}()

// Find returns one.
func Find(id string) (Template, bool) {
	for _, t := range All {
		if t.ID == id {
			return t, true
		}
	}
	return Template{}, false
}
