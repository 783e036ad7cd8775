// Package ledger remembers what the machine was like before Warder changed it. It has one row for each changed
// resource: its baseline, the last value written, and the value intended next. It owns its own SQLite file and never
// touches the machine. agent/reconcile writes an intent before each plan, and settles it with what was read back. On a
// release, and after any crash, the rows say what is ours and what to give back.
package ledger

import (
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/warderd/warder/agent/dbfile"
	"github.com/warderd/warder/agent/killpoint"
	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/platform"
)

// Row is one resource. A machine that reads Last or Next reads a value of ours.
type Row struct {
	Key      enforce.Key
	Life     platform.Life
	Baseline enforce.Reading // the first baseline is kept, also after a crash
	Last     enforce.Reading // what we wrote and read back
	Next     enforce.Reading // what we are about to write; Unknown when nothing is under way
	By       []enforce.Setting
	// Phase is when it was changed. What was changed last is given back first.
	Phase enforce.Phase
}

// Ours reports whether a reading is a value that we wrote or were about to write.
func (r Row) Ours(seen enforce.Reading) bool {
	return r.Last.State != enforce.Unknown && seen.Same(r.Last) || r.Next.State != enforce.Unknown && seen.Same(r.Next)
}

const schema = `
CREATE TABLE IF NOT EXISTS rows (
	kind TEXT NOT NULL, id TEXT NOT NULL, boot TEXT NOT NULL, life INTEGER NOT NULL,
	baseline TEXT NOT NULL, last TEXT NOT NULL, next TEXT NOT NULL, settings TEXT NOT NULL,
	PRIMARY KEY (kind, id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS opened (kind TEXT NOT NULL, id TEXT NOT NULL, PRIMARY KEY (kind, id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS lost (boot TEXT PRIMARY KEY) WITHOUT ROWID;`

// A table of its own instead of a column, so that version 0.2 can still read the ledger.

// Ledger is the open file.
type Ledger struct {
	file *dbfile.File
	marks

	// A cache of the rows: nobody else writes the file. nil means that the file has to be read again.
	mu   sync.Mutex
	rows map[enforce.Key]Row
	lost *bool
}

// marks are files in the runtime directory. They say about this boot what must be known even when the database is
// lost.
type marks struct {
	boot string
	// mark exists from the first intent of a boot until everything is given back. A ledger without rows beside this
	// mark has lost them, whatever SQLite says.
	mark   string
	marked *atomic.Bool
	// past exists from the first intent until the boot ends, even when everything was given back.
	past string
	back string // what was given back last: GivenBack
}

func marksIn(standby, boot string) marks {
	in := func(name string) string { return filepath.Join(standby, name) }
	return marks{boot: boot, mark: in("holding"), past: in("held"), back: in(backName), marked: new(atomic.Bool)}
}

// look reads whether the mark exists, and reports it.
func (m *marks) look() bool {
	b, err := os.ReadFile(m.mark)
	m.marked.Store(err == nil && string(b) == m.boot)
	return m.marked.Load()
}

// set writes or removes the mark.
func (m *marks) set(changed bool) {
	if changed == m.marked.Load() {
		return
	}
	if changed {
		m.marked.Store(os.WriteFile(m.past, []byte(m.boot), 0o600) == nil && os.WriteFile(m.mark, []byte(m.boot), 0o600) == nil)
	} else if err := os.Remove(m.mark); err == nil || errors.Is(err, fs.ErrNotExist) {
		m.marked.Store(false)
	}
}

// Changed reports whether anything was changed in this boot, even if it was given back.
func (m *marks) Changed() bool {
	b, err := os.ReadFile(m.past)
	return m.marked.Load() || err == nil && string(b) == m.boot
}

// Open opens the ledger for this boot. Rows that ended with an earlier boot are dropped.
func Open(path, standby, boot string) (*Ledger, error) {
	l := &Ledger{marks: marksIn(standby, boot)}
	lost := func(db *sql.DB, _ string) error {
		l.mu.Lock()
		known := slices.Collect(maps.Values(l.rows)) // the file may no longer have them
		l.mu.Unlock()
		l.forget()
		if _, err := db.Exec(`INSERT OR IGNORE INTO lost VALUES (?)`, boot); err != nil {
			return err
		}
		return l.put(db, known)
	}
	file, err := dbfile.Open(path, standby, schema, lost)
	if err != nil {
		return nil, fmt.Errorf("cannot open the ledger: %w", err)
	}
	l.file = file
	err = file.Do(func(db *sql.DB) error {
		if _, err := db.Exec(`DELETE FROM rows WHERE life <> ? AND boot <> ?`, platform.Disk, boot); err != nil {
			return err
		}
		if _, err := db.Exec(
			`DELETE FROM opened WHERE NOT EXISTS (SELECT 1 FROM rows r WHERE r.kind = opened.kind AND r.id = opened.id)`); err != nil {
			return err
		}
		_, err := db.Exec(`DELETE FROM lost WHERE boot <> ?`, boot)
		return err
	})
	if err != nil {
		return l, err
	}
	return l, l.checkMark(filepath.Join(standby, earlyName))
}

