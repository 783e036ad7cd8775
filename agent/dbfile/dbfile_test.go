package dbfile

import (
	"bytes"
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const schema = `CREATE TABLE IF NOT EXISTS t (v TEXT)`

func open(t *testing.T, dir string) (*File, *int) {
	t.Helper()
	begun := new(int)
	f, err := Open(filepath.Join(dir, "state", "x.db"), filepath.Join(dir, "run"), schema,
		func(*sql.DB, string) error { *begun++; return nil })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f, begun
}

func put(t *testing.T, f *File, v string) {
	t.Helper()
	if err := f.Do(func(db *sql.DB) error { _, err := db.Exec(`INSERT INTO t VALUES (?)`, v); return err }); err != nil {
		t.Fatal(err)
	}
}

func all(t *testing.T, f *File) string {
	t.Helper()
	var s sql.NullString
	if err := f.Do(func(db *sql.DB) error { return db.QueryRow(`SELECT group_concat(v, ' ') FROM t`).Scan(&s) }); err != nil {
		t.Fatal(err)
	}
	return s.String
}

// The pragmas are in force: SQLite silently ignores other spellings.
func TestPragmas(t *testing.T) {
	f, _ := open(t, t.TempDir())
	for name, want := range map[string]string{"journal_mode": "wal", "synchronous": "2", "busy_timeout": "5000", "cache_size": "-512"} {
		var got string
		if err := f.Do(func(db *sql.DB) error { return db.QueryRow("PRAGMA " + name).Scan(&got) }); err != nil || got != want {
			t.Errorf("%s = %q, want %q (%v)", name, got, want, err)
		}
	}
	if err := f.DoQuick(func(db *sql.DB) error {
		var got int
		if err := db.QueryRow("PRAGMA synchronous").Scan(&got); err != nil || got != 1 {
			t.Errorf("quick: synchronous = %d (%v)", got, err)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

func TestDamage(t *testing.T) {
	for name, hurt := range map[string]func(path string) error{
		"truncated":     func(p string) error { return os.Truncate(p, 100) },
		"empty":         func(p string) error { return os.Truncate(p, 0) },
		"noise":         func(p string) error { return os.WriteFile(p, bytes.Repeat([]byte{7, 1, 3}, 9000), 0o600) },
		"another shape": func(p string) error { return other(p) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			f, _ := open(t, dir)
			put(t, f, "old")
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, "state", "x.db")
			if err := hurt(path); err != nil {
				t.Fatal(err)
			}
			f, begun := open(t, dir)
			put(t, f, "new")
			if got := all(t, f); got != "new" {
				t.Errorf("contains %q", got)
			}
			if name == "empty" {
				return // an empty file is an empty database, as after an interrupted first start
			}
			if h := f.Health(); h.Lost == "" || *begun != 1 {
				t.Errorf("health %+v, begun %d", h, *begun)
			}
			if _, err := os.Stat(path + ".damaged"); err != nil {
				t.Error("the damaged file is not kept")
			}
		})
	}
}

func other(path string) error {
	_ = os.Remove(path)
	db, err := sql.Open("sqlite", "file:"+path)
	if err != nil {
		return err
	}
	defer db.Close()
	_, err = db.Exec(`CREATE TABLE dbfile (x TEXT); CREATE TABLE t (v TEXT)`)
	return err
}

// When the disk cannot be written, the standby continues with the contents, and is moved back later.
func TestStandby(t *testing.T) {
	dir := t.TempDir()
	f, _ := open(t, dir)
	put(t, f, "one")
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	// A directory with the file's name cannot be opened as a database, not even by root, whom permissions do not stop.
	path := filepath.Join(dir, "state", "x.db")
	if err := os.Rename(path, path+".kept"); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	f, _ = open(t, dir)
	put(t, f, "two")
	if h := f.Health(); !strings.Contains(h.String(), "until it can") {
		t.Errorf("health %q", h)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	f, _ = open(t, dir)
	if got := all(t, f); got != "two" {
		t.Errorf("a second start on the standby contains %q", got)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	f, _ = open(t, dir)
	if got := all(t, f); got != "two" || !f.Health().OK() {
		t.Errorf("back on the disk it contains %q, health %q", got, f.Health())
	}
	if _, err := os.Stat(filepath.Join(dir, "run", "x.db")); err == nil {
		t.Error("the standby is left behind")
	}
}

// A caller's own mistake is not damage.
func TestSoundErrors(t *testing.T) {
	f, begun := open(t, t.TempDir())
	put(t, f, "kept")
	if err := f.Do(func(db *sql.DB) error { _, err := db.Exec(`INSERT INTO nowhere VALUES (1)`); return err }); err == nil {
		t.Error("no error")
	}
	if err := f.Do(func(*sql.DB) error { return errors.New("mine") }); err == nil || err.Error() != "mine" {
		t.Error(err)
	}
	if got := all(t, f); got != "kept" || *begun != 0 {
		t.Errorf("contains %q, begun %d", got, *begun)
	}
}

// A file that is removed or replaced while in use is recreated with all its contents.
func TestRemovedUnderUs(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "x.db")
	f, err := Open(path, filepath.Join(dir, "run"), `CREATE TABLE IF NOT EXISTS t (v TEXT)`, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	n := 0
	add := func() {
		t.Helper()
		n++
		if err := f.Do(func(db *sql.DB) error { _, err := db.Exec(`INSERT INTO t VALUES ('x')`); return err }); err != nil {
			t.Fatal(err)
		}
	}
	has := func(what string) {
		t.Helper()
		var got int
		db, err := sql.Open("sqlite", "file:"+path+"?mode=ro")
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		if err := db.QueryRow(`SELECT count(*) FROM t`).Scan(&got); err != nil || got != n {
			t.Errorf("%s: %d rows on the disk, want %d (%v)", what, got, n, err)
		}
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", what, info, err)
		}
	}
	add()
	if what, err := f.Check(); what != "" || err != nil {
		t.Error(what, err)
	}
	// If it cannot be put back, the open one is used, and recreating is tried again.
	for _, end := range []string{"", "-wal", "-shm"} {
		_ = os.Remove(path + end)
	}
	if err := os.MkdirAll(path+"/x", 0o755); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if found, err := f.Check(); err == nil || found == "" {
			t.Errorf("%q %v", found, err)
		}
		add()
	}
	_ = os.RemoveAll(path)
	if found, err := f.Check(); err != nil || found == "" {
		t.Errorf("%q %v", found, err)
	}
	has("after a directory in its place")
	old, _ := os.ReadFile(path)
	for what, harm := range map[string]func(){
		"removed": func() {
			for _, end := range []string{"", "-wal", "-shm"} {
				_ = os.Remove(path + end)
			}
		},
		"its directory": func() { _ = os.RemoveAll(dir) },
		"replaced": func() {
			_ = os.Remove(path)
			_ = os.WriteFile(path, old, 0o644)
		},
	} {
		add()
		harm()
		add() // into the file that no longer has a name
		found, err := f.Check()
		if err != nil || !strings.Contains(found, "x.db was re") {
			t.Errorf("%s: %q %v", what, found, err)
		}
		has(what)
		add()
		has(what + ", and used on")
		if found, _ := f.Check(); found != "" || !f.Health().OK() {
			t.Errorf("%s: %q again, %v", what, found, f.Health())
		}
	}
}
