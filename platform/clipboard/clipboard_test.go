package clipboard

import (
	"encoding/json"
	"strings"
	"testing"
)

func FuzzSaid(f *testing.F) {
	f.Add([]byte(`{"kept":true,"refused":[{"n":1,"from":"work","to":"personal","copied_in":"xclip","pasted_in":"xsel"}]}`))
	f.Add([]byte(`{"kept":false,"why":"\u001b[31m` + strings.Repeat("ä", 300) + `"}`))
	f.Add([]byte(`{"refused":[{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := read(json.RawMessage(b))
		if err != nil {
			return
		}
		if len(s.Refused) > maxRefused || len(s.Why) > 100 || strings.Contains(s.Why, "ä") {
			t.Errorf("%+v", s)
		}
		for _, r := range s.Refused {
			if len(r.Copied) > maxWord || len(r.PastedIn) > maxWord || strings.ContainsAny(r.Copied+r.PastedIn, "\x1b\n") {
				t.Errorf("%+v", r)
			}
		}
	})
}
