package apperian

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/warderd/warder/sync/server/facade"
	"github.com/warderd/warder/sync/server/store"
)

// FuzzConfiguration: what is taken of a configuration is JSON when it is printed, and is translated.
func FuzzConfiguration(f *testing.F) {
	for i := range catalogue {
		for _, s := range []string{`{"access_date_range":{"start":"2017-11-16","end":"11/21/2017","x":1},"user_message":"m"}`, `{"open_webpage_url":"https://a.example/?a=1&b=<2>","open_webpage_frequency":"4"}`, `null`, `{}`} {
			f.Add(i, []byte(s))
		}
	}
	f.Fuzz(func(t *testing.T, i int, b []byte) {
		d := &catalogue[(i%len(catalogue)+len(catalogue))%len(catalogue)]
		body, err := facade.Marshal(map[string]any{"configuration": json.RawMessage(b)})
		if err != nil {
			return
		}
		c := &facade.Call{Request: httptest.NewRequest(http.MethodPost, policies, nil), Body: body, Apps: map[string][]string{"a": {"/usr/bin/a"}}}
		raw, err := readPreset(c, d, preset{})
		if err != nil {
			return
		}
		s, err := openPreset(&store.VendorDocument{Document: raw})
		if err != nil {
			t.Fatal(err)
		}
		out := printed(d.id, s.Configuration)
		var again any
		if err := json.Unmarshal(out, &again); err != nil {
			t.Fatalf("%s: %v", out, err)
		}
		if _, err := publication(c, "a", &store.VendorDocument{}, []configuration{{processed: processed{Policy: d.id, Configuration: s.Configuration}}}); err != nil {
			t.Fatalf("%s: %v", out, err)
		}
	})
}
