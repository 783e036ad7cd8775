package protocol

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// signer is a key with what it can sign.
type signer struct {
	t   *testing.T
	key *jose.JSONWebKey
}

func newSigner(t *testing.T) signer {
	k, _ := policyKey(t)
	return signer{t, k}
}

func (h signer) public() json.RawMessage {
	b, err := json.Marshal(h.key.Public())
	if err != nil {
		h.t.Fatal(err)
	}
	return b
}

func (h signer) list() json.RawMessage { return append(append([]byte("["), h.public()...), ']') }

func (h signer) rotates(to signer, at time.Time, recovery uint64) string {
	s, err := SignKeys(h.key, KeySet{PolicyKeys: to.list(), IssuedAt: at, Recovery: recovery})
	if err != nil {
		h.t.Fatal(err)
	}
	return s
}

// If the policy key was stolen, the recovery key has the last word, whatever was signed meanwhile.
func TestTrust(t *testing.T) {
	now := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	never := time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)
	policy, recovery, thief, fresh, second := newSigner(t), newSigner(t), newSigner(t), newSigner(t), newSigner(t)
	hourAgo := now.Add(-time.Hour)
	enrolled := Trust{PolicyKeys: policy.list(), Recovery: recovery.public(), Enrolled: hourAgo, KeysAt: hourAgo, CountAt: hourAgo}
	// It enrolled after a recovery, and was told its counter.
	after := Trust{PolicyKeys: policy.list(), Recovery: recovery.public(), Enrolled: hourAgo, KeysAt: hourAgo, Count: 50, CountAt: hourAgo}
	// It enrolled with version 0.2.0.
	upgraded := Trust{PolicyKeys: policy.list(), Recovery: recovery.public(), Enrolled: hourAgo, KeysAt: now.Add(-time.Minute)}
	// A device that version 0.2.0 led astray: it followed a date that never comes.
	astray := Trust{PolicyKeys: thief.list(), Recovery: recovery.public(), Enrolled: hourAgo, KeysAt: never}
	recovered := Trust{PolicyKeys: fresh.list(), Recovery: recovery.public(), KeysAt: now, Count: 100, CountAt: now}
	for _, c := range []struct {
		name      string
		trust     Trust
		token     string
		err       error
		to        signer
		recovered bool
	}{
		{"a rotation by the key of now", enrolled, policy.rotates(fresh, now, 0), nil, fresh, false},
		{"of the same date, played again", enrolled, policy.rotates(fresh, enrolled.KeysAt, 0), ErrOlderKeys, policy, false},
		{"dated 9999", enrolled, policy.rotates(thief, never, 0), ErrFuture, policy, false},
		{"dated two days ahead", enrolled, policy.rotates(thief, now.Add(48*time.Hour), 0), ErrFuture, policy, false},
		{"dated an hour ahead", enrolled, policy.rotates(fresh, now.Add(time.Hour), 0), nil, fresh, false},
		{"by a thief's own key", enrolled, thief.rotates(thief, now, 0), ErrSignature, policy, false},
		{"with a counter that only the recovery key has", enrolled, policy.rotates(thief, now, 1<<60), nil, thief, false},

		{"recovery", enrolled, recovery.rotates(fresh, now, 1), nil, fresh, true},
		{"recovery, dated years ago", enrolled, recovery.rotates(fresh, now.AddDate(-5, 0, 0), 1), nil, fresh, true},
		{"recovery after a date that never comes", astray, recovery.rotates(fresh, now, 1), nil, fresh, true},
		{"a recovery from before the enrollment", after, recovery.rotates(thief, now.AddDate(0, 0, -1), 49), ErrOlderKeys, policy, false},
		{"the recovery that the enrollment followed, played again", after, recovery.rotates(policy, now.AddDate(0, 0, -1), 50), nil,
			policy, false},
		{"a recovery without a counter from before the enrollment", enrolled, recovery.rotates(thief, now.AddDate(0, 0, -1), 0),
			ErrOlderKeys, policy, false},
		{"a recovery after the enrollment", after, recovery.rotates(fresh, now, 51), nil, fresh, true},
		{"upgraded: a recovery from before the enrollment", upgraded, recovery.rotates(thief, now.AddDate(0, 0, -1), 49), ErrOlderKeys,
			policy, false},
		{"upgraded: one without a counter from before the last rotation", upgraded, recovery.rotates(thief, now.Add(-30*time.Minute), 0),
			ErrOlderKeys, policy, false},
		{"upgraded: a recovery after the enrollment", upgraded, recovery.rotates(fresh, now.Add(-30*time.Minute), 49), nil, fresh, true},
		{"upgraded: the recovery whose keys it has", upgraded, recovery.rotates(policy, now.Add(-30*time.Minute), 49), nil, policy, false},
		{"recovery by a server of version 0.2.0", astray, recovery.rotates(fresh, now, 0), nil, fresh, true},
		{"an honest rotation after a date that never comes", Trust{PolicyKeys: policy.list(), KeysAt: never}, policy.rotates(fresh, now, 0),
			nil, fresh, false},

		{"the thief after the recovery", recovered, thief.rotates(thief, now.Add(time.Hour), 0), ErrSignature, fresh, false},
		{"the recovery, played again", recovered, recovery.rotates(fresh, now, 100), nil, fresh, false},
		{"an older recovery, played again", recovered, recovery.rotates(thief, now.Add(time.Hour), 99), ErrOlderKeys, fresh, false},
		{"a recovery without a counter after one with", recovered, recovery.rotates(thief, never, 0), ErrOlderKeys, fresh, false},
		{"a second recovery", recovered, recovery.rotates(second, now.Add(-time.Hour), 101), nil, second, true},
		{"a rotation after the recovery", recovered, fresh.rotates(second, now.Add(time.Minute), 0), nil, second, false},
		{"nonsense", enrolled, "a.b.c", ErrSignature, policy, false},
	} {
		next, rec, err := c.trust.Follow(c.token, now)
		if !errors.Is(err, c.err) || rec != c.recovered || string(next.PolicyKeys) != string(c.to.list()) {
			t.Errorf("%s: %v, recovered %v, leads to the right key: %v", c.name, err, rec, string(next.PolicyKeys) == string(c.to.list()))
		}
	}
}

