// Package dbfile recovers a damaged or unwritable SQLite file. A file that is no longer a database is set aside and a
// new one is begun. When the disk is full or read-only, a copy in the runtime directory is used, and moved back once
// the disk is writable. The package owns opening and recovery; the tables belong to agent/ledger and agent/store.
package dbfile

import (
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/warderd/warder/platform/durable"
)

// Health says what happened to a file. The zero value means that nothing is wrong.
type Health struct {
	Lost    string `json:"lost,omitempty"`    // contents were lost, and why; a new file was begun
	Standby string `json:"standby,omitempty"` // the copy in the runtime directory is in use, and why
}

// OK reports whether nothing is wrong.
func (h Health) OK() bool { return h == Health{} }

// String says what happened to the file, "" if nothing did.
func (h Health) String() string {
	switch {
	case h.Lost != "" && h.Standby != "":
		return h.Lost + "; " + h.Standby
	case h.Lost != "":
		return h.Lost
	}
	return h.Standby
}

// File is one database.
type File struct {
	path, standby, schema string
	// Begun is called with the handle each time a new file is begun after a loss.
	begun func(*sql.DB, string) error

	mu     sync.Mutex // locked while the disk is waited for
	db     *sql.DB
	at     string      // path of the file in use
	place  int         // counts how often the file in use has changed
	is     os.FileInfo // of the file in use
	used   bool        // an earlier file was in use before
	fresh  bool        // the file in use was created when it was opened
	health Health

	shown atomic.Pointer[Health] // for readers that must not wait for mu
}

// show publishes the state of the file. Called with the lock.
func (f *File) show() { h := f.health; f.shown.Store(&h) }

// Open opens path, or begins it anew. standby is the directory of the copy that is used while the disk cannot be
// written. begun is called when contents were lost. Open fails only if not even the runtime directory can be written.
func Open(path, standby, schema string, begun func(*sql.DB, string) error) (*File, error) {
	f := &File{path: path, standby: filepath.Join(standby, filepath.Base(path)), schema: schema, begun: begun}
	f.mu.Lock()
	defer f.mu.Unlock()
	defer f.show()
	err := f.open()
	f.used = err == nil
	return f, err
}

// DSN is how Warder opens SQLite. SQLite silently ignores misspelt pragmas, so a test reads them back.
func DSN(path string) string {
	return "file:" + (&url.URL{Path: path}).EscapedPath() +
		"?_pragma=busy_timeout(5000)&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=cache_size(-512)&_txlock=immediate"
}

// Reader opens the file in use a second time, read-only, so that a slow reader makes nobody wait. The caller closes the
// handle.
func (f *File) Reader() (*sql.DB, error) {
	path := f.path
	if f.Health().Standby != "" {
		path = f.standby
	}
	db, err := sql.Open("sqlite", "file:"+(&url.URL{Path: path}).EscapedPath()+
		"?mode=ro&_pragma=query_only(1)&_pragma=busy_timeout(2000)&_pragma=cache_size(-256)")
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	return db, nil
}

// Health is the file's state. It never waits for the disk.
func (f *File) Health() Health { return *f.shown.Load() }

// Close closes the file.
func (f *File) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.db.Close()
}

// Do runs a function on the database. If it fails because the file or the disk is broken, the file is recovered and the
// function is run once more.
func (f *File) Do(run func(*sql.DB) error) error { return f.do("FULL", run) }

// DoQuick is Do for data that ends with the boot or can be obtained again. It does not wait for the disk: the data
// survives a kill, but not a power cut.
func (f *File) DoQuick(run func(*sql.DB) error) error { return f.do("NORMAL", run) }

// do runs a function with the given "PRAGMA synchronous", and recovers the file if it is broken.
func (f *File) do(sync string, run func(*sql.DB) error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	defer f.show()
	err := f.with(sync, run)
	if err == nil || kindOf(err) == sound {
		return err
	}
	_ = f.db.Close()
	if f.health.Standby != "" && kindOf(err) == unwritable {
		if oerr := f.use(f.standby); oerr != nil {
			return errors.Join(err, oerr)
		}
		if f.fresh {
			f.health.Lost = fmt.Sprintf("%s was lost (%v); a new one was begun", filepath.Base(f.path), err)
			if aerr := f.anew(err); aerr != nil {
				return errors.Join(err, aerr)
			}
			return f.with(sync, run)
		}
		return err // the runtime directory is full, too
	}
	if oerr := f.recover(err); oerr != nil {
		return errors.Join(err, oerr)
	}
	return f.with(sync, run)
}

// Place changes whenever another file comes into use: after opening, after switching to the standby, after beginning
// anew. Functions run by Do use it, because numbers given out in one file must not be mistaken for numbers of another:
// a standby is gone after a reboot, and then the old file is in use again, as it was.
func (f *File) Place() int { return f.place }

