// Package server is the policy server: it has keys and certificates, connects the store to the API, and listens. It
// owns the data directory. Devices reach it with sync/protocol's messages, administrators through the Policies API.
package server

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/warderd/warder/platform/durable"
	"github.com/warderd/warder/sync/protocol"
)

// Keys are the server's secrets, each in a file of its own with mode 0600. Another process may rotate them while a
// server runs: Reload reads new ones.
type Keys struct {
	dir string
	ca  *CA

	mu       sync.RWMutex
	policy   *jose.JSONWebKey // signs policies
	recovery *jose.JSONWebKey // public half; the private one belongs offline
	past     past
	admin    []adminKey // the first signs
	codes    []byte     // devices' code secrets are derived from it
	stamp    string

	issued sync.Map // ids of tokens that are in the audit log
}

// LoadKeys reads the keys of a data directory, and creates them on first use.
func LoadKeys(dir string) (*Keys, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	k := &Keys{dir: dir}
	return k, k.Reload()
}

// files are the secrets that a rotation writes.
func (k *Keys) files() []string {
	return []string{k.file("policy.key"), k.file("policy.past"), k.file("admin.key")}
}

func (k *Keys) file(name string) string { return filepath.Join(k.dir, name) }

// Reload reads the files again if they have changed.
func (k *Keys) Reload() error {
	stamp := ""
	for _, f := range k.files() {
		if info, err := os.Stat(f); err == nil {
			stamp += fmt.Sprintln(info.ModTime().UnixNano(), info.Size())
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.policy != nil && stamp == k.stamp {
		return nil
	}
	policy, err := jwkFile(k.file("policy.key"))
	if err != nil {
		return err
	}
	if k.recovery == nil {
		if k.recovery, err = k.loadRecovery(); err != nil {
			return err
		}
	}
	var old past
	if b, err := os.ReadFile(k.file("policy.past")); err == nil {
		if err := json.Unmarshal(b, &old); err != nil {
			return fmt.Errorf("policy.past is not a list of keys: %w", err)
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	admin, err := k.loadAdmin()
	if err != nil {
		return err
	}
	if k.codes == nil {
		if k.codes, err = secretFile(k.file("codes.key"), random32); err != nil {
			return err
		}
	}
	k.policy, k.past, k.admin, k.stamp = policy, old, admin, stamp
	return nil
}

func random32() ([]byte, error) {
	b := make([]byte, 32)
	_, err := rand.Read(b)
	return b, err
}

// replaceFile writes a secret whole or not at all.
func replaceFile(path string, b []byte) error { return durable.Write(path, b, 0o600) }

// secretFile reads a secret, or creates it. Two processes that start at once agree on one.
func secretFile(path string, make func() ([]byte, error)) ([]byte, error) {
	b, err := readSecret(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return b, err
	}
	if b, err = make(); err != nil {
		return nil, err
	}
	err = durable.Create(path, 0o600, func(w io.Writer) error { _, err := w.Write(b); return err })
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	return readSecret(path)
}

// leastSecret is the length of the shortest.
const leastSecret = 32

// readSecret reads a secret and checks that it is whole: with an empty one, anybody could forge what it signs.
func readSecret(path string) ([]byte, error) {
	b, err := os.ReadFile(path)
	if err == nil && len(b) < leastSecret {
		return nil, fmt.Errorf("%s has %d bytes, which is not a key: restore it from a backup (or remove it, if no device is enrolled yet)",
			path, len(b))
	}
	return b, err
}

// jwkFile reads a private key, or creates it.
func jwkFile(path string) (*jose.JSONWebKey, error) {
	b, err := secretFile(path, func() ([]byte, error) {
		k, err := protocol.NewPolicyKey()
		if err != nil {
			return nil, err
		}
		return json.Marshal(k)
	})
	if err != nil {
		return nil, err
	}
	var k jose.JSONWebKey
	if err := json.Unmarshal(b, &k); err != nil {
		return nil, fmt.Errorf("%s is not a key: %w", path, err)
	}
	return &k, nil
}

// loadRecovery keeps only the public half on the server. When it is created, recovery.key is written beside it for the
// administrator to take away.
func (k *Keys) loadRecovery() (*jose.JSONWebKey, error) {
	pub := filepath.Join(k.dir, "recovery.pub")
	if b, err := os.ReadFile(pub); err == nil {
		var j jose.JSONWebKey
		return &j, json.Unmarshal(b, &j)
	}
	j, err := jwkFile(filepath.Join(k.dir, "recovery.key"))
	if err != nil {
		return nil, err
	}
	public := j.Public()
	b, err := secretFile(pub, func() ([]byte, error) { return json.Marshal(public) })
	if err != nil {
		return nil, err
	}
	var out jose.JSONWebKey
	return &out, json.Unmarshal(b, &out)
}

// loose lists the secrets that others than their owner may read or change.
func (k *Keys) loose() (out []string) {
	for _, f := range append(k.files(), k.dir, k.file("codes.key"), k.file("ca.pem"), k.file("recovery.key")) {
		if info, err := os.Stat(f); err == nil && info.Mode().Perm()&0o077 != 0 {
			out = append(out, f)
		}
	}
	return out
}

// Signing is the key that signs policies.
func (k *Keys) Signing() *jose.JSONWebKey {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.policy
}

// PolicyKeys is the public list that devices pin.
func (k *Keys) PolicyKeys() json.RawMessage {
	b, _ := json.Marshal([]jose.JSONWebKey{k.Signing().Public()})
	return b
}

// Pinned is the digest of that list.
func (k *Keys) Pinned() string { return protocol.KeysDigest([]jose.JSONWebKey{k.Signing().Public()}) }

// RecoveryKey is the public half that devices pin.
func (k *Keys) RecoveryKey() json.RawMessage {
	b, _ := json.Marshal(k.recovery)
	return b
}

// CodeSecret is the secret with which a device verifies exception codes.
func (k *Keys) CodeSecret(device string) []byte {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return protocol.CodeSecret(k.codes, device)
}

// tickets are the keys of TLS session tickets, today's and yesterday's. They are the same on every node and after a
// restart, so that a fleet that comes back at once resumes its sessions.
func (k *Keys) tickets(now time.Time) [][32]byte {
	k.mu.RLock()
	defer k.mu.RUnlock()
	var out [][32]byte
	for _, day := range []time.Time{now, now.AddDate(0, 0, -1)} {
		h := hmac.New(sha256.New, k.codes)
		h.Write([]byte("warder-session-tickets\n" + day.UTC().Format(time.DateOnly)))
		out = append(out, [32]byte(h.Sum(nil)))
	}
	return out
}
