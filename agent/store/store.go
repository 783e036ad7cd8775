// Package store is the agent's history in SQLite: policy versions, findings, and the outbox of events that the server
// has not acknowledged. Losing it loses history, but neither the policy in force (agent/identity) nor what to give back
// (agent/ledger). Events are numbered within an epoch. Each run, and each file that replaces another during a run,
// begins a new epoch, so that a number is never mistaken for one of a lost file or an older copy.
package store

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/warderd/warder/agent/dbfile"
	"github.com/warderd/warder/agent/killpoint"
	"github.com/warderd/warder/enforce"
)

// The outbox's bounds. Past maxPending the oldest events are folded into counted summaries; acknowledged ones stay for
// support.
const (
	maxPending   = 100_000
	keepAcked    = 30 * 24 * time.Hour
	keepBytes    = 64 << 20
	keepPolicies = 20
)

const schema = `
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS events (
	seq INTEGER PRIMARY KEY AUTOINCREMENT, at INTEGER NOT NULL, acked INTEGER NOT NULL DEFAULT 0,
	setting TEXT NOT NULL, kind TEXT NOT NULL, body TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS pending ON events (acked, seq);
CREATE TABLE IF NOT EXISTS policies (
	serial INTEGER PRIMARY KEY, digest TEXT NOT NULL, received INTEGER NOT NULL, state TEXT NOT NULL,
	reason TEXT NOT NULL, changes TEXT NOT NULL, document BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS findings (setting TEXT PRIMARY KEY, body TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS epochs (first INTEGER PRIMARY KEY, epoch TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS seen (subject TEXT PRIMARY KEY, boot TEXT NOT NULL, what TEXT NOT NULL) WITHOUT ROWID;`

// Store is the open file.
type Store struct {
	file  *dbfile.File
	place int         // the file in which this run has begun an epoch; guarded by the file's lock
	none  atomic.Bool // no event waits for the server; false if that has to be looked up
}

// Open opens the store.
func Open(path, standby string) (*Store, error) {
	s := &Store{}
	file, err := dbfile.Open(path, standby, schema, func(db *sql.DB, _ string) error {
		s.none.Store(false)
		return base(db)
	})
	if err != nil {
		return nil, fmt.Errorf("cannot open the store: %w", err)
	}
	s.file = file
	return s, file.Do(func(db *sql.DB) error {
		// A file of version 0.5 has one epoch, and does not say up to which event it was acknowledged.
		if err := base(db); err != nil {
			return err
		}
		_, err := db.Exec(`UPDATE events SET acked = ? WHERE acked = 1`, max(time.Now().UnixMilli(), 2))
		return err
	})
}

// base gives every event an epoch: all events of an older version get the same one. For a file that is only partly
// there the epoch cannot be known.
func base(db *sql.DB) error {
	_, err := db.Exec(`INSERT INTO epochs SELECT 0, coalesce((SELECT value FROM meta WHERE name = 'epoch'), ?) WHERE NOT EXISTS (SELECT `+
		`1 FROM epochs)`, rand.Text())
	return err
}

// Close closes the file.
func (s *Store) Close() error { return s.file.Close() }

// Shrink frees memory that is not needed while nothing happens.
func (s *Store) Shrink() { s.file.Shrink() }

// Check recreates the file if it was removed while open, and says so.
func (s *Store) Check() (string, error) { return s.file.Check() }

// Health is the state of the file.
func (s *Store) Health() dbfile.Health { return s.file.Health() }

// Home moves the events back to the disk if they were kept elsewhere and the disk is writable again.
func (s *Store) Home() (back bool, err error) { return s.file.Home() }

// epochOf returns the epoch of an event's number, and the first number of the next epoch; 0 for none.
func epochOf(db *sql.DB, seq uint64) (epoch string, next uint64, err error) {
	err = db.QueryRow(`SELECT (SELECT epoch FROM epochs WHERE first <= ?1 ORDER BY first DESC LIMIT 1),
		coalesce((SELECT first FROM epochs WHERE first > ?1 ORDER BY first LIMIT 1), 0)`, seq).Scan(&epoch, &next)
	return epoch, next, err
}

