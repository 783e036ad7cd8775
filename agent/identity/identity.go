// Package identity stores, in flat files beside SQLite, what a device must not lose: its key, the server's pinned keys,
// the last signed policy, and the highest serial seen. It owns those files and their durability: each has two copies
// with a checksum. It verifies no signatures (sync/protocol does), and it never uses the network.
package identity

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/warderd/warder/agent/killpoint"
	"github.com/warderd/warder/platform/durable"
)

// Device is this machine's identity to its server.
type Device struct {
	DeviceID    string          `json:"device_id"`
	Server      string          `json:"server"`
	CA          string          `json:"ca_pem,omitempty"` // the pinned CA certificate, or empty for the system's
	Key         json.RawMessage `json:"key"`              // private JWK
	PolicyKeys  json.RawMessage `json:"policy_keys"`      // public JWKs that may sign policies
	RecoveryKey json.RawMessage `json:"recovery_key,omitempty"`
	Machine     string          `json:"machine"` // hash of the machine's own id, to notice cloned images
	Interval    int             `json:"interval_seconds"`
	EnrolledAt  time.Time       `json:"enrolled_at"`
	CodeSecret  []byte          `json:"code_secret,omitempty"` // verifies offline exception codes
	KeysAt      time.Time       `json:"keys_at,omitzero"`      // when the last rotation was signed
	// The last recovery that was followed, or that the server reported at enrollment: its counter, and its date or the
	// enrollment's.
	Recovered   uint64    `json:"recovered,omitempty"`
	RecoveredAt time.Time `json:"recovered_at,omitzero"`
}

// Assignment is the last signed policy as received, and what became of it.
type Assignment struct {
	JWS       string          `json:"jws"`
	Keys      json.RawMessage `json:"keys"` // public JWKs that were pinned when it arrived
	Serial    int64           `json:"serial"`
	Received  time.Time       `json:"received"`
	Confirmed bool            `json:"confirmed"`
	// Network says that what it changes of the network was in force when it was confirmed. It was not if an older version
	// confirmed it, or this machine could not do it then.
	Network bool `json:"network,omitempty"`
}

// Hold is a person's decision to suspend the policy.
type Hold struct {
	Who    string    `json:"who"`
	Reason string    `json:"reason"`
	Since  time.Time `json:"since"`
	Until  time.Time `json:"until,omitzero"` // zero: until lifted
}

// State is everything, in one file, so that its parts agree after a power cut.
type State struct {
	Device    *Device     `json:"device,omitempty"`
	Policy    *Assignment `json:"policy,omitempty"`    // in force, or about to be
	Confirmed *Assignment `json:"confirmed,omitempty"` // the last one that a check-in confirmed
	Highest   int64       `json:"highest_serial"`      // lower serials are refused
	Refuted   int64       `json:"refuted_serial,omitempty"`
	// RefutedDigest identifies the refuted content: the same content under another serial is not tried again either,
	// for a day.
	RefutedDigest string    `json:"refuted_digest,omitempty"`
	RefutedAt     time.Time `json:"refuted_at,omitzero"`
	// Trial is set while the policy is unconfirmed and can cut this machine off. It is cleared when the policy is
	// confirmed or refuted.
	Trial *Trial `json:"trial,omitempty"`
	Hold  *Hold  `json:"hold,omitempty"`

	// Portals are the times at which the way to a captive portal was opened, of the last day.
	Portals []time.Time `json:"portals,omitempty"`

	Exceptions []Exception          `json:"exceptions,omitempty"`
	Redeemed   map[string]time.Time `json:"redeemed,omitempty"` // codes used, so that none is used twice
	Ended      map[string]time.Time `json:"ended,omitempty"`    // exceptions that have ended here, and when
}

// Trial is a policy that has to prove itself.
type Trial struct {
	Serial  int64  `json:"serial"`
	Network bool   `json:"network"` // it changed the path to the server
	Boot    string `json:"boot"`    // in which it was last applied
}

// Exception lets one subject pass for a time.
type Exception struct {
	ID      string    `json:"id"`
	Section string    `json:"section"`
	Subject string    `json:"subject"`
	Reason  string    `json:"reason,omitempty"`
	Since   time.Time `json:"since"`
	Until   time.Time `json:"until"`             // on this machine's clock
	Offline bool      `json:"offline,omitempty"` // by a code; the server does not know whether it was used
}

// Name is the subject as people read it.
func (e Exception) Name() string { return e.Section + " " + e.Subject }

// UnmarshalJSON also reads what versions up to 0.3 stored: USB sticks only, in a field named "usb".
func (e *Exception) UnmarshalJSON(b []byte) error {
	type plain Exception
	old := struct {
		*plain
		USB string `json:"usb"`
	}{plain: (*plain)(e)}
	if err := json.Unmarshal(b, &old); err != nil {
		return err
	}
	if e.Section == "" && old.USB != "" {
		e.Section, e.Subject = "usb", old.USB
	}
	return nil
}

// ErrDamaged means that both copies exist and neither can be read.
var ErrDamaged = errors.New("the identity files are damaged")

// Store reads and writes the two copies.
type Store struct {
	dir     string
	standby string // in the runtime directory, while the disk cannot be written

	mu     sync.Mutex // locked while the disk is waited for, and until the second copy is written
	turn   uint64     // of the newest copy; 0: not known yet
	uneven bool       // both copies were whole, but different
	health string
	shown  atomic.Pointer[string] // for readers that must not wait for mu
	away   atomic.Bool            // a copy is in the runtime directory, because the disk could not be written
	second sync.WaitGroup         // the write of the second copy
}

// show publishes the state of the files. Called with the lock.
func (s *Store) show() { h := s.health; s.shown.Store(&h) }

