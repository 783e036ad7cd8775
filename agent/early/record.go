package early

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/platform/durable"
)

// Told is one decision of the early start, as the agent's journal takes it.
type Told struct {
	Key   string        `json:"key"`  // of the resource
	What  string        `json:"what"` // identifies it among others of the same resource
	Event enforce.Event `json:"event"`
}

// Record is what the early start did.
type Record struct {
	Boot    string        `json:"boot"`
	Began   time.Duration `json:"began"` // since the kernel started
	InForce time.Duration `json:"held"`  // until the policy was in force
	Told    []Told        `json:"told"`
	Lost    int           `json:"lost,omitempty"` // decisions that did not fit
	// Problem is why the policy was not enforced.
	Problem string `json:"problem,omitempty"`
}

// The bounds of a record.
const (
	MaxTold   = 256
	maxRecord = 4 << 20
)

const recordName = "early-record.json"

// Save writes the record to the runtime directory.
func (r Record) Save(run string) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return durable.Swap(filepath.Join(run, recordName), b, 0o600)
}

// Recorded returns the record of this boot; nil if there is none.
func Recorded(run, boot string) (*Record, error) {
	b, err := durable.Read(filepath.Join(run, recordName), maxRecord)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return parseRecord(b, boot)
}

// parseRecord decodes a record; nil if it is of another boot.
func parseRecord(b []byte, boot string) (*Record, error) {
	var r Record
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, fmt.Errorf("%s: %w", recordName, err)
	}
	if r.Boot != boot {
		return nil, nil
	}
	if len(r.Told) > MaxTold {
		return nil, fmt.Errorf("%s: told: %d are more than %d", recordName, len(r.Told), MaxTold)
	}
	return &r, nil
}

// Forget removes the record after the agent has taken it over.
func Forget(run string) error { return os.RemoveAll(filepath.Join(run, recordName)) }

// overName marks a boot in which an agent has run. No early start begins after that.
const overName = "early-over"

// End records that an agent takes over in this boot.
func End(run, boot string) error {
	return durable.Swap(filepath.Join(run, overName), []byte(boot), 0o644)
}

// Ended reports whether one has.
func Ended(run, boot string) bool {
	b, err := durable.Read(filepath.Join(run, overName), 1<<10)
	return err == nil && string(b) == boot
}