// checkMark notices that rows are lost: the mark stands, and neither the ledger nor the early start's file has any
// row.
func (l *Ledger) checkMark(early string) error {
	if !l.look() {
		return nil
	}
	if _, err := os.Lstat(early); err == nil {
		return nil // the rows exist, and were not taken over yet
	}
	_ = os.WriteFile(l.past, []byte(l.boot), 0o600) // an earlier version wrote only the mark
	rows, err := l.Rows()
	if err != nil || len(rows) > 0 {
		return err
	}
	return l.MarkLost()
}

// Close closes the file.
func (l *Ledger) Close() error { return l.file.Close() }

// Shrink frees memory that is not needed while nothing happens.
func (l *Ledger) Shrink() { l.file.Shrink() }

// Check recreates the file if it was removed while open, and says so.
func (l *Ledger) Check() (string, error) { return l.file.Check() }

// Home moves the ledger back to the disk if it was kept elsewhere and the disk is writable again.
func (l *Ledger) Home() (back bool, err error) { return l.file.Home() }

// Health is the state of the file.
func (l *Ledger) Health() dbfile.Health { return l.file.Health() }

// forget drops the cache: another file came into use, or a write failed.
func (l *Ledger) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rows, l.lost = nil, nil
}

// known updates the cache after a write to the file.
func (l *Ledger) known(change func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change()
}

// Lost reports whether rows of this boot were lost. Then a resource that reads a value of ours is given back to the
// vendor's default.
func (l *Ledger) Lost() bool {
	l.mu.Lock()
	has := l.lost
	l.mu.Unlock()
	if has != nil {
		return *has
	}
	n := 0
	err := l.file.Do(func(db *sql.DB) error {
		if err := db.QueryRow(`SELECT count(*) FROM lost WHERE boot = ?`, l.boot).Scan(&n); err != nil {
			return err
		}
		yes := n > 0
		l.known(func() { l.lost = &yes })
		return nil
	})
	return err != nil || n > 0
}

// MarkLost records that rows of this boot may be missing.
func (l *Ledger) MarkLost() error {
	return l.file.Do(func(db *sql.DB) error {
		if _, err := db.Exec(`INSERT OR IGNORE INTO lost VALUES (?)`, l.boot); err != nil {
			return err
		}
		l.known(func() { l.lost = nil })
		return nil
	})
}

// Found clears that: everything has been given back.
func (l *Ledger) Found() error {
	if !l.Lost() {
		return nil
	}
	return l.file.Do(func(db *sql.DB) error {
		if _, err := db.Exec(`DELETE FROM lost`); err != nil {
			return err
		}
		l.known(func() { l.lost = nil })
		return nil
	})
}

