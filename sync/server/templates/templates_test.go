package templates

import (
	"encoding/json"
	"testing"

	"github.com/warderd/warder/enforce/policy"
)

// Each template can be used unchanged: no error and no warning.
func TestTemplates(t *testing.T) {
	for _, x := range All {
		doc, _ := json.Marshal(map[string]any{"name": x.Name, "compliance": x.Compliance, "policy_data": x.Data})
		d, err := policy.Decode(doc, policy.Options{Strict: true})
		if err != nil {
			t.Errorf("%s: %v", x.ID, err)
			continue
		}
		if w := policy.Warnings(d, "policy.example.com"); len(w) > 0 {
			t.Errorf("%s: %+v", x.ID, w)
		}
		if len(d.Settings()) < 8 || x.Description == "" || len(x.RecommendedFor) == 0 {
			t.Errorf("%s says too little", x.ID)
		}
	}
	if _, ok := Find("template-none"); ok || len(All) != 3 {
		t.Error("templates")
	}
}
