package manageengine

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/warderd/warder/sync/server/facade"
	"github.com/warderd/warder/sync/server/store"
)

// FuzzContent: what is taken from a client is printed as it was written, with an id, and can be translated or is refused.
func FuzzContent(f *testing.F) {
	for _, s := range []string{`{"max_passcode_age": 150, "allow_simple_value": false}`, `{"disable_sd_card":true,"payload_id":5}`, `{}`, `[]`, `{"field1":"value1"}`, `{"a":{"b":[1,{"c":"}"}]}}`, `{"a":"<&>"}`, `{"b":1,"payload_id":3,"a":2}`} {
		f.Add("windowsrestrictionpolicy", []byte(s))
	}
	f.Fuzz(func(t *testing.T, name string, b []byte) {
		q := httptest.NewRequest(http.MethodPost, profiles, nil)
		q.SetPathValue("payload", name)
		c := &facade.Call{Request: q, Body: b}
		raw, err := content(c)
		if err != nil {
			return
		}
		item, err := facade.After(raw, "payload_id", 7)
		if err != nil {
			t.Fatalf("%s: %v", raw, err)
		}
		var fields map[string]any
		if json.Unmarshal(item, &fields) != nil || idOf(item) != 7 {
			t.Fatalf("%s", item)
		}
		if !bytes.Contains(b, []byte("payload")) && !bytes.HasPrefix(item, bytes.TrimSuffix(compact(b), []byte("}"))) {
			t.Fatalf("%s is %s", b, item)
		}
		e := &entry{VendorDocument: &store.VendorDocument{Number: 1}, d: document{Name: "n", Payloads: []storedPayload{{name, []json.RawMessage{item}}}}, s: state{Status: published}}
		if err := e.keep(); err != nil {
			t.Fatal(err)
		}
		if again, err := open(e.VendorDocument); err != nil || !bytes.Equal(again.first(), item) {
			t.Fatalf("%v %s", err, again.first())
		}
		_ = e.translatable(c)
	})
}

func compact(b []byte) []byte {
	var out bytes.Buffer
	_ = json.Compact(&out, b)
	return out.Bytes()
}