func TestTime(t *testing.T) {
	policy, thief := newSigner(t), newSigner(t)
	now := time.Now().UTC().Truncate(time.Second)
	good, err := SignTime(policy.key, "nonce-nonce-nonce", now)
	if err != nil {
		t.Fatal(err)
	}
	if at, err := VerifyTime(good, "nonce-nonce-nonce", policy.list()); err != nil || !at.Equal(now) {
		t.Errorf("%s %v", at, err)
	}
	other, _ := SignTime(thief.key, "nonce-nonce-nonce", now)
	assignment, _ := SignAssignment(policy.key, Assignment{DeviceID: "d"})
	for name, c := range map[string][2]string{
		"an old answer": {good, "another-question"}, "no question": {good, ""}, "another key": {other, "nonce-nonce-nonce"},
		"an assignment": {assignment, "nonce-nonce-nonce"},
	} {
		if _, err := VerifyTime(c[0], c[1], policy.list()); !errors.Is(err, ErrSignature) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for at, ok := range map[string]bool{"2026-11-25T00:00:00Z": true, "2024-12-31T00:00:00Z": false, "1970-01-01T00:00:00Z": false,
		"2126-01-01T00:00:00Z": false} {
		v, _ := time.Parse(time.RFC3339, at)
		if err := Plausible(v, time.Time{}, time.Time{}); (err == nil) != ok {
			t.Errorf("%s: %v", at, err)
		}
	}
	if err := Plausible(now, now.Add(time.Hour), now.Add(2*time.Hour)); err == nil ||
		!strings.Contains(err.Error(), "certificate is valid from") {
		t.Errorf("before its certificate: %v", err)
	}
}

func TestSerialsAreBounded(t *testing.T) {
	key, pinned := policyKey(t)
	for serial, ok := range map[int64]bool{0: true, MaxSerial: true, MaxSerial + 1: false, 1<<63 - 1: false, -1: false} {
		token, err := SignAssignment(key, Assignment{DeviceID: "d", Serial: serial})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := VerifyAssignment(token, pinned, "d", -1<<62); (err == nil) != ok || err != nil && !errors.Is(err, ErrSerial) {
			t.Errorf("%d: %v", serial, err)
		}
	}
}

func FuzzFollow(f *testing.F) {
	key, _ := policyKey(f)
	pub, _ := json.Marshal(key.Public())
	list := append(append([]byte("["), pub...), ']')
	good, _ := SignKeys(key, KeySet{PolicyKeys: list, IssuedAt: time.Unix(1, 0)})
	f.Add(good)
	other, _ := policyKey(f)
	theirs, _ := json.Marshal(other.Public())
	f.Fuzz(func(t *testing.T, token string) {
		trust := Trust{PolicyKeys: append(append([]byte("["), theirs...), ']')}
		if next, _, err := trust.Follow(token, time.Unix(1_800_000_000, 0)); err == nil ||
			string(next.PolicyKeys) != string(trust.PolicyKeys) {
			t.Fatalf("%q is followed", token)
		}
	})
}
