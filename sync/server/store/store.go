// Package store is the policy server's database: policies and their versions, devices and what they
// reported, enrolment tokens, and the one change sequence that serials come from. It owns SQL and
// nothing of the wire.
package store

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	_ "modernc.org/sqlite" // the driver
)

// Errors that callers act on.
var (
	ErrNotFound = errors.New("not found")
	ErrUsed     = errors.New("the enrolment token is used up, expired or unknown")
	ErrStale    = errors.New("the policy has been changed since")
)

const schema = `
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS policies (
	id TEXT PRIMARY KEY, name TEXT NOT NULL, description TEXT NOT NULL, organization TEXT NOT NULL,
	active INTEGER NOT NULL, version INTEGER NOT NULL, compliance TEXT NOT NULL, sections TEXT NOT NULL,
	data TEXT NOT NULL, digest TEXT NOT NULL, sequence INTEGER NOT NULL,
	created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS versions (
	policy TEXT NOT NULL, version INTEGER NOT NULL, changed_by TEXT NOT NULL, changed_at INTEGER NOT NULL,
	changes TEXT NOT NULL, document TEXT NOT NULL, PRIMARY KEY (policy, version)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS devices (
	id TEXT PRIMARY KEY, name TEXT NOT NULL, key TEXT NOT NULL, machine TEXT NOT NULL, host TEXT NOT NULL,
	policy TEXT, enrolled_at INTEGER NOT NULL, last_seen INTEGER NOT NULL DEFAULT 0, counter INTEGER NOT NULL DEFAULT 0,
	state TEXT NOT NULL DEFAULT 'enrolled', held TEXT NOT NULL DEFAULT '{}', agent TEXT NOT NULL DEFAULT '{}',
	assigned_at INTEGER NOT NULL DEFAULT 0, facts_digest TEXT NOT NULL DEFAULT '', facts TEXT NOT NULL DEFAULT '{}',
	findings_digest TEXT NOT NULL DEFAULT '', findings TEXT NOT NULL DEFAULT '[]', findings_at INTEGER NOT NULL DEFAULT 0);
CREATE INDEX IF NOT EXISTS devices_policy ON devices (policy);
CREATE TABLE IF NOT EXISTS epochs (device TEXT NOT NULL, epoch TEXT NOT NULL, seq INTEGER NOT NULL, PRIMARY KEY (device, epoch)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS events (
	device TEXT NOT NULL, epoch TEXT NOT NULL, seq INTEGER NOT NULL, at INTEGER NOT NULL, received INTEGER NOT NULL,
	body TEXT NOT NULL, PRIMARY KEY (device, epoch, seq)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS enrollments (hash TEXT PRIMARY KEY, uses INTEGER NOT NULL, expires INTEGER NOT NULL) WITHOUT ROWID;`

// Store is the open database.
type Store struct{ db *sql.DB }

// Open opens the database, and makes it where there is none.
func Open(path string) (*Store, error) {
	// Made here first, for its mode: it holds what every device reported.
	if f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o600); err == nil {
		_ = f.Close()
	}
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=busy_timeout(10000)&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_txlock=immediate")
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(4)
	if _, err := db.Exec(schema); err != nil {
		_ = db.Close()
		return nil, fmt.Errorf("cannot open the server's database %s: %w", path, err)
	}
	return &Store{db}, nil
}

// Close closes it.
func (s *Store) Close() error { return s.db.Close() }

func (s *Store) tx(ctx context.Context, f func(*sql.Tx) error) error {
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	if err := f(tx); err != nil {
		return err
	}
	return tx.Commit()
}

// next takes the next number of the change sequence, above any other one given.
func next(tx *sql.Tx, above int64) (int64, error) {
	var n int64
	err := tx.QueryRow(`SELECT CAST(value AS INTEGER) FROM meta WHERE name = 'sequence'`).Scan(&n)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return 0, err
	}
	n = max(n, above) + 1
	_, err = tx.Exec(`INSERT INTO meta VALUES ('sequence', ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value`, n)
	return n, err
}

// Serial gives a serial above what a device reports, for an assignment.
func (s *Store) Serial(ctx context.Context, above int64) (n int64, err error) {
	err = s.tx(ctx, func(tx *sql.Tx) error { n, err = next(tx, above); return err })
	return n, err
}

// Sequence is the last number given.
func (s *Store) Sequence(ctx context.Context) (n int64, err error) {
	err = s.db.QueryRowContext(ctx, `SELECT CAST(value AS INTEGER) FROM meta WHERE name = 'sequence'`).Scan(&n)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, nil
	}
	return n, err
}

// Policy is one policy as it stands.
type Policy struct {
	ID, Name, Description, Organization string
	Active                              bool
	Version                             int
	Compliance, Sections                string // raw JSON; "" is absent
	Data                                json.RawMessage
	Digest                              string
	Sequence                            int64
	CreatedAt, UpdatedAt                time.Time
	Devices                             int
}

// Document is the policy object that devices get.
func (p *Policy) Document() json.RawMessage {
	doc := struct {
		ID           string          `json:"id"`
		Organization string          `json:"organization_id,omitempty"`
		Name         string          `json:"name"`
		Description  string          `json:"description,omitempty"`
		Version      int             `json:"version"`
		Active       bool            `json:"active"`
		Compliance   json.RawMessage `json:"compliance,omitempty"`
		Sections     json.RawMessage `json:"section_compliance,omitempty"`
		Data         json.RawMessage `json:"policy_data"`
	}{p.ID, p.Organization, p.Name, p.Description, p.Version, p.Active, json.RawMessage(p.Compliance), json.RawMessage(p.Sections), p.Data}
	b, _ := json.Marshal(doc)
	return b
}

