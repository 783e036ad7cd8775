// Package store is the policy server's database: policies and their versions, assignments, devices and what they
// reported, enrollment tokens, the audit log, and the one change sequence that serials come from. The same statements
// run on SQLite and on PostgreSQL. It owns SQL and nothing of the wire; sync/server/fleet decides what follows from
// what is stored.
package store

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"
	_ "modernc.org/sqlite"             // the driver "sqlite"
)

// Errors that callers act on.
var (
	ErrNotFound = errors.New("not found")
	ErrUsed     = errors.New("the enrollment token is used up, expired, revoked or unknown")
	ErrStale    = errors.New("it has been changed since")
	ErrInUse    = errors.New("it is in use")
	ErrReused   = errors.New("the idempotency key was used before")
)

// Store is the open database.
type Store struct {
	write  *sql.DB // SQLite: one connection, so that writers queue here and not on the file's lock
	read   *sql.DB // for people, whose questions may be large
	device *sql.DB // for devices and the nodes themselves, which must not wait for readers
	pg     bool
	url    string

	changed chan struct{} // wakes Watch after a commit of this process
	last    atomic.Int64  // the sequence of the last commit of this process

	vendors sync.Mutex // one change of other vendors' documents at a time

	mu        sync.Mutex
	standings map[string]bool // stored already
}

// Postgres reports whether a database is named by a PostgreSQL URL.
func Postgres(database string) bool {
	return strings.HasPrefix(database, "postgres://") || strings.HasPrefix(database, "postgresql://")
}

// Open opens a SQLite file, or a PostgreSQL database by its URL. It creates its tables, and migrates those of an older
// version.
func Open(ctx context.Context, database string) (*Store, error) {
	s := &Store{pg: Postgres(database), url: database, changed: make(chan struct{}, 1), standings: map[string]bool{}}
	var err error
	if s.pg {
		err = s.openPostgres()
	} else {
		err = s.openSQLite(database)
	}
	if err == nil {
		err = s.migrate(ctx, migrations)
	}
	if err != nil {
		_ = s.Close()
		return nil, fmt.Errorf("cannot open the database %s: %w", s.Name(), err)
	}
	return s, nil
}

// Name is the database without a password.
func (s *Store) Name() string {
	if !s.pg {
		return s.url
	}
	// Built from its parts: the URL may contain a password in more than one place.
	c, err := pgx.ParseConfig(s.url)
	if err != nil {
		return "postgres"
	}
	return "postgres://" + net.JoinHostPort(c.Host, strconv.Itoa(int(c.Port))) + "/" + c.Database
}

// openPostgres opens the connection pools of PostgreSQL.
func (s *Store) openPostgres() (err error) {
	if _, err = pgx.ParseConfig(s.url); err != nil {
		return errors.New("the URL cannot be read") // pgx's own message may contain the password
	}
	for _, pool := range []struct {
		db **sql.DB
		n  int
	}{{&s.write, 16}, {&s.read, 8}} {
		if *pool.db, err = sql.Open("pgx", s.url); err != nil {
			return err
		}
		(*pool.db).SetMaxOpenConns(pool.n)
		(*pool.db).SetMaxIdleConns(pool.n)
		(*pool.db).SetConnMaxLifetime(time.Hour) // a balancer before the database may have moved
	}
	s.read.SetMaxIdleConns(2)
	s.device = s.write
	return nil
}

// openSQLite opens the handles of a SQLite file.
func (s *Store) openSQLite(path string) (err error) {
	// Created here first, to set its mode: it contains what every device reported.
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o600)
	if err != nil {
		return err
	}
	_ = f.Close()
	const pragmas = "?_pragma=busy_timeout(10000)&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)"
	name := "file:" + (&url.URL{Path: path}).EscapedPath() + pragmas
	if s.write, err = sql.Open("sqlite", name+"&_txlock=immediate&_pragma=cache_size(-8192)"); err != nil {
		return err
	}
	s.write.SetMaxOpenConns(1)
	for _, db := range []**sql.DB{&s.read, &s.device} {
		if *db, err = sql.Open("sqlite", name+"&_pragma=query_only(1)&_pragma=cache_size(-1024)"); err != nil {
			// A small cache: beyond that the system's page cache serves.
			return err
		}
		(*db).SetMaxOpenConns(4)
		(*db).SetMaxIdleConns(4)
	}
	return nil
}

