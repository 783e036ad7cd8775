package protocol

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

func policyKey(t testing.TB) (*jose.JSONWebKey, []jose.JSONWebKey) {
	t.Helper()
	k, err := NewPolicyKey()
	if err != nil {
		t.Fatal(err)
	}
	return k, []jose.JSONWebKey{k.Public()}
}

func TestAssignment(t *testing.T) {
	key, pinned := policyKey(t)
	_, others := policyKey(t)
	at := time.Now().UTC()
	good, err := SignAssignment(key, Assignment{DeviceID: "d1", Serial: 7, IssuedAt: at, ExpiresAt: at.Add(time.Hour),
		Policy: json.RawMessage(`{"a":1}`)})
	if err != nil {
		t.Fatal(err)
	}
	if a, err := VerifyAssignment(good, pinned, "d1", 7); err != nil || a.Serial != 7 || string(a.Policy) != `{"a":1}` {
		t.Fatalf("%+v %v", a, err)
	}
	release, _ := SignRelease(key, Release{DeviceID: "d1", Release: true})
	parts := strings.Split(good, ".")
	for name, c := range map[string]struct {
		token   string
		keys    []jose.JSONWebKey
		device  string
		highest int64
		want    error
	}{
		"another device":        {good, pinned, "d2", 0, ErrOtherDevice},
		"played back":           {good, pinned, "d1", 8, ErrOlderSerial},
		"another key":           {good, others, "d1", 0, ErrSignature},
		"no key":                {good, nil, "d1", 0, ErrSignature},
		"changed":               {parts[0] + "." + parts[1][:len(parts[1])-4] + "AAAA." + parts[2], pinned, "d1", 0, ErrSignature},
		"a release":             {release, pinned, "d1", 0, ErrSignature},
		"nothing":               {"", pinned, "d1", 0, ErrSignature},
		"too large":             {strings.Repeat("a", MaxResponse+1), pinned, "d1", 0, ErrSignature},
		"none as its algorithm": {"eyJhbGciOiJub25lIn0.e30.", pinned, "d1", 0, ErrSignature},
	} {
		if _, err := VerifyAssignment(c.token, c.keys, c.device, c.highest); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := VerifyRelease(good, pinned, "d1"); err == nil {
		t.Error("an assignment passes for a release")
	}
	if _, err := VerifyRelease(release, pinned, "d2"); err == nil {
		t.Error("another device's release passes")
	}
}

// A rotation is followed only when a pinned key signed it.
func TestRotation(t *testing.T) {
	old, pinned := policyKey(t)
	fresh, freshPinned := policyKey(t)
	list, _ := json.Marshal(freshPinned)
	good, err := SignKeys(old, KeySet{PolicyKeys: list})
	if err != nil {
		t.Fatal(err)
	}
	set, err := VerifyKeys(good, pinned)
	if err != nil || string(set.PolicyKeys) != string(list) {
		t.Errorf("%v %v", set, err)
	}
	self, _ := SignKeys(fresh, KeySet{PolicyKeys: list})
	if _, err := VerifyKeys(self, pinned); !errors.Is(err, ErrSignature) {
		t.Errorf("a new key vouches for itself: %v", err)
	}
	empty, _ := SignKeys(old, KeySet{PolicyKeys: json.RawMessage(`[]`)})
	if _, err := VerifyKeys(empty, pinned); err == nil {
		t.Error("a rotation to no key passes")
	}
	private, _ := json.Marshal([]*jose.JSONWebKey{fresh})
	if _, err := ParseKeys(private); err == nil {
		t.Error("private keys pass for public ones")
	}
}

func TestRequest(t *testing.T) {
	key, err := NewDeviceKey()
	if err != nil {
		t.Fatal(err)
	}
	other, _ := NewDeviceKey()
	now := time.Now()
	token, err := SignRequest(key, "d1", "POST", "/x", []byte("body"), now)
	if err != nil {
		t.Fatal(err)
	}
	check := func(k *jose.JSONWebKey, device, method, path, body string, at time.Time) error {
		want, err := VerifyRequest(token, k.Public(), device, method, path, at)
		if err == nil {
			err = VerifyBody(want, []byte(body))
		}
		return err
	}
	if err := check(key, "d1", "POST", "/x", "body", now); err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{
		"another key":    check(other, "d1", "POST", "/x", "body", now),
		"another device": check(key, "d2", "POST", "/x", "body", now),
		"another body":   check(key, "d1", "POST", "/x", "bodY", now),
		"another path":   check(key, "d1", "POST", "/y", "body", now),
		"another method": check(key, "d1", "DELETE", "/x", "body", now),
	} {
		if !errors.Is(err, ErrSignature) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, at := range map[string]time.Time{"late": now.Add(2 * time.Minute), "early": now.Add(-2 * time.Minute)} {
		if err := check(key, "d1", "POST", "/x", "body", at); !errors.Is(err, ErrClock) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzVerify(f *testing.F) {
	key, pinned := policyKey(f)
	good, _ := SignAssignment(key, Assignment{DeviceID: "d", Serial: 1, Policy: json.RawMessage(`{}`)})
	f.Add(good)
	f.Add("a.b.c")
	device, _ := NewDeviceKey()
	f.Fuzz(func(t *testing.T, token string) {
		if _, err := VerifyAssignment(token, pinned, "d", 0); err == nil && token != good {
			t.Fatalf("%q passes", token)
		}
		if _, err := VerifyRequest(token, device.Public(), "d", "GET", "/", time.Now()); err == nil {
			t.Fatalf("%q passes", token)
		}
	})
}
