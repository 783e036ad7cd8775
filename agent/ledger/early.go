package ledger

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/platform/durable"
)

// Early is the ledger of the early start, when the disk with the real ledger may not be mounted yet. It is a flat file
// in the runtime directory, and its rows end with the boot. TakeOver moves them into the ledger.
type Early struct {
	path string
	marks

	mu   sync.Mutex
	rows map[enforce.Key]Row
}

// earlyName is the file's name in the runtime directory.
const earlyName = "early-ledger.json"

// The bounds of the file.
const (
	maxEarly     = 4 << 20
	maxEarlyRows = 4096
)

// earlyFile is its content.
type earlyFile struct {
	Boot string `json:"boot"`
	Rows []Row  `json:"rows"`
}

// ErrTaken means that an agent has run in this boot: something was changed that the early ledger does not list.
var ErrTaken = errors.New("an agent has run in this boot")

// OpenEarly opens the early ledger of this boot, with the rows of an early start that ended before.
func OpenEarly(standby, boot string) (*Early, error) {
	e := &Early{path: filepath.Join(standby, earlyName), marks: marksIn(standby, boot), rows: map[enforce.Key]Row{}}
	e.look()
	rows, err := readEarly(e.path, boot)
	if err != nil {
		return nil, err
	}
	if _, err := os.Lstat(e.path); err != nil && e.Changed() {
		return nil, ErrTaken
	}
	for _, r := range rows {
		e.rows[r.Key] = r
	}
	return e, nil
}

// readEarly returns the rows of this boot's file; none if there is no such file.
func readEarly(path, boot string) ([]Row, error) {
	b, err := durable.Read(path, maxEarly)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	rows, err := parseEarly(b, boot)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return rows, nil
}

// parseEarly decodes the rows of this boot's file.
func parseEarly(b []byte, boot string) ([]Row, error) {
	var f earlyFile
	if err := json.Unmarshal(b, &f); err != nil {
		return nil, err
	}
	if f.Boot != boot {
		return nil, nil
	}
	if len(f.Rows) > maxEarlyRows {
		return nil, fmt.Errorf("rows: %d are more than %d", len(f.Rows), maxEarlyRows)
	}
	for i, r := range f.Rows {
		if r.Key.Kind == "" || r.Key.ID == "" {
			return nil, fmt.Errorf("rows[%d].Key: has no kind or no id (received %q)", i, r.Key.String())
		}
	}
	return f.Rows, nil
}

// Rows returns every row.
func (e *Early) Rows() (map[enforce.Key]Row, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return maps.Clone(e.rows), nil
}

// Lost reports that nothing is lost: before the first row was written, nothing had been changed in this boot.
func (e *Early) Lost() bool { return false }

// Found does nothing.
func (e *Early) Found() error { return nil }

// Intend writes what a plan is about to do. It does not wait for the disk, because the rows end with the boot.
func (e *Early) Intend(rows []Row) error { return e.change(rows, nil) }

// Note writes rows for what a guard changes.
func (e *Early) Note(rows []Row) error { return e.change(rows, nil) }

// Settle records what was read back after a plan.
func (e *Early) Settle(rows []Row, forget []enforce.Key) error { return e.change(rows, forget) }

// change adds and removes rows, and writes the file.
func (e *Early) change(rows []Row, forget []enforce.Key) error {
	if len(rows) == 0 && len(forget) == 0 {
		return nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	next := maps.Clone(e.rows)
	for _, r := range rows {
		if had, again := next[r.Key]; again {
			r.Baseline = had.Baseline // the first baseline is kept
		}
		next[r.Key] = r
	}
	for _, k := range forget {
		delete(next, k)
	}
	if len(next) > maxEarlyRows {
		return fmt.Errorf("cannot write the early ledger: %d rows are more than %d", len(next), maxEarlyRows)
	}
	e.set(true)
	out := earlyFile{Boot: e.boot, Rows: slices.SortedFunc(maps.Values(next),
		func(a, b Row) int { return strings.Compare(a.Key.String(), b.Key.String()) })}
	b, err := json.Marshal(out)
	if err == nil {
		err = durable.Swap(e.path, b, 0o600)
	}
	if err != nil {
		return fmt.Errorf("cannot write the early ledger: %w", err)
	}
	if e.rows = next; len(next) == 0 {
		e.set(false)
	}
	return nil
}

// TakeOver moves the early start's rows into the ledger, after the early start has ended. Unreadable rows count as
// lost.
func (l *Ledger) TakeOver() error {
	path := filepath.Join(filepath.Dir(l.mark), earlyName)
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	rows, err := readEarly(path, l.boot)
	if err != nil {
		if err := l.MarkLost(); err != nil {
			return err
		}
	}
	have, err := l.Rows()
	if err != nil {
		return err
	}
	// The ledger's own rows are better: they were taken over before, and the file could not be removed.
	rows = slices.DeleteFunc(rows, func(r Row) bool { _, known := have[r.Key]; return known })
	if err := l.Intend(rows); err != nil {
		return err
	}
	_ = os.RemoveAll(path)
	return nil
}