// renew begins an epoch.
func (s *Store) renew(tx *sql.Tx, first int64) error {
	epoch := rand.Text()
	if _, err := tx.Exec(`INSERT INTO epochs VALUES (?, ?)`, first, epoch); err != nil {
		return err
	}
	// Older versions read only the newest epoch, from here.
	_, err := tx.Exec(`INSERT INTO meta VALUES ('epoch', ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value`, epoch)
	return err
}

// insert appends an event and returns its number.
func insert(db interface {
	Exec(string, ...any) (sql.Result, error)
}, e enforce.Event, body string) (int64, error) {
	r, err := db.Exec(`INSERT INTO events (at, setting, kind, body) VALUES (?,?,?,?)`, e.At.UnixMilli(), e.Setting, e.Kind, body)
	if err != nil {
		return 0, err
	}
	return r.LastInsertId()
}

// begun commits an event, and begins this run's epoch with it if the file has none yet.
func (s *Store) begun(tx *sql.Tx, first int64, commit func() error) error {
	place := s.file.Place()
	if place != s.place {
		if err := s.renew(tx, first); err != nil {
			return err
		}
	}
	err := commit()
	if err == nil {
		s.place = place
	}
	return err
}

// Append stores an event durably and returns its number.
func (s *Store) Append(e enforce.Event) (uint64, error) {
	body, err := json.Marshal(e)
	if err != nil {
		return 0, err
	}
	var seq int64
	err = s.file.Do(func(db *sql.DB) error {
		s.none.Store(false)
		if s.file.Place() == s.place {
			seq, err = insert(db, e, string(body))
			return err
		}
		tx, err := db.Begin()
		if err != nil {
			return err
		}
		defer func() { _ = tx.Rollback() }()
		if seq, err = insert(tx, e, string(body)); err == nil {
			err = s.begun(tx, seq, tx.Commit)
		}
		return err
	})
	killpoint.Hit("store.event")
	if err != nil {
		return 0, fmt.Errorf("cannot journal an event: %w", err)
	}
	return uint64(seq), nil
}

// Seen reports whether a subject had this same verdict before in this boot.
func (s *Store) Seen(boot, subject, what string) (seen bool) {
	err := s.file.DoQuick(func(db *sql.DB) error {
		var n int
		err := db.QueryRow(`SELECT count(*) FROM seen WHERE subject = ? AND boot = ? AND what = ?`, subject, boot, what).Scan(&n)
		seen = n > 0
		return err
	})
	return seen && err == nil
}

// Remember stores what Seen reads. Losing it costs an event reported twice.
func (s *Store) Remember(boot, subject, what string) {
	_ = s.file.DoQuick(func(db *sql.DB) error {
		if _, err := db.Exec(`DELETE FROM seen WHERE boot <> ?`, boot); err != nil {
			return err
		}
		_, err := db.Exec(`INSERT INTO seen VALUES (?,?,?) ON CONFLICT (subject) DO UPDATE SET boot=excluded.boot, what=excluded.what`,
			subject, boot, what)
		return err
	})
}

// Pending returns up to n events that are not acknowledged, in order, all of one epoch.
func (s *Store) Pending(n int) (epoch string, events []enforce.Event, err error) {
	if s.none.Load() {
		return "", nil, nil
	}
	err = s.file.Do(func(db *sql.DB) error {
		epoch, events = "", nil
		list, err := eventsOf(context.Background(), db, `SELECT seq, body FROM events WHERE acked = 0 ORDER BY seq LIMIT ?`, n)
		s.none.Store(err == nil && len(list) == 0 && n > 0) // with the file's lock: no event is appended between
		if err != nil || len(list) == 0 {
			return err
		}
		var next uint64
		if epoch, next, err = epochOf(db, list[0].Seq); err != nil {
			return err
		}
		for i := range list {
			if next > 0 && list[i].Seq >= next {
				list = list[:i]
				break
			}
		}
		events = list
		return nil
	})
	return epoch, events, err
}

// Backlog counts what is not acknowledged.
func (s *Store) Backlog() (n int, err error) {
	err = s.file.Do(func(db *sql.DB) error {
		return db.QueryRow(`SELECT count(*) FROM events WHERE acked = 0`).Scan(&n)
	})
	return n, err
}

