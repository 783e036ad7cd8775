package fact

import (
	"encoding/json"
	"reflect"
	"testing"
)

// A report's parts decode to what was encoded: known, unknown with the reason, and never observed.
func TestParts(t *testing.T) {
	for name, m := range map[string]Machine{
		"all known": {USB: Is([]USB{{Path: "1-1", Vendor: 1}}), Controllers: Is([]string{"usb1"}), Inputs: Is(Inputs{Keyboards: 1}),
			Volumes: Is([]Volume{{Dev: "sda"}})},
		"empty":  {USB: Is([]USB{}), Controllers: Is([]string{}), Inputs: Is(Inputs{})},
		"unread": {USB: Unread[[]USB]("no right"), Controllers: Is([]string{"usb1"}), Inputs: Unread[Inputs]("no file")},
	} {
		known, unread := m.Encode()
		b, _ := json.Marshal(known)
		known = nil
		if err := json.Unmarshal(b, &known); err != nil {
			t.Fatal(err)
		}
		var got Machine
		if err := got.Decode(known, unread, json.Unmarshal); err != nil || !reflect.DeepEqual(got, m) {
			t.Errorf("%s: %+v, want %+v (%v)", name, got, m, err)
		}
	}
	// Never observed: unknown on both sides, and explicit where an older agent's silence means an empty list.
	var none, got Machine
	known, unread := none.Encode()
	if err := got.Decode(known, unread, json.Unmarshal); err != nil || got.USB.OK || got.Volumes.OK || unread["usb"] == "" {
		t.Errorf("%+v %v %v", got, unread, err)
	}
	// An agent of version 0.3 on a machine without USB devices leaves the list out.
	if err := got.Decode(map[Part]json.RawMessage{PartInputs: json.RawMessage(`{"keyboards":1}`)}, nil, json.Unmarshal); err != nil ||
		!got.USB.OK || !got.Controllers.OK || got.Inputs.V.Keyboards != 1 {
		t.Errorf("%+v %v", got, err)
	}
	if err := got.Decode(map[Part]json.RawMessage{PartUSB: json.RawMessage(`{}`)}, nil, json.Unmarshal); err == nil {
		t.Error("a part of another shape is taken")
	}
	if why, unread := none.Unread(PartVolumes); !unread || why != "the volumes cannot be read: nothing has read it" {
		t.Error(why)
	}
	if _, unread := none.Unread("moon"); !unread {
		t.Error("a part that is none counts as read")
	}
}

func TestCan(t *testing.T) {
	m := Machine{Capable: map[string]Capability{"usb": {Level: Enforced}, "usb.whitelist": {Level: Partial}}}
	for s, want := range map[string]string{"usb.allowed": Enforced, "usb.whitelist": Partial, "dlp.print_allowed": Unsupported,
		"usb": Enforced, "": Unsupported} {
		if got := m.Can(s); got.Level != want {
			t.Errorf("%q: %+v, want %s", s, got, want)
		}
	}
}
