package server

import (
	"encoding/json"
	"errors"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/warderd/warder/sync/protocol"
)

// past is what rotations left: the old private keys, with which devices that still pin them are updated, and the signed
// statements for that.
type past struct {
	Old        []jose.JSONWebKey `json:"old"`
	Statements map[string]string `json:"statements"`         // by protocol.KeysDigest of what is pinned; "*": any
	Recovery   uint64            `json:"recovery,omitempty"` // the counter of the last statement of the recovery key
}

// RotatePolicy makes a new key to sign policies with. Devices follow because the old key signs the change; or, with the
// recovery key, because that one does. In the latter case the old key is deleted, because it may have been stolen.
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
		// Above every earlier one, even if the file that counts them comes from a backup.
		set.Recovery = max(old.Recovery+1, uint64(max(now.Unix(), 1)))
		next.Recovery = set.Recovery
		if next.Statements["*"], err = protocol.SignKeys(recovery, set); err != nil {
			return err
		}
	} else {
		next.Old = append([]jose.JSONWebKey{current}, old.Old...)
		// The recovery key's statement is kept: devices that were away since then follow it first, and continue from
		// there.
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
	// The statements first: a server with the new key has to be able to tell devices how to get to it.
	if err := replaceFile(k.file("policy.past"), b); err != nil {
		return err
	}
	if err := replaceFile(k.file("policy.key"), key); err != nil {
		return err
	}
	return k.Reload()
}

// Rotation is the statement that brings a device to the present key; "" if there is none for the keys that it pins.
func (k *Keys) Rotation(pinned string) string {
	k.mu.RLock()
	defer k.mu.RUnlock()
	if s, ok := k.past.Statements[pinned]; ok {
		return s
	}
	return k.past.Statements["*"]
}

// Follows reports whether the present key came by rotation from another one.
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

// Recovery is the counter of the recovery key's last statement; 0 if none has a counter.
func (k *Keys) Recovery() uint64 {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.past.Recovery
}