// Home moves the standby back to the disk once that is writable. It does nothing if no standby is in use.
func (f *File) Home() (back bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	defer f.show()
	if f.health.Standby == "" {
		return false, nil
	}
	old := f.db
	if err := f.carry(old); err != nil {
		return false, err
	}
	if err := f.use(f.path); err != nil {
		f.db, f.at = old, f.standby // whose file still exists
		f.is, _ = os.Stat(f.standby)
		return false, err
	}
	_ = old.Close()
	f.dropStandby()
	f.health.Standby = ""
	return true, nil
}

// Shrink frees the memory that SQLite keeps as a cache.
func (f *File) Shrink() {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, _ = f.db.Exec("PRAGMA shrink_memory") // nothing depends on it
}

// with runs a function with the given "PRAGMA synchronous", and sets it back to FULL.
func (f *File) with(sync string, run func(*sql.DB) error) error {
	if sync != "FULL" {
		if _, err := f.db.Exec("PRAGMA synchronous=" + sync); err != nil {
			return err
		}
		defer func() { _, _ = f.db.Exec("PRAGMA synchronous=FULL") }()
	}
	return run(f.db)
}

// open chooses between the file and its standby.
func (f *File) open() error {
	if _, err := os.Stat(f.standby); err == nil {
		// A standby lives in the runtime directory, so it is of this boot and newer than the file.
		if f.adopt() == nil {
			f.health.Standby = ""
		} else if err := f.use(f.standby); err == nil {
			f.health.Standby = "the disk cannot be written; kept in " + f.standby + " until it can"
			return nil
		}
	}
	if err := os.MkdirAll(filepath.Dir(f.path), 0o700); err != nil {
		return f.stand(err)
	}
	if err := f.use(f.path); err != nil {
		return f.recover(err)
	}
	return nil
}

// use opens one path and proves that it can be read and written.
func (f *File) use(path string) error {
	// Created here first, to set its mode: not everybody may read what monitor mode saw.
	if made, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o600); err == nil {
		_ = made.Close()
	}
	db, err := sql.Open("sqlite", DSN(path))
	if err != nil {
		return err
	}
	db.SetMaxOpenConns(1)
	times, err := prove(db, f.schema)
	if err != nil {
		_ = db.Close()
		return err
	}
	f.db, f.fresh, f.at = db, times == 1, path
	f.place++
	f.is, _ = os.Stat(path)
	return nil
}

// Check recreates the file if somebody removed it, or put another in its place, while it is open: the open file still
// has the contents. It says what was found; "" means nothing.
func (f *File) Check() (found string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	defer f.show()
	now, serr := os.Stat(f.at)
	name := filepath.Base(f.at)
	switch {
	case errors.Is(serr, fs.ErrNotExist):
		found = name + " was removed while it was in use"
	case serr != nil:
		return "", nil // the disk fails; the next write reports it
	case f.is != nil && !os.SameFile(now, f.is):
		found = name + " was replaced by another file while it was in use"
	default:
		return "", nil
	}
	temp := f.at + ".again"
	_ = os.Remove(temp)
	err = os.MkdirAll(filepath.Dir(f.at), 0o700)
	if err == nil {
		_, err = f.db.Exec("VACUUM INTO ?", temp)
	}
	if err != nil {
		_ = os.Remove(temp)
		return found, fmt.Errorf("it cannot be written again: %w", err)
	}
	for _, end := range []string{"-wal", "-shm"} {
		_ = os.Remove(f.at + end)
	}
	if err = os.Chmod(temp, 0o600); err == nil {
		err = durable.Move(temp, f.at)
	}
	if err != nil {
		_ = os.Remove(temp)
		return found, fmt.Errorf("it cannot be put back: %w", err) // go on with the open file, which no longer has a name
	}
	old := f.db
	if err := f.use(f.at); err != nil {
		return found, fmt.Errorf("it was put back and cannot be opened: %w", err)
	}
	_ = old.Close()
	return found, nil
}

// prove counts how often the database has been opened, which is a read and a write.
func prove(db *sql.DB, schema string) (times int, err error) {
	var result string
	if err := db.QueryRow("PRAGMA quick_check(1)").Scan(&result); err != nil {
		return 0, err
	}
	if result != "ok" {
		return 0, broken{result}
	}
	if _, err := db.Exec(schema); err != nil {
		return 0, err
	}
	if _, err := db.Exec(`CREATE TABLE IF NOT EXISTS dbfile (one INTEGER PRIMARY KEY, opened INTEGER);
		INSERT INTO dbfile VALUES (1, 1) ON CONFLICT (one) DO UPDATE SET opened = opened + 1`); err != nil {
		return 0, err
	}
	err = db.QueryRow(`SELECT opened FROM dbfile`).Scan(&times)
	return times, err
}

type broken struct{ what string }

func (b broken) Error() string { return "the file is damaged: " + b.what }

type condition int

const (
	sound      condition = iota // the caller's own mistake, or the context
	damaged                     // no longer a database
	unwritable                  // the disk is full, read-only or failing
)