// page is how many events one query of Newest reads. This bounds its memory, and a slow reader keeps no query open.
const page = 64

// Newest passes the newest n events on, oldest first. It uses a read-only handle of its own, so that a slow reader does
// not block the store.
func (s *Store) Newest(ctx context.Context, n int, each func(*enforce.Event) error) error {
	db, err := s.file.Reader()
	if err != nil {
		return fmt.Errorf("cannot read the events: %w", err)
	}
	defer db.Close()
	var after sql.NullInt64
	if err := db.QueryRowContext(ctx, `SELECT min(seq) - 1 FROM (SELECT seq FROM events ORDER BY seq DESC LIMIT ?)`,
		n).Scan(&after); err != nil {
		return fmt.Errorf("cannot read the events: %w", err)
	}
	for last := after.Int64; n > 0; {
		list, err := eventsOf(ctx, db, `SELECT seq, body FROM events WHERE seq > ? ORDER BY seq LIMIT ?`, last, min(n, page))
		if err != nil {
			return fmt.Errorf("cannot read the events: %w", err)
		}
		for i := range list {
			last = int64(list[i].Seq)
			if err := each(&list[i]); err != nil {
				return err
			}
		}
		if n -= len(list); len(list) < page {
			return nil
		}
	}
	return nil
}

// Events returns up to n events after a number, oldest first; with n < 0 the newest -n.
func (s *Store) Events(after uint64, n int) ([]enforce.Event, error) {
	if n < 0 {
		return s.query(`SELECT seq, body FROM (SELECT seq, body FROM events ORDER BY seq DESC LIMIT ?) ORDER BY seq`, -n)
	}
	return s.query(`SELECT seq, body FROM events WHERE seq > ? ORDER BY seq LIMIT ?`, after, n)
}

// query reads events through the store's own handle.
func (s *Store) query(q string, args ...any) (out []enforce.Event, err error) {
	err = s.file.Do(func(db *sql.DB) error {
		out, err = eventsOf(context.Background(), db, q, args...)
		return err
	})
	return out, err
}

// eventsOf decodes the events of a query; one that cannot be decoded becomes a placeholder with its number.
func eventsOf(ctx context.Context, db *sql.DB, q string, args ...any) (out []enforce.Event, err error) {
	rows, err := db.QueryContext(ctx, q, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var seq uint64
		var body string
		if err := rows.Scan(&seq, &body); err != nil {
			return nil, err
		}
		var e enforce.Event
		if json.Unmarshal([]byte(body), &e) != nil {
			e = enforce.Event{Kind: "unreadable"} // damaged on disk; its number must still be acknowledged
		}
		e.Seq = seq
		out = append(out, e)
	}
	return out, rows.Err()
}

// Ack records what the server has of an epoch, and prunes.
func (s *Store) Ack(epoch string, seq uint64) error {
	if seq == 0 {
		return nil
	}
	err := s.file.DoQuick(func(db *sql.DB) error {
		var first, next uint64
		err := db.QueryRow(`SELECT e.first, coalesce((SELECT min(first) FROM epochs n WHERE n.first > e.first), 0) FROM epochs e `+
			`WHERE e.epoch = ?`, epoch).Scan(&first, &next)
		if errors.Is(err, sql.ErrNoRows) {
			return nil // of another file
		}
		if err != nil {
			return err
		}
		if next > 0 {
			seq = min(seq, next-1)
		}
		now := time.Now()
		r, err := db.Exec(`UPDATE events SET acked = ? WHERE acked = 0 AND seq BETWEEN ? AND ?`, max(now.UnixMilli(), 2), first, seq)
		if err != nil {
			return err
		}
		if n, _ := r.RowsAffected(); n == 0 {
			return nil
		}
		return prune(db, now)
	})
	killpoint.Hit("store.acked")
	return err
}

// sane reports whether a time can come from a clock that was ever set.
var sane = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)

