// Package identity keeps, in flat files beside SQLite, what a device must not lose: its key, the
// server's pinned keys, the last signed policy and the highest serial seen. It owns those files and
// their durability, each in two copies with a checksum; it verifies nothing (sync/protocol does)
// and talks to nobody.
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

// Device is who this machine is to its server.
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
	CodeSecret  []byte          `json:"code_secret,omitempty"` // what offline exception codes are verified with
	KeysAt      time.Time       `json:"keys_at,omitzero"`      // when the rotation that was followed last was signed
	// The last statement of the recovery key that was followed, or that the server told of at enrolment:
	// its counter, and its date or the enrolment's.
	Recovered   uint64    `json:"recovered,omitempty"`
	RecoveredAt time.Time `json:"recovered_at,omitzero"`
}

// Assignment is the last signed policy as received, and how far it got.
type Assignment struct {
	JWS       string          `json:"jws"`
	Keys      json.RawMessage `json:"keys"` // public JWKs that were pinned when it came
	Serial    int64           `json:"serial"`
	Received  time.Time       `json:"received"`
	Confirmed bool            `json:"confirmed"`
}

// Hold is a person's decision to suspend the policy.
type Hold struct {
	Who    string    `json:"who"`
	Reason string    `json:"reason"`
	Since  time.Time `json:"since"`
	Until  time.Time `json:"until,omitzero"` // zero: until lifted
}

// State is everything, in one file, so that no two parts of it can disagree after a power cut.
type State struct {
	Device    *Device     `json:"device,omitempty"`
	Policy    *Assignment `json:"policy,omitempty"`    // in force, or about to be
	Confirmed *Assignment `json:"confirmed,omitempty"` // the last that a check-in proved
	Highest   int64       `json:"highest_serial"`      // a lower one is refused
	Refuted   int64       `json:"refuted_serial,omitempty"`
	// RefutedDigest is its content: the same under another serial is not tried again either, for a day.
	RefutedDigest string    `json:"refuted_digest,omitempty"`
	RefutedAt     time.Time `json:"refuted_at,omitzero"`
	// Trial is of a policy that no check-in has proved yet and that can cut this machine off; it stands
	// until the policy is proved or refuted.
	Trial *Trial `json:"trial,omitempty"`
	Hold  *Hold  `json:"hold,omitempty"`

	Exceptions []Exception          `json:"exceptions,omitempty"`
	Redeemed   map[string]time.Time `json:"redeemed,omitempty"` // codes used, so that none is used twice
	Ended      map[string]time.Time `json:"ended,omitempty"`    // exceptions whose time was up here, and when
}

// Trial is a policy that has to prove itself.
type Trial struct {
	Serial  int64  `json:"serial"`
	Network bool   `json:"network"` // it changed what leads to the server
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

// Name is what passes, for people.
func (e Exception) Name() string { return e.Section + " " + e.Subject }

// UnmarshalJSON reads what versions up to 0.3 stored, too: sticks alone, under a field of that name.
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

// ErrDamaged: both copies are there and neither can be read.
var ErrDamaged = errors.New("the identity files are damaged")

// Store reads and writes the two copies.
type Store struct {
	dir     string
	standby string // in the runtime directory, for when the disk cannot be written

	mu     sync.Mutex // held while the disk is waited for, and until the second copy is written
	turn   uint64     // of the newest copy; 0: not known yet
	uneven bool       // the copies were whole, and not the same
	health string
	shown  atomic.Pointer[string] // for those who ask meanwhile
	away   atomic.Bool            // a copy is in the runtime directory, for want of the disk
	second sync.WaitGroup         // the write of the second copy
}

// show lets others see how the files are. Called with the lock held.
func (s *Store) show() { h := s.health; s.shown.Store(&h) }

// New keeps the files in dir, and in standby while the disk cannot be written.
func New(dir, standby string) *Store { return &Store{dir: dir, standby: standby} }

// maxFile bounds the file: a policy of 1 MiB twice, as base64 in JSON.
const maxFile = 8 << 20

func (s *Store) files() []string {
	return []string{filepath.Join(s.standby, "identity.json"), filepath.Join(s.dir, "identity.json"), filepath.Join(s.dir, "identity.json.bak")}
}

// Health says in words what is wrong with the files; "" when nothing is. It waits for no disk.
func (s *Store) Health() string {
	if h := s.shown.Load(); h != nil {
		return *h
	}
	return ""
}

// Load gives the newest copy that is whole. No copy at all is an empty state: not enrolled.
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
		s.health = ErrDamaged.Error() + ": enrol this machine again"
		return State{}, fmt.Errorf("%w (%d of %d copies in %s)", ErrDamaged, broken, found, s.dir)
	}
	if best == nil {
		return State{}, nil
	}
	var st State
	if err := json.Unmarshal(best.State, &st); err != nil {
		s.uneven = false // a newer version's, perhaps: nothing is written over what cannot be read
		return State{}, fmt.Errorf("%w: %v", ErrDamaged, err)
	}
	s.uneven = s.uneven || found == 1
	s.turn = max(s.turn, best.Turn)
	return st, nil
}

// sealed is the form on disk. Turn grows with each write, so that the newer copy is known.
type sealed struct {
	Turn  uint64          `json:"turn"`
	Sum   string          `json:"sha256"`
	State json.RawMessage `json:"state"`
}

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

// Save makes a state durable: the first copy is whole on the disk when it returns, and the second follows in
// the background, so that at no time both are being written. Where the disk cannot be written, the runtime
// directory carries the state to the next start of this boot.
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

// Check says what is wrong with the copies on the disk, "" for nothing: they were removed, or damaged, or replaced
// by older ones, since they were written. Saving again mends it.
func (s *Store) Check() string {
	if !s.mu.TryLock() {
		return "" // it is being written
	}
	defer s.mu.Unlock()
	if s.turn == 0 || s.health != "" {
		return "" // none was written; or that is said already
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

// Away reports whether the disk could not be written at the last save, so that the runtime directory holds what it
// should. It waits for no disk.
func (s *Store) Away() bool { return s.away.Load() }

// Uneven reports whether the copies were whole when they were read, and not the same.
func (s *Store) Uneven() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.uneven
}

// Wait returns when both copies are written.
func (s *Store) Wait() { s.second.Wait() }

// Sweep removes what a write that was killed has left. The caller is the only agent.
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

func write(path string, b []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return durable.WriteAt(path, b, 0o600, func(step string) { killpoint.Hit("identity." + step) })
}