// New keeps the files in dir, and in standby while the disk cannot be written.
func New(dir, standby string) *Store { return &Store{dir: dir, standby: standby} }

// maxFile bounds the file: a policy of 1 MiB twice, as base64 in JSON.
const maxFile = 8 << 20

func (s *Store) files() []string {
	return []string{filepath.Join(s.standby, "identity.json"), filepath.Join(s.dir, "identity.json"),
		filepath.Join(s.dir, "identity.json.bak")}
}

// Health says what is wrong with the files; "" means nothing. It never waits for the disk.
func (s *Store) Health() string {
	if h := s.shown.Load(); h != nil {
		return *h
	}
	return ""
}

// Load returns the newest copy that is whole. If there is no copy, it returns an empty state: not enrolled.
func (s *Store) Load() (State, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.show()
	var best *sealed
	found, broken := 0, 0
	s.uneven = false
	for _, f := range s.files() {
		c, err := open(f)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		found++
		s.uneven = s.uneven || best != nil && err == nil && c.Turn != best.Turn
		if err != nil {
			broken++
			s.health = fmt.Sprintf("%s is damaged (%v); its other copy is used", filepath.Base(f), err)
			continue
		}
		if best == nil || c.Turn > best.Turn {
			best = c
		}
	}
	if best == nil && found > 0 {
		s.health = ErrDamaged.Error() + ": enroll this machine again"
		return State{}, fmt.Errorf("%w (%d of %d copies in %s)", ErrDamaged, broken, found, s.dir)
	}
	if best == nil {
		return State{}, nil
	}
	var st State
	if err := json.Unmarshal(best.State, &st); err != nil {
		s.uneven = false // perhaps of a newer version: never overwrite what cannot be read
		return State{}, fmt.Errorf("%w: %v", ErrDamaged, err)
	}
	s.uneven = s.uneven || found == 1
	s.turn = max(s.turn, best.Turn)
	return st, nil
}

// sealed is the format on disk. Turn grows with each write, to tell which copy is newer.
type sealed struct {
	Turn  uint64          `json:"turn"`
	Sum   string          `json:"sha256"`
	State json.RawMessage `json:"state"`
}

// open reads one copy and verifies its checksum.
func open(path string) (*sealed, error) {
	b, err := durable.Read(path, maxFile)
	if err != nil {
		return nil, err
	}
	var c sealed
	if err := json.Unmarshal(b, &c); err != nil {
		return nil, err
	}
	if got := durable.Sum(c.State); got == "" || got != c.Sum {
		return nil, errors.New("its checksum does not match")
	}
	return &c, nil
}

// Save makes a state durable. The first copy is whole on the disk when it returns; the second follows in the
// background, so that the two are never written at the same time. If the disk cannot be written, the state goes to the
// runtime directory and survives until the next boot.
func (s *Store) Save(st State) error {
	body, err := json.Marshal(st)
	if err != nil {
		return err
	}
	s.mu.Lock()
	files := s.files()
	if s.turn == 0 {
		for _, f := range files {
			if old, err := open(f); err == nil {
				s.turn = max(s.turn, old.Turn)
			}
		}
	}
	s.turn++
	out, _ := json.Marshal(sealed{Turn: s.turn, Sum: durable.Sum(body), State: body})
	if err := write(files[1], out); err != nil {
		defer s.mu.Unlock()
		defer s.show()
		s.health = fmt.Sprintf("the identity cannot be written to disk (%v); kept in %s until it can", err, s.standby)
		s.away.Store(true)
		if serr := write(files[0], out); serr != nil {
			return fmt.Errorf("cannot keep the identity anywhere: %w", errors.Join(err, serr))
		}
		return nil
	}
	s.second.Go(func() {
		defer s.mu.Unlock()
		defer s.show()
		if err := write(files[2], out); err != nil {
			s.health = fmt.Sprintf("only one copy of the identity can be written to disk (%v)", err)
			s.away.Store(true)
			if write(files[0], out) == nil {
				s.health += "; another is kept in " + s.standby
			}
			return
		}
		s.health, s.uneven = "", false
		s.away.Store(false)
		_ = os.Remove(files[0])
	})
	return nil
}

// Check says what is wrong with the copies on the disk: removed, damaged, or replaced by older ones; "" means nothing.
// Saving again repairs it.
func (s *Store) Check() string {
	if !s.mu.TryLock() {
		return "" // it is being written
	}
	defer s.mu.Unlock()
	if s.turn == 0 || s.health != "" {
		return "" // no copy was written, or this is reported already
	}
	for _, f := range s.files()[1:] {
		c, err := open(f)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return filepath.Base(f) + " was removed"
		case err != nil:
			return fmt.Sprintf("%s is damaged (%v)", filepath.Base(f), err)
		case c.Turn < s.turn:
			return filepath.Base(f) + " was replaced by an older one"
		}
	}
	return ""
}

// Away reports whether the last save went to the runtime directory, because the disk could not be written. It never
// waits for the disk.
func (s *Store) Away() bool { return s.away.Load() }

// Uneven reports whether both copies were whole, but different, when they were read.
func (s *Store) Uneven() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.uneven
}

// Wait returns when both copies are written.
func (s *Store) Wait() { s.second.Wait() }

// Sweep removes what an interrupted write has left. The caller has to be the only agent.
func (s *Store) Sweep() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.files() {
		durable.Sweep(f)
	}
}

// Erase removes every copy.
func (s *Store) Erase() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, f := range s.files() {
		if err := durable.Remove(f); err != nil {
			errs = append(errs, err)
		}
	}
	s.turn = 0
	return errors.Join(errs...)
}

// write replaces one copy durably, with its directory made first.
func write(path string, b []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return durable.WriteAt(path, b, 0o600, func(step string) { killpoint.Hit("identity." + step) })
}
