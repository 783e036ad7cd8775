package reconcile

import (
	"bytes"
	"database/sql"
	"os"
	"testing"
)

// spoil changes a database while it is open.
func spoil(t *testing.T, path, statement string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(statement); err != nil {
		t.Fatal(err)
	}
}

func noise(t *testing.T, path string) {
	t.Helper()
	if err := os.WriteFile(path, bytes.Repeat([]byte("noise "), 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	_ = os.Remove(path + "-wal")
}
