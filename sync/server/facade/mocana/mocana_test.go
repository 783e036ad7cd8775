package mocana

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/warderd/warder/sync/server/facade"
	"github.com/warderd/warder/sync/server/store"
)

// FuzzForm: what is read of a form, in either kind, is bounded and does not end the server; data is one object, and an app can be secured
// with it or is refused.
func FuzzForm(f *testing.F) {
	f.Add("multipart/form-data; boundary=x", "--x\r\nContent-Disposition: form-data; name=\"data\"\r\n\r\n{\"copyBlocked\":\"1\"}\r\n--x--\r\n", "data_sharing")
	f.Add("application/x-www-form-urlencoded", "name=a&type=dar&data=%7B%7D", "dar")
	f.Add("application/x-www-form-urlencoded", `browser_profile_data={"sites":[{"name":"a","url":"https://x.example/?a=<b>"}]}`, "browser")
	f.Add("", "data={\"clientCertsUrlMatchingRules\":[", "client_certs")
	f.Fuzz(func(t *testing.T, kind, body, profileType string) {
		q := httptest.NewRequest(http.MethodPost, base+"/profile", nil)
		q.Header.Set("Content-Type", kind)
		c := &facade.Call{Request: q, Body: []byte(body), Apps: map[string][]string{"a": {"/usr/bin/a"}}}
		v, err := form(c)
		if err != nil {
			return
		}
		for _, name := range []string{"data", "browser_profile_data"} {
			p, err := words(v, name)
			if err != nil || p.Data == nil {
				continue
			}
			data := p.Data
			if profileType == browser {
				if data, err = icons(data); err != nil {
					continue
				}
			}
			var out map[string]any
			if json.Unmarshal(data, &out) != nil || bytes.ContainsAny(data[:1], " [") {
				t.Fatalf("%s", data)
			}
			_, _ = publication(c, "a", &store.VendorDocument{}, []secured{{Code: "POLICY_CODE_DAR", Type: strings.ToLower(profileType), Profile: guid("p"), Data: guid("d"), Content: data}})
		}
	})
}

func TestGUID(t *testing.T) {
	if a, b := guid("a"), guid("b"); a == b || len(a) != 36 || a != guid("a") || a[14] != '5' || newGUID() == newGUID() {
		t.Error(a, b)
	}
}
