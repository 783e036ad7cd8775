package protocol

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/warderd/warder/enforce/fact"
)

// This version reads a report of 0.3 correctly, and 0.3 one of this version: the names on the wire are the same.
func TestFactsOfVersion03(t *testing.T) {
	const old = `{"host":{"name":"l","os":"linux","os_version":"","arch":"","serial":""},"usb":[{"path":"1-1","number":2,"vendor":1,` +
		`"interfaces":[{"class":8}]}],"controllers":["usb1"],"inputs":{"keyboards":1,"pointers":0},` +
		`"capable":{"usb":{"level":"enforced"},"storage":{"level":"unsupported","limit":"none"}},"health":["x"]}`
	var f Facts
	if err := json.Unmarshal([]byte(old), &f); err != nil {
		t.Fatal(err)
	}
	m, err := f.Machine()
	if err != nil || len(m.USB.V) != 1 || m.Inputs.V.Keyboards != 1 || m.Can("usb.allowed").Level != fact.Enforced ||
		m.Can("storage.external_storage_allowed").Level != fact.Partial || m.Can("storage.cloud_sync_allowed").Level != fact.Unsupported {
		t.Errorf("%+v %v", m, err)
	}
	b, err := json.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{`"usb":[{"path":"1-1"`, `"controllers":["usb1"]`, `"inputs":{"keyboards":1`, `"health":["x"]`,
		`"host":{"name":"l"`} {
		if !strings.Contains(string(b), part) {
			t.Errorf("%s lacks %s", b, part)
		}
	}
	again := Facts{}
	if err := json.Unmarshal(b, &again); err != nil || Digest(again) != Digest(f) {
		t.Errorf("%s %v", b, err)
	}
	if err := json.Unmarshal([]byte(`{"usb":{}}`), &f); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Machine(); err == nil {
		t.Error("a part of another shape is taken")
	}
}

// Version 0.3, which only knows sticks, reads an exception of this version, and this one reads one of 0.3.
func TestExceptionOfVersion03(t *testing.T) {
	b, _ := json.Marshal(Exception{ID: "x", Section: "usb", Subject: "0951:1666"})
	var old struct{ ID, USB string }
	if json.Unmarshal(b, &old) != nil || old.USB != "0951:1666" {
		t.Errorf("%s", b)
	}
	b, _ = json.Marshal(Exception{ID: "x", Section: "network", Subject: "example.com"})
	if old.USB = ""; json.Unmarshal(b, &old) != nil || old.USB != "" {
		t.Errorf("%s", b)
	}
	var x Exception
	if json.Unmarshal([]byte(`{"id":"x","usb":"0951:1666","reason":"r"}`), &x) != nil || x.Section != "usb" || x.Subject != "0951:1666" ||
		x.Reason != "r" {
		t.Errorf("%+v", x)
	}
}

// A server of 0.3 finds capabilities by section, and this one by setting.
func TestCapableForVersion03(t *testing.T) {
	f := FactsOf(&fact.Machine{Capable: map[string]fact.Capability{"usb.allowed": {Level: fact.Enforced},
		"usb.whitelist":                    {Level: fact.Enforced},
		"storage.cloud_sync_allowed":       {Level: fact.Unsupported, Limit: "x"},
		"storage.external_storage_allowed": {Level: fact.Unsupported, Limit: "y"}}})
	if f.Capable["usb"].Level != fact.Enforced || f.Capable["storage"].Limit != "x" {
		t.Errorf("%+v", f.Capable)
	}
	m, err := f.Machine()
	if err != nil || m.Can("storage.external_storage_allowed").Limit != "y" || m.Can("usb.whitelist").Level != fact.Enforced {
		t.Errorf("%+v %v", m.Capable, err)
	}
}

func FuzzFacts(f *testing.F) {
	f.Add(`{"usb":[{"path":"1-1"}],"unread":{"controllers":"x"}}`)
	f.Add(`{"inputs":null,"volumes":[]}`)
	f.Fuzz(func(t *testing.T, s string) {
		var x Facts
		if json.Unmarshal([]byte(s), &x) != nil {
			return
		}
		_, _ = x.Machine()
		b, err := json.Marshal(x)
		if err != nil {
			t.Fatal(err)
		}
		var y Facts
		if err := json.Unmarshal(b, &y); err != nil {
			t.Fatalf("%s: %v", b, err)
		}
	})
}