// prune deletes acknowledged events that are too old or too many. Their times come from this machine's clock, which may
// have been wrong: an impossible time counts as now, and nothing is deleted while the clock shows one.
func prune(db *sql.DB, now time.Time) error {
	if now.After(sane) {
		if _, err := db.Exec(`UPDATE events SET acked = ?1 WHERE acked BETWEEN 1 AND ?2 OR acked > ?1`, now.UnixMilli(),
			sane.UnixMilli()); err != nil {
			return err
		}
		if _, err := db.Exec(`DELETE FROM events WHERE acked BETWEEN 1 AND ?`, now.Add(-keepAcked).UnixMilli()); err != nil {
			return err
		}
	}
	// Delete epochs without events, except the newest.
	if _, err := db.Exec(`DELETE FROM epochs WHERE first < (SELECT max(first) FROM epochs)
		AND NOT EXISTS (SELECT 1 FROM events e WHERE e.seq >= epochs.first AND e.seq < (SELECT min(n.first) FROM epochs n WHERE n.first > epochs.first))`); err != nil {
		return err
	}
	var pages, size, free int64
	if err := db.QueryRow(`SELECT (SELECT * FROM pragma_page_count), (SELECT * FROM pragma_page_size), (SELECT * FROM `+
		`pragma_freelist_count)`).Scan(&pages, &size, &free); err != nil {
		return err
	}
	if (pages-free)*size <= keepBytes {
		return nil
	}
	_, err := db.Exec(`DELETE FROM events WHERE seq IN (SELECT seq FROM events WHERE acked > 0 ORDER BY seq LIMIT 10000)`)
	return err
}

// Fold keeps the outbox bounded: past the limit, the oldest events become one counted summary per kind and setting.
// Lost detail is counted, never silent.
func (s *Store) Fold() error { return s.fold(maxPending) }

// fold folds the oldest pending events until at most the given number are left.
func (s *Store) fold(most int) error {
	return s.file.Do(func(db *sql.DB) error {
		var n int
		if err := db.QueryRow(`SELECT count(*) FROM events WHERE acked = 0`).Scan(&n); err != nil || n <= most {
			return err
		}
		tx, err := db.Begin()
		if err != nil {
			return err
		}
		defer func() { _ = tx.Rollback() }()
		// A tenth at once, so that this is rare.
		rows, err := tx.Query(`SELECT seq, body FROM events WHERE acked = 0 ORDER BY seq LIMIT ?`, n-most+most/10)
		if err != nil {
			return err
		}
		type group struct {
			setting enforce.Setting
			kind    enforce.EventKind
		}
		sums := map[group]*enforce.Event{}
		var order []group
		var last uint64
		var first int64
		for rows.Next() {
			var body string
			if err := rows.Scan(&last, &body); err != nil {
				_ = rows.Close()
				return err
			}
			var e enforce.Event
			_ = json.Unmarshal([]byte(body), &e)
			g := group{e.Setting, e.Kind}
			if sums[g] == nil {
				sums[g] = &enforce.Event{At: e.At, Setting: e.Setting, Kind: e.Kind, Mode: e.Mode, Subject: "folded"}
				order = append(order, g)
			}
			sums[g].Count += max(e.Count, 1)
			sums[g].Reason = fmt.Sprintf("events folded, the last at %s", e.At.UTC().Format(time.RFC3339))
		}
		if err := errors.Join(rows.Err(), rows.Close()); err != nil {
			return err
		}
		if _, err := tx.Exec(`DELETE FROM events WHERE acked = 0 AND seq <= ?`, last); err != nil {
			return err
		}
		for _, g := range order {
			body, _ := json.Marshal(sums[g])
			seq, err := insert(tx, *sums[g], string(body))
			if err != nil {
				return err
			}
			if first == 0 {
				first = seq
			}
		}
		return s.begun(tx, first, tx.Commit)
	})
}

// Policy is one version that arrived, and what became of it.
type Policy struct {
	Serial   int64     `json:"serial"`
	Digest   string    `json:"digest"`
	Received time.Time `json:"received"`
	State    string    `json:"state"` // pending, active, unconfirmed, refused, reverted
	Reason   string    `json:"reason,omitempty"`
	Changes  []string  `json:"changes,omitempty"`
	Document []byte    `json:"-"`
}

