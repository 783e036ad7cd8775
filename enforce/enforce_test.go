package enforce

import (
	"encoding/json"
	"reflect"
	"testing"
)

func TestPlain(t *testing.T) {
	if got := Plain("Kings\u001b[2Jton\n\u202eé"); got != "Kings.[2Jton..é" {
		t.Errorf("%q", got)
	}
}

// The rollup is the worst finding. If something cannot be verified at all, it is at best "unverified"; unknown never
// counts as compliant; the wrong mode is the worst of all.
func TestRollUp(t *testing.T) {
	good := Finding{Setting: "a", Compliance: Compliant, Enforcement: Enforced}
	bad := Finding{Setting: "b", Compliance: Noncompliant, Enforcement: NotEnforced}
	unsure := Finding{Setting: "c", Compliance: Uncertain, Enforcement: Enforced}
	none := Finding{Setting: "d", Compliance: Uncertain, Enforcement: Unsupported}
	limited := Finding{Setting: "f", Compliance: Compliant, Enforcement: DetectOnly}
	wrong := Finding{Setting: "e", Compliance: Compliant, Enforcement: WrongMode}
	for _, c := range []struct {
		in   []Finding
		want Rollup
	}{
		{nil, Rollup{Compliance: Compliant}},
		{[]Finding{good, none}, Rollup{Compliance: Unverified, Managed: 1, Unsupported: 1, Worst: "d"}},
		{[]Finding{none}, Rollup{Compliance: Unverified, Unsupported: 1, Worst: "d"}},
		{[]Finding{bad, none}, Rollup{Compliance: Noncompliant, Managed: 1, Unsupported: 1, Worst: "b"}},
		{[]Finding{good, limited}, Rollup{Compliance: Compliant, Managed: 2, Worst: "a"}},
		{[]Finding{good, unsure}, Rollup{Compliance: Uncertain, Managed: 2, Worst: "c"}},
		{[]Finding{unsure, bad, good}, Rollup{Compliance: Noncompliant, Managed: 3, Worst: "b"}},
		{[]Finding{bad, wrong}, Rollup{Compliance: Noncompliant, WrongMode: true, Managed: 2, Worst: "e"}},
	} {
		if got := RollUp(c.in); got != c.want {
			t.Errorf("%+v: got %+v, want %+v", c.in, got, c.want)
		}
	}
}

// What is written can be read back: modes, states and guards are names on the wire.
func TestNames(t *testing.T) {
	e := Event{Mode: Warn, Kind: WouldDeny, Verdict: Verdict{Guard: LastInput, WouldMode: Monitor},
		Done: Reading{Value: "0", State: Present}}
	b, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	var back Event
	if err := json.Unmarshal(b, &back); err != nil || !reflect.DeepEqual(back, e) {
		t.Errorf("%+v, %v from %s", back, err, b)
	}
	// A newer version's words are read as unknown, and never permit anything.
	if err := json.Unmarshal([]byte(`{"mode":"loud","verdict":{"guard":"cat"},"done":{"state":"gone"}}`), &back); err != nil ||
		back.Mode != Strange || back.Verdict.Guard != OtherGuard || back.Done.State != Unknown {
		t.Errorf("%+v %v", back, err)
	}
	if back.Mode.String() != "unknown" || back.Verdict.Guard.String() != "unknown" {
		t.Errorf("%s %s", back.Mode, back.Verdict.Guard)
	}
	if _, ok := ParseMode("unknown"); ok {
		t.Error("a policy may name a mode that nobody knows")
	}
	if Setting("usb.allowed").Section() != "usb" || Setting("x").Section() != "x" {
		t.Error("sections")
	}
}
