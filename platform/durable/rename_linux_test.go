package durable

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// Without hard links, too, a file is only created if there is none.
func TestRenameNew(t *testing.T) {
	dir := t.TempDir()
	one, two := filepath.Join(dir, "one"), filepath.Join(dir, "two")
	for _, f := range []string{one, two} {
		if err := os.WriteFile(f, []byte(f), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	err := renameNew(one, two)
	if b, _ := os.ReadFile(two); !errors.Is(err, fs.ErrExist) || string(b) != two {
		t.Errorf("%v, %q", err, b)
	}
	if err := os.Remove(two); err != nil {
		t.Fatal(err)
	}
	err = renameNew(one, two)
	if b, _ := os.ReadFile(two); err != nil || string(b) != one {
		t.Errorf("%v, %q", err, b)
	}
}
