// Package early stores what the machine needs before the agent runs: the last confirmed policy, as the server signed
// it, in one flat file on the root file system; and a record of what the early start did, in the runtime directory,
// until the agent takes it over. The package owns these two files and verifies what it reads. It never changes the
// machine.
package early

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/warderd/warder/agent/identity"
	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/platform"
	"github.com/warderd/warder/platform/durable"
	"github.com/warderd/warder/sync/protocol"
)

// File is the input of an early start.
type File struct {
	Version  int             `json:"version"` // of this format
	DeviceID string          `json:"device_id"`
	JWS      string          `json:"jws"`  // the confirmed assignment
	Keys     json.RawMessage `json:"keys"` // public JWKs that were pinned when it arrived
	// Exceptions that were current when the file was written; each has its end.
	Exceptions []identity.Exception `json:"exceptions,omitempty"`
	Notes      platform.Notes       `json:"notes,omitempty"`
}

const version = 1

// maxFile bounds the file: a policy of 1 MiB as base64 in JSON, and the notes.
const maxFile = 4 << 20

// sealed is a file with its checksum.
type sealed struct {
	Sum  string          `json:"sum"`
	File json.RawMessage `json:"file"`
}

// Encode returns the file's text.
func (f File) Encode() ([]byte, error) {
	f.Version = version
	body, err := json.Marshal(f)
	if err != nil {
		return nil, err
	}
	return json.Marshal(sealed{durable.Sum(body), body})
}

// Parse reads a file's text.
func Parse(b []byte) (File, error) {
	var s sealed
	var f File
	if err := json.Unmarshal(b, &s); err != nil {
		return f, err
	}
	if got := durable.Sum(s.File); got == "" || got != s.Sum {
		return f, errors.New("sum: its checksum does not match")
	}
	if err := json.Unmarshal(s.File, &f); err != nil {
		return f, err
	}
	if f.Version != version {
		return f, fmt.Errorf("version: this program knows %d (received %d)", version, f.Version)
	}
	return f, nil
}

// Differs says how a file differs from the text that it should have; "" if it does not. absent reports that it is
// missing.
func Differs(path string, text []byte) (how string, absent bool) {
	b, err := durable.Read(path, maxFile)
	if err == nil {
		err = owned(path)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return path + " was removed", true
	case err != nil:
		return err.Error(), false
	case !bytes.Equal(b, text):
		return path + " was changed", false
	}
	return "", false
}

// Write makes a file durable. Only root may read it, because it contains the policy.
func Write(path string, text []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return durable.Write(path, text, 0o600)
}

// Remove removes the file, and whatever stands in its place.
func Remove(path string) error { return errors.Join(durable.Remove(path), os.RemoveAll(path)) }

// Check says why a file would be refused; nil if it would be accepted, as far as this user can tell.
func Check(path string) error {
	_, _, err := Load(path)
	if errors.Is(err, fs.ErrPermission) {
		return nil
	}
	return err
}

// Load reads a file and verifies its policy. A file that another user could have written is refused.
func Load(path string) (File, *policy.Document, error) {
	if err := owned(path); err != nil {
		return File{}, nil, err
	}
	b, err := durable.Read(path, maxFile)
	if err != nil {
		return File{}, nil, err
	}
	f, err := Parse(b)
	if err != nil {
		return f, nil, fmt.Errorf("%s: %w", path, err)
	}
	doc, err := f.Policy()
	if err != nil {
		return f, nil, fmt.Errorf("%s: %w", path, err)
	}
	return f, doc, nil
}

// Policy verifies and decodes the policy.
func (f File) Policy() (*policy.Document, error) {
	keys, err := protocol.ParseKeys(f.Keys)
	if err != nil {
		return nil, fmt.Errorf("keys: %w", err)
	}
	as, err := protocol.VerifyAssignment(f.JWS, keys, f.DeviceID, 0)
	if err != nil {
		return nil, fmt.Errorf("jws: %w", err)
	}
	return policy.Decode(as.Policy, policy.Options{})
}