// Close closes it.
func (s *Store) Close() error {
	var errs []error
	if s.write != nil {
		errs = append(errs, s.write.Close())
	}
	if s.read != nil {
		errs = append(errs, s.read.Close())
	}
	if s.device != nil && s.device != s.write {
		errs = append(errs, s.device.Close())
	}
	return errors.Join(errs...)
}

// Ping reports whether the database can be read and written now.
func (s *Store) Ping(ctx context.Context) error {
	return s.tx(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx,
			`INSERT INTO meta (name, value) VALUES ('ping', $1) ON CONFLICT (name) DO UPDATE SET value = excluded.value`,
			time.Now().UTC().Format(time.RFC3339))
		return err
	})
}

// tx runs f in one write transaction.
func (s *Store) tx(ctx context.Context, f func(*sql.Tx) error) error {
	for try := 0; ; try++ {
		err := s.once(ctx, f)
		if try >= 3 || !s.again(err) {
			return err
		}
	}
}

// again reports whether another node changed the same rows, so that the transaction has to be repeated.
func (s *Store) again(err error) bool {
	var p *pgconn.PgError
	if !errors.As(err, &p) {
		return false
	}
	switch p.Code {
	case "40001", "40P01", "23505": // serialization failure, deadlock, unique violation
		return true
	}
	return false
}

// once runs f in one write transaction, without a retry.
func (s *Store) once(ctx context.Context, f func(*sql.Tx) error) error {
	tx, err := s.write.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	if err := f(tx); err != nil {
		return err
	}
	return tx.Commit()
}

// snapshot runs f in one read transaction, so that it reads everything as of one moment.
func (s *Store) snapshot(ctx context.Context, f func(*sql.Tx) error) error {
	return s.snapshotOf(ctx, s.read, f)
}

// snapshotOf is snapshot on a given handle.
func (s *Store) snapshotOf(ctx context.Context, db *sql.DB, f func(*sql.Tx) error) error {
	o := &sql.TxOptions{ReadOnly: true}
	if s.pg {
		o.Isolation = sql.LevelRepeatableRead
	}
	tx, err := db.BeginTx(ctx, o)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	return f(tx)
}

type scanner interface{ Scan(...any) error }

// rows runs a query and passes each row to scan.
func rows(ctx context.Context, q interface {
	QueryContext(context.Context, string, ...any) (*sql.Rows, error)
}, scan func(scanner) error, query string, args ...any) error {
	r, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return err
	}
	defer r.Close()
	for r.Next() {
		if err := scan(r); err != nil {
			return err
		}
	}
	return r.Err()
}

// values writes "($1,$2),($3,$4)" for rows of a width; for SQLite "(?,?),(?,?)", because it looks each numbered
// parameter up in a list of all earlier ones. A statement with values has no other parameters.
func (s *Store) values(n, width int) string {
	var b strings.Builder
	b.Grow(n * width * 5)
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteByte('(')
		for j := range width {
			if j > 0 {
				b.WriteByte(',')
			}
			if s.pg {
				b.WriteByte('$')
				b.WriteString(strconv.Itoa(i*width + j + 1))
			} else {
				b.WriteByte('?')
			}
		}
		b.WriteByte(')')
	}
	return b.String()
}

// Hash is what is stored of an enrollment token.
func Hash(token string) string {
	h := sha256.Sum256([]byte(token))
	return hex.EncodeToString(h[:])
}

// ms is a time as it is stored: Unix milliseconds; 0 for the zero time.
func ms(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

// at is a stored time; the zero time for 0.
func at(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}

// bit is how both databases represent a boolean.
func bit(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

func encode(v any) string { b, _ := json.Marshal(v); return string(b) }