// kindOf tells from an error of SQLite's what is wrong with the file, if anything.
func kindOf(err error) condition {
	var b broken
	if errors.As(err, &b) {
		return damaged
	}
	var e *sqlite.Error
	if errors.As(err, &e) {
		switch e.Code() & 0xff {
		case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
			return damaged
		case sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM:
			return unwritable
		}
	}
	return sound
}

// misshapen reports a sound database whose tables are not ours.
func misshapen(err error) bool {
	var e *sqlite.Error
	return errors.As(err, &e) && e.Code()&0xff == sqlite3.SQLITE_ERROR
}

// recover sets the damaged file aside and begins a new one, or uses the standby if the disk cannot be written.
func (f *File) recover(cause error) error {
	if kindOf(cause) == unwritable {
		return f.stand(cause)
	}
	if kindOf(cause) != damaged && !misshapen(cause) {
		return cause // locked by another process, or interrupted: nothing is wrong with the file
	}
	if err := f.setAside(); err != nil {
		return f.stand(err)
	}
	f.health.Lost = fmt.Sprintf("%s was damaged (%v); a new one was begun, and the old file is kept beside it",
		filepath.Base(f.path), cause)
	if err := f.use(f.path); err != nil {
		return f.stand(err)
	}
	return f.anew(cause)
}

// anew tells the owner that the contents were lost.
func (f *File) anew(cause error) error {
	if f.begun == nil {
		return nil
	}
	return f.begun(f.db, cause.Error())
}

// setAside keeps the last damaged file for inspection, and only the last.
func (f *File) setAside() error {
	for _, end := range []string{"-wal", "-shm"} {
		_ = os.Remove(f.path + end)
	}
	return os.Rename(f.path, f.path+".damaged")
}

// stand continues in the runtime directory with what can be read of the file.
func (f *File) stand(cause error) error {
	if err := os.MkdirAll(filepath.Dir(f.standby), 0o755); err != nil {
		return fmt.Errorf("cannot keep %s anywhere: %w", filepath.Base(f.path), errors.Join(cause, err))
	}
	f.health.Standby = fmt.Sprintf("%s cannot be written (%v); kept in %s until it can", f.path, cause, f.standby)
	_, gone := os.Lstat(f.path)
	var copied error
	for _, end := range []string{"", "-wal"} {
		copied = errors.Join(copied, copyFile(f.standby+end, f.path+end))
	}
	err := f.use(f.standby)
	if err == nil && (copied != nil || f.fresh && (f.used || gone == nil || f.health.Lost != "")) {
		// The file there is smaller than what it replaces.
		err = errors.Join(errors.New("not all of it could be copied"), copied)
		f.health.Lost = fmt.Sprintf("%s could not be read (%v)", filepath.Base(f.path), err)
		return f.anew(err)
	}
	if err == nil {
		return nil
	}
	f.dropStandby()
	f.health.Lost = fmt.Sprintf("%s could not be read (%v)", filepath.Base(f.path), err)
	if err := f.use(f.standby); err != nil {
		return fmt.Errorf("cannot keep %s anywhere: %w", filepath.Base(f.path), err)
	}
	return f.anew(err)
}

// adopt moves a standby that an earlier run left back to the disk.
func (f *File) adopt() error {
	db, err := sql.Open("sqlite", DSN(f.standby))
	if err != nil {
		return err
	}
	defer db.Close()
	if err := f.carry(db); err != nil {
		return err
	}
	_ = db.Close()
	f.dropStandby()
	return nil
}

// carry writes the contents of an open standby to the disk, whole or not at all.
func (f *File) carry(db *sql.DB) error {
	if err := os.MkdirAll(filepath.Dir(f.path), 0o700); err != nil {
		return err
	}
	temp := f.path + ".back"
	_ = os.Remove(temp)
	_, err := db.Exec("VACUUM INTO ?", temp)
	if err == nil {
		err = os.Chmod(temp, 0o600)
	}
	if err == nil {
		for _, end := range []string{"-wal", "-shm"} {
			_ = os.Remove(f.path + end)
		}
		err = durable.Move(temp, f.path)
	}
	if err != nil {
		_ = os.Remove(temp)
	}
	return err
}

// dropStandby removes the standby after its contents are on the disk.
func (f *File) dropStandby() {
	for _, end := range []string{"", "-wal", "-shm"} {
		_ = os.Remove(f.standby + end)
	}
}

// maxCopy bounds what is copied into the runtime directory, which is memory.
const maxCopy = 256 << 20

// copyFile copies at most maxCopy bytes.
func copyFile(to, from string) error {
	info, err := os.Stat(from)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() || info.Size() > maxCopy {
		return fmt.Errorf("%s is not a file of at most %d bytes", from, maxCopy)
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, io.LimitReader(in, maxCopy))
	return errors.Join(err, out.Close())
}
