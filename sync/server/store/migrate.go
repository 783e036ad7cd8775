package store

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/gofrs/flock"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// migrations only add: a node of the version before goes on working while a new one migrates, and
// after it. There is no way down (docs/decisions/0008).
//
//go:embed migrations
var migrations embed.FS

// migrate brings the tables up to date, one process at a time.
func (s *Store) migrate(ctx context.Context, all fs.FS) error {
	dir, dialect := "migrations/sqlite", goose.DialectSQLite3
	opts := []goose.ProviderOption{goose.WithVerbose(false), goose.WithDisableGlobalRegistry(true)}
	if s.pg {
		dir, dialect = "migrations/postgres", goose.DialectPostgres
		locker, err := lock.NewPostgresSessionLocker(lock.WithLockTimeout(1, 120))
		if err != nil {
			return err
		}
		opts = append(opts, goose.WithSessionLocker(locker))
	} else {
		l := flock.New(s.url+".migrating", flock.SetPermissions(0o600))
		ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
		defer cancel()
		if ok, err := l.TryLockContext(ctx, 50*time.Millisecond); err != nil || !ok {
			return fmt.Errorf("another process has been changing its tables for two minutes: %w", err)
		}
		defer func() { _ = l.Unlock() }()
		// With that lock, as the first statement on the file: several processes that open a new one at once would fail
		// on setting its journal mode.
		err := s.foreign(ctx)
		for try := 0; busy(err) && try < 10; try++ {
			time.Sleep(100 * time.Millisecond)
			err = s.foreign(ctx)
		}
		if err != nil {
			return err
		}
	}
	sub, err := fs.Sub(all, dir)
	if err != nil {
		return err
	}
	p, err := goose.NewProvider(dialect, s.write, sub, opts...)
	if err != nil {
		return err
	}
	for try := 0; ; try++ {
		// A node that writes may have locked what the migration wants, and want what it has locked.
		if _, err = p.Up(ctx); err == nil || try >= 10 || !s.again(err) && !busy(err) {
			return err
		}
	}
}

// busy reports whether a SQLite file was locked by another node for too long. A node that writes without a pause can
// keep a migration waiting; another try helps.
func busy(err error) bool {
	var e *sqlite.Error
	return errors.As(err, &e) && e.Code()&0xff == sqlite3.SQLITE_BUSY
}

// foreign refuses a file that has tables and is not of this server.
func (s *Store) foreign(ctx context.Context) error {
	var tables, ours int
	err := s.write.QueryRowContext(ctx,
		`SELECT count(*), coalesce(sum(name = 'goose_db_version'), 0) FROM sqlite_master WHERE type = 'table'`).Scan(&tables, &ours)
	if err == nil && tables > 0 && ours == 0 {
		return errors.New("it has tables that this version did not make (a server before 0.2.0, or another program): begin with an " +
			"empty data directory, and keep the key files")
	}
	return err
}