// Rows returns every row.
func (l *Ledger) Rows() (map[enforce.Key]Row, error) {
	l.mu.Lock()
	has := maps.Clone(l.rows)
	l.mu.Unlock()
	if has != nil {
		return has, nil
	}
	var out map[enforce.Key]Row
	err := l.file.Do(func(db *sql.DB) error {
		out = map[enforce.Key]Row{}
		rs, err := db.Query(`SELECT r.kind, r.id, life, baseline, last, next, settings, o.id IS NOT NULL FROM rows r LEFT JOIN opened o ` +
			`ON o.kind = r.kind AND o.id = r.id`)
		if err != nil {
			return err
		}
		defer rs.Close()
		for rs.Next() {
			var r Row
			opened := false
			if err := rs.Scan(&r.Key.Kind, &r.Key.ID, &r.Life, text{&r.Baseline}, text{&r.Last}, text{&r.Next}, text{&r.By},
				&opened); err != nil {
				return err
			}
			r.Phase = enforce.Close
			if opened {
				r.Phase = enforce.Open
			}
			out[r.Key] = r
		}
		if err := rs.Err(); err != nil {
			return err
		}
		l.known(func() { l.rows = maps.Clone(out) }) // with the file's lock, so that no write comes between
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("cannot read the ledger: %w", err)
	}
	return out, nil
}

// text stores a value as JSON. A value that cannot be decoded damages only itself: it reads as unknown.
type text struct{ v any }

// Scan implements sql.Scanner.
func (t text) Scan(src any) error {
	s, _ := src.(string)
	_ = json.Unmarshal([]byte(s), t.v)
	return nil
}

func encode(v any) string {
	b, _ := json.Marshal(v)
	return string(b)
}

// Intend writes what a plan is about to do, with one wait for the disk. The baseline of an existing row is kept.
func (l *Ledger) Intend(rows []Row) error {
	if len(rows) == 0 {
		return nil
	}
	killpoint.Hit("ledger.intend.before")
	l.set(true)
	err := l.file.Do(func(db *sql.DB) error { return l.put(db, rows) })
	killpoint.Hit("ledger.intend.after")
	if err != nil {
		l.forget()
		return fmt.Errorf("cannot write the ledger: %w", err)
	}
	return nil
}

// Note writes rows of resources that exist until unplugged, without waiting for the disk.
func (l *Ledger) Note(rows []Row) error {
	if len(rows) == 0 {
		return nil
	}
	l.set(true)
	err := l.file.DoQuick(func(db *sql.DB) error { return l.put(db, rows) })
	killpoint.Hit("guard.noted")
	if err != nil {
		l.forget()
		return fmt.Errorf("cannot write the ledger: %w", err)
	}
	return nil
}

// put inserts or replaces rows; the baseline of an existing row is kept.
func (l *Ledger) put(db *sql.DB, rows []Row) error {
	tx, err := db.Begin()
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	for _, r := range rows {
		_, err := tx.Exec(`INSERT INTO rows VALUES (?,?,?,?,?,?,?,?)
			ON CONFLICT (kind, id) DO UPDATE SET boot=excluded.boot, life=excluded.life,
			last=excluded.last, next=excluded.next, settings=excluded.settings`,
			r.Key.Kind, r.Key.ID, l.boot, r.Life, encode(r.Baseline), encode(r.Last), encode(r.Next), encode(r.By))
		if err != nil {
			return err
		}
		phase := `DELETE FROM opened WHERE kind = ? AND id = ?`
		if r.Phase == enforce.Open {
			phase = `INSERT OR IGNORE INTO opened VALUES (?,?)`
		}
		if _, err := tx.Exec(phase, r.Key.Kind, r.Key.ID); err != nil {
			return err
		}
	}
	if err := tx.Commit(); err != nil {
		return err
	}
	l.known(func() {
		for _, r := range rows {
			if l.rows == nil {
				return
			}
			if had, again := l.rows[r.Key]; again {
				r.Baseline = had.Baseline // the first baseline is kept
			}
			if r.Phase != enforce.Open {
				r.Phase = enforce.Close // as it is read
			}
			l.rows[r.Key] = r
		}
	})
	return nil
}

// Settle records what was read back after a plan, and drops rows that were given back or whose resource is gone. It
// does not wait for the disk: after a crash, a settled row and a remaining intent lead to the same recovery.
func (l *Ledger) Settle(rows []Row, forget []enforce.Key) error {
	if len(rows) == 0 && len(forget) == 0 {
		return nil
	}
	killpoint.Hit("settle.before")
	err := l.file.DoQuick(func(db *sql.DB) error {
		if err := l.put(db, rows); err != nil {
			return err
		}
		tx, err := db.Begin()
		if err != nil {
			return err
		}
		defer func() { _ = tx.Rollback() }()
		for _, k := range forget {
			for _, table := range []string{"rows", "opened"} {
				if _, err := tx.Exec(`DELETE FROM `+table+` WHERE kind = ? AND id = ?`, k.Kind, k.ID); err != nil {
					return err
				}
			}
		}
		if err := tx.Commit(); err != nil {
			return err
		}
		l.known(func() {
			for _, k := range forget {
				delete(l.rows, k)
			}
		})
		return nil
	})
	killpoint.Hit("settle.after")
	if err != nil {
		l.forget()
		return fmt.Errorf("cannot settle the ledger: %w", err)
	}
	if left, err := l.Rows(); err == nil && len(left) == 0 {
		l.set(false)
	}
	return nil
}