const policyColumns = `p.id, p.name, p.description, p.organization, p.active, p.version, p.compliance, p.sections, p.data, p.digest,
	p.sequence, p.created_at, p.updated_at, (SELECT count(*) FROM devices d WHERE d.state <> 'retired' AND (d.policy = p.id
	OR d.policy IS NULL AND p.id = (SELECT value FROM meta WHERE name = 'default')))`

type scanner interface{ Scan(...any) error }

func scanPolicy(r scanner) (*Policy, error) {
	var p Policy
	var data string
	var created, updated int64
	err := r.Scan(&p.ID, &p.Name, &p.Description, &p.Organization, &p.Active, &p.Version, &p.Compliance, &p.Sections, &data, &p.Digest,
		&p.Sequence, &created, &updated, &p.Devices)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, ErrNotFound
	}
	p.Data, p.CreatedAt, p.UpdatedAt = json.RawMessage(data), time.UnixMilli(created).UTC(), time.UnixMilli(updated).UTC()
	return &p, err
}

// Policy gives one policy.
func (s *Store) Policy(ctx context.Context, id string) (*Policy, error) {
	return scanPolicy(s.db.QueryRowContext(ctx, `SELECT `+policyColumns+` FROM policies p WHERE p.id = ?`, id))
}

// Policies gives a page of all policies, oldest first, and how many there are.
func (s *Store) Policies(ctx context.Context, page, size int) (out []*Policy, total int, err error) {
	if err := s.db.QueryRowContext(ctx, `SELECT count(*) FROM policies`).Scan(&total); err != nil {
		return nil, 0, err
	}
	rows, err := s.db.QueryContext(ctx, `SELECT `+policyColumns+` FROM policies p ORDER BY p.created_at, p.id LIMIT ? OFFSET ?`, size, (page-1)*size)
	if err != nil {
		return nil, 0, err
	}
	defer rows.Close()
	for rows.Next() {
		p, err := scanPolicy(rows)
		if err != nil {
			return nil, 0, err
		}
		out = append(out, p)
	}
	return out, total, rows.Err()
}

// PutPolicy writes a new version. expect is the version it was made from; 0 for a new policy.
func (s *Store) PutPolicy(ctx context.Context, p *Policy, expect int, by string, changes []string) error {
	return s.tx(ctx, func(tx *sql.Tx) error {
		var have int
		err := tx.QueryRow(`SELECT version FROM policies WHERE id = ?`, p.ID).Scan(&have)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		if have != expect {
			return ErrStale
		}
		if p.Sequence, err = next(tx, 0); err != nil {
			return err
		}
		_, err = tx.Exec(`INSERT INTO policies VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?) ON CONFLICT (id) DO UPDATE SET
			name=excluded.name, description=excluded.description, organization=excluded.organization, active=excluded.active,
			version=excluded.version, compliance=excluded.compliance, sections=excluded.sections, data=excluded.data,
			digest=excluded.digest, sequence=excluded.sequence, updated_at=excluded.updated_at`,
			p.ID, p.Name, p.Description, p.Organization, p.Active, p.Version, p.Compliance, p.Sections, string(p.Data), p.Digest,
			p.Sequence, p.CreatedAt.UnixMilli(), p.UpdatedAt.UnixMilli())
		if err != nil {
			return err
		}
		list, _ := json.Marshal(changes)
		_, err = tx.Exec(`INSERT INTO versions VALUES (?,?,?,?,?,?)`, p.ID, p.Version, by, p.UpdatedAt.UnixMilli(), string(list), string(p.Document()))
		return err
	})
}

// Default is the policy of devices that have none assigned.
func (s *Store) Default(ctx context.Context) (*Policy, error) {
	var id string
	err := s.db.QueryRowContext(ctx, `SELECT value FROM meta WHERE name = 'default'`).Scan(&id)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	return s.Policy(ctx, id)
}

// SetDefault makes a policy the default.
func (s *Store) SetDefault(ctx context.Context, id string) error {
	if _, err := s.Policy(ctx, id); err != nil {
		return err
	}
	return s.tx(ctx, func(tx *sql.Tx) error {
		if _, err := next(tx, 0); err != nil {
			return err
		}
		_, err := tx.Exec(`INSERT INTO meta VALUES ('default', ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value`, id)
		return err
	})
}

// Effective is the policy that a device is to hold: its own while that is active, else the default.
func (s *Store) Effective(ctx context.Context, own string) (*Policy, error) {
	if own != "" {
		p, err := s.Policy(ctx, own)
		if err == nil && p.Active {
			return p, nil
		}
		if err != nil && !errors.Is(err, ErrNotFound) {
			return nil, err
		}
	}
	return s.Default(ctx)
}

// NewEnrollment stores a token by its hash alone.
func (s *Store) NewEnrollment(ctx context.Context, token string, uses int, expires time.Time) error {
	_, err := s.db.ExecContext(ctx, `INSERT INTO enrollments VALUES (?,?,?)`, hash(token), uses, expires.UnixMilli())
	return err
}

func hash(token string) string {
	h := sha256.Sum256([]byte(token))
	return hex.EncodeToString(h[:])
}
