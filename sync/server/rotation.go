package server

import (
	"encoding/json"
	"errors"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/warderd/warder/sync/protocol"
)

// past is what rotations left: the old private keys, to bring devices that still pin them on, and
// the statements that do so.
type past struct {
	Old        []jose.JSONWebKey `json:"old"`
	Statements map[string]string `json:"statements"`         // by protocol.KeysDigest of what is pinned; "*": any
	Recovery   uint64            `json:"recovery,omitempty"` // the counter of the last statement of the recovery key
}

// RotatePolicy makes a new key to sign policies with. Devices follow because the old key says so;
// or, with the recovery key, because that does: then the old one is forgotten, as it should be when it
// may be in wrong hands.
func (k *Keys) RotatePolicy(recovery *jose.JSONWebKey, now time.Time) error {
	fresh, err := protocol.NewPolicyKey()
	if err != nil {
		return err
	}
	k.mu.RLock()
	current, old, pub := *k.policy, k.past, k.recovery
	k.mu.RUnlock()
	public, err := json.Marshal([]jose.JSONWebKey{fresh.Public()})
	if err != nil {
		return err
	}
	set := protocol.KeySet{PolicyKeys: public, IssuedAt: now.UTC()}
	next := past{Statements: map[string]string{}, Recovery: old.Recovery}
	if recovery != nil {
		if recovery.KeyID != pub.KeyID {
			return errors.New("the recovery key is not the one that this server's devices know")
		}
		// Above every one before it, also where the file that counts them is a backup's.
		set.Recovery = max(old.Recovery+1, uint64(max(now.Unix(), 1)))
		next.Recovery = set.Recovery
		if next.Statements["*"], err = protocol.SignKeys(recovery, set); err != nil {
			return err
		}
	} else {
		next.Old = append([]jose.JSONWebKey{current}, old.Old...)
		// What the recovery key said stays: devices away since then go by it, and from there on.
		if s, ok := old.Statements["*"]; ok {
			next.Statements["*"] = s
		}
		for i := range next.Old {
			o := &next.Old[i]
			if next.Statements[protocol.KeysDigest([]jose.JSONWebKey{*o})], err = protocol.SignKeys(o, set); err != nil {
				return err
			}
		}
	}
	b, err := json.Marshal(next)
	if err != nil {
		return err
	}
	key, err := json.Marshal(fresh)
	if err != nil {
		return err
	}
	// The statements first: a server that has the new key must be able to say how to come to it.
	if err := replaceFile(k.file("policy.past"), b); err != nil {
		return err
	}
	if err := replaceFile(k.file("policy.key"), key); err != nil {
		return err
	}
	return k.Reload()
}

// Rotation is the statement that brings a device to the key of now; "" when there is none for what
// it pins.
func (k *Keys) Rotation(pinned string) string {
	k.mu.RLock()
	defer k.mu.RUnlock()
	if s, ok := k.past.Statements[pinned]; ok {
		return s
	}
	return k.past.Statements["*"]
}

// Follows reports whether the key of now came by rotation from another one.
func (k *Keys) Follows(kid string) bool {
	k.mu.RLock()
	defer k.mu.RUnlock()
	for i := range k.past.Old {
		if k.past.Old[i].KeyID == kid {
			return true
		}
	}
	return k.past.Statements["*"] != ""
}

// Recovery is the counter of the recovery key's last statement; 0 when there was none with one.
func (k *Keys) Recovery() uint64 {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.past.Recovery
}
