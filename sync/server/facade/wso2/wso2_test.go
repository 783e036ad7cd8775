package wso2

import (
	"encoding/json"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/warderd/warder/sync/server/facade"
	"github.com/warderd/warder/sync/server/store"
)

// FuzzRead: what is taken from a client can be printed in both shapes, is JSON there, and is translated.
func FuzzRead(f *testing.F) {
	for _, s := range []string{`{"policyName":"a","profile":{"deviceType":{"id":1,"name":"android"},"profileFeaturesList":[{"featureCode":"CAMERA","content":{"enabled":true}}]}}`,
		`{"policyName":"a","profile":{"deviceType":"linux","profileFeaturesList":[{"featureCode":"CAMERA","payLoad":"{\"enabled\":true}"}]},"roles":["ANY"],"deviceGroups":[{"id":1}]}`,
		`{"policyName":"a","profile":{"deviceType":3,"profileFeaturesList":[{"featureCode":"X","content":5}]}}`, `{"field1": "value1"}`, `[`, `null`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c := &facade.Call{Request: httptest.NewRequest("POST", newer, nil), Body: b}
		raw, w, err := read(c)
		if err != nil {
			return
		}
		d := &store.VendorDocument{Number: 1, Document: raw, CreatedAt: time.Unix(0, 0)}
		s := &state{Priority: 1, Active: true, Feature: 1}
		if translatable(c, d, s) != nil {
			return
		}
		for _, old := range []bool{true, false} {
			p, err := shown(d, raw, s, old)
			if err != nil {
				t.Fatal(err)
			}
			if out, err := json.Marshal(p); err != nil || len(out) == 0 || len(p.Profile.Features) != len(w.Profile.Features) {
				t.Fatalf("%s: %v", out, err)
			}
		}
		if _, err := publication(c, d, s); err != nil {
			t.Fatal(err)
		}
	})
}

func TestTag(t *testing.T) {
	for name, want := range map[string]string{"Sales": "role:sales", "Internal/devicemgt-user": "role:internal_2f_devicemgt-user", "a_b": "role:a_5f_b", "ü": "role:_fc_"} {
		if got, ok := facade.Tag("role:", name); got != want || !ok {
			t.Errorf("%s: %s", name, got)
		}
	}
	for _, name := range []string{"", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"} {
		if tag, ok := facade.Tag("role:", name); ok {
			t.Errorf("%q is %s", name, tag)
		}
	}
}