// PutPolicy records a version or its new state.
func (s *Store) PutPolicy(p Policy) error {
	changes, _ := json.Marshal(p.Changes)
	err := s.file.Do(func(db *sql.DB) error {
		_, err := db.Exec(`INSERT INTO policies VALUES (?,?,?,?,?,?,?)
			ON CONFLICT (serial) DO UPDATE SET state=excluded.state, reason=excluded.reason`,
			p.Serial, p.Digest, p.Received.UnixMilli(), p.State, p.Reason, string(changes), p.Document)
		if err != nil {
			return err
		}
		_, err = db.Exec(`DELETE FROM policies WHERE serial NOT IN (SELECT serial FROM policies ORDER BY serial DESC LIMIT ?)`,
			keepPolicies)
		return err
	})
	killpoint.Hit("store.policy")
	if err != nil {
		return fmt.Errorf("cannot store the policy: %w", err)
	}
	return nil
}

// MarkPolicy records what became of a stored version.
func (s *Store) MarkPolicy(serial int64, state, reason string) error {
	err := s.file.Do(func(db *sql.DB) error {
		_, err := db.Exec(`UPDATE policies SET state = ?, reason = ? WHERE serial = ? AND state <> ?`, state, reason, serial, state)
		return err
	})
	if err != nil {
		return fmt.Errorf("cannot store what became of the policy: %w", err)
	}
	return nil
}

// HasPolicy reports whether this version is stored, and whether any version with its serial is.
func (s *Store) HasPolicy(serial int64) (there, room bool, err error) {
	err = s.file.Do(func(db *sql.DB) error {
		return db.QueryRow(`SELECT count(*) FILTER (WHERE serial = ?), count(*) FILTER (WHERE serial > ?) < ? FROM policies`, serial,
			serial, keepPolicies).Scan(&there, &room)
	})
	return there, room, err
}

// Policies returns the versions that arrived, newest first.
func (s *Store) Policies() (out []Policy, err error) {
	err = s.file.Do(func(db *sql.DB) error {
		out = nil
		rows, err := db.Query(`SELECT serial, digest, received, state, reason, changes, document FROM policies ORDER BY serial DESC`)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var p Policy
			var at int64
			var changes string
			if err := rows.Scan(&p.Serial, &p.Digest, &at, &p.State, &p.Reason, &changes, &p.Document); err != nil {
				return err
			}
			p.Received = time.UnixMilli(at).UTC()
			_ = json.Unmarshal([]byte(changes), &p.Changes)
			out = append(out, p)
		}
		return rows.Err()
	})
	return out, err
}

// Findings returns the last findings; their Since is carried over.
func (s *Store) Findings() (out map[enforce.Setting]enforce.Finding, err error) {
	err = s.file.Do(func(db *sql.DB) error {
		out = map[enforce.Setting]enforce.Finding{}
		rows, err := db.Query(`SELECT body FROM findings`)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var body string
			var f enforce.Finding
			if err := rows.Scan(&body); err != nil {
				return err
			}
			if json.Unmarshal([]byte(body), &f) == nil {
				out[f.Setting] = f
			}
		}
		return rows.Err()
	})
	return out, err
}

// PutFindings replaces all findings.
func (s *Store) PutFindings(list []enforce.Finding) error {
	return s.file.DoQuick(func(db *sql.DB) error {
		tx, err := db.Begin()
		if err != nil {
			return err
		}
		defer func() { _ = tx.Rollback() }()
		if _, err := tx.Exec(`DELETE FROM findings`); err != nil {
			return err
		}
		// Many rows per statement: preparing a statement takes longer than running it, and a nudge waits for this.
		// SQLite allows 32,766 values in one.
		for part := range slices.Chunk(list, 1000) {
			args := make([]any, 0, 2*len(part))
			for _, f := range part {
				body, _ := json.Marshal(f)
				args = append(args, f.Setting, string(body))
			}
			if _, err := tx.Exec(`INSERT OR REPLACE INTO findings VALUES (?,?)`+strings.Repeat(`,(?,?)`, len(part)-1),
				args...); err != nil {
				return err
			}
		}
		return tx.Commit()
	})
}
