package api

import (
	"encoding/json"
	"fmt"
	"reflect"
	"testing"

	"github.com/warderd/warder/enforce/all"
	"github.com/warderd/warder/enforce/fact"
	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/sync/protocol"
	"github.com/warderd/warder/sync/server/store"
)

// laptop is what a laptop with a dozen USB devices reports.
func laptop() json.RawMessage {
	m := fact.Machine{Controllers: fact.Is([]string{"usb1", "usb2"}), Inputs: fact.Is(fact.Inputs{Keyboards: 1}),
		Capable: map[string]fact.Capability{}, Volumes: fact.Unread[[]fact.Volume]("no right")}
	for _, s := range policy.Section("usb") {
		m.Capable[string(s.Name)] = fact.Capability{Level: fact.Enforced, Limit: "a \"limit\" → ü"}
	}
	var list []fact.USB
	for i := range 12 {
		list = append(list, fact.USB{Path: fmt.Sprintf("1-%d", i+1), Number: i + 2, Vendor: 0x046d, Product: uint16(0xc000 + i),
			Name: "A device of some maker \u0000 ü", Serial: "ÄÖ\\\"",
			Interfaces: []fact.Interface{{Class: 3, SubClass: 1, Protocol: 1}, {Number: 1, Class: 255, MTP: fact.Is(true)}},
			Authorized: fact.Is(true)})
	}
	m.USB = fact.Is(list)
	raw, _ := json.Marshal(protocol.FactsOf(&m))
	return raw
}

// The quick reader reads what the strict one does.
func TestFactsOf(t *testing.T) {
	for _, raw := range []string{string(laptop()), `{}`, `{"capable":null,"usb":null}`,
		`{"capable":{"usb":{"level":"enforced"}},"usb":[],"inputs":{"keyboards":1,"pointers":2},"more":[1,{"x":"y"}]}`,
		`{"host":{"name":"x"},"unread":{"usb":"why"},"capable":{"usb.allowed":{"level":"partial","limit":"l"}}}`} {
		var want protocol.Facts
		if err := json.Unmarshal([]byte(raw), &want); err != nil {
			t.Fatal(err)
		}
		got, err := factsOf(json.RawMessage(raw))
		if err != nil || !reflect.DeepEqual(got.Capable, want.Capable) || !reflect.DeepEqual(got.Unread, want.Unread) ||
			!reflect.DeepEqual(got.Parts, want.Parts) {
			t.Errorf("%.80s: %v\n%+v\n%+v", raw, err, got, want)
		}
		x, xerr := want.Machine()
		d := &store.Device{}
		d.Report.Facts = json.RawMessage(raw)
		doc, err := policy.Decode([]byte(`{"policy_data":{"usb":{"allowed_classes":["hid"]}}}`), policy.Options{})
		if err != nil {
			t.Fatal(err)
		}
		was, _ := (&API{}).cases(d, doc, doc)
		if (was != nil) != (xerr == nil && want.Capable != nil) || was != nil && !reflect.DeepEqual(*was.Machine, x) {
			t.Errorf("%.80s: %+v, want %+v (%v)", raw, was, x, xerr)
		}
	}
	for _, raw := range []string{``, `[]`, `{"usb":`, `{"capable":7}`} {
		if _, err := factsOf(json.RawMessage(raw)); err == nil {
			t.Errorf("%q is read", raw)
		}
	}
}

// BenchmarkWhatIf is one device of a question.
func BenchmarkWhatIf(b *testing.B) {
	d := &store.Device{}
	d.Report.Facts = laptop()
	x, _ := policy.Decode([]byte(`{"policy_data":{"usb":{"allowed_classes":["hid"],"whitelist":["046d:*"]}}}`), policy.Options{})
	y, _ := policy.Decode([]byte(`{"policy_data":{"usb":{"allowed_classes":["mass_storage"],"whitelist":["046d:*"]}}}`), policy.Options{})
	for b.Loop() {
		was, is := (&API{}).cases(d, x, y)
		p, q := all.Decide(was), all.Decide(is)
		flips(p.Findings, q.Findings)
		for _, s := range all.Sections {
			if was.Rules(s.Name) != nil {
				was.Rules(s.Name).Present()
				is.Rules(s.Name).Present()
			}
		}
	}
}
